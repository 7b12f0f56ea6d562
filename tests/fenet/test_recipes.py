"""Recipes are validated on creation."""

from __future__ import annotations

import pytest

from felga.errors import BadInputError
from felga.fenet.recipes import RECIPES, changed, from_json, make_recipe


def test_the_paper_recipe_is_the_papers():
    """FELGA 4.5, number by number."""
    r = make_recipe("paper")
    assert (r.layers, r.hidden, r.out, r.dropout) == (3, 4096, 512, 0.2)
    assert (r.rate, r.momentum, r.weight_decay, r.batch, r.epochs) == (0.1, 0.9, 5e-4, 8, 50)
    assert (r.lambda1, r.lambda2, r.lambda3, r.temperature) == (0.5, 0.5, 0.2, 1.0)
    assert (r.labels, r.has_global, r.has_owner, r.residual) == ("dynamic", True, False, False)
    assert (r.network, r.distinct, r.input_scale, r.form) == ("shared", False, 1.0, "lifted")
    assert (r.validation, r.precision) == (0.0, "float32")  # all pairs, the last epoch
    rates = [r.rate_at(epoch / r.epochs) for epoch in range(r.epochs)]
    assert rates == [pytest.approx(0.1)] * 40 + [pytest.approx(0.01)] * 10


def test_the_sound_variant_differs_from_the_paper_in_three_numbers():
    sound, paper = RECIPES["paper+"], RECIPES["paper"]
    other = {name for name, value in sound.to_json().items() if value != paper.to_json()[name]}
    assert other == {"temperature", "rate", "input_scale"}


def test_auto_depends_on_features():
    assert make_recipe() == RECIPES["residual"]
    assert make_recipe(has_features=True) == RECIPES["locked"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_owner_loss_is_in_no_method_that_does_not_say_so(name):
    for method in ("felga", "dense+global", "sparse+global", "dynamic", "random"):
        assert not changed(RECIPES[name], {"method": method}).has_owner
    both = changed(RECIPES[name], {"method": "felga+owner"})
    assert (both.labels, both.has_global, both.has_owner) == ("dynamic", True, True)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("papper", {}, "did you mean 'paper'"),
        ("paper", {"temprature": 0.1}, "did you mean 'temperature'"),
        ("paper", {"method": "dynamc"}, "did you mean 'dynamic'"),
        ("paper", {"schedule": "?"}, "step"),
        ("paper", {"rate": "fast"}, "type float"),
        ("paper", {"rate": float("nan")}, "finite"),
        ("paper", {"batch": 2.5}, "type int"),
        ("paper", {"epochs": 0}, "above 0"),
        ("paper", {"dropout": 1.0}, "below 1"),
        ("paper", {"lambda3": -1}, "at least 0, got -1"),
        ("paper", {"drop": 0.0}, "at most 1"),
        ("paper", {"residual": 1}, "type bool"),
        ("residual", {"out": 7}, "None with residual"),
        ("locked", {"residual": False, "out": 7}, "locked network is residual"),
        ("paper", {"network": "open"}, "there is no network 'open'"),
        ("paper", {"precision": "float64"}, "there is no precision"),
        ("paper", {"input_scale": 0.0}, "above 0"),
    ],
)
def test_invalid_recipes_are_refused(name, changes, words):
    with pytest.raises(BadInputError, match=words):
        make_recipe(name, **changes)


def test_json_and_back():
    recipe = make_recipe("residual", rate=1, method="sparse+global")
    assert from_json(recipe.to_json()) == recipe
    assert recipe.rate == 1.0
    with pytest.raises(BadInputError, match="no setting"):
        from_json({"colour": "red"})


def test_cosine_falls_to_zero():
    recipe = make_recipe("paper", schedule="cosine")
    assert recipe.rate_at(0) == recipe.rate
    assert recipe.rate_at(1) == pytest.approx(0)
