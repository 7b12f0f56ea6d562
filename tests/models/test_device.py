from __future__ import annotations

import pytest

from felga.errors import BadInputError, MissingError
from felga.models.device import pick_device


def test_known_names_are_accepted():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "meta"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(BadInputError, match="use auto, cpu, cuda or cuda:N"):
        pick_device(name)


def test_a_missing_gpu_is_one_sentence():
    with pytest.raises(MissingError, match="torch sees"):
        pick_device("cuda:99")
