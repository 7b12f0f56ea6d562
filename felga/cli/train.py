"""``felga train`` and ``felga fenet apply``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from felga.cli import flags
from felga.cli.locate import find_index
from felga.cli.output import echo, only_ascii, say
from felga.cli.progress import RESUME, progress
from felga.errors import BadInputError, NotFoundError
from felga.files import shown

if TYPE_CHECKING:
    from felga.fenet.checkpoint import Checkpoint
    from felga.fenet.features import Features
    from felga.fenet.train import TrainingStep


def train(
    source: Annotated[Path, typer.Argument(help="An index folder, or a features file of --features-out.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")] = Path("fenet.safetensors"),
    recipe: Annotated[
        str, typer.Option(help="locked, residual, paper+, paper, or auto: locked if regions have features.")
    ] = "auto",
    method: Annotated[
        str | None,
        typer.Option(
            help="felga, felga+owner, dense, sparse, dynamic, random, global, dense+global or sparse+global. "
            "[default: the recipe's]"
        ),
    ] = None,
    settings: flags.Settings = None,
    seed: flags.Seed = 0,
    resume: flags.Resume = False,
    features_out: Annotated[Path | None, typer.Option(help="Also save the training data.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Loss curve, PNG.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for a TensorBoard log.")] = None,
    device: flags.Device = "auto",
    offline: flags.Offline = False,
) -> None:
    """Train FENet on the image-text pairs of an index, from their captions alone (FELGA, 3.2)."""
    flags.go_offline(offline)
    changes = flags.parse_settings(settings, method=method)
    from felga.fenet.recipes import make_recipe
    from felga.fenet.train import train as run
    from felga.show import curves

    features = _features(source)
    plan = make_recipe(recipe, has_features=features.region_features is not None, **changes)
    if features_out:
        features.save(features_out)
        say(f"features are in {shown(features_out)}")
    with progress(RESUME) as show:

        def report(step: TrainingStep) -> None:
            note = f"epoch {step.epoch}, loss {step.loss:.4f}, rate {step.rate:.4g}"
            show("training", step.done, step.total, note)

        fenet = run(features, plan, seed=seed, out=out, resume=resume, device=device, progress=report)
    if plot:
        curves.loss_curve(fenet, plot)
    if tensorboard:
        curves.tensorboard_log(fenet, tensorboard)
    say(
        f"{shown(out)} is trained on {len(features.usable)} pairs ({features.left_out} left out), "
        f"epoch {fenet.epoch}"
    )
    if fenet.frozen:
        say(_held_out(fenet))
    kept = {"checkpoint": shown(out), "sha256": fenet.sha256(), **fenet.history[fenet.epoch - 1]}
    echo(json.dumps(kept, ensure_ascii=only_ascii()))


def _held_out(fenet: Checkpoint) -> str:
    """One line: what frozen and trained vectors scored on the held-out pairs."""
    from felga.fenet.validation import Score

    frozen = Score(**fenet.frozen)
    kept = fenet.history[fenet.epoch - 1]
    trained = Score(kept["discovery"], kept["assignment"])
    lost = ": the frozen vectors are better, do not apply it" if trained.mean < frozen.mean else ""
    return f"held-out captions: frozen {frozen}, trained {trained}{lost}"


def fenet_apply(
    checkpoint: Annotated[Path | None, typer.Argument(help="A checkpoint written by felga train.")] = None,
    index: flags.Index = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the FENet from the index.")] = False,
    device: flags.Device = "auto",
) -> None:
    """Put a FENet on an index, or remove it; the raw vectors stay, nothing is encoded again."""
    if (checkpoint is None) != remove:
        raise BadInputError("give either CHECKPOINT or --remove")
    folder = find_index(index, written=True)
    from felga.indexing.job import apply_fenet

    manifest = apply_fenet(folder, checkpoint, device=device)
    fenet = f"the FENet {shown(checkpoint)}" if checkpoint else "no FENet"
    say(f"{shown(folder)} now has {fenet}, {manifest.dim} dimensions")


def _features(source: Path) -> Features:
    from felga.fenet.features import Features
    from felga.store.pairs import features_of

    if source.is_dir():
        return features_of(source)
    if not source.exists():
        raise NotFoundError(
            f"{shown(source)} does not exist: name an index folder, or a features file of --features-out"
        )
    return Features.load(source)
