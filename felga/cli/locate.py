"""Which index a command reads when ``--index`` is not given."""

from __future__ import annotations

import os
from pathlib import Path

from felga.cli.output import say
from felga.cli.progress import progress
from felga.errors import BadInputError, NotFoundError
from felga.files import is_url, shown

VARIABLE = "FELGA_INDEX"
HERE = Path("indexes")


def find_index(index: str | Path | None, *, written: bool = False) -> Path:
    """The index to read: ``--index``, ``$FELGA_INDEX``, the newest below ``indexes/``, the last one built.

    Of one on object storage, its mirror on this machine. A choice that is not obvious is reported on stderr.

    Args:
        written: it is to be changed, and hence must be of this machine.

    Raises:
        NotFoundError: there is none.
        BadInputError: it is on object storage, and to be changed; or does not answer.
    """
    named = os.environ.get(VARIABLE) if index is None else os.fspath(index)
    if named and is_url(named):
        if written:
            raise BadInputError(
                f"{shown(named)} cannot be changed where it is: `felga pull` it, change it, `felga push` it"
            )
        from felga.store.remote_index import mirror

        with progress() as show:
            return mirror(named, show)
    if named or index is not None:
        return Path(named or "")
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
