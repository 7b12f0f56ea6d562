"""Encoders, proposers and corpora by name; third parties add theirs by entry point.

An entry is ``module:attribute``, imported on first use. The attribute is a factory::

    def encoder(weights: str, *, device: str, batch_size: int, pooling: str | None) -> Encoder
    def regions(argument: str, *, device: str) -> RegionProposer
    def keywords(argument: str, *, device: str) -> KeywordProposer
    def corpus(argument: str, *, texts: Texts) -> Corpus

A name is ``family`` or ``family:argument``, split at the first colon; the argument is passed to the factory
("" if there is none). Entry point groups: ``felga.encoders``, ``felga.regions``, ``felga.keywords``,
``felga.corpora``. felga's own names win over those of entry points.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from felga.corpus.items import Corpus, Texts
from felga.errors import BadInputError, MissingError, did_you_mean
from felga.types import Encoder, KeywordProposer, RegionProposer

Kind: TypeAlias = Literal["encoders", "regions", "keywords", "corpora"]
NOUNS: dict[Kind, str] = {
    "encoders": "encoder",
    "regions": "region proposer",
    "keywords": "keyword proposer",
    "corpora": "corpus",
}
MEMBERS: dict[Kind, tuple[str, ...]] = {
    "encoders": ("name", "dim", "identity", "encode_regions", "encode_texts"),
    "regions": ("name", "settings", "propose"),
    "keywords": ("name", "settings", "propose"),
    "corpora": ("kind", "root", "settings", "scan", "read"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A family: its factory, a one-line description, and the command that installs what it needs.

    Attributes:
        probe: an argument with which ``felga doctor`` checks that the required packages are installed.
    """

    target: str
    about: str
    install: str = "pip install felga"
    probe: str = ""


BUILTIN: dict[Kind, dict[str, Entry]] = {
    "encoders": {
        "conse": Entry(
            "felga.encoders.conse:conse",
            "class probabilities to word vectors, weights inside wheels (the default)",
        ),
        "clip": Entry(
            "felga.encoders.open_clip:clip",
            "clip:ARCH/PRETRAINED, clip:local-dir:DIR or clip:ARCH/FILE, by open_clip; clip: a good ViT-B/32",
            probe="ViT-B-32-256/datacomp_s34b_b86k",
        ),
        "blip": Entry(
            "felga.encoders.blip:blip",
            "blip:OWNER/NAME or blip:FOLDER, by transformers; not the paper's BLIP, see lavis",
        ),
        "blip2": Entry("felga.encoders.blip2:blip2", "blip2:OWNER/NAME or blip2:FOLDER, by transformers"),
        "lavis": Entry(
            "felga.encoders.lavis:lavis",
            "lavis:MODEL/TYPE or lavis:MODEL/TYPE@FILE, in a separate process; "
            "the paper's BLIP is lavis:blip_feature_extractor/base",
            probe="blip_feature_extractor/base",
        ),
        "aligned": Entry(
            "felga.alignment.aligned_encoder:aligned",
            "aligned:FILE, conse's network aligned with phrases of captions by felga align",
        ),
    },
    "regions": {
        "learned": Entry(
            "felga.proposals.learned:learned", "learned or learned:FILE, a small head trained on boxes"
        ),
        "selective-search": Entry(
            "felga.proposals.unsupervised:selective_search", "grouped superpixels (Uijlings 2013)"
        ),
        "graphseg+edgeboxes": Entry(
            "felga.proposals.unsupervised:graphseg_edgeboxes", "graph segments and EdgeBoxes, interleaved"
        ),
        "detreg": Entry(
            "felga.proposals.detreg:detreg",
            "detreg:FILE or detreg:FILE#480/600, a DETReg checkpoint, by transformers",
        ),
        "hf": Entry(
            "felga.proposals.hf:hf",
            "hf:OWNER/NAME or hf:FOLDER, a detector of transformers, such as RT-DETR, DETR or YOLOS",
        ),
        "onnx": Entry(
            "felga.proposals.onnx:onnx",
            "onnx:FILE, a detector exported to ONNX: YOLOX, YOLOv8, RT-DETR, or one of transformers",
            "pip install onnxruntime",
        ),
        "torchvision": Entry(
            "felga.proposals.torchvision:torchvision",
            "torchvision:MODEL, MODEL/TAG or MODEL/FILE: the RPN of a Faster or Mask R-CNN",
        ),
        "detectron2": Entry(
            "felga.proposals.detectron2:detectron2", "detectron2:CONFIG@WEIGHTS, an RPN (#rpn) or a detector"
        ),
        "mayaku": Entry(
            "felga.proposals.detectron2:mayaku",
            "mayaku:CONFIG@WEIGHTS, Detectron2 checkpoints without Detectron2",
            "pip install 'felga[mayaku]'",
        ),
        "grid": Entry("felga.proposals.unsupervised:grid", "fixed boxes, for comparison"),
        "boxes": Entry("felga.proposals.boxfile:boxes", "boxes:FILE, proposals read from a json file"),
    },
    "keywords": {
        "keybert": Entry("felga.proposals.keybert:keybert", "KeyBERT with the packaged MiniLM"),
    },
    "corpora": {
        "folder": Entry("felga.corpus.folder:folder", "folder:DIR, images with captions beside them"),
        "coco": Entry("felga.corpus.coco:coco", "coco:CAPTIONS.json@IMAGES, the official COCO files"),
        "webdataset": Entry(
            "felga.corpus.webdataset:webdataset",
            "webdataset:FOLDER or webdataset:DIR/{00000..00009}.tar, tar shards, also img2dataset's",
        ),
        "parquet": Entry(
            "felga.corpus.parquet:parquet",
            "parquet:FOLDER or parquet:DIR/{00000..00009}.parquet, shards of img2dataset",
        ),
        "objects": Entry(
            "felga.corpus.object_store:objects",
            "objects:URL or just URL, such as s3://BUCKET/PREFIX: a folder on what fsspec opens",
        ),
    },
}


