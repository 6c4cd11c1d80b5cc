r"""Differences that are a method's own, and whether the cumulative error predicts quality.

The relative change against plain within a seed,

.. math:: r_i = \frac{D_{0}^2(\text{method}, i)}{D_{0}^2(\text{plain}, i)} - 1,

has a mean over seeds :math:`i` with Student's interval. A ratio needs a denominator that is not
zero: where a metric of plain is not positive in some seed, no change is given.

Spearman's :math:`\rho` is the correlation of ranks. *Overall* it mixes what differs between seeds,
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

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from undrift.study.config import PLAIN
from undrift.study.record import (
    Change,
    Correlation,
    Correlations,
    Cost,
    MeanInterval,
    Ratios,
    StudyRow,
)

METRICS = ("mmd_sq", "empirical_mmd_sq", "frechet", "kernel_distance", "precision", "recall")
"""What is compared: the cumulative error of the samples, by two yardsticks, and their quality."""
NUM_RESAMPLES = 500
LEAST = 4
"""Points below which no correlation is given."""
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def paired(rows: Sequence[StudyRow]) -> list[Change]:
    """Mean relative change of each method against plain with the same protocol, budget and seed.

    Arguments:
        rows: Results.

    Returns:
        One change for each budget, protocol, method and metric.
    """
    plain = {(r.protocol, r.budget, r.seed): r for r in rows if r.method == PLAIN}
    others = [r for r in rows if r.method != PLAIN and (r.protocol, r.budget, r.seed) in plain]
    found = []
    for (protocol, budget, method), own in _grouped(others, _group).items():
        pairs = [(plain[protocol, budget, row.seed], row) for row in own]
        found += changes(pairs, method=method, protocol=protocol, budget=budget)
    return found


def paired_remedies(rows: Sequence[StudyRow], remedied: Sequence[StudyRow]) -> list[Change]:
    """Mean relative change of chains with a remedy against the same runs without."""
    bare = {row.run: row for row in rows}
    found = []
    for (method, remedy), own in _grouped(remedied, lambda r: (r.method, r.remedy)).items():
        pairs = [(bare[row.run], row) for row in own]
        found += changes(pairs, method=method, remedy=remedy)
    return found


def changes(pairs: Sequence[tuple[StudyRow, StudyRow]], **which: Any) -> list[Change]:  # noqa: ANN401
    """Mean relative change of each metric over pairs of results, a baseline and another.

    Arguments:
        pairs: Results of the same seed each.
        which: What the changes are of: fields of :class:`~undrift.study.record.Change`.
    """
    found = []
    for metric in METRICS:
        values = [(getattr(a, metric), getattr(b, metric), b.seed) for a, b in pairs]
        known = [(a, b, seed) for a, b, seed in values if a is not None and b is not None]
        if not known or any(a <= 0 for a, _, _ in known):
            continue
        ratios, seeds = [b / a - 1 for a, b, _ in known], [seed for *_, seed in known]
        own: dict[str, Any] = {"metric": metric, "changes": ratios, "seeds": seeds}
        found.append(Change(**vars(mean_interval(ratios)), **own, **which))
    return found


def costs(rows: Sequence[StudyRow]) -> list[Cost]:
    """Processor time of a training step of each method, relative to plain's of the same seed.

    Taken from the runs at equal steps; runs that share a machine disturb each other, so the spread
    over seeds is part of the answer.
    """
    equal = [row for row in rows if row.budget == "steps"]
    cost = {(r.protocol, r.method, r.seed): r.train_cpu_s / r.steps for r in equal}
    found = []
    for (protocol, method), own in _grouped(equal, lambda r: (r.protocol, r.method)).items():
        steps = [(cost[protocol, method, r.seed], cost.get((protocol, PLAIN, r.seed))) for r in own]
        ratios = [step / plain for step, plain in steps if plain]
        if ratios:
            relative = Ratios(**vars(mean_interval(ratios)), ratios=ratios)
            found.append(Cost(protocol, method, statistics.fmean(s for s, _ in steps), relative))
    return found


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Mean and 95 % interval by Student's distribution.

    Example:
        >>> mean_interval([1.0, 3.0]).mean
        2.0
    """
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return MeanInterval(mean, None, n)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return MeanInterval(mean, (mean - half, mean + half), n)


def correlations(points: Iterable[StudyRow], metric: str = "mmd_sq") -> Correlations | None:
    """Rank correlation of a cumulative error with the Fréchet distance, overall and within groups.

    Arguments:
        points: Judgments.
        metric: The cumulative error: ``"mmd_sq"``, or ``"mmd_sq_low"``, its lower confidence limit,
            of which the lower end of the bracket on the KL divergence is an increasing function.

    Returns:
        The correlations; None for too few points.
    """
    points = [p for p in points if getattr(p, metric) is not None and p.frechet is not None]
    if len(points) < LEAST:
        return None
    return Correlations(
        overall=_with_interval(points, metric, lambda point: 0),
        within_seed=_with_interval(points, metric, lambda point: point.seed),
        within_method=_with_interval(points, metric, lambda point: (point.protocol, point.method)),
    )


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


def distinct(rows: Iterable[StudyRow]) -> list[StudyRow]:
    """Judgments without those of a run that counts for two budgets."""
    return list({(row.run, row.step or row.steps): row for row in rows}.values())


def _with_interval(
    points: Sequence[StudyRow], metric: str, group: Callable[[StudyRow], Any]
) -> Correlation | None:
    def correlated(points: Sequence[StudyRow]) -> float | None:
        x, y = ([getattr(point, name) for point in points] for name in (metric, "frechet"))
        return spearman(x, y, [group(point) for point in points])

    runs, rho = list(_grouped(points, lambda point: point.run).values()), correlated(points)
    if rho is None:
        return None
    generator, drawn = np.random.default_rng(0), []
    for _ in range(NUM_RESAMPLES if len(runs) >= LEAST else 0):
        chosen = generator.integers(len(runs), size=len(runs))
        drawn.append(correlated([point for k in chosen for point in runs[k]]))
    known = [value for value in drawn if value is not None]
    interval = tuple(np.quantile(known, [0.025, 0.975]).tolist()) if known else None
    return Correlation(rho, interval, len(points), len(runs))


def _group(row: StudyRow) -> tuple[str, str, str]:
    return row.protocol, row.budget, row.method


def _grouped(rows: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Rows by what they have in common, in the order in which it comes up."""
    groups: dict[K, list[T]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
