r"""Paired relative changes against plain, and whether the cumulative error predicts quality.

The relative change against plain within a seed,

.. math:: r_i = \frac{D_{0}^2(\text{method}, i)}{D_{0}^2(\text{plain}, i)} - 1,

has a mean over seeds :math:`i` with Student's interval. A ratio needs a denominator that is not
zero: where a metric of plain is not positive in some seed, no change is given. Both models of a
pair are sampled by the same chain. Where there are several samplers, each method on its *best* one
is compared with plain on plain's best at the same number of network calls. The sampler of a seed is
the one with the lowest mean Fréchet distance over the other seeds, so that the choice does not use
the noise of the values that are compared; with one seed it does, and favors all methods. Each
network that judges chooses for itself.

Spearman's :math:`\rho` is the correlation of ranks. *Overall*, it includes differences between
seeds, methods and times of training. *Within* groups, ranks are taken and centered in each group,

.. math:: \rho_w = \frac{\sum_g \sum_{i \in g} (r_i - \bar r_g)(s_i - \bar s_g)}
    {\sqrt{\sum_g \sum_{i \in g} (r_i - \bar r_g)^2 \; \sum_g \sum_{i \in g} (s_i - \bar s_g)^2}},

so differences between groups do not contribute; groups of few evaluations are left out. The
interval resamples whole runs, since the checkpoints of one run are not independent. Runs of one
seed share base, data and sampling noise, so the intervals are too narrow with few seeds, within
methods above all. Both numbers of a point come from the same samples, so they share part of their
noise, and the correlation is slightly too large.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
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
    Mean,
    MeanInterval,
    Prediction,
    Ratios,
    StudyRow,
)

ERRORS = ("mmd_sq", "empirical_mmd_sq")
"""The cumulative error of the samples, against both references."""
QUALITY = ("frechet", "frechet_ratio", "kernel_distance", "sliced", "precision", "recall")
"""Scores in the features of each network."""
UNBIASED = ("mmd_sq", "kernel_distance")
"""Scores whose mean is 0 for samples of the data's distribution."""
NUM_RESAMPLES = 500
CHAIN = ("sampler", "num_inference_steps")
LEAST = 8
"""Evaluations, in all and of each group, below which no correlation is given."""
LEAST_RUNS = 4
"""Runs below which it has no interval."""
T = TypeVar("T")


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
        One change for each network by which samplers are chosen, protocol, budget, number of calls,
        method and metric; none where there is one sampler.
    """
    return [
        replace(change, network=network)
        for network, best in best_rows(rows).items()
        for change in _against_plain(best, "protocol", "budget", "network_calls")
        if change.network in (None, network)
    ]


def means(rows: Sequence[StudyRow]) -> list[Mean]:
    """Mean over seeds of each score without bias, on each chain and with the best samplers."""
    found = _means(rows, *CHAIN)
    for network, best in best_rows(rows).items():
        own = [mean for mean in _means(best, "network_calls") if mean.network in (None, network)]
        found += [replace(mean, network=network) for mean in own]
    return found


def _means(rows: Sequence[StudyRow], *fields: str) -> list[Mean]:
    fields = ("protocol", "budget", "method", *fields)
    found = []
    for group, own in _grouped(rows, *fields).items():
        for network, metric in _metrics(own):
            values = [score(row, metric, network) for row in own]
            known = [value for value in values if value is not None]
            if metric in UNBIASED and known:
                about = dict(zip(fields, group, strict=True))
                mean = vars(mean_interval(known))
                found.append(Mean(**mean, metric=metric, network=network, **about))
    return found


def best_rows(rows: Sequence[StudyRow]) -> dict[str, list[StudyRow]]:
    """By network, the rows with the best samplers in its features; none of one sampler."""
    if len({row.sampler for row in rows}) < 2:
        return {}
    networks = dict.fromkeys(name for row in rows for name in row.quality)
    return {
        name: [row for row in rows if name in row.quality and row.quality[name].is_best_sampler]
        for name in networks
    }


def with_best_samplers(rows: Sequence[StudyRow]) -> list[StudyRow]:
    """The same rows, marked in each network where the sampler is best at its network calls.

    The best for a method and a seed is the one with the lowest mean Fréchet distance over the other
    seeds of the method.
    """
    best = set()
    for own in _grouped(rows, "protocol", "budget", "network_calls", "method").values():
        for (seed,), of_seed in _grouped(own, "seed").items():
            others = _grouped([r for r in own if r.seed != seed] or of_seed, "sampler")
            for name in of_seed[0].quality:
                means = [_mean_frechet(others.get((row.sampler,)), name) for row in of_seed]
                best.add((id(of_seed[means.index(min(means))]), name))
    return [
        replace(
            row,
            quality={
                name: replace(judgment, is_best_sampler=(id(row), name) in best)
                for name, judgment in row.quality.items()
            },
        )
        for row in rows
    ]


def _mean_frechet(rows: Sequence[StudyRow] | None, network: str) -> float:
    values = [score(row, "frechet", network) for row in rows or ()]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else math.inf


def score(row: StudyRow, metric: str, network: str | None) -> float | None:
    """A score of a row: an error in pixels, or the quality in the features of a network."""
    value = getattr(row if network is None else row.quality.get(network), metric, None)
    return None if value is None else float(value)


def _metrics(rows: Sequence[StudyRow]) -> list[tuple[str | None, str]]:
    """Networks and metrics that rows have."""
    networks = dict.fromkeys(name for row in rows for name in row.quality)
    return [*((None, metric) for metric in ERRORS), *product(networks, QUALITY)]


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
        for network, metric in _metrics(own):
            values = [(*(score(r, metric, network) for r in pair), pair[1].seed) for pair in pairs]
            known = [(a, b, seed) for a, b, seed in values if a is not None and b is not None]
            if not known or any(a <= 0 for a, _, _ in known):
                continue
            which: dict[str, Any] = dict(zip(fields, group, strict=True))
            which |= {"metric": metric, "network": network}
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
        for network, metric in product(own[0].quality, ("mmd_sq", "mmd_sq_low")):
            pairs = [(score(p, metric, None), score(p, "frechet", network), p) for p in own]
            known = [(x, y, p) for x, y, p in pairs if x is not None and y is not None]
            if len(known) < LEAST:
                continue
            parts = {
                "overall": _with_interval(known),
                "within_seed": _with_interval(known, "seed"),
                "within_method": _with_interval(known, "protocol", "method"),
            }
            found.append(Correlations(sampler, steps, network, metric, **parts))
    return found


def predictions(points: Sequence[StudyRow]) -> list[Prediction]:
    """Rank correlation of the error in each space with the quality in each other network.

    Arguments:
        points: Evaluations.

    Returns:
        One for each space, other network and metric that enough evaluations have.
    """
    networks = list(dict.fromkeys(name for point in points for name in point.quality))
    errors: dict[str, tuple[str, str | None]]
    errors = {"pixels": ("mmd_sq", None), "own": ("own_mmd_sq", None)}
    errors |= {name: ("feature_mmd_sq", name) for name in networks}
    found = []
    for space, network, metric in product(errors, networks, ("frechet", "kernel_distance")):
        both = [(score(p, *errors[space]), score(p, metric, network), p) for p in points]
        known = [(x, y, p) for x, y, p in both if x is not None and y is not None]
        if space != network and (overall := _with_interval(known)):
            within = (_with_interval(known, "seed"), _with_interval(known, *CHAIN))
            found.append(Prediction(space, network, metric, overall, *within))
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


Point = tuple[float, float, StudyRow]
"""An error, a quality, and whose they are."""


def _with_interval(points: Sequence[Point], *fields: str) -> Correlation | None:
    """The rank correlation within groups of enough evaluations; None if there is no such group."""
    points = [
        point
        for own in _grouped(points, *fields, of=lambda point: point[2]).values()
        if len(own) >= LEAST
        for point in own
    ]

    def correlated(points: Sequence[Point]) -> float | None:
        x, y, rows = zip(*points, strict=True)
        return spearman(x, y, [_group(row, fields) for row in rows])

    runs = list(_grouped(points, "run", of=lambda point: point[2]).values())
    if not points or (rho := correlated(points)) is None:
        return None
    generator, drawn = np.random.default_rng(0), []
    for _ in range(NUM_RESAMPLES if len(runs) >= LEAST_RUNS else 0):
        chosen = generator.integers(len(runs), size=len(runs))
        drawn.append(correlated([point for k in chosen for point in runs[k]]))
    known = [value for value in drawn if value is not None]
    interval = tuple(np.quantile(known, [0.025, 0.975]).tolist()) if known else None
    return Correlation(rho, interval, len(points), len(runs))


def _group(row: StudyRow, fields: Sequence[str]) -> tuple[Any, ...]:
    return tuple(getattr(row, field) for field in fields)


def _grouped(
    items: Iterable[T], *fields: str, of: Callable[[T], Any] = lambda item: item
) -> dict[tuple[Any, ...], list[T]]:
    """Items by the values of these fields of them or of their rows, in order of appearance."""
    groups: dict[tuple[Any, ...], list[T]] = {}
    for item in items:
        groups.setdefault(_group(of(item), fields), []).append(item)
    return groups
