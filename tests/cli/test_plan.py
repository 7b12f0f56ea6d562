"""`felga plan`: the options of `felga index`, and what it prints."""

from __future__ import annotations

import inspect
import json

from felga.cli.index import index
from felga.cli.plan import plan
from tests.cli.calls import call
from tests.made import WORDS, write

OF_A_RUN = {"describe", "out", "index", "min_recall", "engine", "address", "prune", "dry_run", "strict"}


def test_it_takes_the_options_of_index_but_those_of_a_run():
    ours, theirs = (inspect.signature(command).parameters for command in (plan, index))
    assert set(theirs) - set(ours) == OF_A_RUN
    assert set(ours) - set(theirs) == {"form"}
    for name in set(ours) & set(theirs):
        assert ours[name] == theirs[name], name


def test_json_and_table_say_the_same(capsys, tmp_path, toy):
    write(tmp_path / "corpus", [f"p{i}" for i in range(12)])
    out, _ = call(capsys, "plan", tmp_path / "corpus", *WORDS, "--format", "json")
    found = json.loads(out)
    assert (found["images"], found["texts"], found["probed_images"], found["approximate"]) == (
        12,
        12,
        12,
        None,
    )
    assert set(found["seconds"]) == {"images", "texts", "rest", "total"}
    out, _ = call(capsys, "plan", tmp_path / "corpus", *WORDS)
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["images"] == f"12, {found['regions']:,} regions"
    assert lines["search"] == "exact, also with --index auto"
    assert lines["probed"] == "12 images, 12 texts"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


def test_what_cannot_be_planned_is_one_sentence(capsys, tmp_path, toy):
    _, err = call(capsys, "plan", tmp_path / "nowhere", *WORDS, code=3)
    assert err.count("\n") == 1
    assert "does not exist" in err
    _, err = call(capsys, "plan", code=2)
    assert "give either CORPUS" in err
