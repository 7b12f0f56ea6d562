"""AlignCap's four losses: ``L = alpha L_tag + beta L_cap + gamma L_cond + lambda L_multi``.

The sum is the abstract's, and so is that the last two are contrastive; what each is and the weights are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from felga.captions.caption_batches import IGNORED
from felga.captions.caption_decoder import CaptionDecoder

TEMPERATURE = 0.07


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the four losses; one that is 0 is left out."""

    tag: float = 1.0
    cap: float = 1.0
    cond: float = 0.5
    multi: float = 0.5


def tag_loss(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017, with ObjEmbed's constants): summed over tags, mean over regions.

    Args:
        logits, targets: (b, W); targets are 0 or 1.
        known: (b, W) bool: elsewhere nobody said whether the tag fits.
    """
    p = logits.sigmoid()
    right = p * targets + (1 - p) * (1 - targets)
    alpha = 0.25 * targets + 0.75 * (1 - targets)
    each = (
        alpha * (1 - right).square() * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    )
    return 2 * (each * known).sum() / len(logits)


def condition_loss(refined: Tensor, wrong: Tensor, own: Tensor, phrases: Tensor, same: Tensor) -> Tensor:
    """L_cond: of a region's class tag, refined by it, to its phrase: InfoNCE with hard negatives.

    The negatives are the *same* tag refined by the other regions of the batch (this dog, that dog), and the
    region's own other tags.

    Args:
        refined: (b, m, 384), the likeliest tags of each region; wrong: (b, m) bool, those that do not fit.
        own: (b, b, 384), ``own[s, r]``: the class tag of region r, refined by region s.
        phrases: (b, 384) unit vectors.
        same: (b, b) bool, ``same[r, s]``: the phrase of region s is also one of region r's, and no negative.
    """
    across = torch.einsum("srd,rd->rs", F.normalize(own, dim=-1), phrases)  # (b, b)
    within = torch.einsum("rmd,rd->rm", F.normalize(refined, dim=-1), phrases)  # (b, m)
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = torch.cat([across.masked_fill(others, -torch.inf), within.masked_fill(~wrong, -torch.inf)], 1)
    target = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits / TEMPERATURE, target)


def multi_loss(m: Tensor, phrases: Tensor, same: Tensor) -> Tensor:
    """L_multi: symmetric InfoNCE between regions and MiniLM's vectors of their phrases.

    Args:
        m: (b, 384); phrases: (b, 384) unit vectors; same: as in :func:`condition_loss`.
    """
    logits = F.normalize(m, dim=-1) @ phrases.T / TEMPERATURE
    logits = logits.masked_fill(
        same & ~torch.eye(len(same), dtype=torch.bool, device=same.device), -torch.inf
    )
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def caption_loss(decoder: CaptionDecoder, prefix: Tensor, words: Tensor, targets: Tensor) -> Tensor:
    """L_cap: mean negative log probability of the words of phrases, their ends included, in nats.

    Args:
        decoder: frozen; the gradient passes through it to the prefix.
        prefix: (b, p, 384); words: (b, t), from the start.
        targets: (b, t), what follows each word; :data:`IGNORED` behind the end.
    """
    expected = targets != IGNORED
    states = decoder.states(prefix, words, torch.arange(len(words), device=words.device))[expected]
    return F.cross_entropy(decoder.scores(states), targets[expected])
