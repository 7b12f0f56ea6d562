from __future__ import annotations

import pytest

from felga.errors import BadInputError, MissingError
from felga.models.device import pick_device


def test_names():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "meta"])
def test_what_is_no_device(name):
    with pytest.raises(BadInputError, match="use auto, cpu, cuda or cuda:N"):
        pick_device(name)


def test_a_gpu_that_is_not_there():
    with pytest.raises(MissingError, match="torch sees"):
        pick_device("cuda:99")
