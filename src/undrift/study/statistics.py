r"""Paired relative changes against plain, and whether the cumulative error predicts quality.

The relative change against plain within a seed,

.. math:: r_i = \frac{D_{0}^2(\text{method}, i)}{D_{0}^2(\text{plain}, i)} - 1,

has a mean over seeds :math:`i` with Student's interval. A ratio needs a denominator that is not
zero: where a metric of plain is not positive in some seed, no change is given. Both models of a
pair are sampled by the same chain. Where there are several samplers, each method on its *best* one
is compared with plain on plain's best at the same number of network calls. The sampler of a seed is
the one with the lowest mean Fréchet distance over the other seeds, so that the choice does not use
the noise of the values that are compared; with one seed it does, and favors all methods.

Spearman's :math:`\rho` is the correlation of ranks. *Overall*, it includes differences between
seeds, methods and times of training. *Within* groups, ranks are taken and centered in each group,

.. math:: \rho_w = \frac{\sum_g \sum_{i \in g} (r_i - \bar r_g)(s_i - \bar s_g)}
    {\sqrt{\sum_g \sum_{i \in g} (r_i - \bar r_g)^2 \; \sum_g \sum_{i \in g} (s_i - \bar s_g)^2}},

so differences between groups do not contribute. The interval resamples whole runs, since the
checkpoints of one run are not independent. Runs of one seed share base, data and sampling noise, so
the intervals are too narrow with few seeds, within methods above all. Both numbers of a point come
from the same samples, so they share part of their noise, and the correlation is slightly too large.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

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
"""What is compared: the cumulative error of the samples, against both references, and quality."""
NUM_RESAMPLES = 500
CHAIN = ("sampler", "num_inference_steps")
LEAST = 4
"""Points below which no correlation is given."""


def paired(rows: Sequence[StudyRow]) -> list[Change]:
    """Mean relative change of each method against plain with all else equal.

    Arguments:
        rows: Results.

    Returns:
        One change for each protocol, budget, chain, method and metric.
    """
    return _against_plain(rows, "protocol", "budget", *CHAIN)


def paired_best(rows: Sequence[StudyRow]) -> list[Change]:
    """The same with each method on its best sampler, at the same number of network calls.

    Returns:
        One change for each protocol, budget, number of calls, method and metric; none where there
        is one sampler.
    """
    if len({row.sampler for row in rows}) < 2:
        return []
    best = [row for row in rows if row.is_best_sampler]
    return _against_plain(best, "protocol", "budget", "network_calls")


def with_best_samplers(rows: Sequence[StudyRow]) -> list[StudyRow]:
    """The same rows, those marked whose sampler is the best at their number of network calls.

    The best for a method and a seed is the one with the lowest mean Fréchet distance over the other
    seeds of the method.
    """
    best = set()
    for own in _grouped(rows, "protocol", "budget", "network_calls", "method").values():
        for (seed,), of_seed in _grouped(own, "seed").items():
            others = _grouped([r for r in own if r.seed != seed] or of_seed, "sampler")
            best.add(id(min(of_seed, key=lambda row: _mean_frechet(others.get((row.sampler,))))))
    return [replace(row, is_best_sampler=id(row) in best) for row in rows]


def _mean_frechet(rows: Sequence[StudyRow] | None) -> float:
    known = [row.frechet for row in rows or () if row.frechet is not None]
    return statistics.fmean(known) if known else math.inf


def _against_plain(rows: Sequence[StudyRow], *fields: str) -> list[Change]:
    """Mean relative change of each method against plain with the same fields and seed."""
    plain = {(*_group(r, fields), r.seed): r for r in rows if r.method == PLAIN}
    others = [row for row in rows if row.method != PLAIN]
    return changes(others, lambda r: plain.get((*_group(r, fields), r.seed)), *fields, "method")


def paired_remedies(rows: Sequence[StudyRow], remedied: Sequence[StudyRow]) -> list[Change]:
    """Mean relative change of samplers with a remedy against the same runs without."""
    bare = {(row.run, row.chain): row for row in rows}
    return changes(remedied, lambda row: bare[row.run, row.chain], "method", "remedy", *CHAIN)


def changes(
    rows: Sequence[StudyRow], baseline: Callable[[StudyRow], StudyRow | None], *fields: str
) -> list[Change]:
    """Mean relative change of each metric, for each group of rows.

    Arguments:
        rows: Results.
        baseline: The result of the same seed that a result is compared with.
        fields: Fields that the rows of a group have in common, also of
            :class:`~undrift.study.record.Change`.
    """
    found = []
    for group, own in _grouped(rows, *fields).items():
        pairs = [(base, row) for row in own if (base := baseline(row))]
        for metric in METRICS:
            values = [(getattr(a, metric), getattr(b, metric), b.seed) for a, b in pairs]
            known = [(a, b, seed) for a, b, seed in values if a is not None and b is not None]
            if not known or any(a <= 0 for a, _, _ in known):
                continue
            which: dict[str, Any] = {**dict(zip(fields, group, strict=True)), "metric": metric}
            which |= {"changes": [b / a - 1 for a, b, _ in known], "seeds": [s for *_, s in known]}
            found.append(Change(**vars(mean_interval(which["changes"])), **which))
    return found


def costs(rows: Sequence[StudyRow]) -> list[Cost]:
    """Processor time of a training step of each method, relative to plain's of the same seed.

    Each run counts once, however many chains it is evaluated on. Taken from the runs at equal
    steps; runs that share a machine influence each other's time: look at the spread over seeds.
    """
    at_steps = {(r.protocol, r.method, r.seed): r for r in rows if r.budget == "steps"}
    equal, cost = at_steps.values(), {k: r.train_cpu_s / r.steps for k, r in at_steps.items()}
    found = []
    for (protocol, method), own in _grouped(equal, "protocol", "method").items():
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


def correlations(points: Iterable[StudyRow]) -> list[Correlations]:
    """Rank correlation of a cumulative error with the Fréchet distance, overall and within groups.

    Arguments:
        points: Evaluations.

    Returns:
        For each chain that of the cumulative error, and that of its lower confidence limit, of
        which the lower end of the bracket on the KL divergence is an increasing function; none of
        too few points.
    """
    found = []
    for (sampler, steps), own in _grouped(points, *CHAIN).items():
        for metric in ("mmd_sq", "mmd_sq_low"):
            known = [p for p in own if getattr(p, metric) is not None and p.frechet is not None]
            if len(known) < LEAST:
                continue
            parts = {
                "overall": _with_interval(known, metric),
                "within_seed": _with_interval(known, metric, "seed"),
                "within_method": _with_interval(known, metric, "protocol", "method"),
            }
            found.append(Correlations(sampler, steps, metric, **parts))
    return found


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
    """Evaluations without those of a run that counts for two budgets."""
    return list({(row.run, row.step or row.steps, row.chain): row for row in rows}.values())


def _with_interval(points: Sequence[StudyRow], metric: str, *fields: str) -> Correlation | None:
    def correlated(points: Sequence[StudyRow]) -> float | None:
        x, y = ([getattr(point, name) for point in points] for name in (metric, "frechet"))
        return spearman(x, y, [_group(point, fields) for point in points])

    runs, rho = list(_grouped(points, "run").values()), correlated(points)
    if rho is None:
        return None
    generator, drawn = np.random.default_rng(0), []
    for _ in range(NUM_RESAMPLES if len(runs) >= LEAST else 0):
        chosen = generator.integers(len(runs), size=len(runs))
        drawn.append(correlated([point for k in chosen for point in runs[k]]))
    known = [value for value in drawn if value is not None]
    interval = tuple(np.quantile(known, [0.025, 0.975]).tolist()) if known else None
    return Correlation(rho, interval, len(points), len(runs))


def _group(row: StudyRow, fields: Sequence[str]) -> tuple[Any, ...]:
    return tuple(getattr(row, field) for field in fields)


def _grouped(rows: Iterable[StudyRow], *fields: str) -> dict[tuple[Any, ...], list[StudyRow]]:
    """Rows by the values of these fields, in order of appearance."""
    groups: dict[tuple[Any, ...], list[StudyRow]] = {}
    for row in rows:
        groups.setdefault(_group(row, fields), []).append(row)
    return groups
