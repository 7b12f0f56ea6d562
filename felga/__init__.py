"""felga: find parts of images by words, and sentences by parts of images.

>>> import felga
>>> engine = felga.Engine.open("indexes/demo")  # doctest: +SKIP
>>> engine.search("boat", k=10)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Engine", "FelgaError", "__version__", "index"]

_LAZY = {"Engine": "felga.engine", "FelgaError": "felga.errors", "index": "felga.indexing.job"}


def __getattr__(name: str) -> Any:  # `import felga` loads neither torch nor faiss
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'felga' has no attribute {name!r}")
