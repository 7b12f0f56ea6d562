"""Recipes: everything that a training depends on besides the features and the seed, validated on creation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from felga.errors import BadInputError, did_you_mean

Method: TypeAlias = Literal[
    "dense", "sparse", "dynamic", "random", "global", "dense+global", "sparse+global", "felga", "felga+owner"
]
TRAINED: tuple[str, ...] = get_args(Method)
"""Pseudo-labels and losses (FELGA, 4.4, 4.7): ``dense``, ``sparse`` and ``dynamic`` have the local loss only,
``global`` the global one only, ``felga`` is dynamic with global. Not in the paper: ``random`` has labels of
flipped coins, to see what the others know; ``felga+owner`` adds the owner loss
(:func:`felga.fenet.losses.owner_similarity`)."""
Network: TypeAlias = Literal["shared", "locked"]
Schedule: TypeAlias = Literal["step", "cosine"]
Form: TypeAlias = Literal["lifted", "contrast"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]


_CHOICES: dict[str, tuple[str, ...]] = {
    "network": get_args(Network),
    "method": TRAINED,
    "schedule": get_args(Schedule),
    "form": get_args(Form),
    "precision": get_args(Precision),
}
_RANGES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("layers", "hidden", "batch", "epochs", "rate"), lambda x: x > 0, "above 0"),
    (("temperature", "input_scale"), lambda x: x > 0, "above 0"),
    (("weight_decay", "lambda3", "lambda4", "patience", "ridge"), lambda x: x >= 0, "at least 0"),
    (("dropout", "momentum", "validation"), lambda x: 0 <= x < 1, "at least 0 and below 1"),
    (("drop", "drop_at"), lambda x: 0 < x <= 1, "above 0 and at most 1"),
)


def _check_type(name: str, value: Any, kind: type) -> None:
    if name == "out" and value is None:
        return
    if type(value) is not kind:
        raise BadInputError(f"{name} must be of type {kind.__name__}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInputError(f"{name} must be finite, got {value!r}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise BadInputError(f"there is no {name} {value!r}; {did_you_mean(str(value), _CHOICES[name])}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train FENet.

    Attributes:
        network: ``shared`` embeds regions and keywords alike, by their frozen vectors (Eq. 8); ``locked``
            embeds regions by their vectors and features, and keywords by a fixed map
            (:mod:`felga.fenet.closed_form`).
        method: pseudo-labels and losses.
        residual: add the network's output to the frozen vector (:class:`felga.fenet.model.FENet`).
        layers, hidden, out, dropout: the network; ``out`` None: the length of the frozen vectors.
        ridge: weight of the cosine of ridge embeddings beside that of the network's; only a locked network
            has them.
        input_scale: multiplies the unit vectors that a shared network takes, not what is added to its output.
        rate, momentum, weight_decay, batch, epochs: SGD; ``batch`` counts pairs.
        schedule: ``step`` multiplies the rate by ``drop`` after the share ``drop_at`` of the epochs;
            ``cosine`` lowers it from ``rate`` to 0, step by step.
        form: ``lifted`` structure, the paper's, or ``contrast`` (:mod:`felga.fenet.losses`).
        temperature: divides the similarities in the losses.
        lambda1, lambda2: margins of Eq. 10 and Eq. 12.
        lambda3: weight of the global loss relative to the local one (Eq. 13); unused where the method has
            only one of them, which then has weight 1.
        lambda4: weight of a loss of images against keywords, not in the paper
            (:func:`felga.fenet.losses.owner_similarity`); its margin is lambda1; used by ``felga+owner``.
        distinct: addresses the limitation noted in section 5 of the paper: a keyword of several texts of a
            batch counts once, and is not a negative of any image whose text has it.
        validation: share of the pairs held out to choose the best epoch, at most 1,000 pairs; 0: train on all
            pairs and keep the last epoch.
        patience: stop after this many epochs without a better validation score; 0: never.
        precision: of the products with the weights; ``auto``: bfloat16 on a GPU that has it.

    Raises:
        BadInputError: a value of the wrong type or out of range.
    """

    network: Network = "shared"
    method: Method = "felga"
    residual: bool = False
    layers: int = 3
    hidden: int = 4096
    out: int | None = 512
    dropout: float = 0.2
    ridge: float = 0.75
    input_scale: float = 1.0
    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 8
    epochs: int = 50
    schedule: Schedule = "step"
    drop_at: float = 0.8
    drop: float = 0.1
    form: Form = "lifted"
    temperature: float = 1.0
    lambda1: float = 0.5
    lambda2: float = 0.5
    lambda3: float = 0.2
    lambda4: float = 2.0
    distinct: bool = False
    validation: float = 0.0
    patience: int = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for entry in fields(self):
            kind = type(entry.default)
            value = getattr(self, entry.name)
            if kind is float and type(value) is int:
                object.__setattr__(self, entry.name, value := float(value))
            _check_type(entry.name, value, kind)
        for names, holds, words in _RANGES:
            for name in names:
                if not holds(value := getattr(self, name)):
                    raise BadInputError(f"{name} must be {words}, got {value!r}")
        if self.out is not None and (self.residual or self.out < 1):
            raise BadInputError(
                f"out must be None with residual, else at least 1; got {self.out}, residual {self.residual}"
            )
        if self.network == "locked" and not self.residual:
            raise BadInputError("a locked network is residual: its text side is fixed")

    @property
    def labels(self) -> str | None:
        """``dense``, ``sparse``, ``dynamic``, ``random``, or None without a local loss."""
        first = self.method.split("+")[0]
        return {"felga": "dynamic", "global": None}.get(first, first)

    @property
    def has_global(self) -> bool:
        """Whether the global loss takes part."""
        return self.method in ("global", "felga", "felga+owner") or self.method.endswith("+global")

    @property
    def has_owner(self) -> bool:
        """Whether the owner loss takes part."""
        return self.method.endswith("+owner")

    def length_of(self, dim: int) -> int:
        """d', the length of the output for vectors of length ``dim``."""
        return dim if self.out is None else self.out

    def rate_at(self, done: float) -> float:
        """The rate after the share ``done`` of the training."""
        if self.schedule == "cosine":
            return self.rate * 0.5 * (1 + math.cos(math.pi * done))
        return self.rate * (self.drop if done >= self.drop_at else 1.0)

    def to_json(self) -> dict[str, Any]:
        """Json values, read by :func:`from_json`."""
        return asdict(self)


