"""The demo index, served: inside the test, and on a port of its own."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from felga.server.service import Service
from felga.server.web import make_app
from tests.server.ports import BASE, running


@pytest.fixture(scope="session")
def service(demo):
    with Service(demo[0], device="cpu") as service:
        yield service


@pytest.fixture(scope="module")
def web(service):
    """A client of the application, without a port between."""
    with TestClient(make_app(service), base_url=BASE) as client:
        yield client


@pytest.fixture(scope="session")
def after(believed):
    """The same index with a FENet, served."""
    with Service(believed, device="cpu") as service:
        yield service


@pytest.fixture(scope="session")
def address(service):
    """The URL of a server that really listens."""
    with running(make_app(service)) as url:
        yield url
