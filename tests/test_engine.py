"""The engine over the demo index, made by the real encoder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from felga import Engine
from felga.corpus.decode import read_image
from felga.errors import BadIndexError, BadInputError, NotFoundError
from felga.registry import make_encoder
from felga.search.scoring import GAMMA
from felga.store.manifest import read_manifest, signed
from felga.store.schema import flat, vector_rows
from felga.store.stored import StoredIndex
from felga.store.verify import verify
from tests.made import CHEAP, run, write


@pytest.fixture(scope="module")
def engine(demo):
    return Engine.open(demo[0], device="cpu")


def share_inside(box, other):
    """How much of ``other`` lies in ``box``."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / ((other[2] - other[0]) * (other[3] - other[1]))


def test_a_search_finds_the_object(engine, demo):
    shares: list[float] = []
    for query, label in demo[1].searches:
        hits = engine.search(query, k=3)
        assert [hit.rank for hit in hits] == [1, 2, 3]
        assert all(label in demo[1].boxes[hit.image_id] for hit in hits), query
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert Path(hit.path).is_file()
        parts = [hit for hit in hits if not hit.regions[0].whole]
        shares += [share_inside(demo[1].boxes[hit.image_id][label], hit.regions[0].box) for hit in parts]
    assert len(shares) >= 3
    assert np.median(shares) > 0.5, f"boxes are beside their objects: {shares}"


def test_scores_are_the_cosines_of_the_store(engine, demo):
    """Against every raw vector, one by one, in the precision in which FAISS files hold them."""
    query = engine.encoder.encode_texts(["cat"])[0]
    table = engine.index.images
    wanted = []
    for row in table.read(["image_id", "boxes", "vectors"]).to_pylist():
        scores = [float(np.dot(np.float64(np.float16(vector)), query)) for vector in row["vectors"]]
        wanted.append((-max(scores), row["image_id"], row["boxes"][int(np.argmax(scores))]))
    wanted.sort()
    hits = engine.search("cat", k=99, owner="max", quality=False)
    assert [hit.image_id for hit in hits] == [image_id for _, image_id, _ in wanted]
    np.testing.assert_allclose([hit.score for hit in hits], [-score for score, _, _ in wanted], atol=1e-5)
    assert [list(hit.regions[0].box) for hit in hits] == [box for _, _, box in wanted]


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)) - shared)


def test_soft_scores_of_images_and_texts_are_those_of_plain_loops(engine, demo):
    query = engine.encoder.encode_texts(["cat"])[0]
    wanted = {}
    for row in engine.index.images.read(["image_id", "whole", "quality", "vectors"]).to_pylist():
        cosines = [float(np.dot(np.float64(np.float16(vector)), query)) for vector in row["vectors"]]
        scores = [cosine + GAMMA * np.log(u) for cosine, u in zip(cosines, row["quality"], strict=True)]
        wanted[row["image_id"]] = (max(scores) + 0.5 * cosines[row["whole"].index(True)]) / 1.5
    hits = engine.search("cat", k=99)
    assert [hit.image_id for hit in hits] == sorted(wanted, key=lambda one: -wanted[one])
    np.testing.assert_allclose([hit.score for hit in hits], [wanted[hit.image_id] for hit in hits], atol=1e-5)
    for hit in hits:
        best = hit.regions[0]
        assert best.score == pytest.approx(best.similarity + GAMMA * np.log(best.quality), abs=1e-5)

    path = demo[1].folder / "scene-03.png"
    image = read_image(path, "")
    (region,) = engine.encoder.encode_regions([image], [np.array([image.whole], np.float32)])[0]
    scores = {}
    for row in engine.index.texts.read(["text_id", "whole", "vectors"]).to_pylist():
        cosines = np.float64(np.float16(row["vectors"])) @ region
        keywords = [cosine for cosine, whole in zip(cosines, row["whole"], strict=True) if not whole]
        soft = 0.1 * np.log(np.mean([np.exp(cosine / 0.1) for cosine in keywords]))
        scores[row["text_id"]] = (soft + 0.5 * cosines[row["whole"].index(True)]) / 1.5
    found = engine.assign(path, k=99)
    np.testing.assert_allclose(
        [hit.score for hit in found], [scores[hit.text_id] for hit in found], atol=1e-5
    )
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    with pytest.raises(BadInputError, match="no owner score 'mean': use 'soft' or 'max'"):
        engine.search("cat", owner="mean")


