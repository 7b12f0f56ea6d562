"""The benchmark from files to results, on a COCO made of the demo's scenes, and on the real images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from felga.corpus.coco import CocoCorpus, coco_files
from felga.errors import BadInputError, NotFoundError
from felga.evaluation.benchmark import bench_coco
from felga.evaluation.drawings import Drawings
from felga.evaluation.proposal_recall import as_table, bench_proposals, measure
from felga.evaluation.protocol import evaluate
from felga.evaluation.results import to_json
from felga.evaluation.split import encode_split, read_split
from felga.indexing import Options
from felga.indexing.parts import Parts
from tests.cli.calls import call
from tests.made import CHEAP, toy_module

OPTIONS = Options(device="cpu")
NAMES = {"cat": 17, "cup": 47, "motorcycle": 4, "person": 1}


@pytest.fixture(scope="module")
def coco(demo, tmp_path_factory):
    """The demo's scenes in COCO's layout: ten to train, six to test."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    scenes = sorted(demo[1].boxes)
    classes = {**NAMES, "astronaut": 1, "photographer": 1}
    for split, part in (("train2017", scenes[:10]), ("val2017", scenes[10:])):
        (root / split).mkdir()
        images, captions, boxes = [], [], []
        for scene in part:
            number = int(scene[6:8])
            name = f"{number:012d}.png"
            (root / split / name).write_bytes((demo[1].folder / scene).read_bytes())
            images.append({"id": number, "file_name": name, "width": 640, "height": 480})
            lines = (demo[1].folder / scene).with_suffix(".txt").read_text().splitlines()
            for line in lines:
                captions.append({"id": len(captions) + 1, "image_id": number, "caption": line})
            for label, (x1, y1, x2, y2) in demo[1].boxes[scene].items():
                if label in classes:
                    box = [x1, y1, x2 - x1, y2 - y1]
                    row = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0, "category_id": classes[label]}
                    boxes.append({"id": len(boxes) + 1, "image_id": number, **row})
        categories = [{"id": i, "name": name} for name, i in NAMES.items()]
        for kind, rows in (("captions", captions), ("instances", boxes)):
            data = {"images": images, "annotations": rows, "categories": categories}
            (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(data))
    return root


def test_results_of_a_whole_run(capsys, coco, tmp_path):
    out, tables = tmp_path / "results.json", tmp_path / "tables.md"
    words = ["--methods", "entire,frozen,felga", "--seeds", "0,1", "--set", "epochs=2", "--set", "batch=4"]
    more = ["--out", out, "--tables", tables, "--figures", tmp_path / "figures", "--figure", "cat"]
    printed, err = call(
        capsys, "bench", "coco", "--root", coco, "--work", tmp_path / "work", "--device", "cpu", *words, *more
    )
    found = json.loads(out.read_text())
    assert set(found["results"]) == {"entire", "frozen", "felga"}
    for method in found["results"].values():
        for task in ("object_discovery", "description_assignment"):
            assert 0 <= method[task]["map"] <= 1
    assert [run["seed"] for run in found["results"]["felga"]["seeds"]] == [0, 1]
    maps = [run["object_discovery"]["map"] for run in found["results"]["felga"]["seeds"]]
    assert found["results"]["felga"]["object_discovery"]["map"] == pytest.approx(np.mean(maps))
    assert found["encoder"]["name"] == "conse"
    assert found["data"]["train"]["pairs"] == 10
    assert found["results"]["frozen"]["object_discovery"]["map"] > 0.8, "a cat is found among six scenes"
    assert "**Table 1.**" in printed
    assert tables.read_text() == printed
    assert "felga, seed 1" in err
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "classes.png",
        "figure-2-cat.png",
        "precision-recall.png",
    ]
    # Again: nothing is encoded, and the figures are the same to the bit.
    again = bench_coco(coco, methods=["frozen"], options=OPTIONS, work=tmp_path / "work")
    for task in ("object_discovery", "description_assignment"):
        assert to_json(again.results["frozen"].task(task)) == found["results"]["frozen"][task]


def test_a_split_matches_its_files(coco, tmp_path):
    quiet = lambda *_: None  # noqa: E731
    parts = Parts.make(OPTIONS)
    encoded = encode_split(coco_files(coco, "val2017"), tmp_path, parts, None, quiet)
    split = read_split(encoded, parts.encoder, quiet)
    data = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    assert split.image_ids == [str(i) for i in range(11, 17)]
    assert split.images == 6
    assert list(split.class_names) == ["person", "motorcycle", "cat", "cup"]  # by COCO's ids
    assert len(split.box_class) == len(data["annotations"])
    for row, c, p, box in zip(
        data["annotations"], split.box_class, split.box_image, split.boxes, strict=False
    ):
        assert NAMES[split.class_names[c]] == row["category_id"]
        assert split.image_ids[p] == str(row["image_id"])
        assert split.contains[c, p]
        np.testing.assert_allclose(box[2:] - box[:2], row["bbox"][2:])
    assert split.contains.sum() == len({(r["category_id"], r["image_id"]) for r in data["annotations"]})
    first = split.keyword_rows[: split.keyword_offsets[1]]
    assert {"astronaut", "coffee"} <= {split.keywords[i] for i in first}
    entire = evaluate(split.entire())
    assert entire.object_discovery.map != evaluate(split).object_discovery.map


def test_a_run_makes_one_encoder_and_scans_each_corpus_once(coco, tmp_path, toy, monkeypatch):
    made, scanned = [], []
    package, scan = toy_module(), CocoCorpus.scan
    monkeypatch.setattr(package, "Toy", lambda weights, make=package.Toy: made.append(1) or make(weights))
    monkeypatch.setattr(CocoCorpus, "scan", lambda corpus: scanned.append(1) or scan(corpus))
    changes = {"epochs": 1, "batch": 4, "hidden": 16}
    bench_coco(coco, methods=["frozen", "felga"], options=CHEAP, seeds=[0], changes=changes, work=tmp_path)
    assert (len(made), len(scanned)) == (1, 2)


