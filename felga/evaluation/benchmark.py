"""``felga bench coco``: encode COCO splits, train the methods of the paper's tables, and measure them.

Training sees the captions of the training split and nothing else: neither boxes nor class names, and no image
of the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from felga.corpus.coco import coco_files
from felga.errors import BadInputError, did_you_mean
from felga.evaluation.ceilings import keyword_ceiling, proposal_ceiling
from felga.evaluation.diagnostic import diagnose
from felga.evaluation.drawings import Drawings
from felga.evaluation.localisation import localise, pycocotools
from felga.evaluation.paper_numbers import fine_tuned_on_coco
from felga.evaluation.protocol import FROZEN, Relevance, Split, check_disjoint, evaluate
from felga.evaluation.results import Results, build_results
from felga.evaluation.split import Encoded, encode_split, read_split
from felga.evaluation.task_results import (
    METHODS,
    OWNER_LOSS,
    SCORINGS,
    TASKS,
    UNTRAINED,
    Evaluation,
    Localisation,
)
from felga.fenet.features import Features
from felga.fenet.recipes import RECIPES, TRAINED, Recipe, changed, make_recipe
from felga.fenet.train import TrainingStep, train
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.store.pairs import features_of
from felga.types import Embedding, Progress


def bench_coco(
    root: Path,
    *,
    methods: Sequence[str] | None = None,
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
        methods: of :data:`felga.evaluation.task_results.METHODS`; None: all that the recipe has.
        ids, train_ids: files of image ids, for subsets.
        recipe, changes: of :func:`felga.fenet.recipes.make_recipe`; the method is that of each row, and
            only rows ``+owner`` have its owner loss (``lambda4``).
        seeds: one training per trained method and seed.
        work, log: folder for the indexes; called with one line per result.
        drawings: figures to draw; of a trained method, its first seed.

    Raises:
        BadInputError: an unknown method or owner loss, or an image that is in both training and test.
        NotFoundError, MissingError: missing files, or pycocotools.
    """
    _check_methods(methods or (), changes or {})
    parts = _parts(options or Options(), log)
    test = encode_split(coco_files(root, test_split), work, parts, ids, progress)
    data, training = {"test": _fingerprint(test)}, None
    if methods is None or set(methods) - set(UNTRAINED):
        source = encode_split(coco_files(train_root or root, train_split), work, parts, train_ids, progress)
        training = _Training.of(source, test, recipe, changes or {})
        data |= training.data
    split = read_split(test, parts.encoder, progress)
    if drawings:
        drawings.check(split)
    bench = _Bench(split, relevance, parts.options.device, progress, log, drawings)
    runs = bench.measure_all(_rows_of(methods, training), training, seeds)
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
        diagnostic=diagnose(split),
    )


def _rows_of(methods: Sequence[str] | None, training: _Training | None) -> Sequence[str]:
    """The methods to measure.

    Raises:
        BadInputError: a row of an owner loss that the recipe does not have.
    """
    has_owner = training is not None and training.recipe.lambda4 > 0
    if methods is None:
        return [method for method in METHODS if has_owner or not method.endswith(OWNER_LOSS)]
    if not has_owner and (lacking := [method for method in methods if method.endswith(OWNER_LOSS)]):
        raise BadInputError(f"{lacking[0]} needs an owner loss: set lambda4 above 0, or leave it out")
    return methods


