"""Rendering of the figures on answers for people, for readme.py: how sure they are, concepts and audits."""

from __future__ import annotations

from readme_quality import load

GROUPS = {
    "carved": "class names whose images were all taken out, while related ones stay",
    "absent": "ImageNet names that no caption mentions",
    "nonsense": "nonsense",
    "misspelt": "misspelt class names",
    "languages": "class names in other languages",
}


def confidence() -> list[str]:
    """What a confidence promises and what it costs, and how confidences are spread."""
    found = load("confidence")
    lines = [
        "## Confidence",
        "",
        "Queries for things that are there (class names), and for things that are not. Weights and promise were chosen on"
        " train2017: a FENet that was trained on three quarters of its images judges the fourth. val2017 was only measured, but the"
        " number of parts was raised from two to four after a first look at it (at 0.95, two had kept 67 % at 3.3 % false alarms)"
        " (`python bench/confidence.py --root ../shared/coco-mini`). *kept*: the share of class names whose best image"
        " reaches the confidence; *right*: of these, how many best images show the class; *false alarms*: the share of"
        " queries for absent things that reach it, mean of the five groups to the right of it. All in %.",
        "",
        f"| | confidence | kept | right | false alarms | {' | '.join(GROUPS.values())} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for split in ("train2017", "val2017"):
        for row in found[split]["levels"]:
            groups = " | ".join(f"{row[group]:.0f}" for group in GROUPS)
            right = "" if row["right"] is None else f"{row['right']:.0f}"
            lines.append(
                f"| {split} | {row['confidence']} | {row['kept']:.0f} | {right} | {row['false_alarms']:.1f} | {groups} |"
            )
    return [*lines, "", *histograms(found["val2017"]), ""]


def histograms(measured: dict[str, dict[str, list[int]]]) -> list[str]:
    """How many queries of each group have a best image of which confidence, in %."""
    lines = [
        "The confidences of the best images on val2017, in % of the queries of a group:",
        "",
        "| confidence | below 0.2 | 0.2-0.4 | 0.4-0.6 | 0.6-0.8 | 0.8-0.9 | 0.9-0.95 | from 0.95 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for group, counts in measured["histogram"].items():
        parts = [
            counts[:4],
            counts[4:8],
            counts[8:12],
            counts[12:16],
            counts[16:18],
            counts[18:19],
            counts[19:],
        ]
        cells = " | ".join(f"{100 * sum(part) / sum(counts):.0f}" for part in parts)
        lines.append(f"| {group} | {cells} |")
    return lines


def false_alarms() -> list[str]:
    """The promise in a sentence, for the README."""
    row = next(row for row in load("confidence")["val2017"]["levels"] if row["confidence"] == 0.95)
    return [
        f"Measured on 300 photographs: {row['kept']:.0f} % of the class names that they show reach 0.95, and"
        f" {row['right']:.0f} % of these best images are right; of queries for absent things {row['false_alarms']:.1f} % do"
        f" (nonsense {row['nonsense']:.0f} %, misspelt words {row['misspelt']:.0f} %, absent ImageNet classes"
        f" {row['absent']:.0f} %, and, hardest, class names whose images were all taken out while related ones stayed,"
        f" {row['carved']:.0f} %).",
    ]


def concepts() -> list[str]:
    """Regions by name against clusters."""
    found = load("concepts")
    lines = [
        "## Concepts",
        "",
        "What `felga concepts` was chosen by (`python bench/concepts.py --root ../shared/coco-mini`): of the thirty concepts"
        " that most images show, the share of regions whose class is the commonest of their concept, how many classes are"
        " the commonest of one, and how many concepts are named by it. Only regions that overlap a box by an IoU of 0.5"
        " are judged. Clusters are those of spherical k-means, named by the word that stands out most in their mean.",
        "",
        "| | purity, train, % | classes | named rightly | purity, val, % | classes | named rightly |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for way in found["train2017"]:
        if way != "largest":
            cells = [
                f"{one['purity_percent']:.0f} | {one['classes']} | {one['named_rightly']} of {one['judged']}"
                for one in (found["train2017"][way], found["val2017"][way])
            ]
            label = "**regions by name**, which felga does" if way == "names" else way
            lines.append(f"| {label} | {' | '.join(cells)} |")
    largest = ", ".join(f"{name} ({images})" for name, images, _ in found["val2017"]["largest"][:15])
    return [*lines, "", f"The first concepts of val2017 and their images: {largest}.", ""]


FINDINGS = {
    "captions": "`captions`: a tenth of the images have the caption of another",
    "keywords": "`keywords`: in a tenth, another class is named in place of one that is shown",
    "regions": "`regions`: in a tenth, no mention of a class that is shown is left",
}


def audit() -> list[str]:
    """How many planted errors are found, and how many findings are right."""
    found = load("audit")
    lines = [
        "## Audit",
        "",
        f"Errors planted in the captions of {found['train2017']['images']:,} images of train2017, where the limits were"
        " chosen, each judged by a FENet of other images; and of val2017, which was only measured, three times"
        " (`python bench/audit.py --root ../shared/coco-mini`). *First 50*: how many of the first fifty findings are"
        " right, in %. A keyword is right only if it was planted: other errors of COCO's captions, and things that are"
        " hidden, count as wrong. A region is right if the image shows the class of its name and no caption mentions it,"
        " planted or not; names of no class of COCO are left out. The average precision takes errors that are not"
        " reported as never found.",
        "",
        "| | | planted | reported | first 50, % | planted errors found, % | average precision, % |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for kind, label in FINDINGS.items():
        for split in ("train2017", "val2017"):
            own = found[split][kind]
            hits = own.get("planted_found", own["right"])
            precision = own.get("average_precision_percent")
            lines.append(
                f"| {label} | {split} | {own['planted']} | {own['reported']} | {own['first_50_percent']:.0f}"
                f" | {100 * hits / own['planted']:.0f} | {'' if precision is None else f'{precision:.0f}'} |"
            )
    return [*lines, ""]


COMMONEST = 10  # classes in the table of errors


def errors() -> list[str]:
    """What goes wrong when class names are asked for."""
    found = load("breakdown")
    lines = [
        "## Errors",
        "",
        f"`felga audit --labels` on {found['dataset']}, which was only measured (`python bench/breakdown.py --root"
        " ../shared/coco-mini`; [what the columns mean](outputs.md#errors-of-a-labelled-set)). The class names are asked for,"
        " each answered by as many images as show it; all in %, of these images and of these answers. All classes together,"
        f" and the {COMMONEST} commonest:",
        "",
        "| class | images | found | wrong box | wrong concept | no box | misplaced | other class | background | mostly |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in (found["total"], *found["classes"][:COMMONEST]):
        of_images = [
            100 * row[name] / row["images"] for name in ("found", "wrong_box", "wrong_concept", "no_box")
        ]
        of_answers = [100 * row[name] / row["answers"] for name in ("misplaced", "other_class", "background")]
        cells = " | ".join(f"{share:.0f}" for share in (*of_images, *of_answers))
        lines.append(f"| {row['name']} | {row['images']:,} | {cells} | {row['taken_for'] or ''} |")
    return [*lines, ""]


def serving() -> list[str]:
    """Requests per second of felga serve."""
    found = load("serving")
    lines = [
        "## Serving",
        "",
        f"Word searches over loopback, server and clients on the same {found['machine']['cores']} cores, an index of"
        f" {found['corpus']}, {found['seconds']:g} s per case (`python bench/serving.py --corpus"
        " ../shared/coco-mini/val2017`). In the last row images are indexed meanwhile, and the new state is served before"
        " it ends.",
        "",
        "| | requests/s | median, ms | p95, ms | failures |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, row in found["cases"].items():
        label = name.replace("1 clients", "1 client")
        lines.append(
            f"| {label} | {row['requests_per_second']:.0f} | {row['median_ms']:.0f} | {row['p95_ms']:.0f} | {row['failures']} |"
        )
    return [*lines, ""]


def meaning_and_quality() -> list[str]:
    """How meaning and quality may be joined, and what the true IoU would bring."""
    found = load("localisation")
    lines = [
        "## Meaning and quality",
        "",
        f"On {found['dataset']}, frozen `{found['encoder']}` and learned regions (`python bench/localisation.py --root"
        " ../shared/coco-mini`): a region's score from its cosine and its quality u, predicted, or, as the bound for any"
        " predictor, the true IoU with the nearest object of any class. mAP of discovery by the best region, the share of"
        " winning boxes that fit, and COCO's AP of boxes with class names, all in %. Nothing was chosen here.",
        "",
        "| score of a region | mAP | box fits | AP |",
        "|---|--:|--:|--:|",
    ]
    for name, row in found["rows"].items():
        label = name.replace(", oracle", ", true IoU")
        lines.append(
            f"| {label} | {100 * row['discovery']:.1f} | {100 * row['winning_boxes']['fits']:.1f}"
            f" | {100 * row['detection']['ap']:.1f} |"
        )
    return [*lines, ""]
