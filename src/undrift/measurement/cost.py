"""The cost of a measurement, announced before it starts."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from undrift.diffusion.network import evaluating
from undrift.diffusion.sampler import Sampler
from undrift.measurement.parallel_chains import ParallelChains
from undrift.progress import announce, duration

_SHORT = 10.0
"""Seconds up to which nothing is announced."""
_SMALL_BATCH = 32
"""Chains that are timed on the CPU, where the time is in proportion to their number."""


def announce_cost(
    sampler: Sampler,
    data: Tensor,
    num_chains: int,
    num_calls: int,
    batch_size: int,
    num_processes: int = 1,
) -> None:
    """Announce the number of network calls and their estimated time, if it is long.

    Arguments:
        sampler: The chain.
        data: Data of the chain's shape, with shape (n, *), on the network's device.
        num_chains: Number of chains of one pass.
        num_calls: Denoising steps that all passes take, times chains.
        batch_size: Number of chains that go through the network at once.
        num_processes: Number of processes that share them.
    """
    seconds = (
        num_calls / num_processes * seconds_per_call(sampler, data, min(batch_size, num_chains))
    )
    if seconds > _SHORT:
        steps = len(sampler.grid) - 1
        announce(
            f"measuring: {num_chains:,} chains x {steps:,} steps, {num_calls:,} network calls in "
            f"all, about {duration(seconds)}"
        )


@torch.no_grad()
def seconds_per_call(sampler: Sampler, data: Tensor, batch_size: int) -> float:
    """Seconds of one denoising step of one chain, from one step of a batch after a first one."""
    count = batch_size if data.is_cuda else min(batch_size, _SMALL_BATCH)
    shape, started = (count, *data.shape[1:]), 0.0
    with evaluating(sampler.network):
        for _ in range(2):  # the first one warms up
            chains = ParallelChains.from_prior(sampler, shape, count, seed=0, device=data.device)
            started = time.perf_counter()
            float(chains.advance(sampler.grid[1]).sum())  # waits for an accelerator
    return (time.perf_counter() - started) / count