_RESIDUAL = Recipe(
    method="felga+owner",
    residual=True,
    layers=2,
    hidden=1024,
    out=None,
    rate=0.05,
    batch=64,
    epochs=20,
    schedule="cosine",
    form="contrast",
    temperature=0.07,
    lambda1=0.0,
    lambda2=0.0,
    lambda3=0.4,
    distinct=True,
    # The rate ends at 0, so the last epoch is as good as the best; a tenth more pairs is worth more.
    validation=0.0,
    precision="auto",
)
RECIPES: dict[str, Recipe] = {
    "paper": Recipe(),
    "paper+": Recipe(temperature=0.1, rate=0.01, input_scale=10.0),
    "residual": _RESIDUAL,
    "locked": replace(_RESIDUAL, network="locked", hidden=512, dropout=0.1, weight_decay=1e-4, epochs=10),
}
"""``paper``: FELGA 4.5, number by number. ``paper+``: the same network and losses with a temperature, an
input scale and a rate that let it learn, none of which is in the paper. ``residual``: for encoders without
features. ``locked``: for those with features. All but ``paper`` were chosen by captions alone
(bench/fenet_recipes.py)."""


def changed(base: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """``base`` with some values replaced.

    Raises:
        BadInputError: no such setting, or a value of the wrong type or out of range.
    """
    known = tuple(entry.name for entry in fields(Recipe))
    for name in changes:
        if name not in known:
            raise BadInputError(f"a recipe has no setting {name!r}; {did_you_mean(name, known)}")
    return replace(base, **changes)


def make_recipe(name: str = "auto", *, has_features: bool = False, **changes: Any) -> Recipe:
    """The recipe of that name, with ``changes``.

    Args:
        name: of :data:`RECIPES`, or ``auto``: ``locked`` for regions with features, else ``residual``.
        has_features: whether the regions have features; only ``auto`` uses it.
        changes: settings of :class:`Recipe`.

    Raises:
        BadInputError: no such recipe or setting, or a value of the wrong type or out of range.
    """
    if name == "auto":
        name = "locked" if has_features else "residual"
    if name not in RECIPES:
        raise BadInputError(f"there is no recipe {name!r}; {did_you_mean(name, ('auto', *RECIPES))}")
    return changed(RECIPES[name], changes)


def from_json(values: Mapping[str, Any]) -> Recipe:
    """The recipe of :meth:`Recipe.to_json`; errors of :func:`changed`."""
    return changed(Recipe(), values)
