"""An S3 server of this machine: moto's, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import fsspec
import pytest


def needs(*packages):
    """Skip the test where a package is missing, and say which."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'felga[test]'")


@contextmanager
def s3_server(folder, refuses=False):
    """The environment names the server and the credentials; the file system, with a bucket called bucket.

    Args:
        refuses: whatever is asked; there is no bucket then.
    """
    needs("moto", "s3fs")
    log, set_before = folder / "log", pytest.MonkeyPatch()
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-c", "from moto.server import main; main()", "-p", "0", "-H", "127.0.0.1"],
            stdout=file,
            stderr=file,
            env={**os.environ, **({"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if refuses else {})},
        )
    try:
        until = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        set_before.setenv("AWS_ENDPOINT_URL", found[0])
        set_before.setenv("AWS_ACCESS_KEY_ID", "id")
        set_before.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        set_before.setenv("AWS_DEFAULT_REGION", "us-east-1")
        kind = fsspec.get_filesystem_class("s3")
        kind.clear_instance_cache()  # of another server
        fs = fsspec.filesystem("s3")
        if not refuses:
            fs.mkdir("bucket")
        yield fs
    finally:
        set_before.undo()
        server.terminate()
        server.wait()
