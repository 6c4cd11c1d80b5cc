"""A measurement over bare sampling of the same chain, without the budget's second pass.

Default options (2000 chains in batches of 250, 16 states, 200 permutations, δ and ε-norms) on the
8x8 digits with the network that ``undrift train`` gives them. Both sides run the same modules on as
many chains, in turns and in changing order, on one thread; the ratio is the median over pairs of
the processor time, which a busy machine does not change.

What a measurement adds at a state does not depend on the number of steps between states, so the
ratio falls with it: the chain has 250 steps here, a quarter of the default, to save time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from undrift import AncestralSampler, CosineSchedule, Denoiser, load_data, measure
from undrift.training.building import build_network
from undrift.training.config import ModelConfig

STEPS, SAMPLES, BATCH = 250, 2000, 250


def build() -> AncestralSampler:
    """The chain over a network that was not trained: its time is that of any."""
    torch.manual_seed(0)
    network = build_network(ModelConfig(), (1, 8, 8)).eval()
    return AncestralSampler(Denoiser(network, CosineSchedule(STEPS), "v_prediction"))


def by_sampling(sampler: AncestralSampler) -> None:
    """All chains from noise to images, and nothing else."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(SAMPLES // BATCH):
        sampler.sample((BATCH, 1, 8, 8), generator=generator)


def seconds(run: Callable[[], Any]) -> float:
    """Processor time of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def bench(pairs: int = 2) -> list[dict[str, Any]]:
    """The ratio with its limit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sampler, data = build(), load_data("digits")
        sides = {
            "bare": lambda: by_sampling(sampler),
            "measured": lambda: measure(sampler, data, budget=False, progress=False),
        }
        with torch.no_grad():  # warm up
            sampler.step(torch.randn(BATCH, 1, 8, 8), 2, 1)
        ratios = []
        for pair in range(pairs):
            order = sorted(sides, reverse=bool(pair % 2))
            taken = {name: seconds(sides[name]) for name in order}
            ratios.append(taken["measured"] / taken["bare"])
        name = f"measurement over bare sampling, {STEPS} steps, {SAMPLES} samples, 16 states"
        return [{"name": name, "ratio": statistics.median(ratios), "limit": 1.1}]
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2, help="how often each side runs")
    print(json.dumps(bench(parser.parse_args().pairs), indent=2))
