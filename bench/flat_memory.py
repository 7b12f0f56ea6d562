"""Peak memory of indexing, from few images to many: flat, if stages hold back what they hand on.

    python bench/flat_memory.py --corpus IMAGES [--images 300 2000 20000] [--out FILE]

Images without captions, repeated where there are fewer, by the default encoder; each size in a process of its
own (bench/indexing.py measures times and stages the same way).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from indexing import measure

from felga.evaluation.results import commit, machine


def main() -> None:
    """Measure each size, and write the json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[300, 2000, 20_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "flat_memory.json")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.corpus.resolve(), arguments.one, False, False)))
        return
    about, rows = {"commit": commit(), "machine": machine()}, []
    for count in arguments.images:
        command = [sys.executable, __file__, "--one", str(count), "--corpus", str(arguments.corpus)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append({name: found[name] for name in ("images", "regions", "peak_mib")})
        print(rows[-1], file=sys.stderr, flush=True)
    arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
