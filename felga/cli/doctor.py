"""What of felga works here: packages, device, and each encoder and proposer tried for real."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, requires, version
from re import match
from typing import Any

from felga import __version__
from felga.errors import FelgaError, MissingError
from felga.registry import Kind, factory, names

NEEDS_WEIGHTS = "needs weights"


def examine(device: str = "auto") -> dict[str, Any]:
    """Everything that ``felga doctor`` prints, json values.

    An entry's state is ``ready`` (it was built, and weights from wheels were loaded and checked), ``needs
    weights`` (its packages are here; name the weights) or ``missing``; ``lacks`` says what to do.
    """
    return {
        "felga": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device(device),
        "packages": _packages(),
        "encoders": [_try("encoders", name, device) for name in names("encoders")],
        "regions": [_try("regions", name, device) for name in names("regions")],
        "keywords": [_try("keywords", name, device) for name in names("keywords")],
    }


def _device(device: str) -> str:
    import torch

    from felga.models.device import pick_device

    picked = pick_device(device)
    if picked.type == "cuda":
        return f"{picked} ({torch.cuda.get_device_name(picked)})"
    return f"{picked} ({torch.get_num_threads()} threads)"


def _packages() -> dict[str, str | None]:
    """Versions of what felga's own metadata names, None where it is not installed."""
    found: dict[str, str | None] = {}
    for line in requires("felga") or []:
        named = match(r"[\w.-]+", line)
        if named is None or named[0] == "felga" or 'extra == "test"' in line:
            continue
        try:
            found[named[0]] = version(named[0])
        except PackageNotFoundError:
            found[named[0]] = None
    return found


def _try(kind: Kind, name: str, device: str) -> dict[str, Any]:
    entry = names(kind)[name]
    state, lacks = "ready", ""
    told = {"name": name, "about": entry.about}
    try:
        build, _ = factory(kind, name)
        if kind == "encoders":
            encoder = build(entry.probe, device=device, batch_size=1, pooling=None)
            if entry.probe:
                return {**told, "state": NEEDS_WEIGHTS, "lacks": f"name the weights: {entry.about}"}
            encoder.encode_texts(["boat"])
            encoder.identity()
        else:
            build("", device=device)
    except MissingError as error:
        state, lacks = "missing", str(error)
    except FelgaError as error:  # the family works, and asks for its argument
        state, lacks = NEEDS_WEIGHTS, str(error)
    return {**told, "state": state, "lacks": lacks}
