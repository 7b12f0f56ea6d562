"""The results file of a benchmark: what was measured, on what, by which felga, on which machine.

Layout, all figures in [0, 1]::

    felga, commit, dataset, year, encoder, protocol, data, seeds, machine, ceiling
    results.METHOD.object_discovery.map            mean over seeds, as every figure beside it
    results.METHOD.object_discovery.map_std        sample standard deviation, null with one seed
    results.METHOD.description_assignment.map
    results.METHOD.seeds[i].{seed, object_discovery, description_assignment}
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import felga
from felga.errors import BadInputError, NotFoundError
from felga.files import write_whole

METHODS = (
    "entire",
    "frozen",
    "dense",
    "sparse",
    "dynamic",
    "global",
    "felga",
    "dense+global",
    "sparse+global",
)
"""Rows of the paper's tables, by the name that felga gives them."""
TASKS = ("object_discovery", "description_assignment")

_TIES = "one threshold per distinct score (scikit-learn's average_precision_score); bounds beside it"
_CROWDS = "no queries; their images contain the class"


def build_results(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    dataset: str,
    year: int,
    encoder: Mapping[str, Any],
    relevance: str,
    data: Mapping[str, Any],
    ceiling: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """A results file's content, checked.

    Args:
        runs: for each method its runs, each ``{"seed": 0, **evaluate(split, transform)}``; an untrained
            method has one run with the seed None.
        dataset: what it was measured on, for people: ``coco-mini val2017``.
        year: 2014 or 2017, the column of the paper's tables that it stands beside.
        encoder: :meth:`felga.types.Encoder.identity`.
        relevance: ``box`` or ``mention``.
        data: fingerprints of the data, of training and test.
        ceiling: task to the mAP that its proposals allow, see :mod:`felga.evaluation.protocol`.

    Raises:
        BadInputError: an unknown method, a method without runs, or a value that the layout does not allow.
    """
    results = {}
    for method, found in runs.items():
        if not found:
            raise BadInputError(f"the method {method!r} has no runs")
        mean = {task: _mean([run[task] for run in found]) for task in TASKS}
        for task in TASKS:
            maps = [run[task]["map"] for run in found]
            mean[task]["map_std"] = statistics.stdev(maps) if len(maps) > 1 and None not in maps else None
        results[method] = {**mean, "seeds": [dict(run) for run in found]}
    first: Mapping[str, Any] = next(iter(results.values()), {})
    content = {
        "felga": felga.__version__,
        "commit": commit(),
        "dataset": dataset,
        "year": year,
        "encoder": dict(encoder),
        "protocol": {
            "queries": {task: first.get(task, {}).get("queries") for task in TASKS},
            "relevance": relevance,
            "ties": _TIES,
            "crowds": _CROWDS,
        },
        "data": dict(data),
        "seeds": sorted({run["seed"] for found in runs.values() for run in found} - {None}),
        "machine": machine(),
        "ceiling": {task: (ceiling or {}).get(task) for task in TASKS},
        "results": results,
    }
    check_results(content)
    return content


def check_results(content: Any) -> None:
    """Refuse what is no results file.

    Raises:
        BadInputError: names the place and what was wanted there.
    """
    wanted: dict[str, type | tuple[type, ...]] = {
        "felga": str,
        "commit": (str, type(None)),
        "dataset": str,
        "year": int,
        "encoder": dict,
        "protocol": dict,
        "data": dict,
        "seeds": list,
        "machine": dict,
        "ceiling": dict,
        "results": dict,
    }
    _check_keys(content, wanted, "")
    if content["year"] not in (2014, 2017):
        raise BadInputError(f"year is {content['year']!r}, 2014 or 2017 was wanted")
    _check_keys(
        content["protocol"], {"queries": dict, "relevance": str, "ties": str, "crowds": str}, "protocol."
    )
    for task in TASKS:
        _check_share(content["ceiling"].get(task), f"ceiling.{task}", may_lack=True)
    for method, entry in content["results"].items():
        at = f"results.{method}."
        if method not in METHODS:
            raise BadInputError(f"there is no method {method!r}; known: {', '.join(METHODS)}")
        _check_keys(entry, {**dict.fromkeys(TASKS, dict), "seeds": list}, at)
        if not entry["seeds"]:
            raise BadInputError(f"{at}seeds is empty, each run was wanted")
        for i, run in enumerate([entry, *entry["seeds"]]):
            place = at if i == 0 else f"{at}seeds[{i - 1}]."
            _check_keys(run, dict.fromkeys(TASKS, dict), place)
            if i and not isinstance(run.get("seed", ""), (int, type(None))):
                raise BadInputError(f"{place}seed is missing or no integer")
            for task in TASKS:
                _check_share(run[task].get("map"), f"{place}{task}.map")


def write_results(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a results file, whole or not at all.

    Raises:
        BadInputError: it is none; see :func:`check_results`.
    """
    check_results(content)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a results file.

    Raises:
        NotFoundError: there is none.
        BadInputError: it is no json, or not a results file.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no results file {os.fspath(path)!r}") from error
    except ValueError as error:
        raise BadInputError(f"{os.fspath(path)!r} is no json: {error}") from error
    check_results(content)
    return content


def commit() -> str | None:
    """The git commit that felga's code lies at, ``+`` behind it if files were changed; None without git."""
    try:
        here = Path(__file__).parent
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", "..")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def machine() -> dict[str, Any]:
    """What a time was measured on: processor, cores, system, versions; no name of a machine or a path."""
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


def _mean(values: Sequence[Any]) -> Any:
    """The mean of json trees of one shape; None where any is None."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _mean([value[key] for value in values]) for key in first}
    if any(value is None for value in values):
        return None
    if all(isinstance(value, int) for value in values) and len(set(values)) == 1:
        return first  # a count stays one
    return statistics.fmean(values)


def _check_keys(entry: Any, wanted: Mapping[str, type | tuple[type, ...]], at: str) -> None:
    if not isinstance(entry, Mapping):
        raise BadInputError(f"{at.rstrip('.') or 'the results file'} is no object")
    for key, kind in wanted.items():
        if key not in entry:
            raise BadInputError(f"the results file lacks {at}{key}")
        if not isinstance(entry[key], kind):
            raise BadInputError(f"{at}{key} of the results file is a {type(entry[key]).__name__}")


def _check_share(value: Any, at: str, may_lack: bool = False) -> None:
    if value is None and may_lack:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise BadInputError(f"{at} of the results file is {value!r}, a number in [0, 1] was wanted")
