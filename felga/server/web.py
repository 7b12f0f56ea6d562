"""The application: endpoints, the page, and errors as one sentence each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from felga.errors import (
    BadIndexError,
    BadInputError,
    BusyError,
    FelgaError,
    MissingError,
    NotFoundError,
    StorageError,
)
from felga.server.guard import Guard
from felga.server.routes import health, router
from felga.server.service import Service
from felga.version import __version__

STATUS: dict[type[FelgaError], int] = {
    BadInputError: 400,
    NotFoundError: 404,
    BusyError: 429,
    MissingError: 501,
    BadIndexError: 503,
    StorageError: 507,
}
"""Each class has its status, so that a client can tell them apart."""
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/frame.js": ("frame.js", "text/javascript; charset=utf-8"),
    "/server.js": ("server.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HTTP = {
    404: "there is nothing at {request.url.path}",
    405: "{request.url.path} does not take {request.method}",
}
"""What is said instead of Starlette's words."""
ABOUT = (
    "Search images by words and by parts of images, and texts by parts of images. Boxes are x1,y1,x2,y2 in "
    "pixels of the upright image. A server started with a token wants it as `Authorization: Bearer TOKEN`."
)


def make_app(service: Service, *, host: str = "127.0.0.1", token: str | None = None) -> Guard:
    """The ASGI application of a service.

    Args:
        host: what the server is bound to.
        token: what requests must carry; None: nothing.
    """
    app = FastAPI(
        title="felga",
        description=ABOUT,
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # their scripts come from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header
    )
    app.state.service = service
    app.include_router(router)
    app.include_router(health)
    for path, (name, kind) in PAGE.items():
        data = files("felga.server").joinpath("page", name).read_bytes()
        app.get(path, include_in_schema=False)(_sender(data, kind))

    @app.exception_handler(FelgaError)
    async def expected(request: Request, error: FelgaError) -> JSONResponse:
        status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 400)
        return _failure(status, service.following.public(str(error)))

    @app.exception_handler(RequestValidationError)
    async def misasked(request: Request, error: RequestValidationError) -> JSONResponse:
        return _failure(400, _sentence(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        sentence = HTTP.get(error.status_code, "{detail}")
        return _failure(
            error.status_code, sentence.format(detail=error.detail, request=request), error.headers
        )

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return _failure(500, "the server failed: its log says how")  # and is raised again, for the guard

    return Guard(app, host=host, token=token, count=service.metrics.count)


def _sender(data: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})

    return send


def _failure(status: int, sentence: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": " ".join(sentence.split())}, status, headers)


def _sentence(error: RequestValidationError) -> str:
    """The first thing that is wrong, by its name."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    got = first.get("input")
    shown = f", got {ascii(got)[:80]}" if isinstance(got, str | int | float) else ""
    message = first["msg"]
    return f"{where}: {message[:1].lower()}{message[1:]}{shown}"
