"""Images to learn from."""

from __future__ import annotations

import pytest

from tests.captions.made import noise_images


@pytest.fixture(scope="session")
def noise(tmp_path_factory):
    """See :func:`tests.captions.made.noise_images`."""
    return noise_images(tmp_path_factory.mktemp("noise"))
