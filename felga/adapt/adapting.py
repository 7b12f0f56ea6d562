"""``felga adapt``: a linear head on frozen RoI features that learns classes of one's own.

Backbone and region proposals stay as they are (MIC21Summarizer trains the ROI head of its detector like
this); what is learned is a softmax over C classes and the background. Resumable and deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from felga.adapt.adapted_head import KIND
from felga.adapt.collected import Collected, check_images
from felga.adapt.examples import Task, read_task
from felga.adapt.roi_features import RoiFeatures, roi_features
from felga.files import canonical, sha256_file
from felga.models.arrays import write_arrays
from felga.models.resumable import Descent, Resumable, prefixed, training_folder
from felga.types import Progress, Rows
from felga.version import __version__

EPOCHS, BATCH = 1, 512
BACKGROUNDS = 3  # for each example of a class
BALANCE = 1.0  # 0: a class is drawn as often as it has examples; 1: as often as any other
RATE, WEIGHT_DECAY, WARM_UP = 3e-4, 0.05, 0.05


def adapt(
    instances: Path,
    images: Path,
    out: Path,
    *,
    supervision: str,
    classes: Sequence[str] | None = None,
    leave_out: tuple[int, int] | None = None,
    regions: str = "learned",
    epochs: int = EPOCHS,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Train a head and write it, for ``--encoder adapted:FILE`` and ``--regions adapted:FILE``.

    What is not annotated is background, and crowds are neither.

    Args:
        instances, images: COCO's instances json, and the folder of its images.
        out: the file to write; until then ``out`` + ``.training`` holds the features and the last epoch.
        supervision: whose boxes and class names these are, in a few words; stated wherever the file is used.
        classes: the names of the classes to learn; None: all of the file.
        leave_out: ``(n, k)``: not the images whose position, by id, is k modulo n. To measure on these.
        regions: of :func:`felga.adapt.roi_features.roi_features`.
        epochs: each draws as many examples of classes as there are.
        seed: of what is drawn.
        resume: continue an interrupted training with the same arguments; the outcome is the same.
        progress: called with ``images`` (seen by the network) and ``steps``.

    Raises:
        NotFoundError, BadInputError: boxes or an image cannot be read, or there is nothing to learn from.
        MissingError: weights of the frozen network, or the device.
        DivergedError: the loss is not finite.
        StorageError: the disk is full.
    """
    task = read_task(instances, classes, leave_out)
    check_images(task, images)
    roi = roi_features(regions, device)
    origin = described(task, instances, regions, roi, supervision) | {"epochs": epochs, "seed": seed}
    with training_folder(out, origin, resume=resume) as work:
        collected = Collected(work, roi.dim)
        collected.fill(task, images, roi, progress)
        run = Training(collected, len(task.classes), epochs, seed)
        run.finish(work / "state.safetensors", epochs, progress)
        write_arrays(out, KIND, run.weights(), {**origin, "felga": __version__})


def described(
    task: Task, instances: Path, regions: str, roi: RoiFeatures, supervision: str
) -> dict[str, Any]:
    """What a file says of where it is from; arguments as of :func:`adapt`."""
    boxes = {"supervision": supervision, "instances": sha256_file(instances), "boxes": task.boxes}
    frozen = {"regions": regions, "frozen": dict(roi.settings())}
    about: dict[str, Any] = canonical(
        {**boxes, **frozen, "classes": task.classes, "images": len(task.images)}
    )
    return about


class Training(Resumable):
    """The state of a training, on the CPU: the head is one matrix.

    Attributes:
        layer: (C + 1, dim) on standardised features, in training.
    """

    def __init__(self, collected: Collected, classes: int, epochs: int, seed: int) -> None:
        self.collected, self.classes, self.seed = collected, classes, seed
        super().__init__()
        self.mean, self.deviation = collected.scale()
        labels = collected.labels
        self.objects = np.flatnonzero(labels < classes)
        self.background = np.flatnonzero(labels == classes)
        self.own = BATCH // (1 + BACKGROUNDS) if len(self.background) else BATCH  # of a batch
        counts = np.bincount(labels[self.objects], minlength=classes)
        self.chances = counts[labels[self.objects]] ** -BALANCE
        self.chances /= self.chances.sum()
        self.steps = math.ceil(len(self.objects) / self.own)
        self.layer = nn.Linear(len(self.mean), classes + 1)
        with torch.no_grad():
            for weight in self.layer.parameters():  # the loss is convex: any start will do
                weight.zero_()
        self.descent = Descent(
            self.layer,
            epochs * self.steps,
            rate=RATE,
            weight_decay=WEIGHT_DECAY,
            warm_up=WARM_UP,
            check="the boxes",
        )

    def one_epoch(self, progress: Progress) -> None:
        """As many draws of objects as there are objects; what is drawn depends on seed and epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        drawn = rng.choice(self.objects, self.steps * self.own, p=self.chances)
        others = np.empty(0, np.int64)
        if len(self.background):
            others = rng.choice(self.background, self.steps * (BATCH - self.own))
        for step in range(self.steps):
            done = self.epoch * self.steps + step
            own = drawn[step * self.own : (step + 1) * self.own]
            rest = others[step * (BATCH - self.own) : (step + 1) * (BATCH - self.own)]
            self.descent.step(self._loss(np.concatenate([own, rest])), done)
            progress("steps", done + 1, self.descent.steps)
        self.epoch += 1

    def _loss(self, rows: Rows) -> Tensor:
        """Cross-entropy of some examples."""
        features = self.collected.features[rows].astype(np.float32)  # (b, dim)
        inputs = torch.from_numpy((features - self.mean) / self.deviation)
        return F.cross_entropy(self.layer(inputs), torch.from_numpy(self.collected.labels[rows]))

    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """``weight`` (C + 1, dim) and ``bias`` (C + 1,) on raw features; background last."""
        matrix = self.layer.weight.detach().numpy() / self.deviation
        bias = self.layer.bias.detach().numpy() - matrix @ self.mean
        return {"weight": matrix.astype(np.float32), "bias": bias.astype(np.float32)}

    def state(self) -> dict[str, Tensor]:
        """See :class:`felga.models.resumable.Resumable`."""
        return prefixed("head", self.layer.state_dict()) | self.descent.state()
