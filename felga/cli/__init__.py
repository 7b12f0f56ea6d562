"""The command line."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``felga`` command."""
    from felga.cli.app import main

    main()
