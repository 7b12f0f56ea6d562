"""LAVIS encoders (salesforce-lavis), in a worker process of another environment, over a pipe.

LAVIS pins versions that conflict with felga's. Create an environment for it once, and set its Python::

    python3 -m venv lavis-env
    lavis-env/bin/pip install torch torchvision salesforce-lavis==1.0.2 \\
        "numpy<2" "pandas<3" "huggingface_hub<0.26"
    export FELGA_LAVIS_PYTHON=lavis-env/bin/python

``lavis:blip_feature_extractor/base`` and ``lavis:blip2_feature_extractor/pretrain`` use the weights of that
name in LAVIS, from its cache or the network. ``lavis:blip_feature_extractor/base@FILE`` uses a checkpoint in
LAVIS's format, of any size (BLIP-2: with ``eva_vit_g.pth`` beside it if it lacks the vision tower). A
``vocab.txt`` beside it replaces the vocabulary of bert-base-uncased, which otherwise comes from the hub.

Vectors are those of ``extract_features``: BLIP's projected [CLS]; the mean of BLIP-2's projected query
tokens, as :mod:`felga.encoders.blip2` explains.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from felga.encoders import lavis_worker
from felga.encoders.crops import Crops, Preprocessing, encode_batches
from felga.encoders.inputs import check_options
from felga.errors import BadInputError, MissingError, did_you_mean
from felga.models.caches import TEXTS, cache_folders, located, note, note_folder, snapshots
from felga.models.device import pick_device
from felga.models.weights import existing, is_offline, sha256_of
from felga.types import Boxes, DecodedImage, Encoder, Vectors

VARIABLE = "FELGA_LAVIS_PYTHON"
INSTALL = (
    "python3 -m venv lavis-env && lavis-env/bin/pip install torch torchvision salesforce-lavis==1.0.2 "
    f"'numpy<2' 'pandas<3' 'huggingface_hub<0.26' && export {VARIABLE}=lavis-env/bin/python"
)
MODELS = ("blip_feature_extractor", "blip2_feature_extractor")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # LAVIS's, from CLIP
VOCABULARY = "bert-base-uncased"
FILES = {  # of LAVIS 1.0.2, in torch.hub's cache
    "model_base_capfilt_large.pth": ["blip_feature_extractor/base"],
    "blip2_pretrained.pth": ["blip2_feature_extractor/pretrain"],
    "blip2_finetune_coco.pth": ["blip2_feature_extractor/coco"],
    lavis_worker.EVA_FILE: ["blip2_feature_extractor/pretrain", "blip2_feature_extractor/coco"],
}
VERSION = 1
"""Raised when the worker's code yields other vectors."""


def lavis(weights: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None) -> Encoder:
    """The encoder ``lavis:WEIGHTS``; its worker starts on first use.

    Args:
        weights: ``MODEL/TYPE`` or ``MODEL/TYPE@FILE``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, of the worker.
        batch_size: crops or texts per forward pass.
        pooling: ``crop`` or None.

    Raises:
        BadInputError: not of this form, no such model, or ``pooling`` is ``roi``.
        NotFoundError: no such file.
        MissingError: ``FELGA_LAVIS_PYTHON`` is not set, or no such device.
    """
    check_options("lavis", batch_size=batch_size, pooling=pooling, known=("crop",))
    return Lavis(weights, device=pick_device(device), batch_size=batch_size)


def found() -> Iterator[tuple[str, Path]]:
    """The names whose weights are in torch.hub's cache, each with its weight files."""
    for file, names in FILES.items():
        path = cache_folders()["torch"] / file
        if path.is_file():
            yield from ((f"lavis:{name}", path) for name in names)


