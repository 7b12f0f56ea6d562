"""Training FENet (FELGA, 3.2.4, 4.5): deterministic and resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felga.errors import BadInputError, DivergedError
from felga.fenet.checkpoint import Checkpoint, unusable
from felga.fenet.closed_form import ClosedForm, fit
from felga.fenet.features import Features
from felga.fenet.model import Embedder, arrays_of, build, put_arrays
from felga.fenet.recipes import Recipe, make_recipe
from felga.fenet.step import Stepper
from felga.fenet.validation import Score, Validation
from felga.files import canonical, shown
from felga.models.arrays import Arrays, read_arrays, write_arrays
from felga.models.device import pick_device
from felga.types import Frozen, Rows
from felga.version import __version__

MOST_VALIDATION_PAIRS = 1000
"""More would cost time without changing which epoch is chosen."""
LOOK = 50
"""Steps between two reads of the loss: a read waits for the device."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The progress of a training, reported every :data:`LOOK` steps and at the end of each epoch.

    Attributes:
        epoch, epochs, step, steps: counted from 1; ``step`` within the epoch.
        loss: mean over the steps since the last report.
        rate: of the last step.
        seconds_left: at the pace so far.
        score: of the validation, at the end of an epoch if there is one.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    rate: float
    seconds_left: float
    score: Score | None = None

    @property
    def done(self) -> int:
        """Steps done in all epochs."""
        return (self.epoch - 1) * self.steps + self.step

    @property
    def total(self) -> int:
        """Steps of all epochs."""
        return self.epochs * self.steps


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch as the checkpoint records it: without times, so that it is reproducible."""

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
    progress: Callable[[TrainingStep], None] | None = None,
) -> Checkpoint:
    """Train FENet on the pairs that have both regions and keywords.

    Deterministic: the same features, recipe, seed, device and threads give the same weights, bit for bit,
    whether or not the training was interrupted. PyTorch's global random state is left unchanged.

    Args:
        recipe: None: that of ``auto`` (:func:`felga.fenet.recipes.make_recipe`).
        seed: of weights, order, dropout and the split.
        out: the checkpoint to write; until it is done, ``out`` + ``.training`` holds the last epoch's state.
        resume: continue from that state, or start anew if there is none.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        progress: called with each :class:`TrainingStep`.

    Returns:
        The checkpoint of the best epoch by the validation's caption-only score
        (:mod:`felga.fenet.validation`), or of the last epoch without validation.

    Raises:
        BadInputError: fewer than two usable pairs; a locked network and no features; the state to resume is
            of another training or damaged.
        DivergedError: the loss is not finite, or the network has become unusable.
        MissingError: no such device.
        StorageError: the checkpoint or the state cannot be written.
    """
    recipe = recipe or make_recipe("auto", has_features=features.region_features is not None)
    where = pick_device(device)
    about: dict[str, Any] = {
        "recipe": recipe.to_json(),
        "seed": seed,
        "fingerprint": features.fingerprint(),
        "device": where.type,
    }
    state = None if out is None else Path(f"{out}.training")
    with torch.random.fork_rng(devices=[where.index or 0] if where.type == "cuda" else []):
        run = _Run(recipe, seed, features, where, progress)
        if resume and state is not None and state.exists():
            run.restore(state, about)
        while not run.finished:
            run.epoch()
            if state is not None:
                run.save(state, about)
    checkpoint = run.checkpoint(features, about["fingerprint"], str(where))
    if out is not None:
        checkpoint.save(out)
    if state is not None:
        state.unlink(missing_ok=True)
    return checkpoint


def _split(features: Features, recipe: Recipe, seed: int) -> tuple[Rows, Rows]:
    """The pairs to train on and those held out."""
    usable = features.usable
    held = min(MOST_VALIDATION_PAIRS, round(recipe.validation * len(usable)))
    if len(usable) - held < 2:
        raise BadInputError(
            f"{len(usable)} of {len(features)} pairs have both regions and keywords; training needs at "
            "least two beside those held out"
        )
    order = np.random.default_rng(seed).permutation(usable)
    return np.sort(order[held:]), np.sort(order[:held])


def _validation(features: Features, held: Rows) -> tuple[Validation | None, Score | None]:
    """The validation and what the frozen vectors score; None if no keyword of ``held`` can be a query."""
    validation = Validation(features.take(held))
    if not len(validation.queries):
        return None, None
    return validation, validation.score(Frozen())


class _Run:
    """The state of a training; made and used under one fork of torch's random state."""

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        features: Features,
        device: torch.device,
        progress: Callable[[TrainingStep], None] | None,
    ) -> None:
        self.recipe, self.seed, self.progress = recipe, seed, progress
        pairs, held = _split(features, recipe, seed)
        self.closed_form: ClosedForm | None = None
        if recipe.network == "locked":
            self.closed_form = fit(features, pairs)
        self.table = features.table(pairs, device, self.closed_form)
        if recipe.labels == "random":
            self.table = self.table.flipped(seed)
        self.validation, self.frozen = _validation(features, held)
        self.batch = min(recipe.batch, len(self.table))
        self.steps = len(self.table) // self.batch
        self.history: list[Epoch] = []
        self.best: Arrays = {}
        self.best_epoch, self.best_score = 0, -np.inf
        self.started, self.done_here = time.monotonic(), 0
        torch.manual_seed(seed)
        components = 0 if self.closed_form is None else self.closed_form.components.shape[1]
        self.net = build(recipe, features.dim, components).to(device).train()
        self.stepper = Stepper(self.net, self.table, recipe, self.batch)

    @property
    def finished(self) -> bool:
        """All epochs are done, or the score has not improved for too long."""
        done, patience = len(self.history), self.recipe.patience
        tired = self.validation is not None and patience > 0 and done - self.best_epoch >= patience
        return done >= self.recipe.epochs or tired

    def epoch(self) -> None:
        """Each pair once, in an order that depends on seed and epoch; the last partial batch is dropped."""
        epoch, recipe, steps = len(self.history), self.recipe, self.steps
        mixed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
        torch.manual_seed(mixed)  # also for dropout: no random state has to be saved
        order = torch.randperm(len(self.table))[: steps * self.batch].view(steps, self.batch)
        order = order.to(self.table.vectors.device)
        self.net.train()
        total, since, rate = 0.0, 0, recipe.rate
        for step in range(steps):
            # `step` lowers the rate between epochs, as the paper does; `cosine` at every step.
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
                    self._report(epoch, step, loss / since, rate)
                    since = 0
        embedder = Embedder(self.net, self.closed_form, self.recipe.ridge)
        score = self.validation.score(embedder) if self.validation is not None else None
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

    def _report(self, epoch: int, step: int, loss: float, rate: float, score: Score | None = None) -> None:
        if self.progress is None:
            return
        to_do = self.steps * (self.recipe.epochs - epoch) - step - 1
        pace = (time.monotonic() - self.started) / max(self.done_here, 1)
        self.progress(
            TrainingStep(epoch + 1, self.recipe.epochs, step + 1, self.steps, loss, rate, pace * to_do, score)
        )

    def checkpoint(self, features: Features, fingerprint: str, device: str) -> Checkpoint:
        """The best epoch.

        Raises:
            DivergedError: its weights are not finite, or overflow.
        """
        arrays = self.best
        if self.closed_form is not None:  # rounded: the similarities of embeddings change by less than .001
            arrays = {name: array.astype(np.float16) for name, array in self.best.items()}
            arrays |= self.closed_form.arrays()
        if wrong := unusable(self.recipe, features.dim, arrays):
            raise DivergedError(f"the trained network is unusable, {wrong}: train with a lower rate")
        return Checkpoint(
            arrays=arrays,
            dim=features.dim,
            recipe=self.recipe,
            seed=self.seed,
            encoder=features.encoder,
            identity=features.identity,
            fingerprint=fingerprint,
            versions={"felga": __version__, "torch": torch.__version__},
            history=tuple(asdict(epoch) for epoch in self.history),
            epoch=self.best_epoch,
            frozen={} if self.frozen is None else self.frozen._asdict(),
            device=device,
        )

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write everything that the next epoch depends on."""
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
        """Read what :meth:`save` wrote.

        Raises:
            BadInputError: it is of another training, or damaged.
        """
        arrays, state = read_arrays(path, "training")
        found, expected = state.get("about"), canonical(dict(about))
        if not isinstance(found, dict):
            raise BadInputError(f"{shown(path)} is not the state of a training: start anew")
        if other := [name for name in expected if found.get(name) != expected[name]]:
            raise BadInputError(
                f"{shown(path)} is the state of a training with another {' and '.join(other)}: "
                "resume with the same ones, or start anew"
            )
        groups: dict[str, Arrays] = {"net": {}, "moment": {}, "best": {}}
        try:
            for name, value in arrays.items():
                group, _, weight = name.partition("/")
                groups[group][weight] = value
            put_arrays(self.net, groups["net"])
            for name, moment in self.stepper.moments().items():
                moment.copy_(torch.from_numpy(groups["moment"][name]))
            progress = state["progress"]
            self.best, self.best_epoch = groups["best"], int(progress["best_epoch"])
            self.best_score = -np.inf if progress["best_score"] is None else float(progress["best_score"])
            self.history = [Epoch(**epoch) for epoch in progress["history"]]
        except (KeyError, TypeError, ValueError, RuntimeError, BadInputError) as error:
            raise BadInputError(
                f"{shown(path)} is not the state of a training ({error}): start anew"
            ) from error
