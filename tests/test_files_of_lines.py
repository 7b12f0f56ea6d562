"""Files of one item per line: image ids, queries."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from felga.errors import BadInputError, NotFoundError
from felga.files import read_lines


def test_lines_are_stripped_and_blank_ones_dropped(tmp_path):
    path = tmp_path / "q.txt"
    path.write_bytes("\ufeffboat \r\n\r\n  caf\u00e9\nred\u2028bus\u0085stop\rlast".encode())
    assert read_lines(path, "queries") == ["boat", "caf\u00e9", "red\u2028bus\u0085stop", "last"]


def test_a_pipe_is_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("boat\ncat\n",))
    writer.start()
    assert read_lines(tmp_path / "pipe", "queries") == ["boat", "cat"]
    writer.join()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "x.txt is empty: expected image ids, one per line"),
        (b"\xef\xbb\xbf \r\n", "is empty"),
        ("boat".encode("utf-16"), "is not UTF-8 .byte 0.: expected image ids"),
        (b"caf\xe9", "is not UTF-8 .byte 3."),
    ],
)
def test_a_file_without_lines_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(BadInputError, match=sentence):
        read_lines(tmp_path / "x.txt", "image ids")


def test_a_missing_file_a_folder_and_a_nul(tmp_path):
    with pytest.raises(NotFoundError, match="gone.txt does not exist: name a file of queries, one per line"):
        read_lines(tmp_path / "gone.txt", "queries")
    with pytest.raises(BadInputError, match="cannot be read .Is a directory.: expected queries"):
        read_lines(tmp_path, "queries")
    with pytest.raises(BadInputError, match="cannot be read .*null byte"):
        read_lines(Path("a\0b"), "queries")
