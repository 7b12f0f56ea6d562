"""Peak memory of indexing, from few images to many: flat, if stages hold back what they hand on.

    python bench/flat_memory.py --corpus IMAGES [--images 300 2000 20000] [--out FILE]

Images without captions, repeated where there are fewer, by the default encoder; each size in a process of its
own (bench/indexing.py measures times and stages the same way). The resident set also counts mapped pages of
files, which the kernel takes back when it needs them: the process's own memory is sampled beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from pathlib import Path

from indexing import measure

from felga.evaluation.results import commit, machine

EVERY = 0.1  # seconds between two looks


class OwnMemory(threading.Thread):
    """Looks at the process's own memory, that of no file.

    Attributes:
        peak: the most that was seen, in KiB.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(EVERY):
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
            self.peak = max(self.peak, now)

    def stop(self) -> int:
        """The peak, in MiB."""
        self._done.set()
        self.join()
        return round(self.peak / 1024)


def main() -> None:
    """Measure each size, and write the json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[300, 2000, 20_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "flat_memory.json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        memory = OwnMemory()
        memory.start()
        found = measure(arguments.corpus.resolve(), arguments.one, False, False)
        print(json.dumps({**found, "peak_own_mib": memory.stop()}))
        return
    about, rows = {"commit": commit(), "machine": machine()}, []
    for count in arguments.images:
        command = [sys.executable, __file__, "--one", str(count), "--corpus", str(arguments.corpus)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append({name: found[name] for name in ("images", "regions", "peak_mib", "peak_own_mib")})
        print(rows[-1], file=sys.stderr, flush=True)
    arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