class Lavis:
    """A frozen BLIP or BLIP-2 of LAVIS behind a pipe that carries normalized crops and texts. Thread-safe.

    Attributes:
        device: of the worker.
        batch_size: crops or texts per forward pass.
    """

    def __init__(self, weights: str, *, device: torch.device, batch_size: int) -> None:
        self._name = f"lavis:{weights}"
        self.batch_size = batch_size
        self.device = device
        names, _, file = weights.partition("@")
        self.model, _, self.type = names.partition("/")
        if self.model not in MODELS or not self.type:
            known = [f"{model}/{self.type or 'base'}" for model in MODELS]
            raise BadInputError(
                f"lavis needs MODEL/TYPE or MODEL/TYPE@FILE, got {weights!r}; {did_you_mean(names, known)}"
            )
        self.checkpoint = existing(Path(file).expanduser()) if file else None
        self._python = find_python(self.name)
        self._offline = is_offline()
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._info: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The name under which it can be made again."""
        return self._name

    @property
    def dim(self) -> int:
        """Of the joint space; starts the worker, which reads it from the weights."""
        return int(self._opened()["dim"])

    @property
    def preprocessing(self) -> Preprocessing:
        """LAVIS's ``blip_image_eval``: squash to the model's side, bicubic, CLIP's mean and std."""
        side = int(self._opened()["side"])
        return Preprocessing(size=(side, side), resize="squash", mean=MEAN, std=STD)

    def identity(self) -> dict[str, Any]:
        """What makes two vectors comparable; starts the worker, which locates the weight files."""
        hashes = [sha256_of(Path(path)) for path in self._opened()["files"]]
        return {
            "name": f"lavis:{self.model}/{self.type}",
            "version": VERSION,
            "dim": self.dim,
            "weights": "+".join(hashes),
            "preprocessing": self.preprocessing.settings(),
            "texts": "blip_caption of LAVIS",
            "pooling": "crop",
        }

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """Unit vectors of crops: ``boxes[i]`` (n_i, 4) of ``images[i]`` -> (n_i, dim) float32.

        Raises:
            MissingError: LAVIS, its weights or its vocabulary are missing, or the worker ended.
            BadInputError: the checkpoint is truncated or of another model, or a box is not finite.
        """

        def forward(batch: torch.Tensor) -> torch.Tensor:
            header = {"op": "image", "shape": list(batch.shape)}
            return torch.from_numpy(self._ask(header, batch.numpy().tobytes()))

        here = torch.device("cpu")  # the worker moves crops to its device
        crops = Crops(self.preprocessing, self.batch_size, here, torch.float32, self.dim)
        return crops.encode(images, boxes, forward)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts: (n, dim) float32.

        Raises:
            MissingError, BadInputError: as :meth:`encode_regions`.
        """
        return encode_batches(
            texts,
            batch_size=self.batch_size,
            dim=self.dim,
            forward=lambda batch: torch.from_numpy(self._ask({"op": "text", "texts": batch})),
        )

    def close(self) -> None:
        """Stop the worker; the next use starts another."""
        with self._lock:
            worker, self._worker = self._worker, None
            if worker is not None:
                worker.close()

    def _opened(self) -> dict[str, Any]:
        with self._lock:
            if self._worker is None:
                worker = Worker(self._python, offline=self._offline)
                header = {
                    "op": "open",
                    "model": self.model,
                    "type": self.type,
                    "checkpoint": str(self.checkpoint.resolve()) if self.checkpoint else None,
                    "device": str(self.device),
                }
                try:
                    self._info, _ = worker.ask(header)
                except BaseException:
                    worker.close()
                    raise
                self._worker = worker
                self._note()
            return self._info

    def _note(self) -> None:
        files = [Path(path) for path in self._info["files"]]
        note(*(file for file in files if located(file) is not None))  # the others are the user's
        for repository, snapshot in snapshots():
            if repository == VOCABULARY:
                note_folder(snapshot, TEXTS)

    def _ask(self, header: dict[str, Any], data: bytes = b"") -> np.ndarray[Any, np.dtype[np.float32]]:
        self._opened()
        with self._lock:
            if self._worker is None:
                raise MissingError(f"{self.name} was closed while in use")
            try:
                reply, array = self._worker.ask(header, data)
            except MissingError:  # it ended: the next use starts another
                self._worker.close()
                self._worker = None
                raise
        return np.frombuffer(array, np.float32).reshape(reply["shape"]).copy()


class Worker:
    """A process of another Python that runs :mod:`felga.encoders.lavis_worker`. Not thread-safe."""

    def __init__(self, python: Path, *, offline: bool = False) -> None:
        """
        Args:
            offline: it downloads nothing.

        Raises:
            MissingError: ``python`` does not run.
        """
        self.python = python
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        if offline:  # LAVIS's old transformers reads the second one
            environment.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the worker
        try:
            self._process = subprocess.Popen(
                [str(python), "-I", "-W", "ignore", lavis_worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
            )
        except OSError as error:
            self._errors.close()
            raise MissingError(f"{VARIABLE} is not a Python that runs: {error}") from error
        self.close = weakref.finalize(self, _end, self._process, self._errors)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ask(self, header: dict[str, Any], data: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Send a message and wait for the answer.

        Raises:
            MissingError: the worker ended, or something it needs is missing.
            BadInputError: it refused the input.
            RuntimeError: a bug on its side, with its traceback.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            lavis_worker.send(self._process.stdin, header, data)
            answer = lavis_worker.receive(self._process.stdout)
        except (OSError, ValueError):
            answer = None
        if answer is None:
            code = self._process.wait()
            raise MissingError(
                f"the LAVIS worker of {str(self.python)!r} ended with {code}{self._last_words()}; to install "
                f"LAVIS: {INSTALL}"
            )
        reply, array = answer
        if reply["ok"]:
            return reply, array
        if reply["kind"] == "missing":
            raise MissingError(f"{reply['error']}; to install LAVIS: {INSTALL}")
        if reply["kind"] == "input":
            raise BadInputError(reply["error"])
        raise RuntimeError(f"the LAVIS worker failed: {reply['error']}\n{reply['trace']}")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1].strip()})" if lines else ""


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        try:
            if stream is not None:
                stream.close()
        except OSError:  # unwritten data has no reader
            pass
    try:
        process.wait(timeout=5)  # it ends when its input does
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    errors.close()


def find_python(name: str) -> Path:
    """The Python of LAVIS's environment: ``FELGA_LAVIS_PYTHON`` is its path, or that of the environment.

    Raises:
        MissingError: the variable is not set, or there is no such file; says how to install LAVIS.
    """
    value = os.environ.get(VARIABLE, "")
    if not value:
        raise MissingError(f"{name} needs a separate LAVIS environment; set {VARIABLE}: {INSTALL}")
    path = Path(value).expanduser()
    python = path / "bin" / "python" if path.is_dir() else path
    if not python.is_file():
        raise MissingError(f"{VARIABLE} is {value!r}, and there is no Python: {INSTALL}")
    return python.absolute()
