"""``felga bench coco``: encode COCO splits, train the methods of the paper's tables, and measure them.

Training sees the captions of the training split and nothing else: neither boxes nor class names, and no image
of the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from felga.fenet.recipes import Recipe, make_recipe
from felga.fenet.train import TrainingStep, train
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.store.pairs import features_of
from felga.types import Progress


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
    data: dict[str, Any] = {"test": _fingerprint(test)}
    features, plan = None, None
    if set(methods) - set(UNTRAINED):
        source = encode_split(coco_files(train_root or root, train_split), work, parts, train_ids, progress)
        features = features_of(source.index.folder)
        check_disjoint(features.pair_ids, test.image_ids())
        plan = make_recipe(recipe, pairs=len(features.usable), **(changes or {}))
        data["train"] = {**_fingerprint(source), "pairs": len(features), "features": features.fingerprint()}
        data["recipe"] = {**plan.to_json(), "method": "each row its own"}
    split = read_split(test, parts.encoder, progress)
    if drawings:
        drawings.check(split)
    runs: dict[str, list[Evaluation]] = {}
    for method in methods:
        if features is None or plan is None or method in UNTRAINED:
            runs[method] = [_measure_untrained(method, split, relevance, log, drawings)]
        else:
            run = _Trained(method, replace(plan, method=method), parts.options.device, relevance)  # type: ignore[arg-type]
            runs[method] = [
                run.measure(seed, features, split, progress, log, drawings if seed == seeds[0] else None)
                for seed in seeds
            ]
    if drawings:
        drawings.draw(split, test.paths())
    return build_results(
        runs,
        dataset=f"{root.resolve().name} {test_split}",
        year=test.files.year,
        encoder=parts.encoder.identity(),
        relevance=relevance,
        data=data,
        ceiling={
            "object_discovery": proposal_ceiling(split),
            "description_assignment": keyword_ceiling(split, relevance),
        },
    )


def _check_methods(methods: Sequence[str], changes: Mapping[str, Any]) -> None:
    for method in methods:
        if method not in METHODS:
            raise BadInputError(f"there is no method {method!r}; {did_you_mean(method, METHODS)}")
    if "method" in changes:
        raise BadInputError(
            "method is not a setting of this benchmark: each row of its tables has its own, chosen by methods"
        )


def _measure_untrained(
    method: str,
    split: Split,
    relevance: Relevance,
    log: Callable[[str], None],
    drawings: Drawings | None,
) -> Evaluation:
    split = split.entire() if method == "entire" else split
    evaluation = evaluate(split, relevance=relevance)
    if drawings:
        drawings.add(method, split, identity, evaluation)
    log(_line(method, evaluation))
    return evaluation


class _Trained:
    """A row of the tables that needs a training per seed."""

    def __init__(self, method: str, recipe: Recipe, device: str, relevance: Relevance) -> None:
        self.method, self.recipe, self.device, self.relevance = method, recipe, device, relevance

    def measure(
        self,
        seed: int,
        features: Features,
        split: Split,
        progress: Progress,
        log: Callable[[str], None],
        drawings: Drawings | None,
    ) -> Evaluation:
        def report(step: TrainingStep) -> None:
            progress(f"{self.method} {seed}", step.done, step.total)

        fenet = train(features, self.recipe, seed=seed, device=self.device, progress=report)
        evaluation = replace(evaluate(split, fenet.apply, self.relevance), seed=seed)
        if drawings:
            drawings.add(self.method, split, fenet.apply, evaluation)
        log(_line(f"{self.method}, seed {seed}", evaluation))
        return evaluation


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
