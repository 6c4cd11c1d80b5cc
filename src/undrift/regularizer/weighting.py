r"""Which steps of a chain are regularized, and their weights :math:`w_t`.

The discrepancy after the denoising step that ends at t has the weight :math:`w_t`; their mean is 1,
so that weights shift the emphasis and do not change the strength λ. The measured downstream gain
:math:`G_t` is the factor by which an error made there contributes to the error of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from undrift.exceptions import InvalidInput

Weighting = Literal["uniform", "exponential"] | Mapping[float, float]


def window_start(grid: tuple[float, ...], window: float) -> int:
    """Position on a grid where a window begins that holds this share of the steps, one at least.

    Example:
        >>> window_start((4, 3, 2, 1, 0), 0.5), window_start((4, 3, 2, 1, 0), 1.0)
        (2, 0)
    """
    steps = len(grid) - 1
    return steps - max(1, round(window * steps))


def step_weights(
    grid: tuple[float, ...], weighting: Weighting, rho: float, first: int = 0
) -> list[float]:
    r"""One weight for each position of a grid, of mean 1 over the ends of the regularized steps.

    Arguments:
        grid: Descending times.
        weighting: ``"uniform"``; ``"exponential"``, proportional to :math:`e^{\rho (T - t)/T}`; or
            times and weights, interpolated linearly and constant beyond the first and the last.
        rho: ρ of the exponential weights.
        first: Position where the first regularized step begins; weights up to there are 0.

    Raises:
        InvalidInput: If the weighting is unknown, or a weight negative or not finite.

    Example:
        >>> step_weights((4, 3, 2, 1, 0), {0: 3.0, 2: 1.0}, 0.0)
        [0.0, 0.5714285714285714, 0.5714285714285714, 1.1428571428571428, 1.7142857142857142]
    """
    ends = torch.tensor(grid[first + 1 :], dtype=torch.float64)
    if isinstance(weighting, Mapping):
        raw = _interpolate(ends, weighting)
    elif weighting == "exponential":
        if not math.isfinite(rho):
            raise InvalidInput(f"rho of the exponential weights is {rho}: choose a number")
        raw = torch.exp(rho * (1 - ends / grid[0]))
    elif weighting == "uniform":
        raw = torch.ones_like(ends)
    else:
        raise InvalidInput(
            f"unknown weighting {weighting!r}: choose uniform, exponential or a table of weights"
        )
    return [0.0] * (first + 1) + (raw / raw.mean()).tolist()


def _interpolate(at: Tensor, table: Mapping[float, float]) -> Tensor:
    """Piecewise-linear values through known points, constant beyond them."""
    known = sorted((float(t), float(w)) for t, w in table.items())
    if not known or any(not 0 <= w < math.inf for _, w in known):
        raise InvalidInput("a table of weights needs times, and weights that are not negative")
    times, values = zip(*known, strict=True)
    found = torch.from_numpy(np.interp(at.numpy(), times, values))
    if not bool(found.sum() > 0):
        raise InvalidInput("the table of weights is 0 at all steps: one has to be positive")
    return found
