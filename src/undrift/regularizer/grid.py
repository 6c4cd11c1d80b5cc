"""The part of a chain that is rolled out: a coarser grid, a window at its end."""

from __future__ import annotations

import copy

from undrift.diffusion.gaussian import DenoiserSampler


def strided(sampler: DenoiserSampler, num_inference_steps: int | None) -> DenoiserSampler:
    """The same chain on a coarser grid, as a sampler with fewer steps has it.

    Arguments:
        sampler: The chain.
        num_inference_steps: Number of modules; those that it has when None.

    Raises:
        InvalidInput: If there are more modules than steps, or none.
    """
    if num_inference_steps is None:
        return sampler
    other = copy.copy(sampler)
    other.grid = sampler.schedule.time_grid(num_inference_steps, sampler.spacing)
    return other


def window_start(grid: tuple[float, ...], window: float) -> int:
    """Position on a grid where a window begins that holds this share of the modules, one at least.

    Example:
        >>> window_start((4, 3, 2, 1, 0), 0.5), window_start((4, 3, 2, 1, 0), 1.0)
        (2, 0)
    """
    modules = len(grid) - 1
    return modules - max(1, round(window * modules))
