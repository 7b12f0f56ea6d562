"""One tree of errors: each class is one way to fail, with its exit code.

A message is one sentence for a person: what was found, what was wanted, what to do. The command line
prints it as one line and exits with ``exit_code``; anything that is not a :class:`FelgaError` is a bug
and keeps its traceback.
"""


class FelgaError(Exception):
    """Anything that a person can mend. Base of every error that felga raises on purpose."""

    exit_code = 1


class PartialFailure(FelgaError):
    """The job is done, but ``--strict`` was given and some images or texts were quarantined."""

    exit_code = 1


class BadInputError(FelgaError):
    """An option, a query, a box, an image or a corpus file is not what was wanted."""

    exit_code = 2


class NotFoundError(FelgaError):
    """A file, a folder or an index that was named is not there."""

    exit_code = 3


class BadIndexError(FelgaError):
    """An index is damaged, of an unknown format, or made with something else than asked for."""

    exit_code = 4


class MissingError(FelgaError):
    """A package, a weight file or a device that was asked for cannot be had here."""

    exit_code = 5


class BusyError(FelgaError):
    """Another process writes the same index."""

    exit_code = 6


class DivergedError(FelgaError):
    """A training met a loss that is not a number."""

    exit_code = 7


class StorageError(FelgaError):
    """An index or a result cannot be written: disk full, read-only, no permission."""

    exit_code = 8
