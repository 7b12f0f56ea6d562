"""Run an indexing job that is killed again and again; a program, since it forks before Lance is used.

    python killed.py SITE CORPUS OUT KILLS SEED

Each try is a forked child that indexes and is killed by SIGKILL at a random moment. After some kills another
child checks that the index is as it was (the manifest's bytes, and `verify`), or that there is none yet.
Prints how many kills landed while the job was at work.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


def child(work: Callable[[], None]) -> int:
    """Fork; the child does ``work`` and exits with 0, or with 1 and a traceback."""
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return process


def wait_for_commits(process: int, out: Path, count: int) -> None:
    """Until the store has ``count`` versions more than now, or the child is done."""
    folders = [out / name / "_versions" for name in ("images.lance", "texts.lance")]

    def versions() -> int:
        return sum(len(list(folder.glob("*.manifest"))) for folder in folders if folder.exists())

    wanted = versions() + count
    while versions() < wanted:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.002)


def main(site: str, corpus: Path, out: Path, kills: int, seed: int) -> None:
    """Kill, check, go on; then finish."""
    sys.path.insert(0, site)
    from felga.corpus.folder import FolderCorpus
    from felga.indexing import Options, index
    from felga.store.verify import verify

    options = Options(
        encoder="toy", keywords="words", regions="grid", quality=False, commit_every=4, device="cpu"
    )

    def build() -> None:
        index(FolderCorpus(corpus), out, options)

    def check() -> None:
        manifest, wrong = verify(out)
        assert not wrong, wrong
        assert manifest.images.owners

    def state() -> bytes | None:
        path = out / "manifest.json"
        return path.read_bytes() if path.exists() else None

    landed, draw, before = 0, random.Random(seed), state()
    while landed < kills:
        process = child(build)
        if landed < 0.8 * kills:  # some commits on, whatever the machine's speed: most kills land in the work
            wait_for_commits(process, out, draw.randint(0, 3))
            time.sleep(draw.uniform(0.0, 0.02))
        else:  # any moment, that of the last steps too
            time.sleep(draw.uniform(0.0, 1.0))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the job failed by itself"
            break
        landed += 1
        if before is not None and state() == before and landed % 5 == 0:
            _, status = os.waitpid(child(check), 0)
            assert status == 0, "the old index is not readable after a kill"
    _, status = os.waitpid(child(build), 0)
    assert status == 0, "the job did not go on after the kills"
    _, status = os.waitpid(child(check), 0)
    assert status == 0
    print(landed)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
