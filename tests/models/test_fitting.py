from __future__ import annotations

import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from felga.encoders.crops import Crops, Preprocessing, encode_batches
from felga.encoders.one_pass import OnePass
from felga.errors import MissingError
from felga.models.fitting import Fitting
from felga.types import DecodedImage


class Network(nn.Module):
    """A network on a device with room for ``room`` inputs; what it was asked for is in ``seen``."""

    def __init__(self, room):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 5)
        self.room, self.seen = room, []

    def forward(self, inputs):
        self.seen.append(len(inputs))
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return self.layer(inputs.float().mean((2, 3)))


PREPROCESSING = Preprocessing(size=(4, 4), resize="squash", mean=(0, 0, 0), std=(1, 1, 1))
CPU = torch.device("cpu")


def crops(batch_size):
    return Crops(PREPROCESSING, batch_size, CPU, torch.float32, 5)


def images(count):
    rng = np.random.default_rng(0)
    made = [DecodedImage(str(n), rng.integers(0, 256, (8, 8, 3), np.uint8), 8, 8) for n in range(count)]
    return made, [np.array([image.whole, (0, 0, 4, 4)], np.float32) for image in made]


def test_a_full_device_gets_smaller_batches_of_the_same_crops_and_one_sentence_is_said():
    encoder, network = crops(8), Network(room=3)
    expected = crops(8).encode(*images(5), Network(room=99))
    with pytest.warns(UserWarning, match=r"too small for the batch size: going on with 2") as said:
        found = encoder.encode(*images(5), network)
    assert len(said) == 1
    assert network.seen == [8, 4, 2, 2, 2, 2, 2]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    network.seen.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        encoder.encode(*images(2), network)
    assert network.seen == [2, 2]  # and it is not tried again


def test_where_not_even_one_fits_a_sentence_says_so():
    with pytest.raises(
        MissingError, match=r"batch of one \(CUDA out of memory\): free some, or use --device"
    ):
        crops(8).encode(*images(2), Network(room=0))


def test_one_pass_over_whole_images_halves_too():
    made, boxes = images(4)

    def encode(network):
        def trunk(inputs):
            return network(inputs)[:, :, None, None].expand(-1, -1, 1, 1)

        one_pass = OnePass(PREPROCESSING, 32, 1, 2, 4, CPU, torch.float32, 5)
        return one_pass.encode(made, boxes, trunk=trunk, head=lambda bins: bins.flatten(1))

    with pytest.warns(UserWarning, match="going on with 1"):
        found = encode(Network(room=1))
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(encode(Network(room=9))), atol=1e-6)


def test_texts_are_halved_too():
    def forward(texts):
        if len(texts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.tensor([[len(text), 1.0] for text in texts])

    with pytest.warns(UserWarning, match="going on with 1"):
        found = encode_batches(["a", "bb", "ccc"], batch_size=4, dim=2, forward=forward)
    np.testing.assert_allclose(found[:, 0] / found[:, 1], [1, 2, 3], rtol=1e-6)


def test_what_a_failed_batch_allocated_is_free_before_the_next_one():
    class Allocated:
        pass

    first = []

    def work(batch):
        if first:
            assert first[0]() is None
            return len(batch)
        activations = Allocated()
        first.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.warns(UserWarning, match="going on with 1"):
        assert Fitting(2).run([1, 2], work) == [1, 1]


def test_another_error_is_not_taken_for_a_lack_of_memory():
    def work(batch):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Fitting(4).run([1, 2], work)
