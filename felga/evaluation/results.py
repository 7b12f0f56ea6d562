"""The results file of a benchmark: what was measured, on what, by which felga, on which machine.

The json has the fields of :class:`Results` and of the classes in it, with ``r@1`` for ``r1`` and so on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import statistics
import subprocess
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felga.errors import BadInputError, NotFoundError, did_you_mean
from felga.evaluation.task_results import (
    ROWS,
    TASKS,
    Cosine,
    Diagnostic,
    Evaluation,
    Localisation,
    TaskResult,
)
from felga.files import shown, storage_errors, write_whole
from felga.version import __version__

TIES = "one threshold per distinct score (scikit-learn's average_precision_score); bounds beside it"
CROWDS = "no queries; their images contain the class"


@dataclass(frozen=True, slots=True)
class ProtocolChoices:
    """How the tasks were measured; ``queries`` is the number that count, per task."""

    queries: Mapping[str, int | None]
    relevance: str
    ties: str
    crowds: str


@dataclass(frozen=True, slots=True)
class MethodResults:
    """A method: means over its seeds, with the standard deviation of the mAP, and each seed."""

    object_discovery: TaskResult
    description_assignment: TaskResult
    seeds: tuple[Evaluation, ...]
    localisation: Localisation | None = None

    def task(self, name: str) -> TaskResult:
        """The means of one of :data:`felga.evaluation.task_results.TASKS`."""
        result: TaskResult = getattr(self, name)
        return result


@dataclass(frozen=True, slots=True)
class Results:
    """The content of a results file.

    Attributes:
        felga, commit: version and git commit of the code.
        dataset: what it was measured on, for people: ``coco-mini val2017``.
        year: 2014 or 2017, the column of the paper's tables to compare with.
        encoder: :meth:`felga.types.Encoder.identity`.
        data: fingerprints of the training and test data, and the recipe.
        seeds: of all trainings.
        machine: :func:`machine`.
        ceiling: task -> mAP that its proposals allow, see :mod:`felga.evaluation.protocol`.
        results: by row (:data:`felga.evaluation.task_results.ROWS`).
        diagnostic: of the encoder's frozen vectors.

    Raises:
        BadInputError: an unknown method, one without runs, a run without mAP, or another year.
    """

    felga: str
    commit: str | None
    dataset: str
    year: int
    encoder: Mapping[str, Any]
    protocol: ProtocolChoices
    data: Mapping[str, Any]
    seeds: tuple[int, ...]
    machine: Mapping[str, Any]
    ceiling: Mapping[str, float | None]
    results: Mapping[str, MethodResults]
    diagnostic: Diagnostic | None = None

    def __post_init__(self) -> None:
        if self.year not in (2014, 2017):
            raise BadInputError(f"year must be 2014 or 2017, got {self.year!r}")
        for method, entry in self.results.items():
            if method not in ROWS:
                raise BadInputError(f"there is no method {method!r}; {did_you_mean(method, ROWS)}")
            if not entry.seeds:
                raise BadInputError(f"results.{method}.seeds is empty: the method has no runs")
            for task in TASKS:
                for result in (entry.task(task), *(run.task(task) for run in entry.seeds)):
                    if result.map is None:
                        raise BadInputError(f"results.{method}.{task}.map is missing: no query counts")


def build_results(
    runs: Mapping[str, Sequence[Evaluation]],
    *,
    dataset: str,
    year: int,
    encoder: Mapping[str, Any],
    relevance: str,
    data: Mapping[str, Any],
    ceiling: Mapping[str, float | None] | None = None,
    diagnostic: Diagnostic | None = None,
) -> Results:
    """Results with the provenance of this process.

    Args:
        runs: the evaluations of each method, one per seed; a single one where nothing was trained.
        relevance: ``box`` or ``mention``.
        dataset, year, encoder, data, ceiling, diagnostic: of :class:`Results`.

    Raises:
        BadInputError: as of :class:`Results`.
    """
    results = {method: _summarise(method, evaluations) for method, evaluations in runs.items()}
    first = next(iter(results.values()), None)
    return Results(
        felga=__version__,
        commit=commit(),
        dataset=dataset,
        year=year,
        encoder=dict(encoder),
        protocol=ProtocolChoices(
            queries={task: first.task(task).queries if first else None for task in TASKS},
            relevance=relevance,
            ties=TIES,
            crowds=CROWDS,
        ),
        data=dict(data),
        seeds=tuple(sorted({run.seed for each in runs.values() for run in each if run.seed is not None})),
        machine=machine(),
        ceiling={task: _no_nan((ceiling or {}).get(task)) for task in TASKS},
        results=results,
        diagnostic=diagnostic,
    )


def write_results(results: Results, path: str | os.PathLike[str]) -> None:
    """Write a results file, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    target = Path(path)
    text = json.dumps(to_json(results), indent=1, allow_nan=False) + "\n"
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, text.encode())


