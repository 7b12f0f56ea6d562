"""The figures of a benchmark: precision-recall curves, bars per class, the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from felga.corpus.decode import read_image
from felga.errors import BadInputError
from felga.evaluation.protocol import Split, discovery_curve
from felga.evaluation.task_results import Evaluation
from felga.search.segments import segment_max, top_owners
from felga.show.figures import class_bars, precision_recall_figure
from felga.show.sheets import Hit, result_sheet
from felga.types import Floats

HITS = 5  # per method in Figure 2


@dataclass(slots=True)
class Drawings:
    """Collects what the figures need, method by method; then draws them.

    Attributes:
        folder: where the figures go.
        query: the class of the before/after sheet.
    """

    folder: Path
    query: str
    _curves: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)
    _classes: dict[str, Mapping[str, float | None]] = field(default_factory=dict)
    _hits: dict[str, list[tuple[int, int, float]]] = field(default_factory=dict)

    def check(self, split: Split) -> None:
        """Refuse a query that is not a class of the split, before anything is trained.

        Raises:
            BadInputError: says so.
        """
        if self.query not in split.class_names:
            raise BadInputError(f"{self.query!r} is not one of the {len(split.class_names)} classes")

    def add(self, method: str, split: Split, evaluation: Evaluation) -> None:
        """Collect the results of a method; ``split`` has its embeddings."""
        self._curves[method] = discovery_curve(split)
        self._classes[method] = evaluation.object_discovery.per_class
        if method == "entire":
            return
        query = split.class_vectors[list(split.class_names).index(self.query)]
        best, rows = segment_max(split.region_vectors @ query, split.region_offsets)
        self._hits[method] = [(int(p), int(rows[p]), float(best[p])) for p in top_owners(best, HITS)]

    def draw(self, split: Split, paths: Mapping[str, Path]) -> None:
        """Write the figures; ``paths`` gives the file of each image id."""
        self.folder.mkdir(parents=True, exist_ok=True)
        precision_recall_figure(self._curves, self.folder / "precision-recall.png", "object discovery")
        class_bars(self._classes, self.folder / "classes.png", "object discovery")
        rows = [
            (method, [self._hit(split, paths, *hit) for hit in hits]) for method, hits in self._hits.items()
        ]
        if rows:
            sheet = result_sheet(rows, f'"{self.query}"')
            sheet.save(self.folder / f"figure-2-{self.query.replace(' ', '-')}.png")

    def _hit(self, split: Split, paths: Mapping[str, Path], p: int, row: int, score: float) -> Hit:
        if split.image_ids is None or split.region_boxes is None:
            raise BadInputError("the split lacks image ids and region boxes: they are needed for drawing")
        image = read_image(paths[split.image_ids[p]], split.image_ids[p])
        x1, y1, x2, y2 = image.in_pixels(split.region_boxes[row])[0].tolist()
        right = bool(split.contains[list(split.class_names).index(self.query), p])
        return Hit(Image.fromarray(image.pixels), (x1, y1, x2, y2), right, score)
