"""Search an index again and again, in other processes, while this one syncs it and changes its FENet.

    python readers.py SITE CORPUS OUT FENET

Each reader opens the index, searches and compares its answer with what some state of the index gives; one
reader keeps its engine open throughout. Prints how many searches were made.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def read(out: Path, stop: Path) -> None:
    """A reader: searches until ``stop`` exists; prints how many searches it made."""
    from felga.engine import Engine

    kept = Engine.open(out, device="cpu")
    first = kept.search("p1", k=99)
    done = 0
    while not stop.exists() or done < 5:
        engine = Engine.open(out, device="cpu")
        hits = engine.search("p1", k=99)
        assert len(hits) == engine.manifest.images.owners, "an answer from two states"
        assert {hit.image_id for hit in hits} == set(
            engine.index.images.read(["image_id"]).column("image_id").to_pylist()
        )
        assert kept.search("p1", k=99) == first
        done += 1
    print(done)


def write(corpus: Path, out: Path, fenet: Path, stop: Path) -> None:
    """The writer: syncs without changes, with changes, and FENets, until enough time has passed."""
    from felga.corpus.folder import FolderCorpus
    from felga.indexing import Options, apply_fenet, index

    options = Options(
        encoder="toy", keywords="words", regions="grid", quality=False, commit_every=4, device="cpu"
    )
    source = (corpus / "p1.png").read_bytes()
    start, step = time.monotonic(), 0
    while time.monotonic() - start < 6:
        step += 1
        if step % 4 == 0:
            apply_fenet(out, fenet if step % 8 else None)
        elif step % 2 == 0:
            extra = corpus / f"extra{step % 6}.png"
            if extra.exists():
                extra.unlink()
            else:
                extra.write_bytes(source + bytes(step))
        index(FolderCorpus(corpus), out, options)
    stop.touch()


def main(site: str, corpus: Path, out: Path, fenet: Path) -> None:
    """Two readers beside the writer."""
    stop = out.parent / "stop"
    command = [sys.executable, __file__, "--read", str(out), str(stop)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([site, *sys.path])}
    readers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    sys.path.insert(0, site)
    write(corpus, out, fenet, stop)
    total = 0
    for reader in readers:
        printed, _ = reader.communicate()
        assert reader.returncode == 0, f"a reader ended with {reader.returncode}"
        total += int(printed.split()[-1])
    print(total)


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        read(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(sys.argv[1], *map(Path, sys.argv[2:]))
