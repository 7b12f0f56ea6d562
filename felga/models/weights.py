"""Weights of other people's models: found in folders, caches and hubs, hashed, and read without running them.

Only tensors are read: safetensors, or torch files with ``weights_only``. A file that holds anything else, is
truncated, or is of another architecture is one sentence.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import socket
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import torch

from felga.errors import BadInputError, MissingError, NotFoundError
from felga.files import sha256_file


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)


def sha256_of(path: Path) -> str:
    """The hash of a weight file; remembered until its size or time changes."""
    stat = existing(path).stat()
    return _sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


def existing(path: Path) -> Path:
    """``path``, which is a file.

    Raises:
        NotFoundError: it is not there, or it is a folder.
    """
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "it is not there"
        raise NotFoundError(f"no weight file {str(path)!r}: {found}")
    return path


def require_network(url: str, wanted: str) -> None:
    """Tell at once that ``url`` cannot be reached; the hub's client would try for a minute.

    Raises:
        MissingError: felga is offline (``HF_HUB_OFFLINE``), or the host does not answer.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        raise MissingError(f"{wanted} is not on this machine, and felga is offline")
    if urllib.request.getproxies():  # only the proxy knows
        return
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=5).close()
    except OSError as error:
        raise MissingError(
            f"{wanted} is not on this machine, and {parts.hostname} cannot be reached"
        ) from error


def hub_file(repository: str, names: Sequence[str], wanted: str) -> Path:
    """The first of ``names`` that the hub's cache holds, else the first that the hub has.

    Raises:
        MissingError: neither has one, or the hub cannot be reached; ``wanted`` says what for.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    for name in names:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=True))
        except HFValidationError as error:
            raise BadInputError(f"{repository!r} is no name of a hub repository") from error
        except OSError:  # LocalEntryNotFoundError, or a cache that is not there
            continue
    require_network(constants.ENDPOINT, wanted)
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise MissingError(f"{wanted} cannot be had from the hub: {first_line(error)}") from error
    raise MissingError(f"{wanted} is not on the hub: {repository} holds none of {', '.join(names)}")


def model_folder(source: str, wanted: str) -> Path:
    """A folder of transformers' form: ``source`` itself, or the hub repository of that name, its cache first.

    Raises:
        NotFoundError: a folder that is not there.
        MissingError: the hub has no such model, or cannot be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise NotFoundError(
            f"there is no folder {source!r} for {wanted}, and it names no OWNER/NAME of the hub"
        )
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        cached = Path(snapshot_download(source, local_files_only=True))
        weight_files(cached)
    except HFValidationError as error:
        raise BadInputError(f"{source!r} is no name of a hub repository") from error
    except (OSError, NotFoundError):  # not in the cache, or without its weights
        require_network(constants.ENDPOINT, f"the model of {wanted}")
    else:
        return cached
    try:
        files = HfApi().list_repo_files(source)
        weights = "*.safetensors*" if any(".safetensors" in file for file in files) else "*.bin*"
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.txt", weights]))
    except (HfHubHTTPError, OSError) as error:
        raise MissingError(
            f"the model of {wanted} cannot be had from the hub: {first_line(error)}"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder of transformers' form: one, or the shards that its index names.

    Raises:
        NotFoundError: it has none, or lacks a shard. BadInputError: the index is no json.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise BadInputError(f"{str(index)!r} names no weight files") from error
            return [existing(folder / shard) for shard in shards]
    raise NotFoundError(f"{str(folder)!r} holds no weights: neither model.safetensors nor pytorch_model.bin")


def sha256_of_folder(folder: Path) -> str:
    """The hash of a folder's weights: of its one file, or of its shards' hashes, one a line."""
    hashes = [sha256_of(path) for path in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def load_pretrained(
    kind: type[Any], folder: Path, dtype: torch.dtype, device: torch.device
) -> torch.nn.Module:
    """A model of transformers from a folder of its form, frozen; every weight of it must be there.

    Raises:
        BadInputError: the weights are truncated, hold a pickle, lack a key or have another shape.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_log

    bars = transformers_log.is_progress_bar_enabled()
    transformers_log.disable_progress_bar()
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.ERROR)  # it reports at length what the checks below tell in a sentence
    try:
        model, info = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True, weights_only=True
        )
    except (RuntimeError, OSError, ValueError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise BadInputError(
            f"the weights in {str(folder)!r} are truncated or of another model: {first_line(error)}"
        ) from error
    finally:
        log.setLevel(level)
        if bars:
            transformers_log.enable_progress_bar()
    for trouble in ("missing_keys", "mismatched_keys"):
        if wrong := sorted(map(str, info[trouble])):
            told = trouble.replace("_", " ")
            raise BadInputError(f"the weights in {str(folder)!r} are of another model: {told} {wrong[0]}")
    return cast(torch.nn.Module, model.requires_grad_(False).to(device).eval())


def first_line(error: BaseException) -> str:
    """The first line of a library's message, which may run over many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def read_checkpoint(path: Path, allowed: Sequence[type] = ()) -> Any:
    """What a ``.safetensors`` or torch file holds, on the CPU; code inside of it is never run.

    Args:
        allowed: plain classes that a torch file may hold besides tensors and builtin containers.

    Raises:
        NotFoundError: no such file. BadInputError: truncated, no checkpoint, or a pickle of other objects.
    """
    existing(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{str(path)!r} is truncated or no safetensors file: {error}") from error
    archive = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if archive and isinstance(error, pickle.UnpicklingError | RuntimeError):
            wanted = "tensors alone are read, never code: save its state_dict as .safetensors"
            raise BadInputError(f"{str(path)!r} holds other things than tensors; {wanted}") from error
        raise BadInputError(f"{str(path)!r} is truncated or no checkpoint of torch") from error


def state_of(checkpoint: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict inside a checkpoint: bare, or under ``state_dict``, ``model`` or ``model_state_dict``;
    the ``module.`` of data-parallel training is dropped.

    Raises:
        BadInputError: there is none.
    """
    state = checkpoint
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not any(isinstance(v, torch.Tensor) for v in state.values()):
        raise BadInputError(f"{str(path)!r} holds no tensors by name")
    return {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, torch.Tensor)}


def load_exactly(
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    source: str,
    wanted: str,
    may_lack: str = "",
) -> None:
    """Load ``state`` into ``model``: every key there, in its shape, and none besides.

    Args:
        source, wanted: the words for both in the error, such as a path and ``ViT-B-32``.
        may_lack: a pattern of the ends of keys that may be missing on either side.

    Raises:
        BadInputError: the state is of another architecture; names the first key that tells.
    """
    own = model.state_dict()
    free = re.compile(rf".*({may_lack})" if may_lack else r"(?!)")
    for key, value in own.items():
        if key not in state:
            if free.fullmatch(key):
                continue
            raise BadInputError(f"{source} is no checkpoint of {wanted}: it lacks {key!r}")
        if state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} there and {tuple(value.shape)} wanted"
            raise BadInputError(f"{source} is no checkpoint of {wanted}: {key!r} is {shapes}")
    for key in state:
        if key not in own and not free.fullmatch(key):
            raise BadInputError(f"{source} is no checkpoint of {wanted}: {key!r} has no place in it")
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
