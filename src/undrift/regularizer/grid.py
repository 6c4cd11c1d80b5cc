"""The part of a chain that is rolled out: a window at its end."""

from __future__ import annotations


def window_start(grid: tuple[float, ...], window: float) -> int:
    """Position on a grid where a window begins that holds this share of the steps, one at least.

    Example:
        >>> window_start((4, 3, 2, 1, 0), 0.5), window_start((4, 3, 2, 1, 0), 1.0)
        (2, 0)
    """
    steps = len(grid) - 1
    return steps - max(1, round(window * steps))
