"""The course of a training: its curves as an image, and a TensorBoard log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from felga.errors import BadInputError, MissingError
from felga.fenet.checkpoint import Checkpoint
from felga.show.figures import INSTALL, new_figure, save_figure


def loss_curve(checkpoint: Checkpoint, path: str | Path) -> None:
    """Draw loss and validation score per epoch as a PNG, with the chosen epoch marked.

    Raises:
        BadInputError: the checkpoint has no history, or the file cannot be written.
        MissingError: matplotlib is not installed.
    """
    if not checkpoint.history:
        raise BadInputError("the checkpoint has no history to draw")
    figure, left = new_figure((7, 4))
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
    save_figure(figure, path, dpi=120, format="png")


def tensorboard_log(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Write loss, rate and validation scores per epoch for TensorBoard.

    Raises:
        MissingError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise MissingError(f"the log needs tensorboard: {INSTALL}") from error
    with SummaryWriter(str(folder)) as writer:
        for epoch in checkpoint.history:
            for name in ("loss", "rate", "discovery", "assignment"):
                if epoch[name] is not None:
                    writer.add_scalar(f"fenet/{name}", epoch[name], epoch["epoch"])
