"""Whatever comes in, no answer is a 5xx: questions made from the description, uploads that are no images."""

from __future__ import annotations

import io
import socket
import struct
import zlib

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode

import felga.server.routes
from felga.server.web import make_app
from tests.server.ports import running

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
EXAMPLES = 12  # of each endpoint
PATIENT = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="session")
def described(address):
    return schemathesis.openapi.from_url(f"{address}/api/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_question_that_the_description_allows_or_forbids_is_a_server_error(described, mode):
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) >= 12
    for operation in operations:

        @given(operation.as_strategy(generation_mode=mode))
        @settings(max_examples=EXAMPLES, phases=[Phase.generate], derandomize=True, **PATIENT)
        def ask(case):
            response = case.call()
            case.validate_response(response, checks=[not_a_server_error])
            if response.status_code >= 400:
                assert list(response.json()) == ["error"]

        try:
            ask()
        except Unsatisfiable:  # nothing is forbidden there
            assert mode is GenerationMode.NEGATIVE


def upload(web, data, kind="image/png"):
    answer = web.post("/api/assign?k=1", content=data, headers={"content-type": kind})
    if answer.status_code != 200:
        assert answer.status_code == 400, answer.text
        assert list(answer.json()) == ["error"]
    return answer


def saved(form):
    out = io.BytesIO()
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(out, form)
    return out.getvalue()


def png(width, height, data=b"\0"):
    """A PNG whose header says what it likes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"])
def test_truncated_images(web, form):
    data = saved(form)
    assert upload(web, data).status_code == 200
    for share in (0.02, 0.3, 0.9):
        upload(web, data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"GIF89a", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
     b"II*\0" + b"\xff" * 64, png(0, 0), png(2**31 - 1, 2**31 - 1), png(40_000, 40_000), png(13_000, 13_800),
     b"P6 99999999 99999999 255\n", b"BM" + b"\xff" * 60],
)  # fmt: skip
def test_junk_and_headers_that_promise_too_much(web, data):
    assert upload(web, data).status_code == 400


def test_a_bomb_is_refused_by_its_header_before_it_is_decoded(web):
    for side, reason in (
        (13_360, "13360x13360 pixels, more than 178 megapixels"),
        (20_000, "too many pixels"),
    ):
        bomb = png(side, side, bytes(side * 300))
        assert len(bomb) < 100_000
        assert reason in upload(web, bomb).json()["error"]


@given(st.binary(max_size=200), st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]), st.data())
@settings(max_examples=60, derandomize=True, **PATIENT)
def test_images_with_bytes_changed(web, junk, form, data):
    whole = bytearray(saved(form))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + len(junk)] = junk
    upload(web, bytes(whole))


def test_an_upload_that_never_ends_is_given_up(service, monkeypatch):
    """The body stops halfway and the line stays open."""
    monkeypatch.setattr(felga.server.routes, "UPLOAD_SECONDS", 0.3)
    with running(make_app(service)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as line:
            line.sendall(b"POST /api/assign HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                         b"Content-Length: 1000\r\n\r\nhalf")  # fmt: skip
            assert line.recv(4096).startswith(b"HTTP/1.1 408")
