"""Training FENet (FELGA, 3.2.4, 4.5): deterministic, resumable, without a loop over pairs in a step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felga import __version__
from felga.errors import BadInputError, DivergedError
from felga.fenet.arrays import Arrays, read_arrays, write_arrays
from felga.fenet.checkpoint import Checkpoint, arrays_of, build, put_arrays
from felga.fenet.features import Features, Rows, Table
from felga.fenet.model import FENet
from felga.fenet.recipes import Recipe, make_recipe
from felga.fenet.step import Precision, Stepper
from felga.fenet.validation import Score, Validation
from felga.models.device import pick_device

MOST_VALIDATION_PAIRS = 1000
"""More would cost time and change no choice."""
LOOK = 50
"""Steps between two looks at the loss: a look waits for the device."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands: every :data:`LOOK` steps and at each epoch's end.

    Attributes:
        epoch, epochs, step, steps: counted from 1; ``step`` within the epoch.
        loss: mean over the steps since the last report.
        rate: of the last step.
        seconds_left: at the pace so far.
        score: of the validation, at an epoch's end if there is one.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    rate: float
    seconds_left: float
    score: Score | None = None


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a finished training, as the checkpoint keeps it: no times, so that it is reproducible."""

    epoch: int
    loss: float
    rate: float
    discovery: float | None
    assignment: float | None


def train(
    features: Features,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """Train FENet on the pairs that have regions and keywords.

    Deterministic: the same features, recipe, seed, device and threads give the same weights, bit for bit,
    whether the training was interrupted or not. PyTorch's global random state is left as it was.

    Args:
        features: the frozen fragments.
        recipe: None: ``make_recipe("auto", pairs=...)``.
        seed: of weights, order, dropout and the split.
        out: where the checkpoint goes. Meanwhile ``out`` + ``.training`` holds the state after each epoch.
        resume: go on from that state, or start anew if there is none.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: of the products with the weights; ``auto``: bfloat16 on a CUDA device that has it.
        progress: is told how it goes.

    Returns:
        The checkpoint of the best epoch by the validation's caption-only score
        (:mod:`felga.fenet.validation`), the last epoch without one; saved to ``out`` if given.

    Raises:
        BadInputError: fewer than two usable pairs; the state to resume is of another training or damaged.
        DivergedError: the loss is not a number.
        MissingError: no such device; safetensors is not installed and ``out`` is given.
    """
    recipe = recipe or make_recipe("auto", pairs=len(features.usable))
    where = pick_device(device)
    fit, held = _split(features, recipe, seed)
    table = features.table(np.concatenate([fit, held]), where)
    places = torch.arange(len(table), device=where)
    validation = Validation(table.select(places[len(fit) :])) if len(held) else None
    if validation is not None and not len(validation.queries):
        validation = None
    run = _Run(recipe, seed, table.select(places[: len(fit)]), validation, precision, progress)
    fingerprint = features.fingerprint()
    about: dict[str, Any] = {
        "recipe": recipe.to_json(),
        "seed": seed,
        "fingerprint": fingerprint,
        "device": where.type,
        "precision": precision,
    }
    state = None if out is None else Path(f"{out}.training")
    cuda = [where.index or 0] if where.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        run.begin(features.dim)
        if resume and state is not None and state.exists():
            run.restore(state, about)
        while not run.finished:
            run.epoch()
            if state is not None:
                run.keep(state, about)
    put_arrays(run.net, run.best)
    done = Checkpoint(
        net=run.net.eval(),
        recipe=recipe,
        seed=seed,
        encoder=features.encoder,
        identity=features.identity,
        fingerprint=fingerprint,
        versions={"felga": __version__, "torch": torch.__version__},
        history=tuple(asdict(epoch) for epoch in run.history),
        epoch=run.best_epoch,
    )
    if out is not None:
        done.save(out)
    if state is not None:
        state.unlink(missing_ok=True)
    return done


def _split(features: Features, recipe: Recipe, seed: int) -> tuple[Rows, Rows]:
    """The pairs to train from and those held out."""
    usable = features.usable
    held = min(MOST_VALIDATION_PAIRS, round(recipe.validation * len(usable)))
    if len(usable) - held < 2:
        raise BadInputError(
            f"{len(usable)} of {len(features)} pairs have both regions and keywords; at least two are needed "
            "besides the validation's"
        )
    order = np.random.default_rng(seed).permutation(usable)
    return np.sort(order[held:]), np.sort(order[:held])


class _Run:
    """A training under way: what changes from epoch to epoch, and nothing else."""

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        table: Table,
        validation: Validation | None,
        precision: Precision,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.recipe, self.seed, self.table, self.validation = recipe, seed, table, validation
        self.precision, self.progress = precision, progress
        self.batch = min(recipe.batch, len(table))
        self.steps = len(table) // self.batch
        self.history: list[Epoch] = []
        self.best: Arrays = {}
        self.best_epoch, self.best_score = 0, -np.inf
        self.started, self.done_here = time.monotonic(), 0

    def begin(self, dim: int) -> None:
        """Make the network from the seed."""
        torch.manual_seed(self.seed)
        self.net: FENet = build(self.recipe, dim).to(self.table.vectors.device).train()
        self.stepper = Stepper(self.net, self.table, self.recipe, self.batch, self.precision)

    @property
    def finished(self) -> bool:
        """All epochs are done, or no better score came for too long."""
        done, patience = len(self.history), self.recipe.patience
        tired = self.validation is not None and patience > 0 and done - self.best_epoch >= patience
        return done >= self.recipe.epochs or tired

    def epoch(self) -> None:
        """Every pair once, in an order that hangs on seed and epoch alone; the rest of a batch waits."""
        epoch, recipe, steps = len(self.history), self.recipe, self.steps
        mixed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
        torch.manual_seed(mixed)  # of dropout too: nothing of the past has to be kept
        order = torch.randperm(len(self.table))[: steps * self.batch].view(steps, self.batch)
        order = order.to(self.table.vectors.device)
        self.net.train()
        total, since, rate = 0.0, 0, recipe.rate
        for step in range(steps):
            # A rate by steps falls between epochs, as the paper's does; by cosine it falls at every step.
            done = epoch + step / steps if recipe.schedule == "cosine" else epoch
            rate = recipe.rate_at(done / recipe.epochs)
            self.stepper(order[step], rate)
            since += 1
            last = step + 1 == steps
            if since == LOOK or last:
                loss = self.stepper.take_loss()
                self._check(loss, epoch, step, rate)
                total += loss
                self.done_here += since
                if not last:
                    self._report(epoch, step, loss / since, rate, None)
                    since = 0
        score = self.validation.score(self.net.apply_to) if self.validation is not None else None
        self.history.append(
            Epoch(
                epoch + 1,
                total / steps,
                rate,
                None if score is None else score.discovery,
                None if score is None else score.assignment,
            )
        )
        if score is None or score.mean > self.best_score:
            self.best, self.best_epoch = arrays_of(self.net), epoch + 1
            self.best_score = -np.inf if score is None else score.mean
        self._report(epoch, steps - 1, loss / since, rate, score)

    def _check(self, loss: float, epoch: int, step: int, rate: float) -> None:
        if not np.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at epoch {epoch + 1}, step {step + 1} of {self.steps}, "
                f"with the rate {rate:g}: train with a lower rate"
            )

    def _report(self, epoch: int, step: int, loss: float, rate: float, score: Score | None) -> None:
        if self.progress is None:
            return
        to_do = self.steps * (self.recipe.epochs - epoch) - step - 1
        pace = (time.monotonic() - self.started) / max(self.done_here, 1)
        self.progress(
            Progress(epoch + 1, self.recipe.epochs, step + 1, self.steps, loss, rate, pace * to_do, score)
        )

    def keep(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write everything that the next epoch hangs on."""
        moments = {name: value.cpu().numpy() for name, value in self.stepper.moments().items()}
        groups = {"net": arrays_of(self.net), "moment": moments, "best": self.best}
        arrays = {f"{group}/{name}": value for group, some in groups.items() for name, value in some.items()}
        progress = {
            "history": [asdict(epoch) for epoch in self.history],
            "best_epoch": self.best_epoch,
            "best_score": None if self.best_score == -np.inf else self.best_score,
        }
        write_arrays(path, "training", arrays, {"about": dict(about), "progress": progress})

    def restore(self, path: Path, about: Mapping[str, Any]) -> None:
        """Read what :meth:`keep` wrote. BadInputError if it is of another training."""
        arrays, kept = read_arrays(path, "training")
        found, progress = kept["about"], kept["progress"]
        other = [name for name in about if found.get(name) != json.loads(json.dumps(about[name]))]
        if other:
            raise BadInputError(
                f"{path} is the state of a training with another {' and '.join(other)}: "
                "resume with the same ones, or start anew"
            )
        groups: dict[str, Arrays] = {"net": {}, "moment": {}, "best": {}}
        for name, value in arrays.items():
            group, _, weight = name.partition("/")
            groups[group][weight] = value
        put_arrays(self.net, groups["net"])
        for name, moment in self.stepper.moments().items():
            moment.copy_(torch.from_numpy(groups["moment"][name]))
        self.best, self.best_epoch = groups["best"], progress["best_epoch"]
        self.best_score = -np.inf if progress["best_score"] is None else progress["best_score"]
        self.history = [Epoch(**epoch) for epoch in progress["history"]]
