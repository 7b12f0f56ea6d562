"""`felga search` and `felga assign` into lists, files and folders; `felga dups`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from PIL import Image

from tests.cli.calls import call, start
from tests.made import WORDS, write


@pytest.fixture
def words(demo):
    return ["search", "cat", "--index", demo[0], "-k", 3, "--min-confidence", 0]


def ids(capsys, *words):
    return [hit["image_id"] for hit in json.loads(call(capsys, *words, "--format", "json")[0])["hits"]]


def test_paths_are_the_hits_in_order_and_each_once(capsys, demo, words):
    expected = [str(demo[1].folder / image_id) for image_id in ids(capsys, *words)]
    assert call(capsys, *words, "-l")[0].splitlines() == expected
    out, _ = call(capsys, *words, "--null")
    assert out == "".join(f"{path}\0" for path in expected)
    out, _ = call(capsys, "search", "cat", *words[1:], "--paths")
    assert out.splitlines() == expected, "an image that two queries find is listed once"


def test_odd_names_reach_xargs_byte_for_byte(capsys, tmp_path, toy, toy_site):
    write(tmp_path / "in", ["a"])
    odd = b"odd \xe9\n'\".png"
    shutil.copy(tmp_path / "in" / "a.png", os.path.join(os.fsencode(tmp_path / "in"), odd))
    call(capsys, "index", tmp_path / "in", "--out", tmp_path / "out", *WORDS)
    done = start(
        "search", "cat", "--index", str(tmp_path / "out"), "--min-confidence", "0", "-0",
        env={**os.environ, "PYTHONPATH": f"{toy_site}:{os.getcwd()}", "PYTHONIOENCODING": "ascii:strict"},
    )  # fmt: skip
    out, err = done.communicate()
    assert done.returncode == 0, err
    listed = subprocess.run(["xargs", "-0", "sha256sum", "-z"], input=out, capture_output=True, check=True)
    assert {line[66:] for line in listed.stdout.split(b"\0") if line} == set(out.split(b"\0")) - {b""}
    assert odd in out
    done = start(
        "dups", "--index", str(tmp_path / "out"), "-0", env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    out, err = done.communicate()
    assert out == os.fsencode(tmp_path / "in") + b"/" + odd + b"\0", err


def test_a_list_without_a_reader_ends_quietly(demo):
    done = start("search", "cat", "--index", str(demo[0]), "--min-confidence", "0", "-0")
    done.stdout.close()
    assert done.stderr.read() == b""
    assert done.wait() == 141


def test_coco_ids_stay_numbers_and_pycocotools_reads_them(capsys, tmp_path, toy):
    tools = pytest.importorskip("pycocotools.coco")
    write(tmp_path / "in", ["x", "y"])
    images = [{"id": 139, "file_name": "x.png"}, {"id": 7, "file_name": "y.png"}]
    captions = [{"id": n, "image_id": one["id"], "caption": "a cat"} for n, one in enumerate(images)]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": captions}))
    options = ["--coco", tmp_path / "c.json", "--images", tmp_path / "in", "--out", tmp_path / "out", *WORDS]
    call(capsys, "index", *options)
    words = ["cat", "dog", "--index", tmp_path / "out", "--regions", 3, "--min-confidence", 0]
    out, _ = call(capsys, "search", *words, "--format", "coco")
    (tmp_path / "hits.json").write_text(out)
    found = tools.COCO(str(tmp_path / "hits.json"))
    capsys.readouterr()  # pycocotools reports what it does
    assert sorted(found.getImgIds()) == [7, 139]
    answers = json.loads(call(capsys, "search", *words, "--format", "json")[0])
    assert len(found.getAnnIds()) == sum(len(hit["regions"]) for one in answers for hit in one["hits"])
    with Image.open(found.loadImgs([7])[0]["file_name"]) as image:
        assert image.size == (found.imgs[7]["width"], found.imgs[7]["height"]) == (64, 48)
    x1, y1, x2, y2 = answers[1]["hits"][0]["regions"][0]["box"]
    (first, *_) = found.loadAnns(found.getAnnIds(catIds=[2], imgIds=[int(answers[1]["hits"][0]["image_id"])]))
    assert first["bbox"] == [x1, y1, x2 - x1, y2 - y1]


def test_files_and_folders_of_one_search(capsys, demo, words, tmp_path):
    found = ids(capsys, *words)
    targets = {name: tmp_path / "new" / name for name in ("copies", "links", "crops", "hits.html")}
    _, err = call(
        capsys, *words, "--regions", 2, "--copy-to", targets["copies"], "--link-to", targets["links"],
        "--crops-to", targets["crops"], "--html", targets["hits.html"],
    )  # fmt: skip
    names = [f"0{rank}-{image_id}" for rank, image_id in enumerate(found, 1)]
    assert sorted(os.listdir(targets["links"])) == names
    assert sorted(os.listdir(targets["copies"])) == [*names, "metadata.jsonl"]
    assert len(os.listdir(targets["crops"])) == 6
    assert targets["hits.html"].read_text().count("data:image/jpeg") == 3
    for line in (
        f"3 images copied into {targets['copies']}",
        f"3 images linked into {targets['links']}",
        f"6 regions cut out into {targets['crops']}",
        f"written into {targets['hits.html']}",
    ):
        assert err.count(line) == 1


def test_assign_writes_a_page(capsys, demo, tmp_path):
    image = demo[1].folder / "scene-04.png"
    call(capsys, "assign", image, "--box", "10,20,200,180", "--index", demo[0], "--html", tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert text.count("<mark>") == 10
    assert text.count("data:image/jpeg") == 1
    assert '<rect class="best" x="10" y="20" width="190" height="160"/>' in text


def test_missing_images_do_not_stop_anything(capsys, demo, words, tmp_path):
    out, err = call(
        capsys, *words, "--root", tmp_path / "gone", "-l", "--html", tmp_path / "a.html",
        "--copy-to", tmp_path / "c", "--link-to", tmp_path / "l", "--crops-to", tmp_path / "r",
    )  # fmt: skip
    assert out == ""
    assert err.count("3 of 3 images not found") == 1
    for line in ("0 images copied", "0 images linked", "0 regions cut out"):
        assert f"{line} into" in err
    assert err.count("; 3 left out: ") == 3
    assert (tmp_path / "a.html").read_text().count("not found") >= 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--copy-to", "file"], "is a file: name a folder"),
        (["--link-to", "file/below"], "is not a writable folder"),
        (["--crops-to", "file"], "is a file: name a folder"),
        (["--html", "folder"], "is a folder: name a file such as hits.html"),
        (["--html", "file/a.html"], "is not a writable folder"),
        (["-l", "-0"], "give one of --paths, --null and --format"),
        (["-l", "--format", "coco"], "give one of --paths, --null and --format"),
    ],
)
def test_targets_are_checked_before_anything_is_loaded(capsys, tmp_path, monkeypatch, options, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    out, err = call(capsys, "search", "cat", "--index", tmp_path / "no-index", *options, code=2)
    assert out == ""
    assert err.count("\n") == 1
    assert reason in err
    if options[0] == "--html":
        call(capsys, "assign", "a.png", "--index", tmp_path / "no-index", *options, code=2)


@pytest.fixture
def twins(demo, tmp_path, capsys):
    """An index of three scenes and a smaller copy of one."""
    (tmp_path / "in").mkdir()
    for number in (3, 4, 7):
        shutil.copy(demo[1].folder / f"scene-{number:02d}.png", tmp_path / "in")
    scene = Image.open(tmp_path / "in" / "scene-07.png").convert("RGB")
    scene.crop((6, 4, scene.width - 6, scene.height - 4)).save(tmp_path / "in" / "a.jpg", quality=80)
    options = ["--regions", "grid", "--no-quality", "--device", "cpu", "--fenet", "none"]
    call(capsys, "index", tmp_path / "in", "--out", tmp_path / "out", *options)
    return tmp_path / "out"


def test_dups_lists_copies_in_every_format(capsys, twins, tmp_path):
    out, err = call(capsys, "dups", "--index", twins)
    assert "scene-07.png" in out
    assert "scene-03.png" not in out
    assert err == ""
    (group,) = json.loads(call(capsys, "dups", "--index", twins, "--format", "json")[0])
    assert [copy["image_id"] for copy in group] == ["scene-07.png", "a.jpg"]
    assert call(capsys, "dups", "--index", twins, "-l")[0] == f"{tmp_path / 'in' / 'a.jpg'}\n"
    assert "no copies" in call(capsys, "dups", "--index", twins, "--threshold", 0.9999)[0]
    _, err = call(capsys, "dups", "--index", twins, "--threshold", 1.5, code=2)
    assert "--threshold must be a cosine, between -1 and 1, got 1.5" in err
    call(capsys, "dups", "--index", twins, "-l", "--format", "csv", code=2)


def test_dups_without_features_says_that_it_looked_for_equal_files_alone(capsys, tmp_path, toy):
    write(tmp_path / "in", ["a"])
    call(capsys, "index", tmp_path / "in", "--out", tmp_path / "out", *WORDS)
    assert "only equal files were looked for" in call(capsys, "dups", "--index", tmp_path / "out")[1]
    assert call(capsys, "dups", "--index", tmp_path / "out", "--threshold", 0.9)[1] == ""


def test_a_search_without_copies_still_has_k_hits(capsys, twins):
    words = ["search", "rocket", "--index", twins, "--min-confidence", 0]
    every = ids(capsys, *words, "-k", 4)
    copied = min(("scene-07.png", "a.jpg"), key=every.index)
    worse = {"scene-07.png", "a.jpg"} - {copied}
    assert ids(capsys, *words, "-k", 3, "--dedupe") == [name for name in every if name not in worse]
