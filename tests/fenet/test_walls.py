"""FENet needs torch, numpy and safetensors: not FAISS, not the store, and a recipe not even torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import felga.fenet

FILES = sorted(Path(felga.fenet.__file__).parent.glob("*.py"))
PACKAGES = {"torch", "numpy", "safetensors", *sys.stdlib_module_names}
OURS = ("felga.fenet", "felga.errors", "felga.files", "felga.types", "felga.version")
OURS += ("felga.models.arrays", "felga.models.device")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_torch_numpy_and_safetensors_are_imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] == "felga":
                assert name in OURS or name.startswith(("felga.fenet.", "felga.search.")), name
            else:
                assert name.split(".")[0] in PACKAGES, name


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("felga.fenet.train", "faiss lance pyarrow cv2 PIL torchvision transformers"),
        ("felga.fenet.checkpoint", "torch faiss lance pyarrow cv2 PIL"),
        ("felga.fenet.packaged", "torch faiss lance pyarrow cv2 PIL"),
        ("felga.fenet.recipes", "torch numpy safetensors faiss"),
        ("felga.search.owners", "torch faiss"),
    ],
)
def test_what_an_import_loads(module, absent):
    check = f"import {module}, sys; print([name for name in {absent.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
