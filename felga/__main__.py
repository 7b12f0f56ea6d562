"""``python -m felga``: the command line."""

from felga.cli import main

if __name__ == "__main__":
    main()
