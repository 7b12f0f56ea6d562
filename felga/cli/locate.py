"""Which index a command reads when ``--index`` is not given."""

from __future__ import annotations

import os
from pathlib import Path

from felga.cli.output import say
from felga.errors import NotFoundError
from felga.files import shown

VARIABLE = "FELGA_INDEX"
HERE = Path("indexes")


def find_index(index: Path | None) -> Path:
    """The index to read: ``--index``, ``$FELGA_INDEX``, the newest below ``indexes/``, the last one built.

    A choice that is not obvious is reported on stderr.

    Raises:
        NotFoundError: there is none.
    """
    if index is not None:
        return index
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if near := _newest_first(HERE):
        if len(near) > 1:
            say(f"using {shown(near[0])}, the newest of {len(near)} indexes here; --index picks another")
        return near[0]
    last = _last_built()
    say(f"using {shown(last)}, the last index built; --index picks another")
    return last


def remember(folder: Path) -> None:
    """Note that ``folder`` is the last index built."""
    path = _state_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(folder.resolve()))
    except OSError as error:  # an unwritable home must not cost a finished index
        say(f"felga: cannot note this as the last index built ({error}); name it with --index")


def _newest_first(folder: Path) -> list[Path]:
    """The indexes directly below ``folder``, by the time of their last update."""
    from felga.store.manifest import NAME

    try:
        times = {path.parent: path.stat().st_mtime_ns for path in folder.glob(f"*/{NAME}")}
    except OSError:  # removed or unreadable: no index to offer
        return []
    return sorted(times, key=lambda path: (-times[path], path))


def _last_built() -> Path:
    try:
        last = Path(os.fsdecode(_state_file().read_bytes()))
    except OSError as error:
        raise NotFoundError(
            f"no index here: run `felga index CORPUS`, or name one with --index or ${VARIABLE}"
        ) from error
    if not last.is_dir():
        raise NotFoundError(
            f"no index here, and the last one built, {shown(last)}, is gone: run `felga index CORPUS`, or "
            f"name one with --index or ${VARIABLE}"
        )
    return last


def _state_file() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base, "felga", "last-index")
