"""Caches of a machine of its own, for code inside this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import constants


def move_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every cache be below ``home``; the hub's folder."""
    hub = home / "hf" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    monkeypatch.setenv("HOME", str(home))
    return hub


def state(home: Path) -> dict[str, str]:
    """Every file and link below a home, with its content or target; without locks and the hub's notes."""
    paths = (path for path in sorted(home.rglob("*")) if path.is_symlink() or path.is_file())
    return {
        str(path.relative_to(home)): os.readlink(path) if path.is_symlink() else path.read_bytes().hex()
        for path in paths
        if not {".locks", "trees", "CACHEDIR.TAG"} & set(path.parts)
    }
