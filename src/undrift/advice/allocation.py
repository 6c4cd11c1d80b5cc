r"""A time grid that is computed from the measured error budget of a chain.

A segment from t' to t of a chain adds the fresh error :math:`F`, which the later segments multiply
by the downstream gain :math:`G` (:mod:`undrift.measurement.budget`). The local error of a solver of
first order grows with the square of the step: in a step of width h at time t it contributes
:math:`c(t)\,h^2` to the error of the samples, with :math:`c = F G / (t' - t)^2` known from the
segments that were measured. With a density :math:`\rho` of steps, :math:`h = 1/\rho`, the sum is

.. math:: \int c\,\rho^{-1}\,dt, \qquad \int \rho\,dt = N,

which is least where :math:`\rho \propto \sqrt{c}`: every step contributes the same. The grid has as
much of the integral of :math:`\rho` between each two of its times.

An amplification that is not distinguishable (None) counts as 1, and a fresh error below its
standard error as that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from undrift.measurement.state import ErrorState


def contributions(states: Sequence[ErrorState]) -> list[float]:
    r""":math:`F G` of each segment between two states, in the order of the chain."""
    found, gain = [], 1.0
    for state in reversed(states[1:]):
        budget = state.budget
        if budget is None:
            raise ValueError("the states have no budget")
        found.append(math.sqrt(max(budget.fresh_sq, budget.fresh_sq_se)) * gain)
        gain *= 1.0 if budget.amplification is None else budget.amplification
    return found[::-1]


def equal_contributions(times: Sequence[float], parts: Sequence[float], count: int) -> list[int]:
    r"""The timesteps of a grid of whose steps each contributes the same.

    Arguments:
        times: Descending times of the states that were measured, from the first of the chain to 0.
        parts: Contribution of each segment between them.
        count: Number of steps.

    Returns:
        Descending timesteps of diffusers, all different, the first that of the chain.

    Example:
        >>> equal_contributions([100, 50, 0], [1.0, 1.0], 4)
        [99, 74, 49, 24]
        >>> equal_contributions([100, 50, 0], [1.0, 16.0], 5)
        [99, 49, 37, 24, 11]
    """
    widths = [before - after for before, after in pairwise(times)]
    least = 1e-6 * max(max(parts), 1e-30)
    weights = np.sqrt([max(part, least) for part in parts])  # density times width
    done = np.concatenate([[0.0], np.cumsum(weights)])
    at = np.interp(np.linspace(0, done[-1], count + 1)[:-1], done, np.array(times, float))
    if not widths or count > times[0]:
        raise ValueError(f"no {count} different timesteps below {times[0]}")
    return _different(np.rint(at).astype(int) - 1)


def _different(timesteps: np.ndarray) -> list[int]:
    """Descending timesteps moved apart where two are the same, from the data's end first."""
    found = [int(value) for value in timesteps]
    for i in reversed(range(len(found))):
        least = found[i + 1] + 1 if i + 1 < len(found) else 0
        found[i] = max(found[i], least)
    highest = int(timesteps[0])
    for i in range(len(found)):  # what was moved beyond the first comes back
        found[i] = min(found[i], highest - i)
    return found
