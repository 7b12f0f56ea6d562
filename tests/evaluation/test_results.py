import copy
import json

import pytest

import felga
from felga.errors import BadInputError, NotFoundError
from felga.evaluation.protocol import evaluate
from felga.evaluation.results import (
    build_results,
    check_results,
    commit,
    machine,
    read_results,
    write_results,
)

from .test_protocol import make_split


def make_results():
    split = make_split()
    frozen = evaluate(split)
    runs = []
    for seed, gain in ((0, 0.0), (1, 0.1), (2, 0.05)):
        run = copy.deepcopy(frozen)
        run["object_discovery"]["map"] += gain
        runs.append({"seed": seed, **run})
    return build_results(
        {
            "entire": [{"seed": None, **evaluate(split.entire())}],
            "frozen": [{"seed": None, **frozen}],
            "felga": runs,
        },
        dataset="a test",
        year=2017,
        encoder={"name": "conse"},
        relevance="box",
        data={"test": "abc"},
        ceiling={"object_discovery": 0.9},
    )


def test_means_of_seeds_stand_on_top():
    content = make_results()
    felga_row, frozen = content["results"]["felga"], content["results"]["frozen"]
    base = frozen["object_discovery"]["map"]
    assert felga_row["object_discovery"]["map"] == pytest.approx(base + 0.05)
    assert felga_row["object_discovery"]["map_std"] == pytest.approx(0.05)
    assert frozen["object_discovery"]["map_std"] is None
    assert [run["seed"] for run in felga_row["seeds"]] == [0, 1, 2]
    assert felga_row["seeds"][1]["object_discovery"]["map"] == pytest.approx(base + 0.1)
    assert felga_row["object_discovery"]["queries"] == 3  # a count stays a count
    assert felga_row["object_discovery"]["per_class"]["toaster"] is None
    assert content["seeds"] == [0, 1, 2]
    assert content["felga"] == felga.__version__
    assert content["ceiling"] == {"object_discovery": 0.9, "description_assignment": None}
    assert content["protocol"]["queries"] == {"object_discovery": 3, "description_assignment": 45}


def test_written_and_read_again(tmp_path):
    content = make_results()
    write_results(content, tmp_path / "deep" / "out.json")
    assert read_results(tmp_path / "deep" / "out.json") == json.loads(json.dumps(content))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.json"]


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(NotFoundError):
        read_results(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BadInputError, match="json"):
        read_results(tmp_path / "bad.json")


def without(content, *path):
    content = copy.deepcopy(content)
    entry = content
    for key in path[:-1]:
        entry = entry[key]
    del entry[path[-1]]
    return content


def changed(content, value, *path):
    content = copy.deepcopy(content)
    entry = content
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    return content


def test_the_schema_names_the_place():
    content = make_results()
    for bad, message in (
        (without(content, "machine"), "lacks machine"),
        (without(content, "protocol", "ties"), "lacks protocol.ties"),
        (without(content, "results", "felga", "seeds"), "lacks results.felga.seeds"),
        (without(content, "results", "felga", "seeds", 1, "seed"), r"felga.seeds\[1\].seed"),
        (changed(content, 44.3, "results", "felga", "object_discovery", "map"), "felga.object_discovery.map"),
        (changed(content, True, "results", "felga", "object_discovery", "map"), "felga.object_discovery.map"),
        (changed(content, None, "results", "frozen", "description_assignment", "map"), "frozen.descr"),
        (changed(content, content["results"]["felga"], "results", "fenet"), "no method 'fenet'"),
        (changed(content, [], "results", "felga", "seeds"), "seeds is empty"),
        (changed(content, 2015, "year"), "2014 or 2017"),
        ([], "no object"),
    ):
        with pytest.raises(BadInputError, match=message):
            check_results(bad)


def test_a_method_without_runs_is_refused():
    with pytest.raises(BadInputError, match="no runs"):
        build_results({"felga": []}, dataset="", year=2017, encoder={}, relevance="box", data={})


def test_provenance_holds_no_path():
    assert set(machine()) == {"processor", "cores", "gpu", "system", "python", "numpy", "torch"}
    assert not any("/" in str(value) and str(value).startswith("/") for value in machine().values())
    found = commit()
    assert found is None or len(found.rstrip("+")) in (40, 64)
