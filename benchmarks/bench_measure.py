"""A measurement over bare sampling of the same chain, and its diagnoses over the budget alone.

First: a measurement without the budget's second pass over bare sampling. Second: a measurement with
the budget and all that a profile always has (the errors of frequency bands and of means with their
budget, effective times, exposure bias with its error bars) over one with the budget alone. Third:
the same with the growth of perturbations, which is an option.

Default options (2000 chains, 16 states, 200 permutations, δ and ε-norms) on the 8x8 digits with the
network that ``undrift train`` gives them. All sides run the same modules on as many chains, in
turns and in changing order, on one thread; the ratio is the median over rounds of the processor
time, which a busy machine changes little.

What a measurement adds at a state does not depend on the number of steps between states, so a ratio
falls with it: the chain has 250 steps for the first, a quarter of the default, and 60 for the
others, to save time. The whole takes about seven minutes of processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from undrift import AncestralSampler, CosineSchedule, Denoiser, load_data, measure
from undrift.measurement import chain
from undrift.training.building import build_network
from undrift.training.config import ModelConfig

STEPS, FEW_STEPS, SAMPLES, BATCH = 250, 60, 2000, 250


class NoScalars:
    """Stands for the scalar budget and measures nothing."""

    def __init__(self, *args: Any) -> None:
        self.statistics = SimpleNamespace(listed=())

    def at(self, *args: Any) -> tuple[()]:
        """No errors of statistics."""
        return ()

    def effective_time(self) -> None:
        """No effective time."""


def build(steps: int) -> AncestralSampler:
    """The chain over a network that was not trained: its time is that of any."""
    torch.manual_seed(0)
    network = build_network(ModelConfig(), (1, 8, 8)).eval()
    return AncestralSampler(Denoiser(network, CosineSchedule(steps), "v_prediction"))


def by_sampling(sampler: AncestralSampler, samples: int) -> None:
    """All chains from noise to images, and nothing else."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(samples // BATCH):
        sampler.sample((BATCH, 1, 8, 8), generator=generator)


def seconds(run: Callable[[], Any]) -> float:
    """Processor time of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def budget_alone(sampler: AncestralSampler, data: Any, options: dict[str, Any]) -> None:
    """A measurement with the budget and nothing else."""
    kept, chain.ScalarBudget = chain.ScalarBudget, NoScalars  # type: ignore[misc,assignment]
    try:
        measure(sampler, data, exposure=False, **options)
    finally:
        chain.ScalarBudget = kept  # type: ignore[misc]


def ratios(sides: dict[str, Callable[[], Any]], pairs: int) -> list[float]:
    """The times of all sides but the first over that of the first, in turns: the medians."""
    first, *others = sides
    found = []
    for pair in range(pairs):
        taken = {name: seconds(sides[name]) for name in [*sides][:: -1 if pair % 2 else 1]}
        found.append([taken[other] / taken[first] for other in others])
    return [*map(statistics.median, zip(*found, strict=True))]


def bench(
    pairs: int = 2, steps: int = STEPS, few_steps: int = FEW_STEPS, samples: int = SAMPLES
) -> list[dict[str, Any]]:
    """The ratios with their limits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        long, short, data = build(steps), build(few_steps), load_data("digits")
        options: dict[str, Any] = {"num_samples": samples, "progress": False}
        with torch.no_grad():  # warm up
            long.step(torch.randn(BATCH, 1, 8, 8), 2, 1)
        bare = {
            "bare": lambda: by_sampling(long, samples),
            "measured": lambda: measure(long, data, budget=False, **options),
        }
        budget = {
            "alone": lambda: budget_alone(short, data, options),
            "diagnosed": lambda: measure(short, data, **options),
            "grown": lambda: measure(short, data, growth=True, **options),
        }
        (measured,), (diagnosed, grown) = ratios(bare, pairs), ratios(budget, pairs)
        return [
            {"name": f"{name}, {count} steps, {samples} samples", "ratio": ratio, "limit": limit}
            for name, count, ratio, limit in (
                ("measurement over bare sampling", steps, measured, 1.1),
                ("all diagnoses over the budget alone", few_steps, diagnosed, 1.15),
                ("the same with growth", few_steps, grown, None),
            )
        ]
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2, help="how often each side runs")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the first chain")
    parser.add_argument("--few-steps", type=int, default=FEW_STEPS, help="steps of the other chain")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="number of chains")
    given = parser.parse_args()
    print(json.dumps(bench(**vars(given)), indent=2))
