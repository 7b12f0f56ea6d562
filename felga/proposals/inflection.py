"""Singular and plural of English nouns, as far as it takes to see that two keywords are one."""

from __future__ import annotations

IRREGULAR = {
    "men": "man",
    "women": "woman",
    "people": "person",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "knives": "knife",
    "wives": "wife",
    "lives": "life",
}
LEAF = ("leaves", "loaves", "halves", "shelves", "wolves", "calves", "scarves", "hooves", "thieves")


def singular(keyword: str) -> str:
    """The keyword in lower case with its last word in the singular; unknown forms stay.

    >>> [singular(word) for word in ("Zebras", "boxes", "puppies", "glass", "bus", "young men", "shelves")]
    ['zebra', 'box', 'puppy', 'glass', 'bus', 'young man', 'shelf']
    """
    head, space, word = keyword.lower().rpartition(" ")
    if word in IRREGULAR:
        word = IRREGULAR[word]
    elif word in LEAF:
        word = word.removesuffix("ves") + "f"
    elif word.endswith("ies") and len(word) > 4:
        word = word.removesuffix("ies") + "y"
    elif word.endswith(("ches", "shes", "sses", "xes", "zzes", "oes")) and len(word) > 4:
        word = word.removesuffix("es")
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word.removesuffix("s")
    return head + space + word
