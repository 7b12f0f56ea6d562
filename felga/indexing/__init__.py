"""Building and updating an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from felga.indexing.job import apply_fenet as apply_fenet
    from felga.indexing.job import index as index
    from felga.indexing.options import Options as Options
    from felga.indexing.options import Report as Report

_HOMES = {"apply_fenet": "job", "index": "job", "Options": "options", "Report": "options"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"felga.indexing.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
