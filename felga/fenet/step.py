"""One training step of FENet: Eq. 13 of a batch, its gradient and the update, without a loop over pairs."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from felga.fenet import losses, pseudo_labels
from felga.fenet.features import Batch, Table
from felga.fenet.model import FENet
from felga.fenet.recipes import Recipe

WARM_UP = 3
"""Steps that CUDA needs before a graph can be recorded; their effect is undone."""


def batch_loss(net: FENet, batch: Batch, recipe: Recipe, bfloat16: bool = False) -> Tensor:
    """Eq. 13 of one batch, with the additions of the recipe.

    Without a local loss, the global one has weight 1: lambda 3 weighs it against the local one.

    Args:
        bfloat16: multiply by the weights in bfloat16; lengths, similarities and losses stay float32.

    Returns:
        () float32.
    """
    b = len(batch.real)
    # The cast cache must be off: a recorded step would keep the weights of the first step.
    with torch.autocast(batch.vectors.device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=False):
        regions, keywords = _embedded(net, batch)  # (b, r, d'), (b, k, d')
    similarity = regions.flatten(0, 1) @ keywords.flatten(0, 1).T  # (b * r, b * k), Eq. 9
    form = partial(losses.FORMS[recipe.form], temperature=recipe.temperature)
    local = across = similarity.new_zeros(())
    if recipe.labels is not None:
        local = form(similarity, *_labels(batch, recipe), margin=recipe.lambda1)
    if recipe.has_global:
        between = losses.global_similarity(similarity, batch.real_regions, batch.real_keywords)  # (b, b)
        own = pseudo_labels.global_labels(b, between.device)
        across = form(between, own, ~own, margin=recipe.lambda2)
    loss = losses.total(local, across, recipe.lambda3 if recipe.labels is not None else 1.0)
    if recipe.has_owner:
        best = losses.owner_similarity(similarity, batch.real_regions)  # (b, b * k)
        _, owns, first = pseudo_labels.same_keyword(batch.keyword_ids, batch.real_keywords)
        counts = first if recipe.distinct else batch.real_keywords.flatten()  # (b * k,)
        loss = loss + recipe.lambda4 * form(best, owns & counts, ~owns & counts, margin=recipe.lambda1)
    return loss


def _embedded(net: FENet, batch: Batch) -> tuple[Tensor, Tensor]:
    """Regions (b, r, d') and keywords (b, k, d') of a batch (Eq. 8)."""
    if batch.inputs is not None and batch.texts is not None:
        return net(batch.inputs), batch.texts
    embedded = net(batch.vectors)  # together: the weights are read once
    return embedded[:, : batch.regions], embedded[:, batch.regions :]


def _labels(batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The local pseudo-labels of a batch: positive and negative (b * r, b * k)."""
    real = batch.real_regions, batch.real_keywords
    if recipe.labels == "dense":
        labels = pseudo_labels.dense(*real)  # (b, r, k)
    elif recipe.labels == "random":
        assert batch.flips is not None  # of Table.flipped
        labels = pseudo_labels.random(batch.flips, *real)
    else:
        rule = pseudo_labels.sparse if recipe.labels == "sparse" else pseudo_labels.dynamic
        labels = rule(batch.frozen_similarity(), *real)
    if not recipe.distinct:
        return pseudo_labels.local_labels(labels, *real)
    same, _, first = pseudo_labels.same_keyword(batch.keyword_ids, real[1])
    return pseudo_labels.distinct_labels(labels, real[0], same, first)


class Stepper:
    """Optimiser steps on one network; on CUDA a recorded graph of the whole step is replayed.

    The graph covers the gather of the batch, the losses, the backward pass and the update. A step reads
    ``index`` and, on CUDA, the rate from the device, and adds its loss to ``loss_sum`` there.
    """

    def __init__(self, net: FENet, table: Table, recipe: Recipe, batch: int) -> None:
        self.net, self.table, self.recipe = net, table, recipe
        device = table.vectors.device
        self.cuda = device.type == "cuda"
        self.bfloat16 = recipe.precision == "bfloat16" or (
            recipe.precision == "auto" and self.cuda and torch.cuda.is_bf16_supported()
        )
        self.rate = torch.tensor(recipe.rate, device=device) if self.cuda else recipe.rate
        self.optimiser = torch.optim.SGD(
            net.parameters(),
            lr=self.rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        # Created here: neither a recorded step nor a resumed one may be a first step.
        for weight in net.parameters():
            self.optimiser.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        self.index = torch.arange(batch, device=device) % len(table)  # (batch,)
        self.loss_sum = torch.zeros((), device=device)
        self.graph = self._record() if self.cuda else None

    def __call__(self, index: Tensor, rate: float) -> None:
        """One step on the pairs ``index`` (batch,) int64, on the device."""
        if self.graph is None:
            self.index = index
            self.optimiser.param_groups[0]["lr"] = rate
            self._step()
            return
        self.index.copy_(index)
        assert isinstance(self.rate, Tensor)
        self.rate.fill_(rate)
        self.graph.replay()

    def take_loss(self) -> float:
        """The sum of the losses since the last call; synchronises with the device."""
        value = float(self.loss_sum)
        self.loss_sum.zero_()
        return value

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's momentum, by weight."""
        state = self.optimiser.state
        return {name: state[weight]["momentum_buffer"] for name, weight in self.net.named_parameters()}

    def _step(self) -> None:
        loss = batch_loss(self.net, self.table.batch(self.index), self.recipe, self.bfloat16)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.loss_sum += loss.detach()

    def _record(self) -> torch.cuda.CUDAGraph:
        before = [value.detach().clone() for value in self._state()]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        with torch.no_grad():
            for value, old in zip(self._state(), before, strict=True):
                value.copy_(old)
        return graph

    def _state(self) -> list[Tensor]:
        return [*self.net.parameters(), *self.moments().values(), self.loss_sum]
