"""An application on a free port of this machine."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager

import uvicorn

BASE = "http://127.0.0.1:8000"
PATIENCE = 30  # seconds


@contextmanager
def running(app):
    """Serve from a thread; the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(PATIENCE)


def wait_for(condition):
    """Until ``condition()`` holds, which it returns."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
    return found
