"""Corpora that behave differently in workers; a module of its own, as workers import it too."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from felga.corpus.decode import UnreadableImage
from felga.corpus.folder import FolderCorpus
from felga.corpus.items import ImageItem


class WatchedCorpus(FolderCorpus):
    """A folder of images; every read by a worker is noted in ``log`` as ``[PROCESS, ID]``.

    Args:
        fatal: the image over which workers are killed by SIGKILL.
        deaths: that many of them.
    """

    def __init__(self, root: Path, log: Path, fatal: str = "", deaths: int = 0) -> None:
        super().__init__(root)
        self.log, self.fatal, self.deaths, self.driver = log, fatal, deaths, os.getpid()
        log.touch()

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image, if the process survives."""
        if os.getpid() != self.driver:
            self._note(item.image_id)
            if item.image_id == self.fatal and len(self.killed()) < self.deaths:
                self._note("killed")
                os.kill(os.getpid(), signal.SIGKILL)
        return super().read(item)

    def reads(self) -> list[tuple[int, str]]:
        """(process, image) of every read, in order."""
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]

    def killed(self) -> list[int]:
        """The processes that were killed."""
        return [process for process, what in self.reads() if what == "killed"]

    def _note(self, what: str) -> None:
        with self.log.open("a") as log:
            log.write(json.dumps([os.getpid(), what]) + "\n")


class BuggyCorpus(WatchedCorpus):
    """A corpus with a bug that only workers meet, at the image ``fatal``."""

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image."""
        if os.getpid() != self.driver and item.image_id == self.fatal:
            raise ZeroDivisionError("a bug")
        return super().read(item)


class UnmountedCorpus(WatchedCorpus):
    """A corpus that workers do not see."""

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image."""
        if os.getpid() != self.driver:
            raise UnreadableImage(f"{item.path} does not exist")
        return super().read(item)
