"""What a training came to: an image of its curves and a tensorboard log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from felga.errors import BadInputError, MissingError
from felga.fenet.checkpoint import Checkpoint

INSTALL = 'pip install "felga[plots]"'


def loss_curve(checkpoint: Checkpoint, path: str | Path) -> None:
    """Draw loss and validation score by epoch, with the chosen epoch marked, as a PNG.

    Raises:
        BadInputError: the checkpoint has no history, or the file cannot be written.
        MissingError: matplotlib is not installed.
    """
    if not checkpoint.history:
        raise BadInputError("the checkpoint has no history to draw")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingError(f"curves need the package {error.name!r}: {INSTALL}") from error
    figure = Figure(figsize=(7, 4), layout="constrained")  # no pyplot: no global state, no display
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    epochs = [epoch["epoch"] for epoch in checkpoint.history]
    left.plot(epochs, [epoch["loss"] for epoch in checkpoint.history], color="tab:blue", label="loss")
    left.set(xlabel="epoch", ylabel="loss", title=f"FENet, {checkpoint.recipe.method}, {checkpoint.encoder}")
    if checkpoint.history[0]["discovery"] is not None:
        right = left.twinx()
        for name, colour in (("discovery", "tab:green"), ("assignment", "tab:orange")):
            values: Sequence[float] = [100 * epoch[name] for epoch in checkpoint.history]
            right.plot(epochs, values, color=colour, label=f"validation {name}")
        right.axvline(checkpoint.epoch, color="grey", linestyle=":", label=f"kept: {checkpoint.epoch}")
        right.set_ylabel("mAP, captions only")
        right.legend(loc="center right")
    left.legend(loc="upper left")
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}") from error


def tensorboard_log(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Write loss, rate and validation scores by epoch for tensorboard.

    Raises:
        MissingError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise MissingError(f"the log needs the package 'tensorboard': {INSTALL}") from error
    with SummaryWriter(str(folder)) as writer:
        for epoch in checkpoint.history:
            for name in ("loss", "rate", "discovery", "assignment"):
                if epoch[name] is not None:
                    writer.add_scalar(f"fenet/{name}", epoch[name], epoch["epoch"])
