"""The time of a training step of FENet's `paper` recipe, compared with its lower bound.

CPU: one pass over regions and keywords together against two passes, alternating in one run. CUDA, if present:
the recorded step at COCO-2017 size (118,287 pairs x 10 regions x 10 keywords x 512, synthetic vectors), for
`--epochs` epochs, against the bytes that a step must move (a step at batch 8 is memory-bound).

    python bench/fenet_step.py --out bench/results/fenet_step.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from felga.evaluation.results import machine
from felga.fenet.features import Features, Table
from felga.fenet.model import build
from felga.fenet.recipes import make_recipe
from felga.fenet.step import Stepper

DIM, REGIONS, KEYWORDS, COCO_2017 = 512, 10, 10, 118_287
H100_BYTES_PER_S = 3.35e12


def synthetic(pairs: int, device: str, words: int = 20_000, seed: int = 0) -> Table:
    """Pairs of synthetic vectors, created on the device."""
    if device == "cpu":
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(pairs * REGIONS + words, DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        features = Features(
            vectors[: pairs * REGIONS],
            np.arange(pairs + 1) * REGIONS,
            vectors[pairs * REGIONS :],
            rng.integers(0, words, pairs * KEYWORDS),
            np.arange(pairs + 1) * KEYWORDS,
        )
        return features.table(features.usable)
    torch.manual_seed(seed)
    vectors = nn.functional.normalize(torch.randn(pairs * REGIONS + words, DIM, device=device), dim=1)
    regions = torch.arange(pairs * REGIONS, device=device).view(pairs, REGIONS)
    keywords = torch.randint(words, (pairs, KEYWORDS), device=device) + pairs * REGIONS
    rows = torch.cat([regions, keywords], 1)
    return Table(vectors, rows, torch.ones_like(rows, dtype=torch.bool), REGIONS, pairs * REGIONS)


class TwoPasses(nn.Module):
    """The same network, applied once to the regions and once to the keywords."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, vectors: Tensor) -> Tensor:
        parts = [self.net(vectors[:, :REGIONS]), self.net(vectors[:, REGIONS:])]
        return torch.cat(parts, 1)


def on_cpu(steps: int) -> dict[str, object]:
    """Median seconds per step, one pass and two passes alternating."""
    recipe = make_recipe("paper")
    table = synthetic(500, "cpu")
    torch.manual_seed(0)
    net = build(recipe, DIM).train()
    steppers = {
        name: Stepper(module, table, recipe, recipe.batch)
        for name, module in (("one_pass", net), ("two_passes", TwoPasses(net)))
    }
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for step in range(steps + 1):
        index = torch.randperm(len(table))[: recipe.batch]
        for name, stepper in steppers.items():
            start = time.perf_counter()
            stepper(index, recipe.rate)
            if step:  # the first one warms up
                times[name].append(time.perf_counter() - start)
    a = torch.randn(160, 4096)
    b = torch.randn(4096, 4096)
    products = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        products.append(time.perf_counter() - start)
    flops = 2 * 160 * (512 * 4096 + 4096 * 4096 + 4096 * 512)
    multiply = 3 * flops - 2 * 160 * 512 * 4096  # forward, two backward; no gradient of the input
    floor = multiply / (2 * 160 * 4096 * 4096 / min(products))
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "threads": torch.get_num_threads(),
        "steps": steps,
        "median_ms": {name: round(1e3 * value, 1) for name, value in median.items()},
        "min_ms": {name: round(1e3 * min(values), 1) for name, values in times.items()},
        "two_passes_over_one": round(median["two_passes"] / median["one_pass"], 2),
        "multiply_gflop": round(multiply / 1e9, 1),
        "floor_ms_of_products_alone": round(1e3 * floor, 1),
        "one_pass_over_floor": round(min(times["one_pass"]) / floor, 2),
    }


def on_cuda(epochs: int) -> dict[str, object]:
    """Seconds per epoch at COCO-2017 size by precision, and the share of the memory bound."""
    table = synthetic(COCO_2017, "cuda")
    recipe = make_recipe("paper")
    weights = 4 * sum(weight.numel() for weight in build(recipe, DIM).parameters())
    # Forward and backward read the weights, the gradient is written; SGD reads three and writes two.
    floor_bytes = 3 * weights + 5 * weights
    found: dict[str, object] = {}
    for precision in ("float32", "bfloat16"):
        recipe = make_recipe("paper", precision=precision)
        torch.manual_seed(0)
        net = build(recipe, DIM).cuda().train()
        stepper = Stepper(net, table, recipe, recipe.batch)
        steps = len(table) // recipe.batch
        seconds, losses = [], []
        for _ in range(epochs):
            order = torch.randperm(len(table))[: steps * recipe.batch].view(steps, -1).cuda()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for index in order:
                stepper(index, recipe.rate)
            losses.append(stepper.take_loss() / steps)  # waits for the device
            seconds.append(time.perf_counter() - start)
        step = statistics.median(seconds) / steps
        found[precision] = {
            "epochs": epochs,
            "seconds_all": round(sum(seconds), 1),
            "seconds_50_epochs": round(50 * statistics.median(seconds), 1),
            "step_us": round(1e6 * step, 1),
            "floor_bytes": floor_bytes,
            "floor_us_h100": round(1e6 * floor_bytes / H100_BYTES_PER_S, 1),
            "share_of_floor": round(floor_bytes / H100_BYTES_PER_S / step, 2),
            "loss_first_last": [round(losses[0], 4), round(losses[-1], 4)],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="steps on the CPU")
    parser.add_argument("--epochs", type=int, default=2, help="epochs on CUDA, per precision")
    parser.add_argument("--out", type=Path, default=Path("bench/results/fenet_step.json"))
    args = parser.parse_args()
    result: dict[str, object] = {
        "machine": machine(),
        "cpu": on_cpu(args.steps),
        "cuda": "no CUDA device here",
    }
    if torch.cuda.is_available():
        result["cuda"] = on_cuda(args.epochs)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
