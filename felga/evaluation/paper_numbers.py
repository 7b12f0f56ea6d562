"""The numbers of the FELGA paper, and whether results may be compared with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from felga.evaluation.results import Results
from felga.evaluation.task_results import TASKS

_FAMILIES = {1: "clip", 2: "blip", 3: "blip2", 4: "clip", 5: "clip"}  # table -> its encoder
_LAVIS = {"clip_feature_extractor": "clip", "blip_feature_extractor": "blip"}  # blip2_* are blip2
_IMAGES = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the paper: mAP in percent, (object discovery, description assignment) for each COCO year."""

    method: str
    label: str
    coco2017: tuple[float, float]
    coco2014: tuple[float, float]

    def paper(self, year: int, task: str) -> float:
        """The paper's number."""
        return (self.coco2017 if year == 2017 else self.coco2014)[TASKS.index(task)]


TITLES: dict[int, str] = {
    1: "mAP of different methods with CLIP",
    2: "mAP of different methods with BLIP",
    3: "mAP of different methods with BLIPv2",
    4: "Ablation of local-level and global-level alignment, with CLIP",
    5: "Ablation of adding global-level alignment, with CLIP",
}

PAPER: dict[int, tuple[Row, ...]] = {
    1: (
        Row("entire", "entire image/sentence", (50.7, 38.6), (50.7, 39.3)),
        Row("frozen", "proposals", (50.7, 35.6), (50.7, 36.2)),
        Row("dense", "Dense", (50.9, 39.2), (50.5, 39.5)),
        Row("sparse", "Sparse", (59.4, 40.3), (54.7, 41.0)),
        Row("dynamic", "Dynamic", (57.5, 41.0), (56.9, 41.7)),
        Row("felga", "FELGA", (63.1, 42.2), (63.6, 42.8)),
    ),
    2: (
        Row("entire", "entire image/sentence", (45.8, 36.3), (46.4, 36.6)),
        Row("frozen", "proposals", (42.4, 39.5), (40.1, 40.4)),
        Row("dense", "Dense", (53.3, 41.5), (54.0, 42.0)),
        Row("sparse", "Sparse", (53.7, 41.1), (50.0, 40.8)),
        Row("dynamic", "Dynamic", (58.7, 44.6), (58.6, 45.2)),
        Row("felga", "FELGA", (66.4, 46.1), (66.1, 46.7)),
    ),
    3: (
        Row("entire", "entire image/sentence", (55.3, 35.1), (55.6, 35.5)),
        Row("frozen", "proposals", (52.6, 39.1), (52.2, 39.6)),
        Row("dense", "Dense", (56.8, 42.9), (57.1, 43.3)),
        Row("sparse", "Sparse", (64.2, 42.0), (59.3, 41.9)),
        Row("dynamic", "Dynamic", (62.7, 43.7), (62.4, 44.2)),
        Row("felga", "FELGA", (69.7, 45.5), (69.9, 46.3)),
    ),
    4: (
        Row("dynamic", "local-level only", (57.5, 41.0), (56.9, 41.7)),
        Row("global", "global-level only", (59.8, 34.6), (58.9, 35.7)),
        Row("felga", "local-level and global-level", (63.1, 42.2), (63.6, 42.8)),
    ),
    5: (
        Row("dense", "Dense", (50.9, 39.2), (50.5, 39.5)),
        Row("dense+global", "Dense + global alignment", (59.6, 41.7), (60.7, 41.7)),
        Row("sparse", "Sparse", (59.4, 40.3), (54.7, 41.0)),
        Row("sparse+global", "Sparse + global alignment", (61.0, 41.0), (59.6, 41.6)),
        Row("dynamic", "Dynamic", (57.5, 41.0), (56.9, 41.7)),
        Row("felga", "Dynamic + global alignment (FELGA)", (63.1, 42.2), (63.6, 42.8)),
    ),
}
"""The paper's numbers, mAP in percent, transcribed from its Tables 1-5."""


def fine_tuned_on_coco(encoder: str) -> bool:
    """Whether the name of an encoder says that its weights were fine-tuned on COCO."""
    family, _, weights = encoder.partition(":")
    if family == "lavis" and weights.startswith("blip_image_text_matching"):
        return True  # model_base_retrieval_coco.pth or its large sibling
    return family != "conse" and "coco" in weights.lower().rstrip("/").rpartition("/")[2]


def comparable(results: Results, number: int) -> bool:
    """Whether encoder and data of the results are those of a table of the paper."""
    name = str(results.encoder.get("name", ""))
    family, _, weights = name.partition(":")
    if family == "lavis":
        model = weights.partition("/")[0]
        family = "blip2" if model.startswith("blip2") else _LAVIS.get(model, model)
    splits = [results.data[part] for part in ("train", "test") if part in results.data]
    whole = all(
        isinstance(split, Mapping) and split.get("images") == _IMAGES.get(str(split.get("split")), -1)
        for split in splits
    )
    return family == _FAMILIES[number] and whole and not fine_tuned_on_coco(name)
