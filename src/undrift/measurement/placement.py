r"""Which states of a chain to measure: a number of them, spaced where the error grows.

The times are taken at equal steps of a score that rises along the chain. A part of it is the grid
itself, so that the whole chain is covered; a part is the share of signal in the state,
:math:`\alpha_t^2 / (\alpha_t^2 + \sigma_t^2)`, because little can go wrong in pure noise; and a
part is the error of a few pilot chains, where it is distinguishable from their noise. Where it is
not, the times depend on the chain alone: models of one chain are measured at the same states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

RESOLVED = 3.0
"""Null standard deviations above which the error of the pilot chains is used."""
MAX_CANDIDATES = 33
"""Times at which the pilot chains are compared with forward draws."""


def candidates(grid: Sequence[float]) -> list[float]:
    """Evenly spaced times of a grid, its ends among them.

    Example:
        >>> len(candidates(range(1000, -1, -1))), candidates([2, 1, 0])
        (33, [2, 1, 0])
    """
    count = min(len(grid), MAX_CANDIDATES)
    return [grid[round(i * (len(grid) - 1) / (count - 1))] for i in range(count)]


def place_states(
    grid: Sequence[float],
    scales: Sequence[tuple[float, float]],
    count: int,
    errors: Mapping[float, float] | None = None,
) -> tuple[float, ...]:
    r"""Times at equal steps of the score; exactly ``count`` of them, the ends of the grid included.

    Arguments:
        grid: Descending times.
        scales: :math:`(\alpha_t, \sigma_t)` at each.
        count: How many to take, at least 2 and at most all.
        errors: Resolved error at some of the times, from the first to the last.

    Example:
        >>> place_states([4, 3, 2, 1, 0], [(0, 1), (0, 1), (0, 1), (0.8, 0.6), (1, 0)], 4)
        (4, 2, 1, 0)
    """
    signal = torch.tensor([a**2 / (a**2 + s**2) for a, s in scales], dtype=torch.float64)
    parts = [torch.linspace(0, 1, len(grid), dtype=torch.float64), signal]
    if errors:
        known = sorted(grid.index(t) for t in errors)
        values = np.interp(range(len(grid)), known, [errors[grid[i]] for i in known])
        parts.append(torch.from_numpy(values))
    parts = [part.cummax(0).values for part in parts]
    spans = [float(part[-1] - part[0]) for part in parts]
    score = sum((part - part[0]) / span for part, span in zip(parts, spans, strict=True) if span)
    assert isinstance(score, Tensor)
    chosen = {0, len(grid) - 1}
    for value in torch.linspace(0, float(score[-1]), count, dtype=torch.float64)[1:-1]:
        free = [i for i in range(len(grid)) if i not in chosen]
        chosen.add(min(free, key=lambda i: abs(float(score[i] - value))))
    return tuple(grid[i] for i in sorted(chosen))
