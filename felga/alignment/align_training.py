"""Training AlignCap's middle on boxes, class names and captions: resumable, deterministic."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from felga.alignment.align_losses import Weights, caption_loss, condition_loss, multi_loss, tag_loss
from felga.alignment.aligned import Decoding, write_aligned
from felga.alignment.aligner import Aligned, Aligner, Read, principal
from felga.alignment.region_cells import CellFile
from felga.alignment.region_texts import RegionTexts, read_region_texts
from felga.alignment.tag_words import tag_words, tags_of
from felga.files import canonical, sha256_file
from felga.models.device import pick_device
from felga.models.minilm import minilm
from felga.models.resumable import Descent, Resumable, prefixed, training_folder
from felga.types import Progress, Rows

EPOCHS, BATCH = 8, 64
OTHERS = 256  # boxes without phrases in each step; they have tags alone
ALIKE = 4  # regions of one class that stand together in a batch, as hard negatives
RATE, WEIGHT_DECAY, WARM_UP, CLIP = 5e-4, 0.05, 0.1, 5.0
RIDGE = 400.0  # of the regressions at which layers start; components have variance 1


def train_alignment(
    instances: Path,
    captions: Path,
    images: Path,
    out: Path,
    *,
    captioner: Path | None = None,
    supervision: str,
    weights: Weights | None = None,
    epochs: int = EPOCHS,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Train tags, region captions and region vectors, and write them into one file.

    Args:
        instances, captions, images: COCO's json files and the folder of their images.
        out: the model; until it is done ``out`` + ``.training`` holds what was seen and the last epoch.
        captioner: whose decoder is frozen, of ``felga caption train``; None: no region captions, no L_cap.
        supervision: whose boxes and captions these are; stated wherever the model is used.
        weights: of the losses.
        epochs: each sees every described region once.
        resume: continue an interrupted training with the same arguments; the outcome is the same.
        progress: called with ``maps`` (images) and ``alignment`` (steps).

    Raises:
        NotFoundError, BadInputError: a file or an image cannot be read, or no caption describes a box.
        DivergedError: the loss is not finite.
        StorageError: the disk is full.
    """
    texts = read_region_texts(instances, captions, images)
    decoding = None if captioner is None else Decoding.of_captioner(captioner)
    origin: dict[str, Any] = {"supervision": supervision, "seed": seed, "epochs": epochs}
    origin |= {"instances": sha256_file(instances), "captions": sha256_file(captions)}
    origin |= {"captioner": None if captioner is None else sha256_file(captioner)}
    origin |= {"images": len(texts.images), "boxes": len(texts.boxes), "described": len(texts.described)}
    origin |= {"weights": asdict(weights or Weights())}
    origin = canonical(origin)
    with training_folder(out, origin, resume=resume) as work:
        cells = CellFile(work, texts)
        cells.fill(pick_device(device), progress)
        run = Training(texts, cells, decoding, weights or Weights(), epochs, seed)
        run.finish(work / "state.safetensors", epochs, progress)
        write_aligned(out, run.net, run.tags, decoding, origin)


