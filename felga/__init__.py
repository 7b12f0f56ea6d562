"""felga: find parts of images by words, and sentences by parts of images.

>>> import felga
>>> engine = felga.Engine.open("indexes/demo")  # doctest: +SKIP
>>> engine.search("boat", k=10)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from felga.version import __version__

__all__ = ["Engine", "FelgaError", "Options", "__version__", "connect", "index"]

if TYPE_CHECKING:
    from felga.client import connect
    from felga.engine import Engine
    from felga.errors import FelgaError
    from felga.indexing.job import index
    from felga.indexing.options import Options

_HOMES = {
    "Engine": "felga.engine",
    "FelgaError": "felga.errors",
    "Options": "felga.indexing.options",
    "connect": "felga.client",
    "index": "felga.indexing.job",
}


def __getattr__(name: str) -> Any:  # `import felga` loads neither torch nor faiss
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'felga' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
