"""Findings and tables of a study, from the plain data of ``study.json``.

A change is called lower or higher only where its interval excludes 0 and there are three seeds or
more; all others are not distinguishable from no change. It is given in percent where its interval
lies within (−100, 100), else as a factor. Intervals are of single comparisons: of twenty changes
whose true value is 0, one interval excludes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from undrift.exceptions import InvalidInput
from undrift.reporting.content import PLAIN, SampleGrid, number
from undrift.reporting.findings import Finding
from undrift.reporting.numbers import (
    MISSING,
    common_exponent,
    percent,
    percent_number,
    scaled,
    unit,
)
from undrift.reporting.tables import Table

Row = Mapping[str, Any]
Study = Mapping[str, Any]
NAMES = {
    "mmd_sq": "D₀²",
    "empirical_mmd_sq": "D₀² to the data set",
    "frechet": "Fréchet distance",
    "kernel_distance": "Kernel distance",
    "precision": "Precision",
    "recall": "Recall",
}
COMPARED = ("mmd_sq", "empirical_mmd_sq", "frechet")
"""Metrics whose change against plain is in the tables."""
PROTOCOLS = {"branched": "branched", "scratch": "from scratch"}
CORRELATIONS = {
    "overall": "overall",
    "within_seed": "within seeds",
    "within_method": "within methods",
}
PREDICTION = "Does the cumulative error predict quality?"
REMEDIES = "Remedies at sampling time"
TOPICS = {"mmd_sq": "Cumulative error of the samples", "frechet": "Quality of the samples"}
"""Metrics with findings of their own."""
BUDGETS = {"steps": "equal steps", "compute": "equal compute"}


def check_results(study: Study) -> None:
    """Check that a study has results.

    Raises:
        InvalidInput: If it has no results yet.
    """
    if not study["rows"]:
        raise InvalidInput("the study has no results yet: run undrift compare")


def groups(study: Study) -> list[tuple[str, str]]:
    """Protocols and budgets that there are results of, in the order of the rows."""
    rows = study["rows"]
    protocols = dict.fromkeys(row["protocol"] for row in rows)
    found = {(row["protocol"], row["budget"]) for row in rows}
    return [(p, b) for p in protocols for b in BUDGETS if (p, b) in found]


def methods(study: Study) -> list[str]:
    """Methods in the order of the plan, plain first."""
    named = study.get("config", {}).get("methods") or {}
    present = dict.fromkeys(row["method"] for row in study["rows"])
    return sorted(present, key=lambda m: (m != PLAIN, list(named).index(m) if m in named else 99))


def where(protocol: str, budget: str, study: Study | None = None) -> str:
    """A protocol and a budget in words, and the part that a study is of another."""
    part = (study or {}).get("part")
    words = [PROTOCOLS.get(protocol, protocol), BUDGETS.get(budget, budget), part]
    return ", ".join(filter(None, words))


def changes(study: Study, protocol: str, budget: str, metric: str) -> list[Row]:
    """The paired changes of one protocol, budget and metric, in the order of the methods."""
    order = methods(study)
    found = [
        row
        for row in study["paired"]
        if (row["protocol"], row["budget"], row["metric"]) == (protocol, budget, metric)
    ]
    return sorted(found, key=lambda row: order.index(row["method"]))


def change_text(row: Row) -> str:
    """A mean change with its interval, in percent or as a factor.

    >>> change_text({"mean": -0.53, "interval": [-0.69, -0.36], "num_seeds": 5})
    '−53 % (−69 to −36)'
    >>> change_text({"mean": 1.4, "interval": [0.6, 2.2], "num_seeds": 5})
    '2.40 times (1.60 to 3.20)'
    """
    if row["interval"] and not -1 < row["interval"][0] < row["interval"][1] < 1:
        mean, low, high = (scaled(1 + x, 0) for x in (row["mean"], *row["interval"]))
        return f"{mean} times ({low} to {high})"
    mean = percent(row["mean"], signed=True)
    if not row["interval"]:
        return f"{mean} (one seed)"
    low, high = (percent_number(end, signed=True) for end in row["interval"])
    return f"{mean} ({low} to {high})"


LEAST_SEEDS = 3
"""Seeds below which no change is said to be one."""


def direction(row: Row) -> int:
    """-1 for lower, 1 for higher, 0 where the interval holds 0 or there are too few seeds."""
    if not row["interval"] or row["num_seeds"] < LEAST_SEEDS:
        return 0
    low, high = row["interval"]
    return -1 if high < 0 else 1 if low > 0 else 0


def verdicts(study: Study) -> list[Finding]:
    """What the study says, most important first."""
    found = []
    for metric in TOPICS:
        for protocol, budget in groups(study):
            if rows := changes(study, protocol, budget, metric):
                found.append(_verdict(study, protocol, budget, metric, rows))
    return found + _correlation(study) + _remedies(study)


def missing_runs(study: Study) -> list[Finding]:
    """The runs that failed."""
    if not (failures := study.get("failures")):
        return []
    count = f"{len(failures)} {'run is' if len(failures) == 1 else 'runs are'}"
    text = " ".join(_failed(row) for row in failures)
    return [Finding("Missing", f"{count} not in the tables.", text)]


def _verdict(study: Study, protocol: str, budget: str, metric: str, rows: Sequence[Row]) -> Finding:
    lower, name = [row for row in rows if direction(row) < 0], NAMES[metric]
    best = min(lower or rows, key=lambda row: row["mean"])
    place = f"{PROTOCOLS[protocol].capitalize()}, at {BUDGETS[budget]}{_in_part(study)}"
    if lower:
        headline = f"{place}, {best['method']} lowers {name} {_lowered(best, PLAIN)}."
        others = [row for row in rows if row is not best]
    else:
        headline = f"{place}, no method is shown to have a lower {name} than plain{_too_few(rows)}."
        others = list(rows)
    parts = _by_direction(others, "method", PLAIN)
    if metric == "mmd_sq":
        parts += _to_the_data_set(study, protocol, budget, best["method"])
    seeds = best["num_seeds"]
    counted = "1 seed." if seeds == 1 else f"{seeds} seeds, 95 % intervals."
    return Finding(TOPICS[metric], headline, " ".join([*parts, counted]))


def _in_part(study: Study) -> str:
    return f" ({study['part']})" if "part" in study else ""


def _listed(rows: Sequence[Row], key: str) -> str:
    return ", ".join(f"{row[key]} {change_text(row)}" for row in rows)


def _to_the_data_set(study: Study, protocol: str, budget: str, method: str) -> list[str]:
    """The same change relative to the data set itself."""
    rows = changes(study, protocol, budget, "empirical_mmd_sq")
    own = [change_text(row) for row in rows if row["method"] == method]
    return [f"Against the data set itself, not its population: {method} {own[0]}."] if own else []


def _by_direction(rows: Sequence[Row], key: str, reference: str) -> list[str]:
    """The changes in sentences: those that are lower, higher, and neither."""
    kinds = {
        "Lower too": [r for r in rows if direction(r) < 0],
        f"Higher than {reference}": [r for r in rows if direction(r) > 0],
        f"Not distinguishable from {reference}": [r for r in rows if not direction(r)],
    }
    return [f"{title}: {_listed(kind, key)}." for title, kind in kinds.items() if kind]


def _lowered(row: Row, reference: str) -> str:
    """A decrease with its interval: by so many percent, or to so many times the reference."""
    low, high = row["interval"]
    if low <= -1:
        return f"to {change_text(row)} of {reference}"
    ends = f"{percent_number(-high)} to {percent_number(-low)} %"
    return f"by {percent(abs(row['mean']))} ({ends})"


def correlation(study: Study, metric: str = "mmd_sq") -> Row:
    """The rank correlations of a study with one chain; empty if there are none."""
    return next((row for row in study["correlations"] if row["metric"] == metric), {})


def _correlation(study: Study) -> list[Finding]:
    found = correlation(study)
    overall = found.get("overall")
    if not overall:
        return []
    kinds = {key: found[key] for key in ("within_seed", "within_method") if found.get(key)}
    texts = [f"{CORRELATIONS[key]} {rho_text(rho)}" for key, rho in kinds.items()]
    headline = (
        f"Over {overall['num_points']} evaluations of {overall['num_runs']} runs"
        f"{_in_part(study)} the rank correlation of D₀² with the Fréchet distance is "
        f"{rho_text(overall)}."
    )
    detail = [f"{'; '.join(texts).capitalize()}."] if texts else []
    if low := correlation(study, "mmd_sq_low").get("overall"):
        detail.append(f"Of the lower end of the bracket on the KL: {rho_text(low)}.")
    return [Finding(PREDICTION, headline, " ".join(detail))]


def rho_text(found: Row) -> str:
    """A rank correlation with its interval.

    >>> rho_text({"rho": 0.812, "interval": [0.7, 0.9]})
    '0.81 (0.70 to 0.90)'
    """
    text = scaled(found["rho"], 0)
    if not found["interval"]:
        return text
    low, high = (scaled(end, 0) for end in found["interval"])
    return f"{text} ({low} to {high})"


def remedy_changes(study: Study) -> dict[str, list[Row]]:
    """The changes of the Fréchet distance by remedies, by the method that they are applied to."""
    rows = [row for row in study["paired_remedies"] if row["metric"] == "frechet"]
    return {m: [r for r in rows if r["method"] == m] for m in (row["method"] for row in rows)}


def _remedies(study: Study) -> list[Finding]:
    found = []
    for method, own in remedy_changes(study).items():
        lower, place = [row for row in own if direction(row) < 0], f"On {method}{_in_part(study)}"
        best = min(lower, key=lambda row: row["mean"]) if lower else None
        headline = f"{place}, no remedy is shown to have a lower Fréchet distance than none"
        headline += _too_few(own) + "."
        if best:
            size = _lowered(best, "none")
            headline = f"{place}, the remedy {best['remedy']} lowers the Fréchet distance {size}."
        others = [row for row in own if row is not best]
        text = " ".join(_by_direction(others, "remedy", "no remedy"))
        found.append(Finding(REMEDIES, headline, text))
    return found


def _too_few(rows: Sequence[Row]) -> str:
    """Why no change is shown, where it is the number of seeds."""
    few = max(row["num_seeds"] for row in rows) < LEAST_SEEDS
    return f": that takes {LEAST_SEEDS} seeds" if few else ""


def _failed(row: Row) -> str:
    place = where(row["protocol"], row["budget"])
    return f"{row['method']}, seed {row['seed']}, {place}: {str(row['reason']).rstrip('.')}."


# ------------------------------------------------------------------ tables


def results_table(study: Study, protocol: str, budget: str) -> Table:
    """Mean, spread and paired change of each method by one protocol and budget."""
    rows = [r for r in study["rows"] if (r["protocol"], r["budget"]) == (protocol, budget)]
    found: dict[tuple[str, ...], list[Row]] = {}
    for method in methods(study):
        if own := [row for row in rows if row["method"] == method]:
            found[method, _whole(own, "steps"), _whole(own, "train_cpu_s")] = own
    shown = [m for m in NAMES if any(number(row, m) is not None for row in rows)]
    paired = {
        (row["method"], metric): row
        for metric in COMPARED
        for row in changes(study, protocol, budget, metric)
    }
    body = _cells(found, shown, lambda names, metric: paired.get((names[0], metric)))
    columns = ["method", "steps", "CPU s", *_columns(rows, shown, "plain")]
    return Table(where(protocol, budget, study), columns, body, num_names=1)


def remedy_table(study: Study) -> Table | None:
    """Mean, spread and change against no remedy of each method with each remedy."""
    remedied = study["remedies"]
    if not remedied:
        return None
    runs = {row["run"] for row in remedied}
    bare = [r | {"remedy": "none"} for r in study["rows"] if r["run"] in runs]
    rows = [row for row in bare if row["budget"] == "steps"] + list(remedied)
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: methods(study).index(row["method"])):
        found.setdefault((row["method"], row["remedy"]), []).append(row)
    shown = ("mmd_sq", "frechet", "precision", "recall")
    paired = {f"{r['method']} {r['remedy']} {r['metric']}": r for r in study["paired_remedies"]}
    body = _cells(found, shown, lambda names, metric: paired.get(" ".join([*names, metric])))
    columns = ["method", "remedy", *_columns(rows, shown, "none")]
    title = f"Remedies at sampling time{_in_part(study)}"
    return Table(title, columns, body, num_names=2)


def _columns(rows: Sequence[Row], metrics: Sequence[str], baseline: str) -> list[str]:
    """Headings of the metrics with their units, and of the changes."""
    columns = []
    for metric, exponent in _exponents(rows, metrics).items():
        columns.append(f"{NAMES[metric]} {unit(exponent)}".strip())
        columns += [f"against {baseline}"] if metric in COMPARED else []
    return columns


def _cells(
    found: Mapping[tuple[str, ...], Sequence[Row]],
    metrics: Sequence[str],
    change_of: Callable[[tuple[str, ...], str], Row | None],
) -> list[list[str]]:
    """Mean and spread of each metric, and its change, of each group of rows."""
    exponents = _exponents([row for rows in found.values() for row in rows], metrics)
    body = []
    for names, rows in found.items():
        cells = list(names)
        for metric, exponent in exponents.items():
            cells.append(spread_text([number(row, metric) for row in rows], exponent))
            if metric in COMPARED:
                change = change_of(names, metric)
                cells.append(change_text(change) if change else MISSING)
        body.append(cells)
    return body


def sample_grids(study: Study, folder: Path) -> dict[str, list[SampleGrid]]:
    """Sample grids of the first seed at equal steps, by protocol; those that are still there.

    Arguments:
        study: What ``study.json`` holds.
        folder: Folder of the study.
    """
    grids: dict[str, list[SampleGrid]] = {}
    data = folder / "data.png"
    for row in study["rows"]:
        file = folder / str(row.get("grid", ""))
        first = row["seed"] == study["rows"][0]["seed"] and row["budget"] == "steps"
        if not first or not row.get("grid") or not file.is_file():
            continue
        own = grids.setdefault(row["protocol"], [])
        if not own and data.is_file():
            own.append(("data", data.read_bytes(), str(study["data"].get("name", ""))))
        own.append((row["method"], file.read_bytes(), f"{row['steps']:,} steps"))
    return grids


def cost_table(study: Study) -> Table | None:
    """Processor time of a training step of each method, relative to plain's."""
    body = []
    for row in study["costs"]:
        relative = row["relative"]
        text = f"{relative['mean']:.2f}"
        if relative["interval"]:
            text += " ({:.2f} to {:.2f})".format(*relative["interval"])
        time = f"{1e3 * row['cpu_s_per_step']:.1f}"
        body.append([row["method"], PROTOCOLS.get(row["protocol"], ""), time, text])
    columns = ["method", "protocol", "CPU ms", "relative to plain"]
    return Table("Cost of a training step", columns, body, num_names=2) if body else None