def test_the_boxes_of_a_hit_do_not_overlap(engine):
    for hit in engine.search("rocket", k=99, regions=99):
        parts = [region.box for region in hit.regions if not region.whole]
        assert all(iou(a, b) <= 0.5 for i, a in enumerate(parts) for b in parts[:i])
        assert [region.score for region in hit.regions] == sorted(
            (r.score for r in hit.regions), reverse=True
        )


def test_regions_of_a_hit_best_first_and_without_the_whole(engine):
    (hit,) = engine.search("rocket", k=1, regions=3)
    assert len(hit.regions) == 3
    assert [r.score for r in hit.regions] == sorted((r.score for r in hit.regions), reverse=True)
    everything = engine.search("rocket", k=99, regions=99)
    assert all(sum(region.whole for region in hit.regions) == 1 for hit in everything)
    parts = engine.search("rocket", k=99, regions=99, whole=False)
    assert len(parts) == len(everything)
    assert not any(region.whole for hit in parts for region in hit.regions)


def test_queries_together_answer_as_each_alone(engine):
    together = engine.search_all(["cat", "coffee", "a man with a camera"], k=4)
    for query, hits in zip(["cat", "coffee", "a man with a camera"], together, strict=True):
        alone = engine.search(query, k=4)
        assert [hit.image_id for hit in hits] == [hit.image_id for hit in alone]


def test_a_box_and_its_crop_get_the_right_sentences(engine, demo, tmp_path):
    asked = demo[1].assignment
    path = demo[1].folder / asked.image_id
    hits = engine.assign(path, asked.box, k=3)
    assert hits[0].keyword in (asked.word, "engine")
    for hit in hits:
        assert asked.word in hit.text.lower()
        assert hit.text[slice(*hit.span)].lower() == hit.keyword
    from PIL import Image

    Image.open(path).crop(tuple(map(int, asked.box))).save(tmp_path / "crop.png")
    assert engine.assign(tmp_path / "crop.png", k=1)[0].keyword == asked.word


def test_a_text_shows_and_by_the_maximum_scores_its_best_keyword_never_itself(engine, demo):
    path = demo[1].folder / "scene-03.png"
    image = read_image(path, "")
    (region,) = engine.encoder.encode_regions([image], [np.array([image.whole], np.float32)])[0]
    wanted = {}
    for row in engine.index.texts.read(["text_id", "text", "keywords", "whole", "vectors"]).to_pylist():
        assert row["whole"].count(True) == 1
        assert row["keywords"][row["whole"].index(True)] == row["text"]
        cosines = np.where(row["whole"], -1, np.float64(np.float16(row["vectors"])) @ region)
        wanted[row["text_id"]] = cosines.max(), row["keywords"][cosines.argmax()]
    for owner in ("max", "soft"):
        for hit in engine.assign(path, k=99, owner=owner):
            score, keyword = wanted[hit.text_id]
            assert hit.keyword == keyword
            assert hit.text[slice(*hit.span)].lower() == keyword
            if owner == "max":
                assert hit.score == pytest.approx(score, abs=1e-5)


def test_a_text_without_keywords_is_found_by_itself(tmp_path, toy):
    write(tmp_path / "corpus", ["a", "b"])
    (tmp_path / "corpus" / "b.txt").write_text("!!!")
    run(tmp_path / "corpus", tmp_path / "index")
    opened = Engine.open(tmp_path / "index")
    found = {hit.text: hit for hit in opened.assign(tmp_path / "corpus" / "a.png")}
    assert (found["!!!"].keyword, found["!!!"].span) == ("!!!", (0, 3))
    (best,) = opened.assign(tmp_path / "corpus" / "a.png", owner="max")
    assert best.text != "!!!"


