"""Are BLEU and CIDEr-D those of nltk and pycocoevalcap? To be run in an environment of theirs.

    python -m venv /tmp/captioning && /tmp/captioning/bin/pip install nltk sacrebleu numpy
    /tmp/captioning/bin/pip install --no-deps pycocoevalcap
    PYTHONPATH=. /tmp/captioning/bin/python checks/captioning.py --captions captions_val2017.json

The first caption of each image is scored against its others; all tokenized alike beforehand. Writes
checks/results/captioning.json.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

from nltk.translate.bleu_score import corpus_bleu
from pycocoevalcap.cider.cider import Cider

from felga.evaluation.captioning import ORDERS, bleu, caption_words, cider

MOST = 1e-6


def main() -> None:
    """Compare, write the json, and fail on a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=Path, required=True)
    path = parser.parse_args().captions
    every: dict[int, list[str]] = defaultdict(list)
    for row in json.loads(path.read_text())["annotations"]:
        every[row["image_id"]].append(row["caption"])
    captions = [own[0] for own in every.values()]
    references = [own[1:] for own in every.values()]
    said = [caption_words(caption) for caption in captions]
    people = [[caption_words(text) for text in own] for own in references]
    ours = {f"BLEU-{order}": bleu(captions, references, order) for order in ORDERS}
    theirs = {f"BLEU-{order}": corpus_bleu(people, said, weights=[1 / order] * order) for order in ORDERS}
    ours["CIDEr-D"] = sum(cider(captions, references)) / len(captions)
    score, _ = Cider().compute_score(
        {at: [" ".join(text) for text in own] for at, own in enumerate(people)},
        {at: [" ".join(text)] for at, text in enumerate(said)},
    )
    theirs["CIDEr-D"] = float(score)
    difference = max(abs(ours[name] - theirs[name]) for name in ours)
    result = {
        "packages": {name: version(name) for name in ("nltk", "pycocoevalcap", "sacrebleu")},
        "file": path.name,
        "images": len(captions),
        "felga": ours,
        "others": theirs,
        "largest_difference": difference,
    }
    print(json.dumps(result, indent=1))
    Path(__file__).with_name("results").joinpath("captioning.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )
    if difference > MOST:
        raise SystemExit(f"they differ by {difference}")


if __name__ == "__main__":
    main()
