"""Files that commands write."""

from __future__ import annotations

import pytest

from felga.cli.output import write_file
from felga.errors import StorageError


def test_a_result_goes_into_a_new_folder(tmp_path):
    write_file(tmp_path / "new" / "table.md", "é\n")
    assert (tmp_path / "new" / "table.md").read_text("utf-8") == "é\n"


def test_an_unwritable_result_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"table\.md cannot be written: "):
        write_file(tmp_path / "file" / "table.md", "x")
