"""The FENets that come with felga, one per encoder at most."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from felga.fenet.checkpoint import load_fenet
from felga.files import to_json

WEIGHTS = Path(__file__).with_name("weights")


def packaged(identity: Mapping[str, Any]) -> Path | None:
    """The checkpoint that was trained on the vectors of an encoder with this identity, if there is one."""
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        if to_json(dict(load_fenet(path).identity)) == to_json(dict(identity)):
            return path
    return None
