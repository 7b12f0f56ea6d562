"""Training a captioner by teacher forcing (MIC21Summarizer, Eq. 12-13): deterministic, resumable.

The network of the images and the words' vectors are frozen. The visual tokens of all images are computed once
and kept beside the file to be written, 90 kB per image, until the training is done.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from felga.captions.caption_batches import IGNORED, Batch, CaptionData, read_captions
from felga.captions.caption_decoder import Mask, Shape
from felga.captions.captioner import CaptionNet, write_captioner
from felga.captions.visual_tokens import TokenFile, visual_settings
from felga.captions.word_pieces import Source, WordPieces
from felga.files import sha256_file
from felga.models.arrays import Arrays
from felga.models.device import pick_device
from felga.models.resumable import Descent, Resumable, prefixed, training_folder
from felga.types import Progress, Rows

EPOCHS, BATCH = 4, 8  # the batch is of images, with all their captions
RATE, WEIGHT_DECAY, WARM_UP, CLIP = 7e-4, 0.01, 0.05, 1.0
SMOOTHING = 0.1  # of the labels
HELD_OUT = 16  # every so many images is held out, and says which epoch is kept


def train_captioner(
    annotations: Path,
    images: Path,
    out: Path,
    *,
    words: Path | None = None,
    mask: Mask = "prefix",
    epochs: int = EPOCHS,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Train a captioner and write the epoch that predicts the captions of held-out images best.

    Args:
        annotations, images: COCO's captions json, and the folder of its images.
        out: the file to write; until then ``out`` + ``.training`` holds the visual tokens and the last epoch.
        words: a BERT whose word vectors to write with, as transformers saves it; None: the packaged MiniLM.
        mask: see :mod:`felga.captions.caption_decoder`.
        epochs: each sees every caption once.
        seed: of weights, dropout and order.
        resume: continue an interrupted training with the same arguments; the outcome is the same.
        progress: called with ``visual tokens`` (images) and ``captions`` (steps).

    Raises:
        NotFoundError, BadInputError: captions, words or an image cannot be read.
        DivergedError: the loss is not finite.
        StorageError: the disk is full.
    """
    rows = read_captions(annotations)
    pieces = WordPieces.of_texts(Source.of(words), (one for row in rows for one in row.captions))
    shape = Shape(mask=mask)
    about = {"captions": sha256_file(annotations), "images": len(rows), "epochs": epochs, "seed": seed}
    about |= {"visual": visual_settings(), "words": pieces.source.sha256, "shape": shape.to_json()}
    with training_folder(out, about, resume=resume) as work:
        where = pick_device(device)
        tokens = TokenFile(work).fill(
            [(row.image_id, images / row.file_name) for row in rows], where, progress
        )
        data = CaptionData(tokens, [row.captions for row in rows], pieces, shape.longest)
        learned, held = split(len(rows))
        run = CaptionTraining(data, pieces, shape, learned, held, epochs=epochs, seed=seed, device=where)
        run.finish(work / "state.safetensors", epochs, progress)
        write_captioner(out, run.best, pieces, shape, about | {"history": run.history})


def split(images: int) -> tuple[Rows, Rows]:
    """The images to learn from and those held out: none of fewer than 2 * :data:`HELD_OUT`."""
    every = np.arange(images)
    held = every[HELD_OUT - 1 :: HELD_OUT] if images >= 2 * HELD_OUT else every[:0]
    return np.setdiff1d(every, held), held


class CaptionTraining(Resumable):
    """The state of a training.

    Attributes:
        net: in training.
        best: the weights of the epoch with the lowest held-out loss; without held-out images of the last one.
        history: of each epoch ``loss`` (smoothed, in training) and ``held_out`` (mean
            negative log likelihood of a word, in nats; None without held-out images).
    """

    def __init__(
        self,
        data: CaptionData,
        words: WordPieces,
        shape: Shape,
        learned: Rows,
        held: Rows,
        *,
        epochs: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._data, self._learned, self._held = data, learned, held
        self._seed, self._device = seed, device
        super().__init__()
        self._steps = -(-len(learned) // BATCH)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = CaptionNet(words, shape).to(device)
        self._best = {name: value.clone() for name, value in self.net.state_dict().items()}
        self._descent = Descent(
            self.net,
            epochs * self._steps,
            rate=RATE,
            weight_decay=WEIGHT_DECAY,
            warm_up=WARM_UP,
            first=0.0,
            clip=CLIP,
            check="the captions and the words' vectors",
        )

    @property
    def best(self) -> Arrays:
        """See the class."""
        return {name: value.cpu().numpy() for name, value in self._best.items()}

    def one_epoch(self, progress: Progress) -> None:
        """Every caption once, in an order that depends on seed and epoch; so does dropout."""
        devices = [self._device.index or 0] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(np.random.SeedSequence([self._seed, self.epoch]).generate_state(1)[0]))
            self.net.train()
            total = 0.0
            batches = self._data.shuffled(self._learned, BATCH, [self._seed, self.epoch])
            for step, batch in enumerate(batches, self.epoch * self._steps):
                loss = self._loss(batch.to(self._device), SMOOTHING, "mean")
                total += self._descent.step(loss, step)
                progress("captions", step + 1, self._descent.steps)
        held_out = self.held_out_loss()
        before = [entry["held_out"] for entry in self.history if entry["held_out"] is not None]
        if held_out is None or not before or held_out < min(before):
            self._best = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.history.append({"loss": total / self._steps, "held_out": held_out})
        self.epoch += 1

    @torch.no_grad()
    def held_out_loss(self) -> float | None:
        """Mean negative log likelihood of a word of the held-out images, by teacher forcing."""
        if not len(self._held):
            return None
        self.net.eval()
        total, words = 0.0, 0
        for batch in self._data.in_order(self._held, BATCH):
            total += float(self._loss(batch.to(self._device), 0.0, "sum"))
            words += int((batch.targets != IGNORED).sum())
        return total / words

    def _loss(self, batch: Batch, smoothing: float, reduction: str) -> Tensor:
        """Eq. 13; only where a word is expected, since the soft-max over all words is costly."""
        expected = batch.targets != IGNORED
        states = self.net.states(batch.tokens, batch.words, batch.owners)[expected]
        logits = self.net.decoder.scores(states)
        return F.cross_entropy(
            logits, batch.targets[expected], reduction=reduction, label_smoothing=smoothing
        )

    def state(self) -> dict[str, Tensor]:
        """See :class:`felga.models.resumable.Resumable`."""
        return {
            **prefixed("net", self.net.state_dict()),
            **prefixed("best", self._best),
            **self._descent.state(),
        }
