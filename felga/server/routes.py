"""The endpoints: each parses, calls the engine beside the event loop, and answers with a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from felga.client import LARGEST_UPLOAD
from felga.corpus.decode import decode_image
from felga.server import messages
from felga.server.following import State
from felga.server.images import drawn
from felga.server.messages import inner_path, parse_box
from felga.server.service import Service
from felga.types import DecodedImage, ImageHit
from felga.version import __version__

UPLOAD_SECONDS = 60.0  # to receive an image
FAILURES: dict[int | str, dict[str, Any]] = {
    code: {"model": messages.Failure, "description": about}
    for code, about in (
        (400, "The question is not what was expected."),
        (404, "There is no such image."),
        (413, "The body is too large."),
        (415, "The body is of another type."),
        (422, "Never: 400 is answered."),
        (503, "The index is damaged, or too many wait."),
    )
}
UPLOAD = {
    "requestBody": {
        "required": True,
        "description": f"The bytes of an image file, {LARGEST_UPLOAD >> 20} MiB at most.",
        "content": {
            name: {"schema": {"type": "string", "format": "binary"}} for name in ("image/jpeg", "image/png")
        },
    }
}
IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "The image, upright."}
}
router = APIRouter(prefix="/api", responses=FAILURES)
health = APIRouter()


def service_of(request: Request) -> Service:
    """What this application serves."""
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(service_of)]


@router.get("/search", response_model=messages.SearchAnswer)
async def search(asked: Annotated[messages.WordSearch, Query()], service: Serving) -> Response:
    """Images by words: each ``q`` is a query of its own."""
    return await _searched(service, asked.q, asked)


@router.post("/search", response_model=messages.SearchAnswer)
async def search_all(asked: messages.WordSearchBody, service: Serving) -> Response:
    """The same, for longer lists."""
    return await _searched(service, asked.queries, asked)


@router.get("/search/image", response_model=messages.SimilarAnswer)
async def search_indexed(asked: Annotated[messages.IndexedPartSearch, Query()], service: Serving) -> Response:
    """Images by an image of the index, or by a part of it."""
    return await service.encoding(
        partial(_similar, service, asked, lambda state: state.images.read(asked.id))
    )


@router.post("/search/image", response_model=messages.SimilarAnswer, openapi_extra=UPLOAD)
async def search_image(
    request: Request, asked: Annotated[messages.PartSearch, Query()], service: Serving
) -> Response:
    """Images by an uploaded image, or by a part of it; the body is the file itself."""
    async with service.uploads:
        data = await _upload(request)
        return await service.encoding(partial(_similar, service, asked, lambda state: _decoded(data)))


@router.get("/assign", response_model=messages.TextAnswer)
async def assign_indexed(asked: Annotated[messages.IndexedPartAssign, Query()], service: Serving) -> Response:
    """Texts for an image of the index, or for a part of it."""
    return await service.encoding(partial(_texts, service, asked, lambda state: state.images.read(asked.id)))


@router.post("/assign", response_model=messages.TextAnswer, openapi_extra=UPLOAD)
async def assign(
    request: Request, asked: Annotated[messages.PartAssign, Query()], service: Serving
) -> Response:
    """Texts for an uploaded image, or for a part of it; the body is the file itself."""
    async with service.uploads:
        data = await _upload(request)
        return await service.encoding(partial(_texts, service, asked, lambda state: _decoded(data)))


@router.get("/images/{image_id:path}", response_class=Response, responses=IMAGE)
async def thumbnail(
    image_id: str, form: Annotated[messages.Thumbnail, Query()], service: Serving
) -> Response:
    """An image of the index, small."""
    return await service.drawing(partial(_shown, service, image_id, form))


@router.get("/crops/{image_id:path}", response_class=Response, responses=IMAGE)
async def crop(image_id: str, form: Annotated[messages.Crop, Query()], service: Serving) -> Response:
    """A part of an image of the index, small."""
    return await service.drawing(partial(_shown, service, image_id, form, form.box))


@router.get("/unknown", response_model=messages.UnknownAnswer)
def unknown(
    q: Annotated[str, Query(min_length=1, max_length=messages.LONGEST_QUERY)], service: Serving
) -> Response:
    """The words of a query that neither the index nor its encoder knows."""
    with service.following.state() as state:
        return _json(messages.UnknownAnswer(unknown=state.engine.unknown_words(q)))


@router.get("/info", response_model=messages.Info)
def info(service: Serving) -> Response:
    """What is served, and what one may ask."""
    following = service.following
    with following.state() as state:
        manifest, measured = state.engine.manifest, state.engine.measured
    found = messages.Info(
        felga=__version__,
        index=following.folder.absolute().name,
        state=state.number,
        opened=state.opened.isoformat(timespec="seconds"),
        images=manifest.images.owners,
        regions=manifest.images.fragments,
        texts=manifest.texts.owners,
        keywords=manifest.texts.fragments,
        encoder=following.public(str(manifest.contract.encoder["name"])),
        fenet=manifest.fenet is not None,
        measured=measured,
        limits={
            "queries": messages.MOST_QUERIES,
            "query_characters": messages.LONGEST_QUERY,
            "k": messages.MOST_HITS,
            "regions": messages.MOST_REGIONS,
            "upload_bytes": LARGEST_UPLOAD,
        },
    )
    return _json(found)


@health.get("/healthz", response_model=messages.Health)
def healthz(service: Serving) -> Response:
    """Whether the index is served, and served as it is now."""
    problem = service.following.problem
    return _json(
        messages.Health(
            status="stale" if problem else "ok", state=service.following.current.number, error=problem
        )
    )


@health.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(service: Serving) -> Response:
    """Numbers for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


