import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

import felga
from felga.errors import BadInputError, NotFoundError
from felga.evaluation.diagnostic import diagnose
from felga.evaluation.localisation import localise
from felga.evaluation.protocol import evaluate
from felga.evaluation.results import (
    build_results,
    commit,
    from_json,
    machine,
    read_results,
    to_json,
    write_results,
)

from .test_localisation import with_regions


def make_results():
    split = with_regions()
    boxes, of_soft = localise(split, ("max", "soft"))
    frozen = replace(evaluate(split), localisation=boxes)
    soft = replace(evaluate(split, owner="soft"), localisation=of_soft)
    runs = []
    for seed, gain in ((0, 0.0), (1, 0.1), (2, 0.05)):
        discovery = replace(frozen.object_discovery, map=frozen.object_discovery.map + gain)
        runs.append(replace(frozen, object_discovery=discovery, seed=seed))
    return build_results(
        {
            "entire": [evaluate(split.entire())],
            "frozen": [frozen],
            "frozen soft": [soft],
            "felga": runs,
        },
        dataset="a test",
        year=2017,
        encoder={"name": "conse"},
        relevance="box",
        data={"test": "abc"},
        ceiling={"object_discovery": 0.9},
        diagnostic=diagnose(split),
    )


def test_means_over_seeds_stand_on_top():
    content = make_results()
    felga_row, frozen = content.results["felga"], content.results["frozen"]
    base = frozen.object_discovery.map
    assert felga_row.object_discovery.map == pytest.approx(base + 0.05)
    assert felga_row.object_discovery.map_std == pytest.approx(0.05)
    assert frozen.object_discovery.map_std is None
    assert [run.seed for run in felga_row.seeds] == [0, 1, 2]
    assert felga_row.seeds[1].object_discovery.map == pytest.approx(base + 0.1)
    assert felga_row.object_discovery.queries == 3  # a count stays a count
    assert felga_row.object_discovery.per_class["toaster"] is None
    assert content.seeds == (0, 1, 2)
    assert content.felga == felga.__version__
    assert content.ceiling == {"object_discovery": 0.9, "description_assignment": None}
    assert content.protocol.queries == {"object_discovery": 3, "description_assignment": 60}


def test_boxes_are_means_over_seeds():
    runs = make_results().results["frozen"].seeds
    boxes = runs[0].localisation
    images = boxes.winning_boxes.images
    other = replace(boxes, winning_boxes=replace(boxes.winning_boxes, fits=1.0, images=images + 2))
    found = build_results(
        {"felga": [replace(runs[0], seed=0), replace(runs[0], seed=1, localisation=other)]},
        dataset="a test",
        year=2017,
        encoder={"name": "conse"},
        relevance="box",
        data={},
    ).results["felga"]
    own = found.localisation.winning_boxes
    assert own.fits == pytest.approx((boxes.winning_boxes.fits + 1) / 2)
    assert own.images == images + 1
    assert found.localisation.detection.ap == pytest.approx(boxes.detection.ap)
    assert found.seeds[1].localisation == other


def test_cosines_may_be_negative_and_shares_may_not():
    content = to_json(make_results())
    content["diagnostic"]["between_images"] = -0.5
    assert from_json(content).diagnostic.between_images == -0.5
    content["diagnostic"]["region"] = -0.5
    with pytest.raises(BadInputError, match="diagnostic.region must be a number in"):
        from_json(content)


def test_what_is_written_is_read_again(tmp_path):
    content = make_results()
    write_results(content, tmp_path / "deep" / "out.json")
    assert read_results(tmp_path / "deep" / "out.json") == content
    written = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert written["results"]["frozen"]["object_discovery"]["r@5"] is not None
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.json"]


def test_missing_and_malformed_files_are_refused(tmp_path):
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


def without_deviation(content):
    """Older files lack what they do not measure: boxes, a diagnostic, and ``map_std`` in the single runs."""
    if content.get("diagnostic") is None:
        content.pop("diagnostic", None)
    for entry in content["results"].values():
        for run in (entry, *entry["seeds"]):
            if run.get("localisation") is None:
                run.pop("localisation", None)
        for run in entry["seeds"]:
            for task in ("object_discovery", "description_assignment"):
                assert run[task].pop("map_std", None) is None
    return content


@pytest.mark.parametrize("name", ["coco-mini-learned.json", "coco-mini-unsupervised.json"])
def test_committed_results_keep_their_layout(name):
    path = Path(__file__).parents[2] / "bench" / "results" / name
    committed = json.loads(path.read_text())
    assert without_deviation(to_json(read_results(path))) == without_deviation(committed)


def test_a_malformed_file_is_refused_by_the_name_of_its_field():
    content = to_json(make_results())
    for bad, message in (
        (without(content, "machine"), "the results file lacks machine"),
        (without(content, "protocol", "ties"), "lacks protocol.ties"),
        (without(content, "results", "felga", "seeds"), "lacks results.felga.seeds"),
        (changed(content, "x", "results", "felga", "seeds", 1, "seed"), r"felga.seeds\[1\].seed must be int"),
        (
            changed(content, 44.3, "results", "felga", "object_discovery", "map"),
            "discovery.map must be a number",
        ),
        (changed(content, True, "results", "felga", "object_discovery", "map"), "felga.object_discovery.map"),
        (changed(content, None, "results", "frozen", "description_assignment", "map"), "frozen.descr"),
        (changed(content, content["results"]["felga"], "results", "fenet"), "no method 'fenet'"),
        (changed(content, [], "results", "felga", "seeds"), "seeds is empty"),
        (changed(content, 5, "results", "felga"), "results.felga must be MethodResults, got"),
        (changed(content, 2015, "year"), "2014 or 2017"),
        ([], "the results file must be Results"),
    ):
        with pytest.raises(BadInputError, match=message):
            from_json(bad)


def test_a_method_without_runs_is_refused():
    with pytest.raises(BadInputError, match="no runs"):
        build_results({"felga": []}, dataset="", year=2017, encoder={}, relevance="box", data={})


def test_provenance_has_no_paths():
    assert set(machine()) == {"processor", "cores", "gpu", "system", "python", "numpy", "torch"}
    assert not any("/" in str(value) and str(value).startswith("/") for value in machine().values())
    found = commit()
    assert found is None or len(found.rstrip("+")) in (40, 64)
