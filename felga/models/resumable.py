"""Trainings that go on where they were stopped, to the same weights: their folder, optimizer and state."""

from __future__ import annotations

import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from felga.errors import BadInputError, DivergedError
from felga.files import canonical, shown, storage_errors, storage_reason
from felga.models.arrays import read_arrays, write_arrays
from felga.types import Progress

KIND = "training"


@contextmanager
def training_folder(out: Path, origin: Mapping[str, Any], *, resume: bool) -> Iterator[Path]:
    """The folder ``out`` + ``.training``, which goes when the training is done, and stays when it fails.

    Args:
        out: the file that the training will write.
        origin: json values that decide the outcome.
        resume: go on with what a training of the same origin left there; else begin anew.

    Raises:
        BadInputError: ``out`` names no file that could be written, or another training was begun there;
            before any work.
        StorageError: the disk is full or read-only, then or later.
    """
    if out.is_dir():
        raise BadInputError(f"{shown(out)} is a folder: name the file to write")
    work = Path(f"{out}.training")
    with storage_errors(out):
        if work.is_dir() and not (resume and (work / "origin.safetensors").exists()):
            shutil.rmtree(work)
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if storage_reason(error) is not None:
                raise
            raise BadInputError(f"{shown(out)} cannot be written: {error.strerror}") from error
        _check_origin(work / "origin.safetensors", canonical(dict(origin)))
        yield work
        shutil.rmtree(work)


def _check_origin(path: Path, origin: Any) -> None:
    """Write what is trained, or refuse a folder in which something else was."""
    if not path.exists():
        write_arrays(path, KIND, {}, {"origin": origin})
    elif read_arrays(path, KIND)[1].get("origin") != origin:
        raise BadInputError(
            f"{shown(path.parent)} is the state of another training: train without --resume, or with the "
            "same files and options"
        )


class Descent:
    """AdamW with a linear warm-up and a cosine to 0.

    Attributes:
        steps: of the whole training.
    """

    def __init__(
        self,
        module: nn.Module,
        steps: int,
        *,
        rate: float,
        weight_decay: float,
        warm_up: float,
        first: float = 0.04,
        clip: float = math.inf,
        check: str,
    ) -> None:
        """
        Args:
            rate: the highest.
            warm_up: share of the steps.
            first: the rate of the first step, as a share of the highest.
            clip: largest norm of the gradient.
            check: what to look at if the loss is not finite; for the error message.
        """
        self.steps = steps
        self._module, self._rate, self._clip = module, rate, clip
        self._warm_up, self._first = warm_up, first
        self._check = check
        self._optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=weight_decay)
        for weight in module.parameters():  # made here: a resumed step is no first step
            moments = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
            self._optimizer.state[weight] = {"step": torch.tensor(0.0), **moments}

    def step(self, loss: Tensor, at: int) -> float:
        """One step down, the ``at``-th from 0; the value of the loss.

        Raises:
            DivergedError: it is not finite.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {at + 1}: check {self._check}")
        self._optimizer.param_groups[0]["lr"] = self._rate * self._share(at / self.steps)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip < math.inf:
            nn.utils.clip_grad_norm_(self._module.parameters(), self._clip)
        self._optimizer.step()
        return value

    def state(self) -> dict[str, Tensor]:
        """The moments by name, the tensors themselves."""
        return {
            f"{key}/{name}": value
            for name, weight in self._module.named_parameters()
            for key, value in self._optimizer.state[weight].items()
        }

    def _share(self, done: float) -> float:
        """Of the highest rate, after the share ``done`` of the steps."""
        if done < self._warm_up:
            return self._first + (1 - self._first) * done / self._warm_up
        return 0.5 * (1 + math.cos(math.pi * (done - self._warm_up) / (1 - self._warm_up)))


class Resumable(ABC):
    """A training that goes on after its last whole epoch. A subclass calls :meth:`__init__`.

    Attributes:
        epoch: how many are done.
        history: json values that epochs leave, if a training keeps any.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.history: list[dict[str, float | None]] = []

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What the next epoch depends on beside epoch and history, by name: the tensors themselves."""

    @abstractmethod
    def one_epoch(self, progress: Progress) -> None:
        """Train for an epoch, and count it."""

    def finish(self, path: Path, epochs: int, progress: Progress) -> None:
        """Train until ``epochs`` are done, from what ``path`` holds, which is written after each."""
        self.restore(path)
        while self.epoch < epochs:
            self.one_epoch(progress)
            self.save(path)

    def save(self, path: Path) -> None:
        """Write the state: whole or not at all."""
        arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in self.state().items()}
        write_arrays(path, KIND, arrays, {"epoch": self.epoch, "history": self.history})

    def restore(self, path: Path) -> None:
        """Continue from what :meth:`save` wrote, if it did.

        Raises:
            BadInputError: the file is damaged, or of tensors of other names or sizes.
        """
        if not path.exists():
            return
        arrays, about = read_arrays(path, KIND)
        state = self.state()
        if {name: array.size for name, array in arrays.items()} != {n: v.numel() for n, v in state.items()}:
            raise BadInputError(f"{shown(path)} is the state of another training: train without --resume")
        with torch.no_grad():
            for name, value in state.items():
                value.copy_(torch.from_numpy(arrays[name]).reshape(value.shape))
        self.epoch, self.history = int(about["epoch"]), about["history"]


def prefixed(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as ``name/...``."""
    return {f"{name}/{own}": tensor for own, tensor in tensors.items()}
