"""Progress on stderr: bars in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from felga.cli.output import say

EVERY = 10.0  # seconds between two lines of a log
AGAIN = "the same command"
RESUME = f"{AGAIN} with --resume"


class Show(Protocol):
    """A :data:`felga.types.Progress` that also takes a remark."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def progress(goes_on: str = "") -> Iterator[Show]:
    """Show the progress of the jobs in the block, with their rate and the time left.

    Args:
        goes_on: what goes on if the block is interrupted; said then.
    """
    try:
        if sys.stderr.isatty():
            with _bars() as show:
                yield show
        else:
            yield Log()
    except KeyboardInterrupt:
        if goes_on:
            say(f"felga: interrupted: {goes_on} goes on")
        raise


@dataclass(slots=True)
class Log:
    """A line per :data:`EVERY` seconds and stage, none for a stage that is faster than that."""

    write: Callable[[str], None] = say
    clock: Callable[[], float] = time.monotonic
    _starts: dict[str, tuple[float, int]] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        now = self.clock()
        start, first = self._starts.setdefault(stage, (now, done))  # resumed work does not count as speed
        if now - self._last.setdefault(stage, now) < EVERY:
            return
        self._last[stage] = now
        line = f"{stage} {done}/{total}"
        if done > first:
            line += f", {duration((total - done) * (now - start) / (done - first))} left"
        self.write(f"{line}, {note}" if note else line)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


@contextmanager
def _bars() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    tasks = {}
    with bars:

        def show(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:  # resumed work does not count as speed
                tasks[stage] = bars.add_task(stage, total=total, completed=done, note="")
            speed = bars.tasks[tasks[stage]].speed
            note = note or (f"{speed:.1f}/s" if speed else "")
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield show
