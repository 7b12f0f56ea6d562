"""How long felga takes to start: CPU seconds of whole processes, beside ``import torch``.

    python bench/startup.py [--index INDEX] [--runs 5] [--out bench/results/startup.json]

Every round runs each case once, in turn, so that a busy machine slows all of them alike; a result is the
median of the rounds. Without --index the demo corpus is indexed first. Caches of bytecode and of vectors are
warm, as they are from the second use on; a "new word" is one that no round has asked before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from felga.cli.progress import Log
from felga.evaluation.results import commit, machine

BASE = "import torch"
GOALS = {"search, a cached word": 0.6, "search, a new word": 1.3, "assign": 3.0}
"""At most so many times the CPU seconds of ``import torch``."""
ENCODER = (
    "import os\n"
    "os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')\n"  # as the command line does
    "import numpy as np\n"
    "from felga.registry import make_encoder\n"
    "from felga.types import DecodedImage\n"
    "encoder = make_encoder('conse', device='cpu')\n"
)
WORD = ENCODER + "encoder.encode_texts(['boat'])"
REGION = ENCODER + (
    "image = DecodedImage('x', np.zeros((480, 640, 3), np.uint8), 640, 480)\n"
    "encoder.encode_regions([image], [np.array([image.whole], np.float32)])"
)


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """User and system time of a process and of all its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed: {done.stderr[-2000:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def cases(index: Path, image: Path, turn: int) -> dict[str, list[str]]:
    """What is measured, as command lines; ``turn`` makes the new word new."""
    felga = [sys.executable, "-m", "felga"]
    return {
        BASE: [sys.executable, "-c", BASE],
        "--help": [*felga, "--help"],
        "search, a cached word": [*felga, "search", "boat", "--index", str(index), "--device", "cpu"],
        "search, a new word": [*felga, "search", f"boat {turn}", "--index", str(index), "--device", "cpu"],
        "assign": [*felga, "assign", str(image), "--index", str(index), "--device", "cpu"],
        "encoder alone, a word": [sys.executable, "-c", WORD],
        "encoder alone, a region": [sys.executable, "-c", REGION],
    }


def demo(folder: Path) -> tuple[Path, Path]:
    """An index of the demo corpus, and an image of it."""
    from felga.corpus.demo import write_demo
    from felga.corpus.folder import FolderCorpus
    from felga.indexing import Options, index

    made = write_demo(folder / "corpus")
    index(FolderCorpus(made.folder), folder / "index", Options(device="cpu"))
    return folder / "index", min(made.folder.glob("*.png"))


def measure(index: Path, image: Path, runs: int, folder: Path) -> dict[str, list[float]]:
    """CPU seconds of each case, one per round; the caches are filled by a round that does not count."""
    environment = {
        **os.environ,
        "FELGA_CACHE": str(folder / "cache"),
        "PYTHONPYCACHEPREFIX": str(folder / "pyc"),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    seconds: dict[str, list[float]] = {}
    show = Log()
    for turn in range(runs + 1):
        show("rounds", turn, runs + 1)
        for name, command in cases(index, image, turn).items():
            taken = cpu_seconds(command, environment)
            if turn:
                seconds.setdefault(name, []).append(taken)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--index", type=Path, help="an index by conse, with captions; default: of the demo corpus"
    )
    parser.add_argument("--image", type=Path, help="the image to assign texts to; needed with --index")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "startup.json")
    options = parser.parse_args()
    if (options.index is None) != (options.image is None):
        parser.error("give --index and --image, or neither")
    about = {"commit": commit(), "machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index, image = (options.index, options.image) if options.index else demo(folder)
        seconds = measure(index, image, options.runs, folder)
    medians = {case: statistics.median(values) for case, values in seconds.items()}
    result = {
        **about,
        "runs": options.runs,
        "cases": {
            case: {
                "cpu_seconds": round(median, 3),
                "all": [round(value, 3) for value in seconds[case]],
                "times_import_torch": round(median / medians[BASE], 2),
                **({"goal": GOALS[case]} if case in GOALS else {}),
            }
            for case, median in medians.items()
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for case, entry in result["cases"].items():
        goal = f", goal {entry['goal']}" if "goal" in entry else ""
        print(f"{case:26} {entry['cpu_seconds']:6.2f} s  {entry['times_import_torch']:5.2f} x{goal}")


if __name__ == "__main__":
    main()
