"""Commands as a person or a program calls them."""

from __future__ import annotations

import signal
import subprocess
import sys

from felga.cli import app

SCRIPT = "from felga.cli.app import main; main()"


def call(capsys, *words, code=0):
    """Run a command inside this process; (stdout, stderr)."""
    sys.argv = ["felga", *map(str, words)]
    try:
        stopped = app.main()
    except SystemExit as stop:
        stopped = stop.code
    out = capsys.readouterr()
    assert (stopped or 0) == code, out.err
    return out.out, out.err


def start(*words, **more):
    """Start a command as a process of its own, its output as bytes."""
    command = [sys.executable, "-c", SCRIPT, *words]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    finally:
        signal.signal(signal.SIGINT, before)
