"""The door: who may ask, how much may come in, what goes out with every answer. ASGI, around all."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from felga.client import LARGEST_UPLOAD
from felga.server.messages import LARGEST_JSON

OPEN = frozenset({"/", "/app.js", "/frame.js", "/server.js", "/style.css", "/icon.svg", "/healthz"})
"""Paths that need no token: the page, which holds nothing of the index, and whether the server is well."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
log = logging.getLogger("felga.server")


class Guard:
    """An ASGI application behind its door."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        token: str | None,
        count: Callable[[str, int, float], None],
    ) -> None:
        """
        Args:
            host: what the server is bound to; decides which names it answers to.
            token: what every request to the API must carry; None: nothing.
            count: told the path, status and seconds of every answer.
        """
        self._app, self._host, self._count = app, host.strip("[]").lower(), count
        self._token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:  # a WebSocket, which nothing here speaks
                await send({"type": "websocket.close", "code": 1003})
            return
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_encoded(HEADERS.items())]
            await send(message)

        try:
            refused = self._refusal(scope)
            if refused is not None:
                await _refuse(answer, *refused)
            else:
                await self._app(scope, _bounded(receive, _limit(scope)), answer)
        except Exception:
            log.exception("%s %s failed: this is a bug", scope["method"], scope["path"])
            if not status:
                await _refuse(answer, 500, "the server failed: its log says how")
        finally:
            route = scope.get("route")
            self._count(getattr(route, "path", "other"), status, time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status and the sentence with which a request is refused, if it is."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        name = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if not self._answers_to(name):
            return 421, f"this server does not answer to the host name {name!r}"
        if self._token is not None and scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._token):
                return 401, "the token is missing or wrong: send it as Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > _limit(scope):
            return 413, f"the body has {length.decode('latin-1')} bytes, at most {_limit(scope)} are read"
        return None

    def _answers_to(self, name: str) -> bool:
        """Whether a host name is one of this server; as any other, a page elsewhere may pose (rebinding)."""
        if name == self._host or (name in LOOPBACK and self._host in LOOPBACK):
            return True
        if self._host not in ("0.0.0.0", "::", ""):
            return False
        try:
            ipaddress.ip_address(name)  # a name is what is rebound, never an address
        except ValueError:
            return name in LOOPBACK or name == socket.gethostname().lower()
        return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def _limit(scope: Scope) -> int:
    """The bytes that a request may carry."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return LARGEST_UPLOAD if headers.get(b"content-type", b"").startswith(b"image/") else LARGEST_JSON


def _bounded(receive: Receive, limit: int) -> Receive:
    """``receive`` that stops once more than ``limit`` bytes came, whatever the header said."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(413, f"the body has more than {limit} bytes")
        return message

    return bounded


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    if status == 401:
        headers.append(("www-authenticate", "Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: Iterable[tuple[str, Any]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