def read_results(path: str | os.PathLike[str]) -> Results:
    """Read a results file.

    Raises:
        NotFoundError: it does not exist.
        BadInputError: it is not json, or not a results file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{shown(path)} does not exist: name a results file of `felga bench`") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{shown(path)} is not json ({error}): name a results file") from error
    return from_json(content)


def to_json(value: Any) -> Any:
    """The json values of :class:`Results` or of any class in it."""
    if dataclasses.is_dataclass(value):
        return {key: to_json(getattr(value, name)) for name, key in _keys(type(value)).items()}
    if isinstance(value, Mapping):
        return {key: to_json(entry) for key, entry in value.items()}
    return [to_json(entry) for entry in value] if isinstance(value, list | tuple) else value


def from_json(content: Any) -> Results:
    """The results of :func:`to_json`.

    Raises:
        BadInputError: names the field that is missing or does not fit.
    """
    results: Results = _parsed(Results, content, "")
    return results


def _keys(kind: Any) -> dict[str, str]:
    """Field -> its key in json."""
    return {field.name: field.metadata.get("json", field.name) for field in dataclasses.fields(kind)}


def _parsed(kind: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # the latter of a NewType
        return None if value is None else _parsed(inner[0], value, where)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _parsed_fields(kind, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_parsed(inner[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        if inner[1] is Any:
            return dict(value)
        return {key: _parsed(inner[1], entry, f"{where}.{key}") for key, entry in value.items()}
    if kind in (float, Cosine) and type(value) in (int, float) and (0 if kind is float else -1) <= value <= 1:
        return float(value)
    if kind in (str, int) and type(value) is kind:
        return value
    expected = "a number in [0, 1]" if kind is float else getattr(origin or kind, "__name__", str(kind))
    raise BadInputError(
        f"{where.lstrip('.') or 'the results file'} must be {expected}, got {str(value)[:40]!r}"
    )


def _parsed_fields(kind: Any, value: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        key = field.metadata.get("json", field.name)
        if key in value:
            fields[field.name] = _parsed(hints[field.name], value[key], f"{where}.{key}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise BadInputError(f"the results file lacks {f'{where}.{key}'.lstrip('.')}")
    return kind(**fields)


def _summarise(method: str, runs: Sequence[Evaluation]) -> MethodResults:
    if not runs:
        raise BadInputError(f"the method {method!r} has no runs")
    means = {}
    for task in TASKS:
        each = [run.task(task) for run in runs]
        mean: TaskResult = _parsed(TaskResult, _mean([to_json(result) for result in each]), f".{task}")
        maps = [result.map for result in each if result.map is not None]
        std = statistics.stdev(maps) if len(maps) == len(runs) > 1 else None
        means[task] = dataclasses.replace(mean, map_std=std)
    boxes = [to_json(run.localisation) for run in runs]
    localisation = None if None in boxes else _parsed(Localisation, _mean(boxes), ".localisation")
    return MethodResults(**means, seeds=tuple(runs), localisation=localisation)


def _mean(values: Sequence[Any]) -> Any:
    """The mean of json trees of the same shape; None where any is None."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _mean([value[key] for value in values]) for key in first}
    if any(value is None for value in values):
        return None
    if all(isinstance(value, int) for value in values):
        return round(statistics.fmean(values))  # a count stays a count
    return statistics.fmean(values)


def _no_nan(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def commit() -> str | None:
    """The git commit of this code, with a trailing ``+`` if the tree is dirty; None without git."""
    try:
        here = Path(__file__).parent
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", "..")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def machine() -> dict[str, Any]:
    """What a time was measured on: processor, cores, system, versions; no host names or paths."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()
