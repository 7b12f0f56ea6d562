"""The engine that answers: replaced when the index was updated, closed when its last request is done."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from felga.engine import Engine
from felga.errors import FelgaError
from felga.files import shown
from felga.server.images import ImageFiles
from felga.store.stored import StoredIndex

EVERY = 0.5  # seconds between two looks at the manifest
SELDOM = 10.0  # the same, while an update cannot be opened
_ABSOLUTE = re.compile(r"(?<![\w./~])(?:/[^\s/:;,'\"()]+){2,}/?")
log = logging.getLogger("felga.server")


@dataclass(slots=True)
class State:
    """One state of the index, and how many requests use it.

    Attributes:
        number: 1 for the state found at the start, then one more for each update.
        retired: a newer one has taken its place.
    """

    engine: Engine
    number: int
    images: ImageFiles
    opened: datetime = field(default_factory=lambda: datetime.now(UTC))
    users: int = 0
    retired: bool = False

    def asked(self, fenet: bool) -> Engine:
        """The engine, or that of the same index before its FENet.

        Raises:
            FelgaError: as of :attr:`felga.engine.Engine.frozen`.
        """
        return self.engine if fenet else self.engine.frozen


class Following:
    """An index that is read, and followed: a request gets the newest state that could be opened."""

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        root: str | Path | None = None,
        every: float = EVERY,
        find: Callable[[], Path] | None = None,
    ) -> None:
        """Open the index and load its text encoder.

        Args:
            device, root: as of :meth:`felga.engine.Engine.open`.
            every: seconds between two looks at the manifest.
            find: the folder of the newest state, where that is another one for each; None: ``folder``.

        Raises:
            FelgaError: as :meth:`felga.engine.Engine.open`.
        """
        self.folder = Path(folder)
        self.problem: str | None = None
        self._find = find or (lambda: self.folder)
        self._device, self._root, self._every = device, root, every
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._current = self._opened(self.folder, None)
        self._watcher = threading.Thread(target=self._watch, name="felga-follow", daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop following. The engine is closed once no request uses it."""
        self._stop.set()
        self._watcher.join()
        with self._lock:
            self._retire(self._current)

    @property
    def current(self) -> State:
        """The newest state, to be looked at; whoever asks its engine holds it with :meth:`state`."""
        return self._current

    @contextmanager
    def state(self) -> Iterator[State]:
        """The newest state, kept open meanwhile."""
        with self._lock:
            state = self._current
            state.users += 1
        try:
            yield state
        finally:
            with self._lock:
                state.users -= 1
                if state.retired and not state.users:
                    state.engine.close()

    def refresh(self) -> None:
        """Open the index again if it was updated; if that fails, keep the state and note the problem."""
        old = self._current
        try:
            folder = self._find()
        except FelgaError as error:
            self._note(f"the newest state of the index cannot be fetched: {self.public(str(error))}")
            return
        if folder == self.folder and old.engine.index.is_current():
            self.problem = None
            return
        try:
            new = self._opened(folder, old)
        except FelgaError as error:
            self._note(f"the index was updated, but cannot be opened: {self.public(str(error))}")
            return
        except Exception:
            log.exception("the index was updated, and opening it is a bug")
            self._note("the index was updated, but cannot be opened: see the log of the server")
            return
        with self._lock:
            self.folder, self._current, self.problem = folder, new, None
            self._retire(old)
        log.info("state %d of the index is served", new.number)

    def public(self, message: str) -> str:
        """A message without the paths of this machine."""
        roots = {os.fspath(self.folder), *(() if self._root is None else (os.fspath(self._root),))}
        if (state := getattr(self, "_current", None)) is not None:
            roots.add(os.fspath(state.engine.root))
        known = {
            shown(form) for root in roots for form in (root, os.path.abspath(root), os.path.realpath(root))
        }
        for name in sorted(known - {".", "/"}, key=len, reverse=True):
            message = message.replace(name + os.sep, "").replace(name, "the index")
        return _ABSOLUTE.sub(lambda match: os.path.basename(match[0].rstrip("/")), message)

    def _opened(self, folder: Path, old: State | None) -> State:
        """The index as it is now, warmed up; a model that the last state has is not loaded again."""
        index = StoredIndex.open(folder, device=self._device)
        same = old and index.manifest.contract.encoder == old.engine.manifest.contract.encoder
        try:
            encoder = old.engine.encoder if old and same else None
            engine = Engine(index, encoder=encoder, device=self._device, root=self._root)
            engine.search("warm up", 1, explain=True)
            engine.unknown_words("warm up")
            engine.encoder.encode_texts(["warm up"])  # the words above may have come from the cache
        except BaseException:
            index.close()
            raise
        return State(engine, old.number + 1 if old else 1, ImageFiles(engine))

    def _retire(self, state: State) -> None:
        state.retired = True
        if not state.users:
            state.engine.close()

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem

    def _watch(self) -> None:
        while not self._stop.wait(SELDOM * min(1.0, self._every) if self.problem else self._every):
            self.refresh()
