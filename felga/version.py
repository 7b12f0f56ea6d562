"""The version of felga."""

__version__ = "0.1.0"
