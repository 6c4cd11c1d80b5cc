r"""Does the cumulative error predict quality? Rank correlation of the two, over all judgments.

Spearman's :math:`\rho`: the correlation of ranks. *Overall* it mixes what differs between seeds,
methods and times of training. *Within* groups, ranks are taken and centered inside each group,

.. math:: \rho_w = \frac{\sum_g \sum_{i \in g} (r_i - \bar r_g)(s_i - \bar s_g)}
    {\sqrt{\sum_g \sum_{i \in g} (r_i - \bar r_g)^2 \; \sum_g \sum_{i \in g} (s_i - \bar s_g)^2}},

so what the groups differ by has no part in it. The interval resamples whole runs, since the
checkpoints of one run are not independent. Runs of one seed share base, data and sampling noise, so
the intervals are too narrow where few seeds vary, within methods above all. Both numbers of a point
come from the same samples: that part of the correlation is noise shared by two judgments, and makes
it a little too large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

Row = dict[str, Any]
NUM_RESAMPLES = 500
LEAST = 4
"""Points below which no correlation is given."""


def correlations(points: Sequence[Row], metric: str = "mmd_sq") -> dict[str, Any] | None:
    """Rank correlation of a cumulative error with the Fréchet distance, overall and within groups.

    Arguments:
        points: Judgments with ``"run"``, ``"seed"``, ``"method"``, the metric and ``"frechet"``.
        metric: The cumulative error: ``"mmd_sq"``, or ``"mmd_sq_low"``, its lower confidence limit,
            of which the lower end of the bracket on the KL divergence is an increasing function.

    Returns:
        ``"overall"``, ``"within_seed"`` and ``"within_method"``, each with ``"rho"``, its 95 %
        interval and the number of points and runs; None for too few points.
    """
    points = [p for p in points if p.get(metric) is not None]
    if len(points) < LEAST:
        return None
    groups: dict[str, Callable[[Row], Any]] = {
        "overall": lambda point: 0,
        "within_seed": lambda point: point["seed"],
        "within_method": lambda point: (point.get("protocol"), point["method"]),
    }
    return {name: _with_interval(points, metric, key) for name, key in groups.items()}


def spearman(x: Sequence[float], y: Sequence[float], groups: Sequence[Any]) -> float | None:
    """Rank correlation, with ranks taken and centered within groups.

    Returns:
        Between -1 and 1; None where all ranks of a group are equal in all groups.

    Example:
        >>> spearman([1, 2, 3], [1, 4, 9], [0, 0, 0])
        1.0
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    number = np.unique([str(g) for g in groups], return_inverse=True)[1]
    top = left = right = 0.0
    for g in range(number.max() + 1):
        r, s = (rankdata(values[number == g]) for values in (a, b))
        r, s = r - r.mean(), s - s.mean()
        top, left, right = top + float(r @ s), left + float(r @ r), right + float(s @ s)
    return top / (left * right) ** 0.5 if left * right > 0 else None


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Judgments without those of a run that counts for two budgets."""
    found = {(row.get("run"), row.get("step", row["steps"])): row for row in rows}
    return list(found.values())


def _with_interval(points: Sequence[Row], metric: str, key: Callable[[Row], Any]) -> Row | None:
    by_run: dict[Any, list[Row]] = {}
    for point in points:
        by_run.setdefault(point["run"], []).append(point)
    runs = list(by_run.values())
    rho = _rho(points, metric, key)
    if rho is None:
        return None
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(NUM_RESAMPLES):
        chosen = generator.integers(len(runs), size=len(runs))
        value = _rho([point for k in chosen for point in runs[k]], metric, key)
        drawn += [] if value is None else [value]
    interval = np.quantile(drawn, [0.025, 0.975]).tolist() if len(runs) >= LEAST else None
    return {"rho": rho, "interval": interval, "num_points": len(points), "num_runs": len(runs)}


def _rho(points: Sequence[Row], metric: str, key: Callable[[Row], Any]) -> float | None:
    x, y = ([point[name] for point in points] for name in (metric, "frechet"))
    return spearman(x, y, [key(point) for point in points])
