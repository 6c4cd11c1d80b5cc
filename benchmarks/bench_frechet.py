"""The Fréchet distance of 2,048 features against torchmetrics' formula, on one thread.

The baseline is the formula of ``torchmetrics.image.fid``, written out, as torchmetrics is no
dependency: ``torch.linalg.eigvals(cov_x @ cov_y).sqrt().real.sum()``. ``python
benchmarks/run.py frechet`` takes about two minutes. Times are processor times of this process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from undrift.quality.frechet import FrechetStatistics

DIM = 2048
COUNT = 4096
DECAY = 1.0
"""Power by which the spread of the k-th feature falls, as those of image networks do."""


def bench(pairs: int = 3) -> list[dict[str, Any]]:
    """Ratio of times, from statistics to distance; the median of alternating measurements."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, y = (FrechetStatistics.of(_features(seed)) for seed in (0, 1))
        ratios = []
        for _ in range(pairs):
            baseline, expected = _timed(lambda: _by_eigenvalues_of_the_product(x, y))
            own, found = _timed(lambda: x.distance(y))
            assert abs(found - expected) < 1e-6 * expected, (found, expected)
            ratios.append(own / baseline)
    finally:
        torch.set_num_threads(before)
    name = f"Fréchet distance of {DIM:,} features over torchmetrics' formula"
    return [{"name": name, "ratio": statistics.median(ratios), "limit": 1.0, "ratios": ratios}]


def _features(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.arange(1, DIM + 1).double() ** (-DECAY / 2)
    x = torch.randn(COUNT, DIM, generator=generator, dtype=torch.float64) * spread
    return x * (1 + 0.1 * seed) + 0.01 * seed


def _by_eigenvalues_of_the_product(x: FrechetStatistics, y: FrechetStatistics) -> float:
    cov_x, cov_y = x.covariance, y.covariance
    cross = torch.linalg.eigvals(cov_x @ cov_y).sqrt().real.sum()
    gap = (x.mean - y.mean).square().sum()
    return float(gap + cov_x.trace() + cov_y.trace() - 2 * cross)


def _timed(function: Callable[[], float]) -> tuple[float, float]:
    start = time.process_time()
    value = function()
    return time.process_time() - start, value