def test_without_whole_texts_a_text_scores_its_keywords(tmp_path, toy):
    write(tmp_path / "corpus", ["a", "b"])
    run(tmp_path / "corpus", tmp_path / "index", replace(CHEAP, whole=False))
    opened = Engine.open(tmp_path / "index")
    path = tmp_path / "corpus" / "a.png"
    image = read_image(path, "")
    (region,) = opened.encoder.encode_regions([image], [np.array([image.whole], np.float32)])[0]
    for hit in opened.assign(path):
        words = [word.lower() for word in hit.text.rstrip(".").split()]
        powers = np.exp(np.float64(np.float16(opened.encoder.encode_texts(words))) @ region / 0.1)
        assert hit.score == pytest.approx(0.1 * np.log(powers.mean()), abs=1e-5)
    assert not opened.index.texts.whole().any()


def test_an_image_finds_itself(engine, demo):
    path = demo[1].folder / "scene-03.png"
    assert engine.search_image(path, k=1)[0].image_id == "scene-03.png"
    box = demo[1].boxes["scene-03.png"]["rocket"]
    found = engine.search_image(path, box, k=4)
    assert all("rocket" in demo[1].boxes[hit.image_id] for hit in found[:3])


def test_bad_questions(engine, demo):
    path = demo[1].folder / "scene-03.png"
    for bad, match in (
        (lambda: engine.search("  "), "a query must be a word"),
        (lambda: engine.search("cat", k=0), "k must be at least 1"),
        (lambda: engine.assign(path, (700, 0, 800, 50)), "covers no pixel of scene-03.png, which is 640x480"),
        (lambda: engine.assign(path, (9, 9, 9, 50)), "covers no pixel"),
        (lambda: engine.assign(demo[1].folder / "scene-03.txt"), "is not an image"),
    ):
        with pytest.raises(BadInputError, match=match):
            bad()
    with pytest.raises(NotFoundError, match="name an image"):
        engine.assign("gone.png")


def test_an_index_moves(demo_copy, demo, tmp_path):
    moved = Path(shutil.copytree(demo[1].folder, tmp_path / "elsewhere"))
    engine = Engine.open(demo_copy, device="cpu", root=moved)
    hit = engine.search("cat", k=1)[0]
    assert Path(hit.path).parent == moved
    assert read_image(Path(hit.path), "").width == 640


def test_a_sound_index_verifies(demo):
    assert verify(demo[0])[1] == []


def files_of(folder):
    return sorted(read_manifest(folder).files)


def test_a_missing_truncated_or_changed_file_is_noticed(demo_copy):
    for name in files_of(demo_copy):
        path = demo_copy / name
        whole = path.read_bytes()
        middle = len(whole) // 2
        for damage in (None, whole[:-1], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
            if damage is None:
                path.unlink()
            else:
                path.write_bytes(damage)
            with pytest.raises(BadIndexError, match="is damaged"):
                Engine.open(demo_copy)
            assert any(name in line for line in verify(demo_copy)[1])
        path.write_bytes(whole)
    assert verify(demo_copy)[1] == []


def test_verify_compares_rows_and_not_only_hashes(demo_copy):
    """A manifest that was forged to fit a damaged FAISS file does not pass."""
    from felga.files import sha256_file

    manifest = json.loads((demo_copy / "manifest.json").read_bytes())
    (name,) = manifest["images"]["pieces"]
    data = bytearray((demo_copy / name).read_bytes())
    data[-4:] = np.float32(0.5).tobytes()
    (demo_copy / name).write_bytes(data)
    manifest["files"][name]["sha256"] = sha256_file(demo_copy / name)
    (demo_copy / "manifest.json").write_text(json.dumps(signed(manifest)))
    (line,) = verify(demo_copy)[1]
    assert "other vectors than images.lance" in line


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: {**m, "format_version": 99}, "format version 99, this felga reads 6"),
        (lambda m: {**m, "format_version": 3}, "format version 3, .* index the corpus again"),
        (lambda m: {**m, "format": "other"}, "is not the manifest of a felga index"),
        (lambda m: {k: v for k, v in m.items() if k != "dim"}, "has missing or unknown fields"),
        (lambda m: {**m, "more": 1}, "has missing or unknown fields"),
        (lambda m: {**m, "images": {**m["images"], "version": 999}}, "is damaged or incomplete"),
    ],
)
def test_foreign_manifests_are_refused(demo_copy, change, match):
    path = demo_copy / "manifest.json"
    path.write_text(json.dumps(signed(change(json.loads(path.read_bytes())))))
    with pytest.raises(BadIndexError, match=match):
        Engine.open(demo_copy)
    path.write_text("{")
    with pytest.raises(BadIndexError, match="not readable as json"):
        Engine.open(demo_copy)


