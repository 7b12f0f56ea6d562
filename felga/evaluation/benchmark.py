"""``felga bench coco``: encode COCO splits, train the methods of the paper's tables, and measure them.

Training sees the captions of the training split and nothing else: neither boxes nor class names, and no image
of the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from felga.corpus.coco import coco_files
from felga.errors import BadInputError, did_you_mean
from felga.evaluation.drawings import Drawings
from felga.evaluation.protocol import (
    Relevance,
    Split,
    check_disjoint,
    evaluate,
    identity,
    keyword_ceiling,
    proposal_ceiling,
)
from felga.evaluation.results import Results, build_results
from felga.evaluation.split import Encoded, encode_split, read_split
from felga.evaluation.task_results import METHODS, TASKS, UNTRAINED, Evaluation
from felga.fenet.features import Features
from felga.fenet.recipes import Recipe, changed, make_recipe
from felga.fenet.train import TrainingStep, train
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.store.pairs import features_of
from felga.types import Progress, Transform


def bench_coco(
    root: Path,
    *,
    methods: Sequence[str] = METHODS,
    options: Options | None = None,
    train_root: Path | None = None,
    train_split: str = "train2017",
    test_split: str = "val2017",
    ids: Path | None = None,
    train_ids: Path | None = None,
    recipe: str = "auto",
    changes: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    relevance: Relevance = "box",
    work: Path = Path("indexes"),
    progress: Progress = lambda stage, done, total: None,
    log: Callable[[str], None] = lambda line: None,
    drawings: Drawings | None = None,
) -> Results:
    """Measure methods on a COCO split.

    Args:
        root, train_root: folders in the official layout; ``train_root`` None: the same.
        methods: of :data:`felga.evaluation.task_results.METHODS`.
        ids, train_ids: files of image ids, for subsets.
        recipe, changes: of :func:`felga.fenet.recipes.make_recipe`; the method is that of each row.
        seeds: one training per trained method and seed.
        work: folder for the indexes.
        log: called with one line per result.
        drawings: figures to draw; of a trained method, its first seed.

    Raises:
        BadInputError: an unknown method, or an image that is in both training and test.
        NotFoundError: missing files.
    """
    _check_methods(methods, changes or {})
    parts = Parts.make(options or Options())
    test = encode_split(coco_files(root, test_split), work, parts, ids, progress)
    data, training = {"test": _fingerprint(test)}, None
    if set(methods) - set(UNTRAINED):
        source = encode_split(coco_files(train_root or root, train_split), work, parts, train_ids, progress)
        training = _Training.of(source, test, recipe, changes or {})
        data |= training.data
    split = read_split(test, parts.encoder, progress)
    if drawings:
        drawings.check(split)
    bench = _Bench(split, relevance, parts.options.device, progress, log, drawings)
    runs = {method: bench.measure(method, training, seeds) for method in methods}
    if drawings:
        drawings.draw(split, test.paths())
    return build_results(
        runs,
        dataset=f"{root.resolve().name} {test_split}",
        year=test.files.year,
        encoder=parts.encoder.identity(),
        relevance=relevance,
        data=data,
        ceiling=bench.ceiling(),
    )


def _check_methods(methods: Sequence[str], changes: Mapping[str, Any]) -> None:
    for method in methods:
        if method not in METHODS:
            raise BadInputError(f"there is no method {method!r}; {did_you_mean(method, METHODS)}")
    if "method" in changes:
        raise BadInputError(
            "method is not a setting of this benchmark: each row of its tables has its own, chosen by methods"
        )


@dataclass(frozen=True, slots=True)
class _Training:
    """What trained methods are trained on, and its entries in the results file."""

    features: Features
    recipe: Recipe
    data: dict[str, Any]

    @classmethod
    def of(cls, source: Encoded, test: Encoded, recipe: str, changes: Mapping[str, Any]) -> _Training:
        features = features_of(source.index.folder)
        check_disjoint(features.pair_ids, test.image_ids())
        plan = make_recipe(recipe, has_features=features.region_features is not None, **changes)
        train = {**_fingerprint(source), "pairs": len(features), "features": features.fingerprint()}
        return cls(
            features, plan, {"train": train, "recipe": {**plan.to_json(), "method": "each row its own"}}
        )


@dataclass(frozen=True, slots=True)
class _Bench:
    """A test split, and where its results go."""

    split: Split
    relevance: Relevance
    device: str
    progress: Progress
    log: Callable[[str], None]
    drawings: Drawings | None

    def measure(self, method: str, training: _Training | None, seeds: Sequence[int]) -> list[Evaluation]:
        if training is None or method in UNTRAINED:
            split = self.split.entire() if method == "entire" else self.split
            return [self._evaluate(method, split, identity, None, draw=True)]
        runs = []
        for seed in seeds:
            recipe = changed(training.recipe, {"method": method})

            def report(step: TrainingStep, stage: str = f"{method} {seed}") -> None:
                self.progress(stage, step.done, step.total)

            fenet = train(training.features, recipe, seed=seed, device=self.device, progress=report)
            runs.append(self._evaluate(method, self.split, fenet.apply, seed, draw=seed == seeds[0]))
        return runs

    def _evaluate(
        self, method: str, split: Split, transform: Transform, seed: int | None, *, draw: bool
    ) -> Evaluation:
        evaluation = replace(evaluate(split, transform, self.relevance), seed=seed)
        if self.drawings and draw:
            self.drawings.add(method, split, transform, evaluation)
        self.log(_line(method if seed is None else f"{method}, seed {seed}", evaluation))
        return evaluation

    def ceiling(self) -> dict[str, float]:
        return {
            "object_discovery": proposal_ceiling(self.split),
            "description_assignment": keyword_ceiling(self.split, self.relevance),
        }


def _fingerprint(encoded: Encoded) -> dict[str, Any]:
    manifest = encoded.manifest
    return {
        "split": encoded.files.name,
        "images": manifest.images.owners,
        "regions": manifest.images.fragments,
        "texts": manifest.texts.owners,
        "keywords": manifest.texts.fragments,
        "images_digest": manifest.images.digest,
        "texts_digest": manifest.texts.digest,
        "proposers": {name: dict(getattr(manifest.contract, name)) for name in ("regions", "keywords")},
    }


def _line(name: str, evaluation: Evaluation) -> str:
    discovery, assignment = (_percent(evaluation.task(task).map) for task in TASKS)
    return f"{name:24} object discovery {discovery}   description assignment {assignment}"


def _percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}"
