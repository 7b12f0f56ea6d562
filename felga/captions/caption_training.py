"""Training a captioner by teacher forcing (MIC21Summarizer, Eq. 12-13): deterministic, resumable.

The network of the images and the words' vectors are frozen. The visual tokens of all images are computed once
and kept beside the file to be written, 90 kB per image, until the training is done.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from felga.captions.caption_batches import IGNORED, Batch, CaptionData, read_captions
from felga.captions.caption_decoder import Mask, Shape
from felga.captions.captioner import CaptionNet, write_captioner
from felga.captions.visual_tokens import TokenFile, visual_settings
from felga.captions.word_pieces import Source, WordPieces
from felga.errors import BadInputError, DivergedError
from felga.files import canonical, sha256_file, shown, storage_errors
from felga.models.arrays import Arrays, read_arrays, write_arrays
from felga.models.device import pick_device
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
    with storage_errors(out):
        work = _work_folder(out, resume)
        where = pick_device(device)
        tokens = TokenFile(work).fill(
            [(row.image_id, images / row.file_name) for row in rows], where, progress
        )
        data = CaptionData(tokens, [row.captions for row in rows], pieces, shape.longest)
        learned, held = split(len(rows))
        run = CaptionTraining(data, pieces, shape, learned, held, epochs=epochs, seed=seed, device=where)
        run.restore(work / "state.safetensors", about)
        while run.epoch < epochs:
            run.one_epoch(progress)
            run.save(work / "state.safetensors", about)
        write_captioner(out, run.best, pieces, shape, about | {"history": run.history})
        shutil.rmtree(work)


def _work_folder(out: Path, resume: bool) -> Path:
    """The folder beside ``out``, made before any work is done."""
    if out.is_dir():
        raise BadInputError(f"{shown(out)} is a folder: name the file to write with --out")
    work = Path(f"{out}.training")
    try:
        if work.exists() and not resume:
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        raise BadInputError(f"{shown(work)} cannot be made ({error.strerror}): name another --out") from error
    return work


def split(images: int) -> tuple[Rows, Rows]:
    """The images to learn from and those held out: none of fewer than 2 * :data:`HELD_OUT`."""
    every = np.arange(images)
    held = every[HELD_OUT - 1 :: HELD_OUT] if images >= 2 * HELD_OUT else every[:0]
    return np.setdiff1d(every, held), held


class CaptionTraining:
    """The state of a training.

    Attributes:
        net: in training.
        best: the weights of the epoch with the lowest held-out loss; without held-out images of the last one.
        epoch: how many are done; history: of each, ``loss`` (smoothed, in training) and ``held_out`` (mean
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
        self.epoch = 0
        self.history: list[dict[str, float | None]] = []
        self.best: Arrays = {}
        self._steps = -(-len(learned) // BATCH)
        self._all_steps = epochs * self._steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = CaptionNet(words, shape).to(device)
        self._optimizer = torch.optim.AdamW(self.net.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
        for weight in self.net.parameters():  # made here: a resumed step is no first step
            moments = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
            self._optimizer.state[weight] = {"step": torch.tensor(0.0), **moments}

    def one_epoch(self, progress: Progress) -> None:
        """Every caption once, in an order that depends on seed and epoch; so does dropout."""
        devices = [self._device.index or 0] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(np.random.SeedSequence([self._seed, self.epoch]).generate_state(1)[0]))
            self.net.train()
            total = 0.0
            batches = self._data.shuffled(self._learned, BATCH, [self._seed, self.epoch])
            for step, batch in enumerate(batches, self.epoch * self._steps):
                total += self._step(batch.to(self._device), step)
                progress("captions", step + 1, self._all_steps)
        held_out = self.held_out_loss()
        before = [entry["held_out"] for entry in self.history if entry["held_out"] is not None]
        if held_out is None or not before or held_out < min(before):
            self.best = {name: value.cpu().numpy().copy() for name, value in self.net.state_dict().items()}
        self.history.append({"loss": total / self._steps, "held_out": held_out})
        self.epoch += 1

    def _step(self, batch: Batch, step: int) -> float:
        self._optimizer.param_groups[0]["lr"] = RATE * _rate(step / self._all_steps)
        loss = self._loss(batch, SMOOTHING, "mean")
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss is {value} at step {step + 1}: check the captions and the words' vectors"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self._optimizer.step()
        return value

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

    def _state(self) -> dict[str, Tensor]:
        state = {f"net/{name}": value for name, value in self.net.state_dict().items()}
        for name, weight in self.net.named_parameters():
            state |= {f"{key}/{name}": value for key, value in self._optimizer.state[weight].items()}
        return state

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write everything that the next epoch depends on."""
        arrays = {name: value.cpu().contiguous().numpy() for name, value in self._state().items()}
        arrays |= {f"best/{name}": value for name, value in self.best.items()}
        write_arrays(path, "training", arrays, {"about": canonical(dict(about)), "history": self.history})

    def restore(self, path: Path, about: Mapping[str, Any]) -> None:
        """Continue from what :meth:`save` wrote, if it did.

        Raises:
            BadInputError: it is of another training, or damaged.
        """
        if not path.exists():
            return
        arrays, found = read_arrays(path, "training")
        best = {
            name.removeprefix("best/"): value for name, value in arrays.items() if name.startswith("best/")
        }
        state = self._state()
        sizes = {name: value.size for name, value in arrays.items() if not name.startswith("best/")}
        if found.get("about") != canonical(dict(about)) or sizes != {n: v.numel() for n, v in state.items()}:
            raise BadInputError(
                f"{shown(path)} is the state of another training: train without --resume, or with the same "
                "captions and options"
            )
        with torch.no_grad():
            for name, value in state.items():
                value.copy_(torch.from_numpy(arrays[name]).reshape(value.shape))
        self.best, self.history, self.epoch = best, found["history"], len(found["history"])


def _rate(done: float) -> float:
    """The rate after the share ``done``: linear warm-up, then a cosine to 0."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