def test_different_weights_are_refused_when_needed(demo_copy):
    path = demo_copy / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["contract"]["encoder"]["weights"]["minilm"] = "0" * 64
    path.write_text(json.dumps(signed(manifest)))
    with pytest.raises(BadIndexError, match="built with a different conse than the one here"):
        Engine.open(demo_copy, device="cpu").search("cat")


@pytest.mark.parametrize("pooling", ["roi", "crop"])
def test_an_index_of_clip_is_searched_with_the_same_pooling(tmp_path, demo, pooling):
    from felga.corpus.folder import FolderCorpus
    from felga.indexing import Options, index

    from .encoders.tiny import TINY_RESNET, tiny_clip

    folder = tiny_clip(tmp_path / "clip", 0, TINY_RESNET)
    (tmp_path / "in").mkdir()
    for name in ("scene-01.png", "scene-01.txt", "scene-02.png"):
        shutil.copy(demo[1].folder / name, tmp_path / "in")
    options = Options(encoder=f"clip:local-dir:{folder}", pooling=pooling, device="cpu")
    index(FolderCorpus(tmp_path / "in"), tmp_path / "out", options)
    engine = Engine.open(tmp_path / "out", device="cpu")
    assert engine.encoder.identity()["pooling"] == pooling
    assert len(engine.search("a cat")) == 2
    assert engine.search_image(tmp_path / "in" / "scene-02.png", k=1)[0].image_id == "scene-02.png"
    assert len(engine.assign(tmp_path / "in" / "scene-02.png")) == 1


def test_an_index_follows_its_weights_to_another_folder(tmp_path, demo):
    """Their sha256 is the contract, not their path."""
    from felga.corpus.folder import FolderCorpus
    from felga.indexing import Options, index

    from .encoders.tiny import tiny_clip

    folder = tiny_clip(tmp_path / "here")
    (tmp_path / "in").mkdir()
    shutil.copy(demo[1].folder / "scene-01.png", tmp_path / "in")
    options = Options(encoder=f"clip:local-dir:{folder}", device="cpu", regions="grid")
    index(FolderCorpus(tmp_path / "in"), tmp_path / "out", options)
    with Engine.open(tmp_path / "out", device="cpu") as engine:
        expected = engine.search("a cat")
    moved = f"clip:local-dir:{folder.rename(tmp_path / 'there')}"
    with (
        Engine.open(tmp_path / "out", device="cpu") as engine,
        pytest.raises(
            BadIndexError, match="whose weights are gone .*: if they were moved, open the index with"
        ),
    ):
        engine.encoder  # noqa: B018
    with Engine.open(tmp_path / "out", device="cpu", encoder=moved) as engine:
        assert engine.search("a cat") == expected
    report = index(
        FolderCorpus(tmp_path / "in"),
        tmp_path / "out",
        Options(encoder=moved, device="cpu", regions="grid"),
    )
    assert report.images.added == report.images.changed == 0
    with Engine.open(tmp_path / "out", device="cpu") as engine:
        assert engine.search("a cat") == expected
        assert engine.encoder.name == moved


def test_no_index(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist: run `felga index"):
        Engine.open(tmp_path / "gone")
    with pytest.raises(NotFoundError, match="holds no finished index"):
        Engine.open(tmp_path)


def test_the_store_keeps_raw_vectors_with_their_boxes(demo):
    """The store's vectors are the encoder's, encoded once more here, in half precision."""
    table = StoredIndex.open(demo[0]).images
    batch = next(iter(table.batches(["image_id", "path", "boxes", "vectors"], 2)))
    encoder = make_encoder("conse", device="cpu")
    names = batch.column("image_id").to_pylist()
    images = [read_image(demo[1].folder / name, name) for name in names]
    counts = batch.column("boxes").value_lengths().to_pylist()
    boxes = np.split(flat(batch.column("boxes")), np.cumsum(counts)[:-1])
    again = np.concatenate(encoder.encode_regions(images, boxes))
    np.testing.assert_allclose(vector_rows(batch), again, rtol=2**-11, atol=1e-5)
