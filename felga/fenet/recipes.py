"""Recipes: everything that a training depends on besides the features and the seed, checked on entry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from felga.errors import BadInputError, did_you_mean

Method: TypeAlias = Literal["dense", "sparse", "dynamic", "global", "felga", "dense+global", "sparse+global"]
METHODS: tuple[str, ...] = get_args(Method)
"""Pseudo-labels and losses (FELGA, 4.4, 4.7): ``dense``, ``sparse`` and ``dynamic`` are local alone,
``global`` is global alone, ``felga`` is dynamic with global."""
Schedule: TypeAlias = Literal["step", "cosine"]
Form: TypeAlias = Literal["lifted", "contrast"]
RESIDUAL_BELOW = 20_000
"""With fewer pairs than this, ``residual`` is the default recipe, else ``paper``. Measured at 1,526 pairs
alone, where a prototype of ``paper`` fell below the frozen vectors; where the two cross is a guess."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to train FENet.

    Attributes:
        method: which pseudo-labels and losses.
        residual: add the network's output to the frozen vector (:class:`felga.fenet.model.FENet`).
        layers, hidden, out, dropout: the network; ``out`` None means as long as the frozen vectors.
        rate, momentum, weight_decay, batch, epochs: SGD; a batch counts pairs.
        schedule: ``step`` multiplies the rate by ``drop`` when the share ``drop_at`` of the epochs is done;
            ``cosine`` lets it fall from ``rate`` to 0, step by step.
        form: ``lifted`` structure, the paper's, or ``contrast`` (:mod:`felga.fenet.losses`).
        temperature: divides the similarities in the losses.
        lambda1, lambda2: margins of Eq. 10 and Eq. 12.
        lambda3: weight of the global loss (Eq. 13).
        lambda4: weight of the same loss over images and keywords (``owner_similarity`` there), which the
            paper has not; used where the method has local and global parts. Its margin is lambda1.
        distinct: mends the limitation that the paper names (5): a keyword that several texts of a batch have
            counts once, and is no negative of any image whose text has it.
        validation: share of the pairs held out to choose the best epoch, at most 1,000; 0: train on all
            pairs and keep the last epoch.
        patience: stop after so many epochs without a better validation score; 0: never.

    Raises:
        BadInputError: a value out of its range.
    """

    method: Method = "felga"
    residual: bool = False
    layers: int = 3
    hidden: int = 4096
    out: int | None = 512
    dropout: float = 0.2
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
    lambda4: float = 0.0
    distinct: bool = False
    validation: float = 0.1
    patience: int = 0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, kind = getattr(self, entry.name), type(entry.default)
            if kind is float and type(value) is int:
                object.__setattr__(self, entry.name, float(value))
            elif type(value) is not kind and not (entry.name == "out" and value is None):
                raise BadInputError(f"{entry.name} must be of type {kind.__name__}, not {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise BadInputError(f"{entry.name} must be a finite number, not {value!r}")
        for name, known in (("method", METHODS), ("schedule", get_args(Schedule)), ("form", get_args(Form))):
            value = getattr(self, name)
            if value not in known:
                raise BadInputError(f"there is no {name} {value!r}; {did_you_mean(value, known)}")
        for name in ("layers", "hidden", "batch", "epochs", "rate", "temperature"):
            if getattr(self, name) <= 0:
                raise BadInputError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("weight_decay", "lambda3", "lambda4", "patience"):
            if getattr(self, name) < 0:
                raise BadInputError(f"{name} must not be below 0, not {getattr(self, name)}")
        for name in ("dropout", "momentum", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        for name in ("drop", "drop_at"):
            if not 0 < getattr(self, name) <= 1:
                raise BadInputError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}")
        if self.out is not None and (self.residual or self.out < 1):
            raise BadInputError(
                "out must be None with residual, whose output has the input's length, else > 0"
            )

    @property
    def labels(self) -> str | None:
        """``dense``, ``sparse``, ``dynamic``, or None without a local loss."""
        first = self.method.split("+")[0]
        return {"felga": "dynamic", "global": None}.get(first, first)

    @property
    def has_global(self) -> bool:
        """Whether the global loss takes part."""
        return self.method in ("global", "felga") or self.method.endswith("+global")

    @property
    def has_owner(self) -> bool:
        """Whether the owner loss takes part: only between a local and a global loss."""
        return self.has_global and self.labels is not None and self.lambda4 > 0

    def rate_at(self, done: float) -> float:
        """The rate when the share ``done`` of the training is done."""
        if self.schedule == "cosine":
            return self.rate * 0.5 * (1 + math.cos(math.pi * done))
        return self.rate * (self.drop if done >= self.drop_at else 1.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a checkpoint; :func:`from_json` reads them."""
        return asdict(self)


RECIPES: dict[str, Recipe] = {
    "paper": Recipe(),
    "residual": Recipe(
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
        lambda4=2.0,
        distinct=True,
        # The rate ends at 0: the last epoch is as good as the best, and a tenth more pairs is worth more.
        validation=0.0,
    ),
}
"""``paper``: FELGA 4.5. ``residual``: for few pairs, chosen on captions alone (bench/fenet_recipes.py)."""


def changed(base: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """``base`` with other values.

    Raises:
        BadInputError: no such setting (says the nearest), or a value out of its range.
    """
    known = tuple(entry.name for entry in fields(Recipe))
    for name in changes:
        if name not in known:
            raise BadInputError(f"a recipe has no setting {name!r}; {did_you_mean(name, known)}")
    return replace(base, **changes)


def make_recipe(name: str = "auto", *, pairs: int = 0, **changes: Any) -> Recipe:
    """The recipe of that name, with ``changes``.

    Args:
        name: ``paper``, ``residual``, or ``auto``: ``residual`` below :data:`RESIDUAL_BELOW` pairs.
        pairs: how many pairs there are to train from; only ``auto`` asks.
        changes: settings of :class:`Recipe`.

    Raises:
        BadInputError: no such recipe or setting (says the nearest), or a value out of its range.
    """
    if name == "auto":
        name = "residual" if pairs < RESIDUAL_BELOW else "paper"
    if name not in RECIPES:
        raise BadInputError(f"there is no recipe {name!r}; {did_you_mean(name, ('auto', *RECIPES))}")
    return changed(RECIPES[name], changes)


def from_json(values: Mapping[str, Any]) -> Recipe:
    """The recipe that :meth:`Recipe.to_json` wrote. BadInputError as :func:`changed`."""
    return changed(Recipe(), values)
