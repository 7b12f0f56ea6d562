"""The command line as a person or a program meets it."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import felga
from felga.cli import app as cli
from felga.errors import FelgaError
from felga.search.scoring import GAMMA
from felga.show.sheets import REGION
from tests.cli.calls import call

COMMANDS = ["index", "search", "assign", "info", "verify", "doctor", "demo", "train", "train-regions", "data"]
COMMANDS += [f"models {verb}" for verb in ("list", "pull", "export", "import")]
COMMANDS += [
    "caption train",
    "caption run",
    "dups",
    "concepts",
    "audit",
    "export",
    "fenet apply",
    "bench coco",
    "bench proposals",
]


def test_help_is_light_and_documents_the_exit_codes(capsys):
    out, _ = call(capsys, "--help")
    for command in COMMANDS:
        assert command.split()[0] in out
    assert "Exit codes: 0 done; 1" in out
    text = " ".join(out.split())
    for code in {1, 130, 141, *(kind.exit_code for kind in FelgaError.__subclasses__())}:
        assert f"; {code} " in text, f"exit code {code} is not documented"
    assert call(capsys, "--version")[0].strip() == f"felga {felga.__version__}"
    code = "import sys; sys.argv = ['felga', '--help']\ntry:\n from felga.cli.app import main; main()\n"
    code += "except SystemExit: pass\n"
    code += "print([m for m in ('torch', 'faiss', 'lance', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_an_example_and_stands_in_the_readme(capsys, command):
    out, _ = call(capsys, *command.split(), "--help")
    assert f"Example: felga {command}" in out
    assert f"felga {command}" in Path(__file__).parents[2].joinpath("README.md").read_text()


def test_search_as_json(capsys, demo):
    out, err = call(capsys, "search", "cat", "--index", demo[0], "-k", 2, "--format", "json", "--regions", 3)
    assert err == ""
    answer = json.loads(out)
    assert set(answer) == {"query", "index", "hits"}
    assert answer["query"] == "cat"
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2]
    hit = answer["hits"][0]
    assert set(hit) == {"rank", "image_id", "path", "score", "regions"}
    assert len(hit["regions"]) == 3
    assert len(hit["regions"][0]["box"]) == 4
    region = hit["regions"][0]
    assert set(region) == {"box", "score", "similarity", "quality", "whole"}
    assert 0 < region["quality"] <= 1
    assert region["score"] == pytest.approx(
        region["similarity"] + GAMMA * math.log(region["quality"]), abs=1e-5
    )
    words = ["search", "cat", "--index", demo[0], "-k", 1, "--format", "json"]
    (best,) = json.loads(call(capsys, *words, "--owner-score", "max")[0])["hits"]
    assert best["score"] == best["regions"][0]["score"]


def test_queries_of_a_file_as_lines_and_as_csv(capsys, demo, tmp_path):
    (tmp_path / "words.txt").write_text("cat\n\nrocket\n")
    words = ["--queries", tmp_path / "words.txt", "--index", demo[0], "-k", 2]
    out, _ = call(capsys, "search", *words, "--format", "jsonl")
    assert [json.loads(line)["query"] for line in out.splitlines()] == ["cat", "rocket"]
    out, _ = call(capsys, "search", *words, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["query"] for row in rows] == ["cat", "cat", "rocket", "rocket"]
    assert float(rows[0]["x2"]) > float(rows[0]["x1"])
    out, _ = call(capsys, "search", *words, "--format", "json")
    assert isinstance(json.loads(out), list)


def test_tables_show_what_was_found(capsys, demo):
    out, _ = call(capsys, "search", "rocket", "--index", demo[0], "-k", 1)
    assert "rocket" in out
    assert "scene-" in out
    asked = demo[1].assignment
    box = ",".join(str(x) for x in asked.box)
    out, _ = call(
        capsys, "assign", demo[1].folder / asked.image_id, "--box", box, "--index", demo[0], "-k", 1
    )
    assert asked.word in out


def test_assign_as_json(capsys, demo):
    path = demo[1].folder / "scene-04.png"
    out, _ = call(capsys, "assign", path, "--index", demo[0], "-k", 2, "--format", "json")
    hits = json.loads(out)["hits"]
    assert set(hits[0]) == {"rank", "text_id", "text", "score", "keyword", "span"}
    start, end = hits[0]["span"]
    assert hits[0]["text"][start:end].lower() == hits[0]["keyword"]


def test_sheets_are_drawn(capsys, demo, tmp_path):
    call(capsys, "search", "cat", "--index", demo[0], "-k", 7, "--save-viz", tmp_path / "cats.png")
    sheet = Image.open(tmp_path / "cats.png").convert("RGB")
    assert sheet.width > 1000
    assert (np.asarray(sheet) == REGION).all(-1).any(), "no purple box is drawn"
    call(capsys, "search", "cat", "rocket", "--index", demo[0], "--save-viz", tmp_path / "two.png")
    assert (tmp_path / "two-1.png").exists()
    assert (tmp_path / "two-2.png").exists()
    image = demo[1].folder / "scene-04.png"
    call(capsys, "assign", image, "--index", demo[0], "--save-viz", tmp_path / "texts.png")
    assert Image.open(tmp_path / "texts.png").width > 1000
    _, err = call(capsys, "search", "cat", "--index", demo[0], "--save-viz", tmp_path / "cats.xyz", code=2)
    assert "cannot be written" in err


def test_info_and_verify(capsys, demo):
    out, _ = call(capsys, "info", "--index", demo[0])
    assert "conse, 384 dimensions" in out
    assert "1280 per region" in out
    assert re.search(r"quality +learned", out)
    out, _ = call(capsys, "info", "--index", demo[0], "--format", "json")
    assert json.loads(out)["format"] == "felga-index"
    out, _ = call(capsys, "verify", "--index", demo[0])
    assert "is sound" in out


def test_a_damaged_index_exits_with_four(capsys, demo_copy):
    next(demo_copy.glob("regions*.faiss")).write_bytes(b"x")
    for words in (["search", "cat"], ["verify"]):
        _, err = call(capsys, *words, "--index", demo_copy, code=4)
        assert err.count("\n") == 1
        assert "damaged" in err


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (["search", "cat", "--index", "gone"], 3, "run `felga index"),
        (["index", "gone"], 3, "name a folder"),
        (["index"], 2, "give either CORPUS, a folder of images, or --coco"),
        (["search"], 2, "give query words, --queries FILE or --image IMAGE"),
        (["search", "x", "--image", "y"], 2, "give query words (or --queries FILE) or --image, not both"),
        (["search", "x", "--box", "1,2,3,4"], 2, "--box needs --image"),
        (["search", "x", "--queries", "gone.txt"], 3, "name a file of queries"),
        (["search", "x", "-k", "0"], 2, "k must be at least 1, got 0"),
        (["search", "x", "--regions", "0"], 2, "regions must be at least 1, got 0"),
        (["assign", "x.png", "-k", "-1"], 2, "k must be at least 1, got -1"),
        (["search", "caf\udce9"], 2, r"the query 'caf\xe9' is not valid UTF-8"),
        (["train", "nope"], 3, "name an index folder, or a features file"),
        (["train", "x", "--set", "epochs"], 2, "--set epochs is not NAME=VALUE"),
        (
            ["train", "x", "--set", "method=dense", "--method", "felga"],
            2,
            "given as both 'felga' and 'dense'",
        ),
        (["train", "x", "--set", "epochs=2", "--set", "epochs=3"], 2, "epochs is given as both 2 and 3"),
        (["fenet", "apply"], 2, "give either CHECKPOINT or --remove"),
        (["bench", "coco", "--root", "x", "--tables", "t.txt"], 2, "t.txt must end in .md, .json, .csv"),
        (["index", ".", "--ids", "x"], 2, "need --coco"),
    ],
)
def test_one_sentence_and_its_exit_code(capsys, words, code, match):
    out, err = call(capsys, *words, code=code)
    assert out == ""
    assert err.startswith("felga: ")
    assert err.count("\n") == 1
    assert match in err


def test_a_bad_box(capsys, demo):
    _, err = call(capsys, "assign", "x.png", "--box", "1,2", "--index", demo[0], code=2)
    assert "--box 1,2 is not a box" in err


def test_strict_exits_with_one_and_the_index_is_there(capsys, tmp_path, toy):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.jpg").write_bytes(b"no image")
    Image.new("RGB", (50, 50)).save(tmp_path / "in" / "good.png")
    options = ["--encoder", "toy", "--keywords", "words", "--regions", "grid", "--strict"]
    _, err = call(capsys, "index", tmp_path / "in", "--out", tmp_path / "out", *options, code=1)
    assert "1 items were quarantined: see" in err
    assert "bad.jpg" in (tmp_path / "out" / "errors.jsonl").read_text()
    out, _ = call(capsys, "info", "--index", tmp_path / "out")
    assert "1 images, 0 texts" in out


def test_doctor(capsys):
    out, _ = call(capsys, "doctor", "--format", "json", "--device", "cpu")
    found = json.loads(out)
    states = {
        entry["name"]: entry["state"] for kind in ("encoders", "regions", "keywords") for entry in found[kind]
    }
    assert states["conse"] == "ready"
    assert states["graphseg+edgeboxes"] == "ready"
    assert states["clip"] == "needs weights"
    lacks = {entry["name"]: entry["lacks"] for kind in ("encoders", "regions") for entry in found[kind]}
    if "FELGA_LAVIS_PYTHON" not in os.environ:
        assert states["lavis"] == "missing"
        assert "pip install torch torchvision salesforce-lavis==1.0.2" in lacks["lavis"]
    if states["detectron2"] == "missing":
        assert "pip install" in lacks["detectron2"]
    assert found["packages"]["torch"]
    for entry in found["encoders"]:
        assert entry["state"] == "ready" or entry["lacks"], f"{entry['name']} does not say what it lacks"
    assert lacks["clip"] == "clip:ARCH/PRETRAINED"
    out, _ = call(capsys, "doctor", "--device", "cpu")
    assert "conse" in out
    assert "needs weights: clip:ARCH/PRETRAINED" in " ".join(out.split())
    assert "''" not in out, "an empty argument is reported"


@pytest.mark.parametrize(
    "command",
    [
        *("index", "search", "assign", "train", "doctor", "bench coco", "bench proposals"),
        *("models pull", "models export"),
    ],
)
def test_commands_that_load_models_can_be_kept_off_the_network(capsys, command):
    assert "--offline" in call(capsys, *command.split(), "--help")[0]


OFFLINE = """
import socket, sys
def refuse(*a, **k):
    raise SystemExit("the network was touched")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
from felga.cli.app import main
main()
"""


def test_nothing_touches_the_network(demo, tmp_path):
    """Index and search by the embedded default, with sockets that end the process."""
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    small = tmp_path / "in"
    small.mkdir()
    for name in ("scene-01.png", "scene-01.txt"):
        (small / name).write_bytes((demo[1].folder / name).read_bytes())
    for words in (
        ["index", small, "--out", tmp_path / "out"],
        ["search", "cat", "--index", tmp_path / "out"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE, *map(str, words), "--offline"],
            capture_output=True, text=True, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "scene-01.png" in done.stdout
    blocked = subprocess.run(
        [sys.executable, "-c", OFFLINE.replace("main()", "socket.create_connection(('x', 1))")],
        capture_output=True,
        text=True,
    )
    assert "the network was touched" in blocked.stderr, "the block does not block"


def test_a_bug_keeps_its_traceback(monkeypatch, demo):
    def broken(*_, **__):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("felga.engine.Engine.open", broken)
    sys.argv = ["felga", "search", "x", "--index", str(demo[0])]
    with pytest.raises(ZeroDivisionError):
        cli.main()
