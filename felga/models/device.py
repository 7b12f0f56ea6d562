"""Which device a network runs on."""

from __future__ import annotations

import torch

from felga.errors import BadInputError, MissingError


def pick_device(name: str) -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        MissingError: a GPU was asked for by name and there is none, or not that many.
        BadInputError: not a name of a device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInputError(f"there is no device named {name!r}; wanted auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise BadInputError(f"felga does not run on {name!r}; wanted auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise MissingError(f"{name} was asked for and torch sees {found} GPUs here; use --device auto or cpu")
    return device
