"""The modular error of a digits model: its time, and how it grows with the data, on one thread.

``python benchmarks/bench_modular.py`` takes about half a minute. Times are processor times of this
process. The network is left out (it answers at once): what counts is the time beyond sampling.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from sklearn.datasets import load_digits

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler
from undrift.diffusion.mixture import EmpiricalDistribution, ForwardProcess
from undrift.diffusion.schedule import CosineSchedule
from undrift.measurement.modular import modular_errors

SECONDS = 60.0


def bench(pairs: int = 3, *, quick: bool = False) -> list[dict[str, Any]]:
    """Time of all steps on p_t and on q_t over a minute, and growth with n over linear growth.

    Arguments:
        pairs: Measurements of the growth; the median counts.
        quick: Whether there are few states.

    Returns:
        One entry a measurement, with ``name``, ``ratio`` and ``limit``.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_digits(100 if quick else 1000), _growth(pairs)]
    finally:
        torch.set_num_threads(before)


def _digits(count: int) -> dict[str, Any]:
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    schedule = CosineSchedule(100)
    process = ForwardProcess(EmpiricalDistribution(images), schedule)
    sampler = AncestralSampler(Denoiser(lambda x, t: 0 * x, schedule, "v_prediction"))
    generator = torch.Generator().manual_seed(0)
    start = time.process_time()
    steps = sum(1 for _ in modular_errors(sampler, process, (count, 1, 8, 8), generator=generator))
    seconds = time.process_time() - start
    name = f"modular error, digits, {steps} steps, {count} states on p_t and on q_t, over 1 minute"
    return {"name": name, "ratio": seconds / SECONDS, "limit": 1.0, "seconds": seconds}


def _growth(pairs: int) -> dict[str, Any]:
    """Time at 8n data over 8 times that at n."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 64, generator=generator)
    small, large = (
        EmpiricalDistribution(torch.randn(n, 64, generator=generator)) for n in (4_000, 32_000)
    )
    ratios = []
    for _ in range(2 * pairs + 1):
        times = []
        for data in (small, large):
            start = time.process_time()
            data.posterior(x, 0.7, 0.7)
            times.append(time.process_time() - start)
        ratios.append(times[1] / times[0] / 8)
    median = sorted(ratios)[pairs]
    return {"name": "posterior of 8n data over 8 times that of n", "ratio": median, "limit": 1.3}


if __name__ == "__main__":
    print(json.dumps(bench(), indent=2))