def test_an_encoded_split_is_found_again_from_anywhere_until_its_captions_change(
    coco, tmp_path, toy, monkeypatch
):
    root, quiet = shutil.copytree(coco, tmp_path / "coco"), lambda *_: None

    def read(root):
        parts = Parts.make(CHEAP)
        encoded = encode_split(coco_files(root, "val2017"), tmp_path / "work", parts, None, quiet)
        read_split(encoded, parts.encoder, quiet)
        return encoded.index.folder

    first = read(root)
    calls = toy_module().calls
    calls.clear()
    monkeypatch.chdir(tmp_path)
    assert read(Path("coco")) == first
    assert calls == [], "nothing is encoded again"
    captions = root / "annotations" / "captions_val2017.json"
    captions.write_text(captions.read_text().replace("coffee", "tea"))
    assert read(root) != first


def test_method_is_not_a_setting(coco, tmp_path):
    with pytest.raises(BadInputError, match="each row of its tables has its own"):
        bench_coco(coco, methods=["felga"], changes={"method": "dense"}, work=tmp_path)


def test_a_class_that_cannot_be_drawn_is_refused_before_training(coco, tmp_path, toy, monkeypatch):
    monkeypatch.setattr("felga.evaluation.benchmark.train", lambda *_, **__: pytest.fail("trained"))
    drawings = Drawings(tmp_path / "figures", "unicorn")
    with pytest.raises(BadInputError, match="'unicorn' is not one of the 4 classes"):
        bench_coco(coco, methods=["felga"], options=CHEAP, work=tmp_path, drawings=drawings)


def test_training_images_in_the_test_are_refused(coco, tmp_path):
    with pytest.raises(BadInputError, match="6 of 6 test images were trained on"):
        bench_coco(coco, methods=["felga"], options=OPTIONS, train_split="val2017", work=tmp_path)


def test_missing_files_are_named(coco, tmp_path):
    with pytest.raises(
        NotFoundError, match=r"captions_val2014.json, .*instances_val2014.json, .*val2014 not found"
    ):
        bench_coco(coco, test_split="val2014", work=tmp_path)
    with pytest.raises(BadInputError, match="no split 'test2017'"):
        coco_files(coco, "test2017")
    with pytest.raises(BadInputError, match="no method 'felgo'"):
        bench_coco(coco, methods=["felgo"], work=tmp_path)


def iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    return width * height / (area(a) + area(b) - width * height)


def test_recall_of_proposals_against_a_loop(coco, capsys, tmp_path):
    """COCO's recall is that of a greedy matching; with boxes far apart it is a plain best overlap."""
    from felga.corpus.decode import read_image
    from felga.registry import make_regions

    files = coco_files(coco, "val2017")
    found = measure("graphseg+edgeboxes", files.instances, files.images, device="cpu")
    data = json.loads(files.instances.read_text())
    proposer = make_regions("graphseg+edgeboxes")
    best = []
    for row in data["images"]:
        image = read_image(files.images / row["file_name"], "")
        regions = proposer.propose([image], 100)[0][:10]
        for truth in data["annotations"]:
            if truth["image_id"] == row["id"]:
                x, y, w, h = truth["bbox"]
                best.append(max(iou(region.box, (x, y, x + w, y + h)) for region in regions))
    assert found.recall[10] == pytest.approx(np.mean([one >= 0.5 for one in best]))
    assert found.recall[100] >= found.recall[10] >= found.average[10]
    assert found.seconds_per_image > 0
    out, _ = call(
        capsys,
        "bench",
        "proposals",
        "--root",
        coco,
        "--regions",
        "grid,graphseg+edgeboxes",
        "--out",
        tmp_path / "p.json",
    )
    rows = json.loads((tmp_path / "p.json").read_text())["results"]
    assert [row["proposer"] for row in rows] == ["grid", "graphseg+edgeboxes"]
    assert rows[1]["recall@10"] == found.recall[10]
    assert as_table(rows) == out


def test_given_boxes_are_recalled_whole(coco):
    files = coco_files(coco, "val2017")
    found = measure(f"boxes:{files.instances}", files.instances, files.images)
    assert found.recall[10] == found.average[100] == 1.0


def test_a_proposer_of_nothing_recalls_nothing(coco, tmp_path):
    files = coco_files(coco, "val2017")
    (tmp_path / "none.json").write_text("{}")
    nothing = measure(f"boxes:{tmp_path}/none.json", files.instances, files.images)
    assert nothing.recall == nothing.average == {10: 0.0, 50: 0.0, 100: 0.0}
    assert nothing.proposals_per_image == 0
    row = json.loads(json.dumps(nothing.row(), allow_nan=False))
    everything = measure(f"boxes:{files.instances}", files.instances, files.images).row()
    assert row.keys() == everything.keys()
    assert {row[f"AR@100 {size}"] for size in ("small", "medium", "large")} <= {0.0, None}


def test_recall_of_proposals_on_every_nth_image(coco):
    whole = bench_proposals(coco, "val2017", ["grid"])
    half = bench_proposals(coco, "val2017", ["grid", "graphseg+edgeboxes"], every=2)
    assert (whole["images"], half["images"]) == (6, 3)
    assert [row["proposer"] for row in half["results"]] == ["grid", "graphseg+edgeboxes"]
    assert half["dataset"] == f"{coco.name} val2017"
    with pytest.raises(BadInputError, match="every must be at least 1, got 0"):
        bench_proposals(coco, "val2017", ["grid"], every=0)
