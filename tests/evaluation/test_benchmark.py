"""The benchmark from files to results, on a COCO made of the demo's scenes, and on the real images."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from felga.corpus.coco import CocoCorpus, coco_files
from felga.corpus.decode import read_image
from felga.engine import Engine
from felga.errors import BadInputError, NotFoundError
from felga.evaluation import benchmark
from felga.evaluation.benchmark import bench_coco
from felga.evaluation.drawings import Drawings
from felga.evaluation.proposal_recall import as_table, bench_proposals, measure
from felga.evaluation.protocol import description_assignment, evaluate
from felga.evaluation.results import to_json
from felga.evaluation.split import encode_split, read_split
from felga.evaluation.tables import render_tables
from felga.fenet.packaged import packaged
from felga.indexing import Options
from felga.indexing.job import apply_fenet
from felga.indexing.parts import Parts
from felga.registry import make_regions
from felga.types import FeatureEncoder
from tests.cli.calls import call
from tests.made import CHEAP, toy_module
from tests.search import reference

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
    scorings = ("", " soft", " quality", " soft quality")
    assert set(found["results"]) == {"entire", *(m + s for m in ("frozen", "felga") for s in scorings)}
    for method in found["results"].values():
        for task in ("object_discovery", "description_assignment"):
            assert 0 <= method[task]["map"] <= 1
    assert [run["seed"] for run in found["results"]["felga"]["seeds"]] == [0, 1]
    maps = [run["object_discovery"]["map"] for run in found["results"]["felga"]["seeds"]]
    assert found["results"]["felga"]["object_discovery"]["map"] == pytest.approx(np.mean(maps))
    for row, entry in found["results"].items():
        if row != "entire":
            assert 0 <= entry["localisation"]["winning_boxes"]["fits"] <= 1
            assert entry["localisation"]["detection"]["classes"] == 4
    assert found["results"]["frozen"]["localisation"]["winning_boxes"]["mean_iou"] > 0.1
    assert sum(found["diagnostic"][part] for part in ("keyword", "region", "interaction")) == pytest.approx(1)
    recipe = found["data"]["recipe"]
    assert (recipe["name"], recipe["changes"]) == ("locked", {"epochs": 2, "batch": 4})
    assert "recipe locked with epochs=2, batch=4" in printed
    assert "**Boxes.**" in printed
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
    assert split.text_whole.all()
    assert encoded.manifest.texts.fragments == len(split.keyword_rows) + 6, "the whole text is no keyword"
    assert split.region_whole.sum() == 6
    np.testing.assert_array_equal(
        split.region_boxes[split.region_whole], np.tile([0, 0, 640, 480], (6, 1)).astype(np.float32)
    )
    assert isinstance(parts.encoder, FeatureEncoder)
    assert split.box_features.shape == (len(data["annotations"]), parts.encoder.feature_dim)
    assert split.image_features.shape == (6, parts.encoder.feature_dim)
    assert split.box_features.dtype == np.float16
    image = read_image(encoded.paths()["11"], "11")
    own = split.boxes[split.box_image == 0]
    ((vectors, features),) = parts.encoder.encode_features([image], [own])
    np.testing.assert_allclose(split.box_vectors[split.box_image == 0], vectors, atol=1e-4)
    np.testing.assert_allclose(split.box_features[split.box_image == 0], features, rtol=0.02, atol=0.02)
    assert len(split.crowds.boxes) == 0
    entire = evaluate(split.entire())
    assert entire.object_discovery.map != evaluate(split).object_discovery.map


@pytest.mark.parametrize("whole", [True, False])
def test_the_benchmark_scores_texts_as_assign_does(coco, tmp_path, whole):
    """Of a whole index, through its FENet: description assignment is what `assign` answers, box by box."""
    parts, quiet = Parts.make(replace(OPTIONS, whole=whole)), lambda *_: None
    encoded = encode_split(coco_files(coco, "val2017"), tmp_path, parts, None, quiet)
    apply_fenet(encoded.index.folder, packaged(encoded.manifest.contract.encoder))
    split = read_split(encoded, parts.encoder, quiet)
    assert split.text_whole.tolist() == [whole] * 6
    assert not set(split.keywords) & set(encoded.index.texts.read(["text"]).column("text").to_pylist())
    with Engine.open(encoded.index.folder, encoder=parts.encoder) as engine:
        split = split.embedded(engine.index.embedding)
        precision = description_assignment(split, owner="soft").ranking.metrics.average_precision
        rows = engine.index.texts.read(["text_id", "image_id"]).to_pylist()
        place = {row["text_id"]: split.image_ids.index(row["image_id"]) for row in rows}
        for at, box in enumerate(split.boxes.tolist()):
            path = encoded.paths()[split.image_ids[split.box_image[at]]]
            hits = engine.assign(path, tuple(box), k=99)
            order = [split.contains[split.box_class[at], place[hit.text_id]] for hit in hits]
            assert precision[at] == pytest.approx(reference.precision_of_order(order))


def test_phrases_name_the_only_box_of_their_class(coco, tmp_path, toy):
    root, quiet = shutil.copytree(coco, tmp_path / "coco"), lambda *_: None
    path = root / "annotations" / "instances_val2017.json"
    data = json.loads(path.read_text())
    cups = [row for row in data["annotations"] if row["category_id"] == NAMES["cup"]]
    cats = [row for row in data["annotations"] if row["category_id"] == NAMES["cat"]]
    last = max(row["id"] for row in data["annotations"])
    twice, crowd = cups[0], cats[0]
    data["annotations"] += [{**twice, "id": last + 1}, {**crowd, "id": last + 2, "iscrowd": 1}]
    path.write_text(json.dumps(data))
    parts = Parts.make(CHEAP)
    encoded = encode_split(coco_files(root, "val2017"), tmp_path / "work", parts, None, quiet)
    split = read_split(encoded, parts.encoder, quiet)
    texts = json.loads((root / "annotations" / "captions_val2017.json").read_text())["annotations"]
    captions = {}
    for row in texts:
        captions[row["image_id"]] = captions.get(row["image_id"], "") + "\n" + row["caption"].lower()
    expected = set()
    for row in data["annotations"]:
        of_class = [
            (r["image_id"], r["category_id"]) for r in data["annotations"]
        ].count((row["image_id"], row["category_id"]))  # fmt: skip
        name = next(name for name, number in NAMES.items() if number == row["category_id"])
        words = {"person": ("astronaut", "photographer", "person"), "cup": ("cup", "mug")}.get(name, (name,))
        if of_class == 1 and any(word in captions[row["image_id"]] for word in words):
            expected.add((str(row["image_id"]), name))
    found = {
        (split.image_ids[split.box_image[box]], split.class_names[split.box_class[box]])
        for box in split.phrase_box
    }
    assert found <= expected
    assert {name for _, name in found} == {"cup", "motorcycle", "person"}, (
        "the only cat stands beside a crowd"
    )
    assert (str(twice["image_id"]), "cup") not in found
    assert (str(crowd["image_id"]), "cat") not in found
    assert len(split.crowds.boxes) == 1
    assert len(split.phrase_vectors) == len(split.phrase_box)
    assert split.box_features is None, "a toy has no features"


def test_the_owner_loss_is_a_row_of_its_own(coco, tmp_path, toy, monkeypatch):
    recipes = []
    original = benchmark.train

    def train(features, recipe, **more):
        recipes.append(recipe)
        return original(features, recipe, **more)

    monkeypatch.setattr(
        benchmark,
        "train",
        lambda features, recipe, **more: recipes.append(recipe) or original(features, recipe, **more),
    )
    run = {"options": CHEAP, "seeds": [0], "work": tmp_path}
    changes = {"epochs": 1, "batch": 4, "hidden": 16}
    found = bench_coco(coco, methods=["felga", "felga+owner"], changes=changes, **run)
    assert [(recipe.method, recipe.lambda4) for recipe in recipes] == [("felga", 0.0), ("felga+owner", 2.0)]
    assert list(found.results) == ["felga", "felga soft", "felga+owner", "felga+owner soft"]
    with pytest.raises(BadInputError, match=r"felga\+owner needs an owner loss: set lambda4 above 0"):
        bench_coco(coco, methods=["felga+owner"], changes={**changes, "lambda4": 0.0}, **run)


def test_quality_gives_rows_of_its_own(coco, tmp_path, toy, monkeypatch):
    read = benchmark.read_split

    def with_quality(*arguments):
        split = read(*arguments)
        quality = np.linspace(0.1, 1, len(split.region_vectors)).astype(np.float32)
        return replace(split, region_quality=quality)

    monkeypatch.setattr(benchmark, "read_split", with_quality)
    found = bench_coco(coco, methods=["frozen"], options=CHEAP, work=tmp_path)
    assert list(found.results) == ["frozen", "frozen soft", "frozen quality", "frozen soft quality"]
    assert "meaning" in render_tables(found)


def test_an_encoder_fine_tuned_on_coco_is_told(coco, tmp_path, toy, monkeypatch):
    lines = []
    monkeypatch.setattr(benchmark, "fine_tuned_on_coco", lambda name: True)
    bench_coco(coco, methods=["frozen"], options=CHEAP, work=tmp_path, log=lines.append)
    assert "is fine-tuned on COCO, which the paper rules out (4.2)" in lines[0]


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
    files = coco_files(coco, "val2017")
    proposer = make_regions("graphseg+edgeboxes")
    found = measure(proposer, files.instances, files.images)
    data = json.loads(files.instances.read_text())
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
    found = measure(make_regions(f"boxes:{files.instances}"), files.instances, files.images)
    assert found.recall[10] == found.average[100] == 1.0


def test_a_proposer_of_nothing_recalls_nothing(coco, tmp_path):
    files = coco_files(coco, "val2017")
    (tmp_path / "none.json").write_text("{}")
    nothing = measure(make_regions(f"boxes:{tmp_path}/none.json"), files.instances, files.images)
    assert nothing.recall == nothing.average == {10: 0.0, 50: 0.0, 100: 0.0}
    assert nothing.proposals_per_image == 0
    row = json.loads(json.dumps(nothing.row(), allow_nan=False))
    everything = measure(make_regions(f"boxes:{files.instances}"), files.instances, files.images).row()
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
