"""Names of encoders and proposers, and the code behind each; third parties add theirs by entry point.

An entry is ``module:attribute``, imported when it is asked for. The attribute is a factory::

    def encoder(weights: str, *, device: str, batch_size: int, pooling: str | None) -> Encoder
    def regions(argument: str, *, device: str) -> RegionProposer
    def keywords(argument: str, *, device: str) -> KeywordProposer

A name is ``family`` or ``family:argument``, split once at the first colon; the argument reaches the
factory ("" without one). Entry point groups: ``felga.encoders``, ``felga.regions``, ``felga.keywords``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, TypeAlias, cast

from felga.errors import BadInputError, MissingError
from felga.types import Encoder, KeywordProposer, RegionProposer

Kind: TypeAlias = Literal["encoders", "regions", "keywords"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a family's factory is, what it is in a line, and the line that installs what it needs.

    ``probe`` is an argument by which ``felga doctor`` learns whether what it runs in is here.
    """

    target: str
    about: str
    install: str = "pip install felga"
    probe: str = ""


BUILTIN: dict[Kind, dict[str, Entry]] = {
    "encoders": {
        "conse": Entry(
            "felga.encoders.conse:conse",
            "class probabilities to word vectors, weights from the wheels (embedded default)",
        ),
        "clip": Entry(
            "felga.encoders.open_clip:clip",
            "clip:ARCH/PRETRAINED, clip:local-dir:DIR or clip:ARCH/FILE, by open_clip",
        ),
        "blip": Entry("felga.encoders.blip:blip", "blip:OWNER/NAME or blip:FOLDER, by transformers"),
        "blip2": Entry("felga.encoders.blip2:blip2", "blip2:OWNER/NAME or blip2:FOLDER, by transformers"),
        "lavis": Entry(
            "felga.encoders.lavis:lavis",
            "lavis:MODEL/TYPE or lavis:MODEL/TYPE@FILE, in a process of its own",
            probe="blip_feature_extractor/base",
        ),
    },
    "regions": {
        "selective-search": Entry(
            "felga.proposals.unsupervised:selective_search", "grouping of superpixels (Uijlings 2013)"
        ),
        "graphseg+edgeboxes": Entry(
            "felga.proposals.unsupervised:graphseg_edgeboxes", "graph segments and EdgeBoxes, interleaved"
        ),
        "detreg": Entry("felga.proposals.detreg:detreg", "detreg:FILE, DETReg's checkpoint by transformers"),
        "torchvision": Entry(
            "felga.proposals.torchvision:torchvision",
            "torchvision:MODEL, MODEL/TAG or MODEL/FILE: the RPN of a Faster or Mask R-CNN",
        ),
        "detectron2": Entry(
            "felga.proposals.detectron2:detectron2", "detectron2:CONFIG@WEIGHTS, an RPN (#rpn) or a detector"
        ),
        "mayaku": Entry(
            "felga.proposals.detectron2:mayaku",
            "mayaku:CONFIG@WEIGHTS, Detectron2's checkpoints without Detectron2",
            "pip install 'felga[mayaku]'",
        ),
        "grid": Entry("felga.proposals.unsupervised:grid", "fixed boxes, for comparison"),
        "boxes": Entry("felga.proposals.boxfile:boxes", "boxes:FILE, proposals read from a json file"),
    },
    "keywords": {
        "keybert": Entry("felga.proposals.keybert:keybert", "KeyBERT over the packaged MiniLM"),
    },
}


def names(kind: Kind) -> dict[str, Entry]:
    """Every known family of a kind, felga's own first, then those of entry points."""
    found = dict(BUILTIN[kind])
    for point in entry_points(group=f"felga.{kind}"):
        distribution = point.dist.name if point.dist is not None else "?"
        found.setdefault(
            point.name, Entry(point.value, f"from {distribution}", f"pip install {distribution}")
        )
    return found


def factory(kind: Kind, name: str) -> tuple[Callable[..., Any], str]:
    """The factory behind ``family:argument``, and the argument.

    Raises:
        BadInputError: no such family; says the nearest one.
        MissingError: a package that it needs is not installed; says the line that installs it.
    """
    family, _, argument = name.partition(":")
    known = names(kind)
    if family not in known:
        near = difflib.get_close_matches(family, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise BadInputError(f"there is no {kind.rstrip('s')} named {family!r}; {hint}")
    entry = known[family]
    module, _, attribute = entry.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute), argument
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "felga":  # our own bug: never hidden
            raise
        raise MissingError(
            f"{name} needs the package {error.name!r}, which is not installed: {entry.install}"
        ) from error


def make_encoder(
    name: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None
) -> Encoder:
    """The encoder of that name, its weights not yet loaded where that can wait.

    Args:
        name: ``family`` or ``family:weights``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: crops or texts in one forward pass.
        pooling: ``roi`` (one pass an image) or ``crop`` (one pass a region); None: the encoder's own.
    """
    build, weights = factory("encoders", name)
    return cast(Encoder, build(weights, device=device, batch_size=batch_size, pooling=pooling))


def make_regions(name: str, *, device: str = "auto") -> RegionProposer:
    """The region proposer of that name."""
    build, argument = factory("regions", name)
    return cast(RegionProposer, build(argument, device=device))


def make_keywords(name: str, *, device: str = "auto") -> KeywordProposer:
    """The keyword proposer of that name."""
    build, argument = factory("keywords", name)
    return cast(KeywordProposer, build(argument, device=device))
