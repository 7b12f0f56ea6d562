"""What the environment weighs on disk, package by package: python bench/environment.py [--out FILE]

Sizes are those of du (blocks on disk) of the files that each installed package lists, with their bytecode.
``needs`` follows the requirements of felga with some extras, as pip does, so that the sizes of an environment
with fewer extras, or without a package and all that only it needs, come from one environment that has all.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Set
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

import felga
from felga.evaluation.results import commit, machine

LARGEST = 12


def canonical(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needs(package: str, extras: Iterable[str] = (), *, without: Set[str] = frozenset()) -> set[str]:
    """``package`` and everything installed that it needs, but for ``without`` and what only that needs."""
    found: dict[str, set[str]] = {}
    waiting = [(canonical(package), set(extras))]
    while waiting:
        name, wanted = waiting.pop()
        if name in without or (name in found and wanted <= found[name]):
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:  # a requirement of another platform
            continue
        found[name] = found.get(name, set()) | wanted
        for line in requires:
            requirement = Requirement(line)
            contexts = [{"extra": extra} for extra in found[name] | {""}]
            if requirement.marker is None or any(map(requirement.marker.evaluate, contexts)):
                waiting.append((canonical(requirement.name), requirement.extras))
    return set(found)


def size(package: Distribution) -> int:
    """Bytes on disk of a package's files."""
    paths = {Path(str(package.locate_file(file))) for file in package.files or []}
    return sum(path.lstat().st_blocks * 512 for path in paths if path.is_file())


def on_disk(folder: Path) -> int:
    """Bytes on disk below a folder, as ``du -s`` counts them; a file with two names counts once."""
    seen = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def main() -> None:
    """Measure the environment of this Python and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "environment.json")
    out = parser.parse_args().out
    sizes = {canonical(package.metadata["Name"]): size(package) for package in distributions()}

    def total(names: set[str]) -> int:
        return round(sum(sizes[name] for name in names) / 1e6)

    demo = needs("felga", ["demo"])
    faiss = demo - needs("felga", ["demo"], without={"faiss-gpu"})
    cuda = {name for name in demo - faiss if name.startswith(("nvidia-", "cuda-", "triton"))}
    largest = sorted(demo, key=lambda name: -sizes[name])[:LARGEST]
    result = {
        "felga": felga.__version__,
        "commit": commit(),
        "machine": machine(),
        "environment_mb": round(on_disk(Path(sys.prefix)) / 1e6),
        "demo_mb": total(demo),
        "test_mb": total(needs("felga", ["test"])),
        "faiss_gpu_and_what_only_it_needs_mb": total(faiss),
        "cuda_of_torch_mb": total(cuda),
        "demo_without_both_mb": total(demo - faiss - cuda),
        "largest_mb": {name: total({name}) for name in largest},
        "faiss_gpu_needs": sorted(faiss),
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
