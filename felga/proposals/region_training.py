"""Training the region head on boxes in COCO's format: without class names, resumable, deterministic.

The frozen network sees each image in four views (two sizes, each also mirrored). Its maps are kept in half
precision beside the weights to be written, up to 3 MB per image, and removed when the training is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from felga.corpus.coco import read_coco, read_instances
from felga.errors import BadInputError
from felga.files import canonical, sha256_file, shown
from felga.models.arrays import write_arrays
from felga.models.device import pick_device
from felga.models.efficientnet import DEFAULT, NETWORKS
from felga.models.resumable import Descent, Resumable, prefixed, training_folder
from felga.proposals.region_head import RegionHead, points_of, weights_of
from felga.proposals.region_loss import sums, total
from felga.proposals.region_views import SIDES, Objects, View, Views
from felga.types import Progress
from felga.version import __version__

EPOCHS, BATCH = 3, 8
RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 0.05, 0.1
CLIP, AVERAGED = 5.0, 0.998  # norm of the gradient; decay of the moving average of the weights


def train_regions(
    instances: Path,
    images: Path,
    out: Path,
    *,
    supervision: str,
    classes: Sequence[str] | None = None,
    leave_out: tuple[int, int] | None = None,
    epochs: int = EPOCHS,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Train a region head and write its weights, for ``--regions learned:FILE``.

    Crowds are neither objects nor background.

    Args:
        instances, images: COCO's instances json, and the folder of its images.
        out: the weights to write; until then ``out`` + ``.training`` holds the maps and the last epoch.
        supervision: whose boxes these are, in a few words; stated wherever the regions are used.
        classes: learn from the boxes of these classes alone; None: all. To measure the others.
        leave_out: ``(n, k)``: not the images whose position, by id, is k modulo n. To measure on these.
        epochs: each sees every view of every image once.
        seed: of weights and order.
        resume: continue an interrupted training with the same arguments; the outcome is the same.
        progress: called with ``maps`` (images seen by the network) and ``regions`` (steps).

    Raises:
        NotFoundError, BadInputError: boxes or an image cannot be read, or there is nothing to learn from.
        DivergedError: the loss is not finite.
        StorageError: the disk is full.
    """
    rows, boxes = to_learn(instances, classes, leave_out)
    origin: dict[str, Any] = {"supervision": supervision, "instances": sha256_file(instances)}
    origin |= {"images": len(rows), "boxes": sum(len(own.objects) for own in boxes.values())}
    origin |= {"classes": None if classes is None else sorted(classes), "epochs": epochs, "seed": seed}
    origin |= {"network": {"name": DEFAULT, "weights": NETWORKS[DEFAULT].sha256}, "sides": list(SIDES)}
    origin = canonical(origin)
    with training_folder(out, origin, resume=resume) as work:
        views = Views(work)
        views.fill(
            [(str(row["id"]), images / row["file_name"]) for row in rows], pick_device(device), progress
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            run = Training(views, boxes, RegionHead(), epochs, seed)
            run.finish(work / "state.safetensors", epochs, progress)
        write_arrays(out, "regions", weights_of(run.average), {**origin, "felga": __version__})


def to_learn(
    instances: Path, classes: Sequence[str] | None = None, leave_out: tuple[int, int] | None = None
) -> tuple[list[dict[str, Any]], dict[str, Objects]]:
    """The rows of the images, ordered by id, and the boxes of each; arguments of :func:`train_regions`."""
    truth = read_instances(instances)
    if unknown := sorted(set(classes or ()) - set(truth.categories.values())):
        raise BadInputError(f"{shown(instances)} has no class {unknown[0]!r}")
    kept = None if classes is None else {i for i, name in truth.categories.items() if name in classes}
    rows = sorted(read_coco(instances)["images"], key=lambda row: int(row["id"]))
    rows = [row for at, row in enumerate(rows) if leave_out is None or at % leave_out[0] != leave_out[1]]
    boxes = {
        str(row["id"]): Objects.of(truth, str(row["id"]), (row["width"], row["height"]), kept) for row in rows
    }
    if not any(len(own.objects) for own in boxes.values()):
        raise BadInputError(f"{shown(instances)} has no box to learn from: name COCO's instances json")
    return rows, boxes


class Training(Resumable):
    """The state of a training, on the CPU: the head is small.

    Attributes:
        head: in training.
        average: the moving average of its weights, which is what is written.
    """

    def __init__(
        self, views: Views, boxes: Mapping[str, Objects], head: RegionHead, epochs: int, seed: int
    ) -> None:
        self.views, self.boxes, self.seed = views, boxes, seed
        super().__init__()
        self.steps = max(1, len(views.views) // BATCH)
        self.head = head.to(memory_format=torch.channels_last)
        self.average = deepcopy(self.head).eval()
        self.descent = Descent(
            self.head,
            epochs * self.steps,
            rate=RATE,
            weight_decay=WEIGHT_DECAY,
            warm_up=WARM_UP,
            clip=CLIP,
            check="the boxes",
        )

    def one_epoch(self, progress: Progress) -> None:
        """Every view once, in an order that depends on seed and epoch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.views.views))
        self.head.train()
        for step in range(self.steps):
            done = self.epoch * self.steps + step
            loss = self._loss([self.views.views[at] for at in order[step * BATCH : (step + 1) * BATCH]])
            self.descent.step(loss, done)
            self._follow(done)
            progress("regions", done + 1, self.descent.steps)
        self.epoch += 1

    def _loss(self, views: Sequence[View]) -> Tensor:
        maps = self.views.batch(views)
        logits, boxes = self.head(maps)
        height, width = maps[-1].shape[2] * 32, maps[-1].shape[3] * 32
        points = points_of(height, width)
        x, y = points.at.unbind(1)
        parts = []
        for row, view in enumerate(views):
            truth, crowds = self.boxes[view.image_id].seen(view)
            counts = (x < view.width) & (y < view.height)
            for x1, y1, x2, y2 in crowds:
                counts &= ~((x > x1) & (x < x2) & (y > y1) & (y < y2))
            parts.append(sums(logits[row], boxes[row], truth, points, counts))
        return total(parts)

    @torch.no_grad()
    def _follow(self, done: int) -> None:
        """The moving average, which is what is written; it forgets faster at first."""
        keep = min(AVERAGED, (2 + done) / (11 + done))
        for mean, value in zip(
            self.average.state_dict().values(), self.head.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.mul_(keep).add_(value, alpha=1 - keep)
            else:
                mean.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """See :class:`felga.models.resumable.Resumable`."""
        return {
            **prefixed("head", self.head.state_dict()),
            **prefixed("average", self.average.state_dict()),
            **self.descent.state(),
        }
