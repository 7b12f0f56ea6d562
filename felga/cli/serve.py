"""``felga serve``: an index over HTTP."""

from __future__ import annotations

import logging
import os
import socket
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from felga.cli import flags
from felga.cli.locate import VARIABLE, find_index
from felga.cli.output import say
from felga.errors import BadInputError, MissingError, StorageError
from felga.files import is_url, storage_reason

NEEDS = ("fastapi", "uvicorn", "prometheus_client")
AWAY = 10.0  # seconds between two looks at a manifest on object storage
GRACE = 5  # seconds for requests in flight at the end


def serve(
    index: flags.Index = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; others than loopback need a token.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="The port; 0: any free one.", min=0, max=65535)] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FELGA_TOKEN", show_envvar=False, help="What requests must carry. [$FELGA_TOKEN]"
        ),
    ] = None,
    root: flags.Root = None,
    device: flags.Device = "auto",
    offline: flags.Offline = False,
) -> None:
    """Serve an index: an HTTP API, and a page to search with. Ctrl-C ends it."""
    flags.go_offline(offline)
    _share_the_processor()
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise MissingError(f"felga serve needs {', '.join(missing)}: pip install 'felga[serve]'")
    if token is not None and not (token.strip() and token.isascii() and token.isprintable()):
        raise BadInputError("a token must be printable ASCII characters, and not blank")
    from felga.server.guard import is_loopback

    if token is None and not is_loopback(host):
        raise BadInputError(
            f"--host {host} lets other machines in: give a secret with --token or $FELGA_TOKEN"
        )
    folder = find_index(index)
    named = index or os.environ.get(VARIABLE, "")
    with _listening(host, port) as listener:
        _serve(listener, folder, named if is_url(named) else None, host, token, root, device)


def _share_the_processor() -> None:
    """Small questions side by side, one thread each; called before numpy and torch are imported.

    Several threads on the product of a matrix with one vector wait for each other longer than they compute.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _serve(
    listener: socket.socket,
    folder: Path,
    url: str | None,
    host: str,
    token: str | None,
    root: Path | None,
    device: str,
) -> None:
    import uvicorn

    from felga.server.service import Service
    from felga.server.web import make_app

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("felga.server").setLevel(logging.INFO)
    followed: Any = {}
    if url is not None:
        from felga.store.remote_index import mirror

        followed = {"find": partial(mirror, url), "every": AWAY}
    with Service(folder, device=device, root=root, **followed) as service:
        config = uvicorn.Config(
            make_app(service, host=host, token=token),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,  # nobody here believes what they say
            timeout_graceful_shutdown=GRACE,
            h11_max_incomplete_event_size=64 * 1024,
        )
        manifest = service.following.current.engine.manifest
        shown = f"[{host}]" if ":" in host else host
        listener.listen()  # who reads the line below may connect at once
        also = " (add #token=TOKEN for the page)" if token else ""
        say(
            f"{manifest.images.owners} images at http://{shown}:{listener.getsockname()[1]}/{also}; "
            "Ctrl-C ends it"
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """A socket bound to the address, before anything is loaded.

    Raises:
        BadInputError: no such address, or it is taken.
        StorageError: no permission, as for ports below 1024.
    """
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if reason := storage_reason(error):
            raise StorageError(f"cannot listen on {host}:{port}: {reason}") from error
        reason = error.strerror or str(error)
        raise BadInputError(f"cannot listen on {host}:{port} ({reason}): name another with --port") from error
    return listener