def _parts(options: Options, log: Callable[[str], None]) -> Parts:
    pycocotools()  # before the work
    parts = Parts.make(options)
    if fine_tuned_on_coco(parts.encoder.name):
        log(
            f"warning: {parts.encoder.name} is fine-tuned on COCO, which the paper rules out (4.2): its "
            "results here are no comparison"
        )
    return parts


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
        has_features = features.region_features is not None
        plan = make_recipe(recipe, has_features=has_features, **changes)
        base = make_recipe(recipe, has_features=has_features)
        name = next(name for name, known in RECIPES.items() if known == base)
        train = {**_fingerprint(source), "pairs": len(features), "features": features.fingerprint()}
        about = {**plan.to_json(), "name": name, "changes": dict(changes), "method": "each row its own"}
        return cls(features, plan, {"train": train, "recipe": about})

    def recipe_of(self, method: str) -> Recipe:
        """The recipe of a row: only rows ``+owner`` have an owner loss."""
        owner = self.recipe.lambda4 if method.endswith(OWNER_LOSS) else 0.0
        known = method if method in TRAINED else method.removesuffix(OWNER_LOSS)
        return changed(self.recipe, {"method": known, "lambda4": owner})


@dataclass(frozen=True, slots=True)
class _Bench:
    """A test split, and where its results go."""

    split: Split
    relevance: Relevance
    device: str
    progress: Progress
    log: Callable[[str], None]
    drawings: Drawings | None

    def measure_all(
        self, methods: Sequence[str], training: _Training | None, seeds: Sequence[int]
    ) -> dict[str, list[Evaluation]]:
        """The rows of all methods."""
        runs: dict[str, list[Evaluation]] = {}
        for method in methods:
            runs |= self.measure(method, training, seeds)
        return runs

    def measure(
        self, method: str, training: _Training | None, seeds: Sequence[int]
    ) -> dict[str, list[Evaluation]]:
        """The rows of a method: one run per seed each."""
        if training is None or method in UNTRAINED:
            split = self.split.entire() if method == "entire" else self.split
            return {row: [run] for row, run in self._evaluate(method, split, FROZEN, None, draw=True)}
        runs: dict[str, list[Evaluation]] = {}
        for seed in seeds:

            def report(step: TrainingStep, stage: str = f"{method} {seed}") -> None:
                self.progress(stage, step.done, step.total)

            recipe = training.recipe_of(method)
            fenet = train(training.features, recipe, seed=seed, device=self.device, progress=report)
            for row, run in self._evaluate(method, self.split, fenet, seed, draw=seed == seeds[0]):
                runs.setdefault(row, []).append(run)
        return runs

    def _evaluate(
        self, method: str, split: Split, embedding: Embedding, seed: int | None, *, draw: bool
    ) -> Iterator[tuple[str, Evaluation]]:
        """Each row of a method: its name and its run. Whole images have one, and no boxes to judge."""
        split = split.embedded(embedding)
        boxes: dict[str, Localisation] = {}
        if method != "entire":
            for quality in (False, True) if split.region_quality is not None else (False,):
                suffixes = [suffix for suffix, scoring in SCORINGS.items() if scoring[1] is quality]
                owners = [SCORINGS[suffix][0] for suffix in suffixes]
                boxes |= zip(suffixes, localise(split, owners, quality=quality), strict=True)
        for suffix in boxes or ("",):
            owner, quality = SCORINGS[suffix]
            run = evaluate(split, FROZEN, self.relevance, owner=owner, quality=quality)
            run = replace(run, seed=seed, localisation=boxes.get(suffix))
            if self.drawings and draw and not suffix:
                self.drawings.add(method, split, run)
            row = f"{method}{suffix}"
            self.log(_line(row if seed is None else f"{row}, seed {seed}", run))
            yield row, run

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
        "keywords": int((~encoded.index.texts.whole()).sum()),
        "images_digest": manifest.images.digest,
        "texts_digest": manifest.texts.digest,
        "proposers": {name: dict(getattr(manifest.contract, name)) for name in ("regions", "keywords")},
    }


def _line(name: str, evaluation: Evaluation) -> str:
    discovery, assignment = (_percent(evaluation.task(task).map) for task in TASKS)
    line = f"{name:24} object discovery {discovery}   description assignment {assignment}"
    if (boxes := evaluation.localisation) is not None:
        line += f"   winning box right {_percent(boxes.winning_boxes.fits)}"
    return line


def _percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}"
