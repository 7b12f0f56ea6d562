"""Write an index and kill this process inside the write of its first FAISS file.

python killed_inside.py SITE CORPUS OUT FENET sync|no-op|fenet "before the file is synced"|...
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def main(site: str, corpus: Path, out: Path, fenet: Path, what: str, when: str) -> None:
    """Do ``what``; die ``when`` a FAISS file is half there."""
    sys.path.insert(0, site)
    from felga import files
    from felga.corpus.folder import FolderCorpus
    from felga.indexing import Options, apply_fenet, index
    from felga.search import flat

    real = files.publish

    def die(part: Path, path: Path) -> None:
        if when == "before the file is synced":
            size = part.stat().st_size
            os.truncate(part, size // 2)
        else:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)
        real(part, path)

    files.publish = die
    for module in (files, flat):
        if hasattr(module, "publish"):
            module.publish = die
    if what == "fenet":
        apply_fenet(out, fenet)
    else:
        options = Options(
            encoder="toy", keywords="words", regions="grid", quality=False, commit_every=4, device="cpu"
        )
        index(FolderCorpus(corpus), out, options)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]), *sys.argv[5:])
