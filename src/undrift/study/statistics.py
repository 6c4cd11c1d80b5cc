r"""Differences that are a method's own: relative changes against plain within a seed.

.. math:: r_i = \frac{D_{0}^2(\text{method}, i)}{D_{0}^2(\text{plain}, i)} - 1,

whose mean over seeds :math:`i` has Student's interval. A ratio needs a denominator that is not
zero: where a metric of plain is not positive in some seed, no change is given.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from undrift.study.config import PLAIN

Row = dict[str, Any]
METRICS = ("mmd_sq", "empirical_mmd_sq", "frechet", "kernel_distance", "precision", "recall")
"""What is compared: the cumulative error of the samples, by two yardsticks, and their quality."""


def paired(rows: Sequence[Row], budgets: Iterable[str]) -> list[Row]:
    """Mean relative change of each method against plain with the same protocol, budget and seed.

    Arguments:
        rows: Results.
        budgets: Budgets to compare within.

    Returns:
        For each protocol, method, budget and metric: mean, 95 % interval (Student's over seeds;
        None for one seed), and the changes themselves with their seeds.
    """
    table = {(protocol_of(r), r["budget"], r["method"], r["seed"]): r for r in rows}
    found = []
    for budget in budgets:
        for protocol in dict.fromkeys(map(protocol_of, rows)):
            for method in dict.fromkeys(r["method"] for r in rows if r["method"] != PLAIN):
                pairs = [
                    (table[protocol, budget, PLAIN, seed], row)
                    for (p, b, m, seed), row in table.items()
                    if (p, b, m) == (protocol, budget, method)
                    and (protocol, budget, PLAIN, seed) in table
                ]
                head = {"protocol": protocol, "method": method, "budget": budget}
                found += [head | change for change in changes(pairs)]
    return found


def changes(pairs: Sequence[tuple[Row, Row]]) -> list[Row]:
    """Mean relative change of each metric over pairs of results, a baseline and another.

    Example:
        >>> [change] = changes([({"mmd_sq": 2.0, "seed": 0}, {"mmd_sq": 1.0, "seed": 0})])
        >>> change["mean"], change["changes"]
        (-0.5, [-0.5])
    """
    found = []
    for metric in METRICS:
        values = [(a.get(metric), b.get(metric), b["seed"]) for a, b in pairs]
        known = [(a, b, seed) for a, b, seed in values if a is not None and b is not None]
        if not known or any(a <= 0 for a, _, _ in known):
            continue
        ratios = [b / a - 1 for a, b, _ in known]
        seeds = [seed for *_, seed in known]
        found.append(
            {"metric": metric} | mean_interval(ratios) | {"changes": ratios, "seeds": seeds}
        )
    return found


def absolute(rows: Sequence[Row]) -> list[Row]:
    """Mean and spread over seeds of each metric, for each protocol, budget and method."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((protocol_of(row), row["budget"], row["method"]), []).append(row)
    return [
        {"protocol": protocol, "budget": budget, "method": method, "num_seeds": len(group)}
        | {key: _mean_spread(group, key) for key in ("steps", "train_cpu_s", *METRICS)}
        for (protocol, budget, method), group in groups.items()
    ]


def costs(rows: Sequence[Row]) -> list[Row]:
    """Processor time of a training step of each method, relative to plain's of the same seed.

    Taken from the runs at equal steps; runs that share a machine disturb each other, so the spread
    over seeds is part of the answer.
    """
    equal = [row for row in rows if row["budget"] == "steps"]
    table = {(protocol_of(r), r["method"], r["seed"]): r["train_cpu_s"] / r["steps"] for r in equal}
    found = []
    for protocol, method in dict.fromkeys((p, m) for p, m, _ in table):
        ratios = [
            cost / table[protocol, PLAIN, seed]
            for (p, m, seed), cost in table.items()
            if (p, m) == (protocol, method) and table.get((protocol, PLAIN, seed), 0) > 0
        ]
        step = statistics.fmean(
            cost for (p, m, _), cost in table.items() if (p, m) == (protocol, method)
        )
        if ratios:
            head = {"protocol": protocol, "method": method, "cpu_s_per_step": step}
            found.append(head | {"relative": mean_interval(ratios) | {"ratios": ratios}})
    return found


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % interval by Student's distribution.

    Example:
        >>> mean_interval([1.0, 3.0])["mean"]
        2.0
    """
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return {"mean": mean, "interval": None, "num_seeds": n}
    half = _student(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return {"mean": mean, "interval": [mean - half, mean + half], "num_seeds": n}


def protocol_of(row: Row) -> str:
    """The protocol of a result; those of the first study files do not name theirs."""
    return str(row.get("protocol", "branched"))


def _mean_spread(rows: Sequence[Row], key: str) -> Row | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": spread}


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