def names(kind: Kind) -> dict[str, Entry]:
    """Every known family of a kind: felga's first, then those of entry points."""
    known = dict(BUILTIN[kind])
    for point in entry_points(group=f"felga.{kind}"):
        distribution = point.dist.name if point.dist is not None else "?"
        known.setdefault(
            point.name, Entry(point.value, f"from {distribution}", f"pip install {distribution}")
        )
    return known


def found() -> Iterator[tuple[str, Path]]:
    """The weight files on this machine, each with a name that uses it; a file comes once for each name.

    A module of felga's own parts that have weights in packages or caches says so by its function ``found``.
    """
    targets = [entry.target for kind in BUILTIN for entry in BUILTIN[kind].values()]
    for module in dict.fromkeys(target.partition(":")[0] for target in targets):
        if (own := getattr(importlib.import_module(module), "found", None)) is not None:
            yield from own()


def factory(kind: Kind, name: str) -> tuple[Callable[..., Any], str]:
    """The factory behind ``family:argument``, and the argument.

    Raises:
        BadInputError: no such family; the message suggests the nearest one.
        MissingError: a required package is not installed, or a third-party entry point names nothing.
    """
    family, _, argument = name.partition(":")
    known = names(kind)
    if family not in known:
        raise BadInputError(f"there is no {NOUNS[kind]} named {family!r}: {did_you_mean(family, known)}")
    entry = known[family]
    module, _, attribute = entry.target.partition(":")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "felga":  # our own bug: never hidden
            raise
        raise MissingError(
            f"{name} needs the package {error.name!r}, which is not installed: {entry.install}"
        ) from error
    if family in BUILTIN[kind]:
        return attrgetter(attribute)(loaded), argument
    try:
        return attrgetter(attribute)(loaded), argument
    except AttributeError as error:
        raise MissingError(
            f"{NOUNS[kind]} {family!r} is broken: {module} has no {attribute!r}; it comes {entry.about}, "
            "update or remove that package"
        ) from error


def make_encoder(
    name: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None
) -> Encoder:
    """The encoder of that name; its weights may be loaded later.

    Args:
        name: ``family`` or ``family:weights``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: crops or texts per forward pass.
        pooling: ``roi`` (one pass per image) or ``crop`` (one pass per region); None: the encoder's default.
    """
    return cast(Encoder, _make("encoders", name, device=device, batch_size=batch_size, pooling=pooling))


def make_regions(name: str, *, device: str = "auto") -> RegionProposer:
    """The region proposer of that name."""
    return cast(RegionProposer, _make("regions", name, device=device))


def make_keywords(name: str, *, device: str = "auto") -> KeywordProposer:
    """The keyword proposer of that name."""
    return cast(KeywordProposer, _make("keywords", name, device=device))


def make_corpus(name: str, *, texts: Texts = "joined") -> Corpus:
    """The corpus of that name, such as ``folder:photos``; nothing is scanned yet.

    Args:
        name: ``family:argument``.
        texts: how the captions of an image become texts.
    """
    return cast(Corpus, _make("corpora", name, texts=texts))


def _make(kind: Kind, name: str, **options: Any) -> Any:
    """Call the factory, and refuse what lacks a member of the protocol: a third party's factory is wrong."""
    build, argument = factory(kind, name)
    part = build(argument, **options)
    # looked up statically first: a property such as `dim` may load weights
    lacks = [
        member
        for member in MEMBERS[kind]
        if inspect.getattr_static(part, member, None) is None and not hasattr(part, member)
    ]
    if lacks:
        raise BadInputError(
            f"{name!r} is no {NOUNS[kind]}: its factory returned a {type(part).__name__} without "
            f"{', '.join(lacks)}"
        )
    return part
