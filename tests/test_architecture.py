"""The structure is a test: data flows one way, rooms have walls, files and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "felga"
GROUND = {"errors", "types", "asking", "boxes", "files", "version"}
ROOMS = [  # each room may import the ground and the rooms above it
    ["models"],
    ["corpus"],
    ["registry"],
    ["testing"],
    ["proposals"],
    ["encoders"],
    ["adapt"],
    ["captions"],
    ["alignment"],
    ["search"],
    ["fenet"],
    ["store"],
    ["indexing"],
    ["queries"],
    ["questions"],
    ["engine"],
    ["milvus"],
    ["survey"],
    ["client"],
    ["show"],
    ["server"],
    ["evaluation"],
    ["cli"],
]
RANK = {name: i for i, room in enumerate(ROOMS) for name in room}
LINES, FUNCTION_LINES = 400, 60
HEAVY = "torch", "faiss", "lance", "cv2", "transformers", "open_clip", "numpy"
FILES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = sorted([*(ROOT / "bench").glob("*.py"), *(ROOT / "checks").glob("*.py")])


def imports(path: Path) -> set[tuple[str, str]]:
    """(room, name) of every felga import in a file, also inside functions."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "felga":
            inside = (node.module or "").partition(".")[2].split(".")[0]
            for alias in node.names:
                is_room = not inside and (PACKAGE / alias.name).is_dir()
                rooms.add((alias.name if is_room else inside, alias.name))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "felga":
                    rooms.add((alias.name.partition(".")[2].split(".")[0], ""))
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    assert room in GROUND or room in RANK, f"{room} is no room: add it where the data passes it"
    for target, name in imports(path):
        if room in GROUND:
            assert target in GROUND, f"{path.name} is on the ground floor and imports {target}"
        elif target != room and target not in GROUND:
            assert RANK[target] < RANK[room], f"{room} imports {target}, which lies after it"
            assert not name.startswith("_"), f"{room} imports {target}'s private {name}"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_benchmarks_and_checks_use_public_names(path):
    for target, name in imports(path):
        assert target in GROUND or target in RANK or not target, target
        assert not name.startswith("_"), f"{path.name} imports {target}'s private {name}"


def test_the_walk_sees_imports():
    assert ("store", "StoredIndex") in imports(PACKAGE / "engine.py")
    assert any(room == "cli" for room, _ in imports(PACKAGE / "__main__.py"))


@pytest.mark.parametrize("path", [*FILES, *PROGRAMS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= LINES, f"{path.name} has {text.count(chr(10))} lines: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{path.name}: {node.name} has {length} lines"


def test_no_two_modules_share_a_name():
    """The files of cli are named after commands, and those of testing after what they test."""
    rooms = [path for path in FILES if path.stem != "__init__" and path.parent.name not in ("cli", "testing")]
    names = [path.stem for path in rooms]
    assert {name for name in names if names.count(name) > 1} == set()


def test_faiss_is_known_in_two_files():
    users = {path.relative_to(PACKAGE).as_posix() for path in FILES if "import faiss" in path.read_text()}
    assert users == {"search/flat.py", "search/approximate.py"}


def test_search_knows_vectors_and_offsets_only():
    for path in (PACKAGE / "search").glob("*.py"):
        assert {target for target, _ in imports(path)} <= {*GROUND, "search"} - {"boxes"}, path.name


@pytest.mark.parametrize("code", ["import felga", "import felga.cli.app", "import felga.fenet", "dir(felga)"])
def test_the_front_door_is_light(code):
    check = f"import felga; {code}; import sys; print([m for m in {HEAVY!r} if m in sys.modules])"
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
