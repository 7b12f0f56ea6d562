"""The structure is a test: data flows one way, and `felga --help` is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "felga"
GROUND = {"errors", "types", "files", ""}
ROOMS = [
    ["registry"],
    ["models"],
    ["corpus"],
    ["proposals"],
    ["encoders"],
    ["fenet"],
    ["search"],
    ["store"],
    ["indexing"],
    ["engine"],
    ["evaluation", "show"],
    ["cli"],
]
RANK = {name: i for i, room in enumerate(ROOMS) for name in room}


def imports(path: Path) -> set[tuple[str, str]]:
    """(room, name) of every felga import in a file, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "felga":
            rooms = [(node.module or "").partition(".")[2].split(".")[0]]
            if rooms == [""]:
                rooms = [
                    alias.name if (PACKAGE / f"{alias.name}.py").exists() else "" for alias in node.names
                ]
            found |= {(room, alias.name) for room in rooms for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "felga":
                    found.add((alias.name.partition(".")[2].split(".")[0], ""))
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_left(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    assert room in GROUND or room in RANK, f"{room} stands in no room: add it where the data passes it"
    for target, name in imports(path):
        if room in GROUND:
            assert target in GROUND, f"{path.name} is the ground floor and imports {target}"
        elif target != room and target not in GROUND:
            assert RANK[target] < RANK[room], f"{room} imports {target}, which lies to its right"
            assert not name.startswith("_"), f"{room} imports {target}'s private {name}"


def test_the_walk_sees_imports():
    assert ("store", "Owners") in imports(PACKAGE / "engine.py")
    assert ("show", "sheets") in imports(PACKAGE / "cli" / "app.py")


@pytest.mark.parametrize("code", ["import felga", "import felga.cli.app", "import felga.fenet"])
def test_the_front_door_is_light(code):
    heavy = "torch", "faiss", "lance", "cv2", "transformers", "open_clip"
    check = f"{code}; import sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_click_is_never_imported():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "click" for name in names), path


def test_no_pickle_is_ever_loaded():
    """Neither by name, nor by torch.load without weights_only, nor by numpy with allow_pickle."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert called not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load"), path
            assert words.get("allow_pickle") != "True", path
            if called == "torch.load":
                assert words.get("weights_only") == "True", f"{path}: {ast.unparse(node)}"