def spread_text(values: Sequence[float | None], exponent: int = 0) -> str:
    """Mean and standard deviation over seeds, in units of ten to the exponent.

    >>> spread_text([4.0e-4, 5.0e-4, 6.0e-4], -4), spread_text([0.5])
    ('5.00 ± 1.00', '0.50')
    """
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    mean = scaled(fmean(known), exponent)
    return f"{mean} ± {scaled(stdev(known), exponent)}" if len(known) > 1 else mean


def _exponents(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, int]:
    """The exponent of ten of each metric; both distances D₀² have the same one."""
    found = {metric: _exponent(rows, metric) for metric in metrics}
    return found | {m: found["mmd_sq"] for m in ("empirical_mmd_sq",) if m in found}


def _exponent(rows: Sequence[Row], metric: str) -> int:
    """The exponent that shows the smallest of the methods' means, or two digits of the largest."""
    own: dict[str, list[float]] = {}
    for row in rows:
        if (value := number(row, metric)) is not None:
            own.setdefault(row["method"], []).append(value)
    means = [abs(fmean(values)) for values in own.values()]
    return common_exponent([max(min(means), max(means) / 100)] if means else [])


def _whole(rows: Sequence[Row], key: str) -> str:
    return f"{fmean(row[key] for row in rows):,.0f}"