async def _searched(service: Service, queries: list[str], asked: messages.AboutWords) -> Response:
    if not asked.fenet:  # made here when it is first asked for: other searches need not wait
        await service.encoding(partial(_before_fenet, service))
    found = await asyncio.wrap_future(service.batcher.ask(queries, asked.options()))
    return _json(found)


def _before_fenet(service: Service) -> None:
    with service.following.state() as state:
        state.asked(fenet=False)


def _similar(
    service: Service, asked: messages.PartSearch, image: Callable[[State], DecodedImage]
) -> Response:
    box = parse_box(asked.box)
    with service.following.state() as state:
        hits = state.asked(asked.fenet).search_image(image(state), box, asked.k, **asked.options())
        inner = [_inner(hit, state) for hit in hits]
    return _json(messages.SimilarAnswer(hits=inner, state=state.number))


def _texts(service: Service, asked: messages.PartAssign, image: Callable[[State], DecodedImage]) -> Response:
    box = parse_box(asked.box)
    with service.following.state() as state:
        hits = state.asked(asked.fenet).assign(image(state), box, asked.k, owner=asked.owner)
    return _json(messages.TextAnswer(hits=hits, state=state.number))


def _shown(service: Service, image_id: str, form: messages.Thumbnail, box: str | None = None) -> Response:
    part = parse_box(box)
    with service.following.state() as state:
        data = drawn(state.images.read(image_id), form, part)
    return Response(data, media_type=f"image/{form.format}", headers={"Cache-Control": "private, max-age=60"})


def _inner(hit: ImageHit, state: State) -> ImageHit:
    return replace(hit, path=inner_path(hit.path, state.engine.root))


def _decoded(data: bytes) -> DecodedImage:
    return decode_image(data, "the image")


async def _upload(request: Request) -> bytes:
    """The body, which the guard has bounded while it arrives."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("image/"):
        raise HTTPException(415, f"expected the bytes of an image as image/jpeg or the like, got {kind!r}")
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            return await request.body()
    except TimeoutError as error:
        raise HTTPException(408, f"the image did not arrive within {UPLOAD_SECONDS:g} seconds") from error


def _json(model: BaseModel) -> Response:
    """A model as it is, without the second validation that FastAPI would give it."""
    return Response(model.model_dump_json(), media_type="application/json")