class Training(Resumable):
    """The state of a training, on the CPU: what learns is small.

    Attributes:
        net: in training; tags: its vocabulary.
        losses: the mean of each loss in the last epoch.
    """

    def __init__(
        self,
        texts: RegionTexts,
        cells: CellFile,
        decoding: Decoding | None,
        weights: Weights,
        epochs: int,
        seed: int,
    ) -> None:
        self.texts, self.cells, self.decoding, self.weights = texts, cells, decoding, weights
        super().__init__()
        self.seed = seed
        self.losses: dict[str, float] = {}
        self.tags = tag_words(texts)
        fits, known = tags_of(texts, self.tags)
        self._fits, self._known = torch.from_numpy(fits), torch.from_numpy(known)
        self._phrases = sorted({phrase for own in texts.phrases for phrase in own})
        model = minilm(torch.device("cpu"))
        self._vectors = torch.from_numpy(model.embed(self._phrases))
        self._place = {phrase: row for row, phrase in enumerate(self._phrases)}
        self._described = texts.described
        self._others = np.setdiff1d(np.arange(len(texts.boxes)), self._described)
        self.steps = max(1, len(self._described) // BATCH)
        tags = torch.from_numpy(model.embed(self.tags))
        means = torch.from_numpy(np.array(cells.means)).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = Aligner(tags, *principal(means))
        self._means, self._cells = self.net.reduce(means), self._reduced(cells)
        if weights.tag:
            start_at(self.net.project, self._means, tags[torch.from_numpy(texts.box_class)])
        if weights.multi:
            start_at(self.net.direct, self._means[torch.from_numpy(self._described)], self._mean_phrases())
        self.descent = Descent(
            self.net,
            epochs * self.steps,
            rate=RATE,
            weight_decay=WEIGHT_DECAY,
            warm_up=WARM_UP,
            clip=CLIP,
            check="the boxes",
        )

    def _reduced(self, cells: CellFile) -> Tensor:
        """(D, 49, 512) float16 of the described boxes."""
        parts = [
            self.net.reduce(torch.from_numpy(np.array(cells.cells[at : at + BATCH]))).half()
            for at in range(0, len(cells.cells), BATCH)
        ]
        return torch.cat(parts)

    def _mean_phrases(self) -> Tensor:
        """(D, 384), the mean vector of each described box's phrases."""
        own = [
            [self._place[phrase] for phrase in self.texts.phrases[box]] for box in self._described.tolist()
        ]
        return torch.stack([self._vectors[rows].mean(0) for rows in own])

    def one_epoch(self, progress: Progress) -> None:
        """Whole batches of described regions, none twice; seed and epoch decide their order and phrases."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order = grouped(self.texts.box_class[self._described], rng)
        sums: dict[str, float] = {}
        self.net.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))
            for step in range(self.steps):
                done = self.epoch * self.steps + step
                losses = self._losses(order[step * BATCH : (step + 1) * BATCH], rng)
                loss = torch.stack([getattr(self.weights, name) * one for name, one in losses.items()]).sum()
                self.descent.step(loss, done)
                for name, one in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(one.detach()) / self.steps
                progress("alignment", done + 1, self.descent.steps)
        self.losses = sums
        self.epoch += 1

    def _losses(self, rows: Rows, rng: np.random.Generator) -> dict[str, Tensor]:
        """Each loss whose weight is not 0, of some described regions and of boxes drawn beside them."""
        boxes = self._described[rows]
        phrases = [str(rng.choice(self.texts.phrases[box])) for box in boxes.tolist()]
        places = torch.from_numpy(np.array(self.cells.places[boxes]))
        reduced = self._cells[torch.from_numpy(rows)].float()
        states = self.net.states(reduced)
        read = self.net.read(states)
        found = self.net.align(reduced.mean(1), states, read, places)
        vectors = self._vectors[[self._place[phrase] for phrase in phrases]]
        same = torch.tensor([[phrase in self.texts.phrases[box] for phrase in phrases] for box in boxes])
        losses = {}
        if self.weights.tag:
            count = min(OTHERS, len(self._others))
            others = torch.from_numpy(rng.choice(self._others, count, replace=False))
            logits = torch.cat([found.logits, self.net.tag_logits(self.net.states(self._means[others]))])
            drawn = torch.cat([torch.from_numpy(boxes), others])
            losses["tag"] = tag_loss(logits, self._fits[drawn].float(), self._known[drawn])
        if self.weights.cap and self.decoding is not None:
            losses["cap"] = caption_loss(self.decoding.decoder, found.prefix, *self.decoding.rows(phrases))
        if self.weights.cond:
            losses["cond"] = self._condition_loss(found, read, boxes, vectors, same)
        if self.weights.multi:
            losses["multi"] = multi_loss(found.m, vectors, same)
        return losses

    def _condition_loss(
        self, found: Aligned, read: Read, boxes: Rows, vectors: Tensor, same: Tensor
    ) -> Tensor:
        classes, which = np.unique(self.texts.box_class[boxes], return_inverse=True)
        asked = self.net.tags[torch.from_numpy(classes)].expand(len(boxes), -1, -1)
        own = self.net.refine(asked, read)  # (b, classes of the batch, 384)
        wrong = ~self._fits[torch.from_numpy(boxes)].gather(1, found.top)
        return condition_loss(found.refined, wrong, own[:, torch.from_numpy(which)], vectors, same)

    def state(self) -> dict[str, Tensor]:
        """See :class:`felga.models.resumable.Resumable`."""
        return prefixed("net", self.net.state_dict()) | self.descent.state()


@torch.no_grad()
def start_at(layer: nn.Linear, inputs: Tensor, targets: Tensor) -> None:
    """Start a layer at the ridge regression of targets (n, out) on inputs (n, in): useful before any step."""
    middle, center = inputs.mean(0), targets.mean(0)
    near = inputs - middle
    gram = near.T @ near + RIDGE * torch.eye(near.shape[1])
    weight = torch.linalg.solve(gram, near.T @ (targets - center)).T
    layer.weight.copy_(weight)
    layer.bias.copy_(center - weight @ middle)


def grouped(classes: Rows, rng: np.random.Generator) -> Rows:
    """A random order of regions in which up to :data:`ALIKE` of one class stand together."""
    groups = []
    for one in np.unique(classes).tolist():
        members = rng.permutation(np.flatnonzero(classes == one))
        groups += [members[at : at + ALIKE] for at in range(0, len(members), ALIKE)]
    return np.concatenate([groups[at] for at in rng.permutation(len(groups))])
