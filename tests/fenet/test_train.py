"""Training learns, is reproducible bit for bit, resumes, and explains its failures."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch

from felga.errors import BadInputError, DivergedError, MissingError
from felga.fenet import losses, model, pseudo_labels, step, train, validation
from felga.fenet.closed_form import fit
from felga.fenet.features import Features
from felga.fenet.model import arrays_of, build
from felga.fenet.recipes import TRAINED, make_recipe
from felga.fenet.validation import Validation
from felga.models.arrays import read_arrays, write_arrays
from felga.types import Frozen

from .pairs import make_pairs, with_empty_pairs

SMALL = {"layers": 2, "hidden": 8, "epochs": 4, "batch": 8}


def recipe(name="residual", **changes):
    return make_recipe(name, **SMALL | changes)


class Cut(Exception):
    """A power cut."""


def test_training_recovers_rotated_regions():
    features = make_pairs(300, seed=1)
    done = train.train(features, make_recipe("residual", epochs=30, validation=0.2), seed=3)
    assert len(done.history) == 30
    held = train._split(features, done.recipe, 3)[1]
    judge = Validation(features.take(held))
    frozen, learnt = judge.score(Frozen()), judge.score(done)
    assert done.frozen == frozen._asdict()
    assert learnt.discovery > frozen.discovery + 0.05
    assert learnt.assignment > frozen.assignment + 0.05
    best = max(done.history, key=lambda epoch: epoch["discovery"] + epoch["assignment"])
    assert done.epoch == best["epoch"]


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_trains_with_both_recipes(method):
    features = with_empty_pairs(make_pairs(30))
    for name in ("paper", "residual"):
        done = train.train(features, recipe(name, method=method, epochs=1))
        assert np.isfinite(done.history[0]["loss"])
        assert done.keywords(features.keywords).shape[1] == (512 if name == "paper" else 16)


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_trains_a_locked_network(method):
    features = with_empty_pairs(make_pairs(30, seen=20))
    done = train.train(features, recipe("locked", method=method, epochs=1))
    assert np.isfinite(done.history[0]["loss"])
    assert done.regions(features.regions, features.region_features).shape == (len(features.regions), done.out)


def test_a_locked_network_learns_beyond_its_closed_form():
    features = make_pairs(300, seed=1, seen=20)
    held, pairs = np.arange(100), np.arange(100, 300)
    judge, fitted = Validation(features.take(held)), fit(features.take(pairs))
    done = train.train(features.take(pairs), make_recipe("locked", epochs=20), seed=3)
    frozen, closed, learnt = (judge.score(which).mean for which in (Frozen(), fitted, done))
    assert frozen < closed < learnt
    alone = replace(features, region_features=None)
    with pytest.raises(BadInputError, match="needs the features of regions.*index again"):
        train.train(alone, make_recipe("locked"))
    with pytest.raises(BadInputError, match="needs the features of regions.*index again"):
        done.regions(features.regions)


def test_random_labels_depend_on_the_seed_alone():
    table = make_pairs(30).table(np.arange(30))
    flips = table.flipped(3).flips
    assert torch.equal(flips, table.flipped(3).flips)
    assert not torch.equal(flips, table.flipped(4).flips)
    assert 0.4 < flips.float().mean() < 0.6
    some = table.flipped(3).select(torch.tensor([4, 2])).batch(torch.tensor([1]))
    assert torch.equal(some.flips[0], flips[2])


def test_what_the_frozen_vectors_score_is_recorded_where_pairs_are_held_out():
    features = make_pairs(60)
    assert train.train(features, recipe(epochs=1, validation=0.0)).frozen == {}
    done = train.train(features, recipe(epochs=1, validation=0.3), seed=5)
    held = train._split(features, done.recipe, 5)[1]
    assert done.frozen == Validation(features.take(held)).score(Frozen())._asdict()


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state():
    features = make_pairs(40)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train.train(features, recipe("paper"), seed=1)
    assert torch.equal(torch.rand(3), expected)
    torch.rand(100)
    assert train.train(features, recipe("paper"), seed=1).sha256() == first.sha256()
    assert train.train(features, recipe("paper"), seed=2).sha256() != first.sha256()


@pytest.mark.parametrize("name", ["paper", "residual", "locked"])
@pytest.mark.parametrize(("held", "method"), [(0.0, "felga+owner"), (0.3, "random")])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, name, held, method):
    features = make_pairs(40, seen=20)
    plan = recipe(name, validation=held, method=method)
    calm, cut = tmp_path / "calm", tmp_path / "cut"
    train.train(features, plan, seed=1, out=calm)

    def pull(at):
        if at.epoch == 3:
            raise Cut

    with pytest.raises(Cut):
        train.train(features, plan, seed=1, out=cut, progress=pull)
    assert (tmp_path / "cut.training").exists()
    assert not cut.exists()
    seen = []
    train.train(features, plan, seed=1, out=cut, resume=True, progress=lambda at: seen.append(at.epoch))
    assert min(seen) == 3  # it went on, not anew
    assert cut.read_bytes() == calm.read_bytes()
    assert not (tmp_path / "cut.training").exists()


def test_the_state_of_another_training_is_refused(tmp_path):
    features, out = make_pairs(40), tmp_path / "some"

    def pull(at):
        if at.epoch == 2:
            raise Cut

    with pytest.raises(Cut):
        train.train(features, recipe(), out=out, progress=pull)
    with pytest.raises(BadInputError, match="another seed"):
        train.train(features, recipe(), seed=9, out=out, resume=True)
    with pytest.raises(BadInputError, match="another recipe"):
        train.train(features, recipe(rate=0.01), out=out, resume=True)
    with pytest.raises(BadInputError, match="another fingerprint"):
        train.train(make_pairs(41), recipe(), out=out, resume=True)
    state = tmp_path / "some.training"
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(BadInputError, match="damaged"):
        train.train(features, recipe(), out=out, resume=True)
    train.train(features, recipe(), out=out)  # anew


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays, said: said.pop("about"),
        lambda arrays, said: said.update(about=[]),
        lambda arrays, said: said.pop("progress"),
        lambda arrays, said: said["progress"].update(history=[{"colour": "red"}]),
        lambda arrays, said: arrays.pop("moment/net.0.weight"),
        lambda arrays, said: arrays.update({"other/net.0.weight": np.ones(3, np.float32)}),
        lambda arrays, said: arrays.update({"net/net.0.weight": np.ones(3, np.float32)}),
    ],
)
def test_a_malformed_state_is_one_sentence(tmp_path, damage):
    features, out = make_pairs(40), tmp_path / "some"

    def pull(at):
        if at.epoch == 2:
            raise Cut

    with pytest.raises(Cut):
        train.train(features, recipe(), out=out, progress=pull)
    state = tmp_path / "some.training"
    arrays, said = read_arrays(state, "training")
    damage(arrays, said)
    write_arrays(state, "training", arrays, said)
    with pytest.raises(BadInputError, match="is not the state of a training.*: start anew"):
        train.train(features, recipe(), out=out, resume=True)


def test_training_stops_after_epochs_without_improvement():
    features = make_pairs(60)
    done = train.train(features, recipe(rate=1e-12, epochs=9, patience=2, validation=0.3))
    assert len(done.history) == 3  # the first is never beaten
    assert done.epoch == 1


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(DivergedError, match=r"epoch 1, step \d+ of \d+, with the rate 1e\+30"):
        train.train(make_pairs(40), recipe(rate=1e30, schedule="step"))


def test_progress():
    seen = []
    features = make_pairs(60)
    train.train(features, recipe(epochs=2, batch=1, validation=0.1), progress=seen.append)
    assert [(p.epoch, p.step, p.steps) for p in seen] == [(1, 50, 54), (1, 54, 54), (2, 50, 54), (2, 54, 54)]
    assert [p.score is not None for p in seen] == [False, True, False, True]
    assert all(p.seconds_left >= 0 and p.rate > 0 for p in seen)
    assert seen[-1].seconds_left == 0


def test_too_few_pairs_and_no_such_device():
    with pytest.raises(BadInputError, match="1 of 3 pairs have both"):
        train.train(with_empty_pairs(make_pairs(1)), recipe())
    with pytest.raises(BadInputError, match="no device named"):
        train.train(make_pairs(9), recipe(), device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match="torch sees 0 GPUs"):
            train.train(make_pairs(9), recipe(), device="cuda")


def test_pairs_with_one_fragment_each_train():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    features = Features(x, np.arange(7), x[:1], np.zeros(6, int), np.arange(7))
    done = train.train(features, recipe(validation=0.0))  # one keyword for all: distinct leaves no negative
    assert all(epoch["loss"] == 0 or np.isfinite(epoch["loss"]) for epoch in done.history)


def test_bfloat16_hardly_changes_the_loss():
    features = make_pairs(60)
    batch = features.table(features.usable).batch(torch.arange(8))
    for name in ("paper", "residual"):
        plan = make_recipe(name, hidden=256)
        torch.manual_seed(0)
        net = build(plan, features.dim).eval()
        exact = step.batch_loss(net, batch, plan)
        assert step.batch_loss(net, batch, plan, bfloat16=True).item() == pytest.approx(
            exact.item(), rel=2e-3
        )


def test_a_step_has_no_loop_over_pairs():
    """No Python loop in the functions of a step."""
    for function in (
        step.batch_loss,
        step._embedded,
        step._labels,
        step.Stepper._step,
        losses.lifted_structure,
        losses.contrast,
        losses.global_similarity,
        losses.owner_similarity,
        pseudo_labels.dynamic,
        pseudo_labels.sparse,
        pseudo_labels.distinct_labels,
        pseudo_labels.same_keyword,
    ):
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        loops = (ast.For, ast.While, ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp)
        assert not any(isinstance(node, loops) for node in ast.walk(tree)), function.__name__


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device here: the recorded step is not tried"
)
def test_the_recorded_step_equals_the_eager_one():
    features = make_pairs(60)
    plan = recipe("paper", dropout=0.0, validation=0.0)
    here = train.train(features, plan, device="cpu")
    there = train.train(features, plan, device="cuda")
    for mine, its in zip(here.history, there.history, strict=True):
        assert its["loss"] == pytest.approx(mine["loss"], rel=1e-3)
    again = train.train(features, plan, device="cuda")
    assert again.sha256() == there.sha256()
    half = train.train(features, replace(plan, precision="bfloat16"), device="cuda")
    assert half.history[-1]["loss"] == pytest.approx(there.history[-1]["loss"], rel=1e-2)


def test_every_equation_is_named_in_a_docstring():
    """Eq. 3-13 of the paper, each where it is computed."""
    where = {
        (pseudo_labels.dense): "Eq. 3",
        (pseudo_labels.sparse): "Eq. 4",
        (pseudo_labels.dynamic): "Eq. 5-6",
        (pseudo_labels.global_labels): "Eq. 7",
        (model.FENet): "Eq. 8",
        (losses): "Eq. 9-10",
        (losses.lifted_structure): "Eq. 12",
        (losses.global_similarity): "Eq. 11",
        (losses.total): "Eq. 13",
    }
    for thing, words in where.items():
        assert words in (inspect.getdoc(thing) or ""), words


def test_weights_round_trip():
    net = build(recipe(), 16)
    assert set(arrays_of(net)) == set(net.state_dict())
    assert validation.RAREST < validation.COMMONEST
