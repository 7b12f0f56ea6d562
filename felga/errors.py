"""One tree of errors: each class is one kind of failure, with its exit code.

A message is one sentence for the user: what was found, what was expected, what to do. The command line
prints it as one line and exits with ``exit_code``. Anything that is not a :class:`FelgaError` is a bug and
keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable

CHOICES = 20  # names that a hint lists at most


class FelgaError(Exception):
    """An error the user can fix; base of every error that felga raises on purpose."""

    exit_code = 1


class PartialFailure(FelgaError):
    """The job is done, but ``--strict`` was given and some images or texts were quarantined."""

    exit_code = 1


class BadInputError(FelgaError):
    """An option, a query, a box, an image or a corpus file is not what was expected."""

    exit_code = 2


class NotFoundError(FelgaError):
    """A file, a folder or an index does not exist."""

    exit_code = 3


class BadIndexError(FelgaError):
    """An index is damaged, has an unknown format, or was built with other options than requested."""

    exit_code = 4


class MissingError(FelgaError):
    """A required package, weight file or device is not available."""

    exit_code = 5


class BusyError(FelgaError):
    """Another process is writing the same index."""

    exit_code = 6


class DivergedError(FelgaError):
    """The loss of a training became NaN or infinite."""

    exit_code = 7


class StorageError(FelgaError):
    """An index or a result cannot be written: disk full, read-only, no permission."""

    exit_code = 8


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint for an unknown name: the nearest known one, whatever its case, or else the choices.

    >>> did_you_mean("Cnse", ["conse", "clip"])
    "did you mean 'conse'?"
    >>> did_you_mean("zzz", ["conse", "clip"])
    'known: conse, clip'
    """
    from difflib import get_close_matches  # only needed when something is wrong

    choices = list(known)
    by_case = {name.lower(): name for name in reversed(choices)}
    if near := get_close_matches(word.lower(), by_case, 1):
        return f"did you mean {by_case[near[0]]!r}?"
    if not choices:
        return "none is known"
    more = f" and {len(choices) - CHOICES} more" if len(choices) > CHOICES else ""
    return f"known: {', '.join(choices[:CHOICES])}{more}"
