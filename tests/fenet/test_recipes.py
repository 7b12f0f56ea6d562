"""Recipes are validated on creation."""

from __future__ import annotations

import pytest

from felga.errors import BadInputError
from felga.fenet.recipes import RESIDUAL_BELOW, from_json, make_recipe


def test_the_paper_recipe_is_the_papers():
    """FELGA 4.5, number by number."""
    r = make_recipe("paper")
    assert (r.layers, r.hidden, r.out, r.dropout) == (3, 4096, 512, 0.2)
    assert (r.rate, r.momentum, r.weight_decay, r.batch, r.epochs) == (0.1, 0.9, 5e-4, 8, 50)
    assert (r.lambda1, r.lambda2, r.lambda3, r.temperature) == (0.5, 0.5, 0.2, 1.0)
    assert (r.labels, r.has_global, r.residual, r.distinct, r.lambda4) == ("dynamic", True, False, False, 0)
    rates = [r.rate_at(epoch / r.epochs) for epoch in range(r.epochs)]
    assert rates == [pytest.approx(0.1)] * 40 + [pytest.approx(0.01)] * 10


def test_auto_depends_on_the_number_of_pairs():
    assert make_recipe(pairs=RESIDUAL_BELOW - 1).residual
    assert not make_recipe(pairs=RESIDUAL_BELOW).residual


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
