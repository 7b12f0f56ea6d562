"""Trainings that go on where they were stopped."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch

from felga.errors import BadInputError, DivergedError
from felga.models.resumable import Descent, Resumable, training_folder

SETTINGS = {"rate": 0.1, "weight_decay": 0.0, "warm_up": 0.5, "check": "the numbers"}


def begun(out, origin):
    """The folder of a training that fails, having left a file."""

    def fail():
        with training_folder(out, origin, resume=False) as work:
            (work / "seen").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    return Path(f"{out}.training")


def test_the_folder_stays_until_the_training_is_done(tmp_path):
    out = tmp_path / "deep" / "out.safetensors"
    work = begun(out, {"seed": 0})
    assert work == tmp_path / "deep" / "out.safetensors.training"
    with training_folder(out, {"seed": 0}, resume=True) as again:
        assert (again / "seen").exists()
    assert not work.exists()


def test_without_resume_and_without_an_origin_it_begins_anew(tmp_path):
    out = tmp_path / "out"
    work = begun(out, {"seed": 0})
    with training_folder(out, {"seed": 1}, resume=False):
        assert not (work / "seen").exists()
    work = begun(out, {"seed": 0})
    (work / "origin.safetensors").unlink()  # killed before it was written
    with training_folder(out, {"seed": 0}, resume=True):
        assert not (work / "seen").exists()


def test_another_training_is_refused_and_kept(tmp_path):
    work = begun(tmp_path / "out", {"seed": 0})
    with (
        pytest.raises(BadInputError, match="state of another training: train without --resume"),
        training_folder(tmp_path / "out", {"seed": 1}, resume=True),
    ):
        pytest.fail("it began")
    assert (work / "seen").exists()


@pytest.mark.parametrize("name", ["folder", "file/out"])
def test_an_out_that_cannot_be_written_is_refused_before_any_work(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError), training_folder(tmp_path / name, {}, resume=False):
        pytest.fail("it began")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_the_rate_rises_and_falls_as_a_cosine():
    weight = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        weight.weight.fill_(0.0)
    descent = Descent(weight, 8, **SETTINGS)
    moved = []
    for at in range(8):  # the gradient is always 1, so Adam moves by the rate
        before = float(weight.weight.detach())
        descent.step(weight.weight.sum(), at)
        moved.append(before - float(weight.weight.detach()))
    rates = [0.1 * (0.04 + 0.96 * at / 4) for at in range(4)]
    rates += [0.05 * (1 + math.cos(math.pi * at / 4)) for at in range(4)]
    assert moved == pytest.approx(rates, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    weight = torch.nn.Linear(1, 1)
    before = weight.weight.clone()
    with pytest.raises(DivergedError, match="the loss is inf at step 4: check the numbers"):
        Descent(weight, 8, **SETTINGS).step(weight.weight.sum() + math.inf, 3)
    assert torch.equal(weight.weight, before)


class Counting(Resumable):
    """Adds 1 to a number in each epoch; stops in one of them."""

    def __init__(self, stop=None):
        super().__init__()
        self.number, self._stop = torch.zeros(2, 3), stop

    def state(self):
        return {"number": self.number}

    def one_epoch(self, progress):
        if self.epoch == self._stop:
            raise KeyboardInterrupt
        self.number += 1
        self.epoch += 1
        self.history.append({"sum": float(self.number.sum())})


def test_a_stopped_training_goes_on_after_its_last_whole_epoch(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        Counting(stop=2).finish(path, 5, lambda *seen: None)
    run = Counting()
    run.restore(path)
    assert (run.epoch, float(run.number.sum())) == (2, 12)
    run = Counting()
    run.finish(path, 5, lambda *seen: None)
    assert (run.epoch, run.number.tolist()) == (5, [[5.0] * 3] * 2)
    assert run.history == [{"sum": 6.0 * count} for count in range(1, 6)]


@pytest.mark.parametrize("other", [{"number": torch.zeros(5)}, {"others": torch.zeros(2, 3)}])
def test_the_state_of_other_tensors_is_refused(tmp_path, other):
    path = tmp_path / "state.safetensors"
    Counting().save(path)
    run = Counting()
    run.state = lambda: other
    with pytest.raises(BadInputError, match="state of another training"):
        run.restore(path)
