"""What a study came to, in words and tables: from the plain data of ``study.json``.

A change is called lower or higher only where its interval does not hold 0; all others are not told
apart from no change. Intervals are of single comparisons: among twenty that are truly zero, one
does not hold 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undrift.exceptions import InvalidInput
from undrift.reporting.content import SampleGrid, number
from undrift.reporting.findings import Finding
from undrift.reporting.numbers import (
    MISSING,
    common_exponent,
    percent,
    percent_number,
    scaled,
    unit,
)

Row = Mapping[str, Any]
Study = Mapping[str, Any]
PLAIN = "plain"
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
BUDGETS = {"steps": "equal steps", "compute": "equal compute"}


@dataclass(frozen=True)
class Section:
    """The results of one protocol and budget, as a table."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def check_results(study: Study) -> None:
    """Stop at a study that has nothing to report.

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


def where(protocol: str, budget: str) -> str:
    """A protocol and a budget in words."""
    return f"{PROTOCOLS.get(protocol, protocol)}, {BUDGETS.get(budget, budget)}"


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
    """A mean change with its interval.

    >>> change_text({"mean": -0.53, "interval": [-0.69, -0.36], "num_seeds": 5})
    '−53 % (−69 to −36)'
    """
    mean = percent(row["mean"], signed=True)
    if not row["interval"]:
        return f"{mean} (one seed)"
    low, high = (percent_number(end, signed=True) for end in row["interval"])
    return f"{mean} ({low} to {high})"


def told_apart(row: Row) -> int:
    """-1 for lower, 1 for higher, 0 where the interval holds 0 or there is none."""
    if not row["interval"]:
        return 0
    low, high = row["interval"]
    return -1 if high < 0 else 1 if low > 0 else 0


def verdicts(study: Study) -> list[Finding]:
    """What the study says, most important first."""
    found = []
    for metric in ("mmd_sq", "frechet"):
        for protocol, budget in groups(study):
            rows = changes(study, protocol, budget, metric)
            if rows:
                found.append(_verdict(study, protocol, budget, metric, rows))
    found += _correlation(study) + _remedies(study)
    if study.get("failures"):
        count = len(study["failures"])
        found.append(
            Finding(
                "Missing",
                f"{count} {'run is' if count == 1 else 'runs are'} not in the tables.",
                " ".join(_failed(row) for row in study["failures"]),
            )
        )
    return found


def _verdict(study: Study, protocol: str, budget: str, metric: str, rows: Sequence[Row]) -> Finding:
    best = min(rows, key=lambda row: row["mean"])
    seeds = best["num_seeds"]
    name = NAMES[metric]
    direction = "lowers" if best["mean"] < 0 else "raises"
    headline = (
        f"{_place(protocol, budget)}, {best['method']} {direction} {name} by "
        f"{percent(abs(best['mean']))}{_in_words(best)}."
    )
    if best["mean"] >= 0:
        headline = f"{_place(protocol, budget)}, no method has a lower {name} than plain."
    others = [row for row in rows if row is not best or best["mean"] >= 0]
    kinds = (
        ("Lower too", [r for r in others if told_apart(r) < 0]),
        ("Higher than plain", [r for r in others if told_apart(r) > 0]),
        ("Not told from plain", [r for r in others if r["interval"] and told_apart(r) == 0]),
        ("Without interval", [r for r in others if not r["interval"]]),
    )
    parts = [
        f"{title}: " + ", ".join(f"{row['method']} {change_text(row)}" for row in kind) + "."
        for title, kind in kinds
        if kind
    ]
    if metric == "mmd_sq":
        parts += _to_the_data_set(study, protocol, budget, best["method"])
    counted = "1 seed." if seeds == 1 else f"{seeds} seeds, 95 % intervals."
    return Finding(_topic(metric), headline, " ".join([*parts, counted]))


def _to_the_data_set(study: Study, protocol: str, budget: str, method: str) -> list[str]:
    """The same change by the yardstick that a model meets only if it repeats the data."""
    rows = changes(study, protocol, budget, "empirical_mmd_sq")
    own = [change_text(row) for row in rows if row["method"] == method]
    return [f"Against the data set itself, not its population: {method} {own[0]}."] if own else []


def _topic(metric: str) -> str:
    return {"mmd_sq": "Cumulative error of the samples", "frechet": "Quality of the samples"}[
        metric
    ]


def _place(protocol: str, budget: str) -> str:
    head = "Branched" if protocol == "branched" else "From scratch"
    return f"{head}, at {BUDGETS[budget]}"


def _in_words(row: Row) -> str:
    if not row["interval"]:
        return " (one seed: no interval)"
    low, high = sorted(-end if row["mean"] < 0 else end for end in row["interval"])
    ends = f" ({percent_number(low)} to {percent_number(high)} %)"
    return ends + ("" if told_apart(row) else ", not told from 0")


def _correlation(study: Study) -> list[Finding]:
    found = study["correlation"].get("mmd_sq") or {}
    overall = found.get("overall")
    if not overall:
        return []
    texts = []
    for key, words in (("within_seed", "within seeds"), ("within_method", "within methods")):
        if found.get(key):
            texts.append(f"{words} {rho_text(found[key])}")
    headline = (
        f"Over {overall['num_points']} judgments of {overall['num_runs']} runs the rank "
        f"correlation of D₀² with the Fréchet distance is {rho_text(overall)}."
    )
    low = ((study["correlation"].get("mmd_sq_low") or {}).get("overall")) or None
    bracket = f" Of the lower end of the bracket on the KL: {rho_text(low)}." if low else ""
    detail = f"{'; '.join(texts).capitalize()}.{bracket}" if texts else bracket.strip()
    return [Finding("Does the cumulative error predict quality?", headline, detail)]


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


def _remedies(study: Study) -> list[Finding]:
    rows = [row for row in study["paired_remedies"] if row["metric"] == "frechet"]
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        best = min(own, key=lambda row: row["mean"])
        texts = ", ".join(f"{row['remedy']} {change_text(row)}" for row in own)
        headline = (
            f"On {method}, the remedy {best['remedy']} changes the Fréchet distance by "
            f"{change_text(best)}{'' if told_apart(best) else ', not told from 0'}."
        )
        if best["mean"] >= 0:
            headline = f"On {method}, no remedy has a lower Fréchet distance than none."
        found.append(Finding("Remedies at sampling time", headline, f"All: {texts}."))
    return found


def _failed(row: Row) -> str:
    place = where(row["protocol"], row["budget"])
    return f"{row['method']}, seed {row['seed']}, {place}: {str(row['reason']).rstrip('.')}."


# ------------------------------------------------------------------ tables


def results_table(study: Study, protocol: str, budget: str) -> Section:
    """Mean, spread and paired change of each method by one protocol and budget."""
    rows = [r for r in study["rows"] if (r["protocol"], r["budget"]) == (protocol, budget)]
    exponent = {m: _exponent(rows, m) for m in NAMES}
    exponent["empirical_mmd_sq"] = exponent["mmd_sq"]
    shown = [m for m in NAMES if any(number(row, m) is not None for row in rows)]
    columns = ["steps", "CPU s"]
    for metric in shown:
        columns += [f"{NAMES[metric]} {unit(exponent[metric])}".strip()]
        columns += ["against plain"] if metric in COMPARED else []
    body = []
    for method in (m for m in methods(study) if any(r["method"] == m for r in rows)):
        own = [row for row in rows if row["method"] == method]
        cells = [_whole(own, "steps"), _whole(own, "train_cpu_s")]
        for metric in shown:
            cells.append(spread_text([number(r, metric) for r in own], exponent[metric]))
            if metric in COMPARED:
                found = changes(study, protocol, budget, metric)
                change = next((row for row in found if row["method"] == method), None)
                cells.append(change_text(change) if change else MISSING)
        body.append((method, cells))
    return Section(where(protocol, budget), columns, body)


def remedy_table(study: Study) -> Section | None:
    """Mean, spread and change against no remedy of each method with each remedy."""
    remedied = study["remedies"]
    if not remedied:
        return None
    runs = {row["run"] for row in remedied}
    bare = [row | {"remedy": "none"} for row in study["rows"] if row["run"] in runs]
    rows = [row for row in bare if row["budget"] == "steps"] + list(remedied)
    shown = ("mmd_sq", "frechet", "precision", "recall")
    exponent = {m: _exponent(rows, m) for m in shown}
    columns = ["remedy"]
    for metric in shown:
        columns.append(f"{NAMES[metric]} {unit(exponent[metric])}".strip())
        columns += ["against none"] if metric in COMPARED else []
    table = {(r["method"], r["remedy"], r["metric"]): r for r in study["paired_remedies"]}
    body = []
    for method, remedy in sorted(
        dict.fromkeys((row["method"], row["remedy"]) for row in rows),
        key=lambda pair: methods(study).index(pair[0]),
    ):
        own = [row for row in rows if (row["method"], row["remedy"]) == (method, remedy)]
        cells = [remedy]
        for metric in shown:
            cells.append(spread_text([number(r, metric) for r in own], exponent[metric]))
            if metric in COMPARED:
                change = table.get((method, remedy, metric))
                cells.append(change_text(change) if change else MISSING)
        body.append((method, cells))
    return Section("Remedies at sampling time", columns, body)


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


def cost_table(study: Study) -> Section | None:
    """Processor time of a training step of each method, relative to plain's."""
    found = study["costs"]
    if not found:
        return None
    body = []
    for row in found:
        relative = row["relative"]
        text = f"{relative['mean']:.2f}"
        if relative["interval"]:
            text += " ({:.2f} to {:.2f})".format(*relative["interval"])
        cells = [PROTOCOLS.get(row["protocol"], ""), f"{1e3 * row['cpu_s_per_step']:.1f}", text]
        body.append((row["method"], cells))
    return Section("Cost of a training step", ["protocol", "CPU ms", "relative to plain"], body)


def spread_text(values: Sequence[float | None], exponent: int = 0) -> str:
    """Mean and standard deviation over seeds, in units of ten to the exponent.

    >>> spread_text([4.0e-4, 5.0e-4, 6.0e-4], -4), spread_text([0.5])
    ('5.00 ± 1.00', '0.50')
    """
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    mean = sum(known) / len(known)
    if len(known) < 2:
        return scaled(mean, exponent)
    spread = (sum((v - mean) ** 2 for v in known) / (len(known) - 1)) ** 0.5
    return f"{scaled(mean, exponent)} ± {scaled(spread, exponent)}"


def _exponent(rows: Sequence[Row], metric: str) -> int:
    """The exponent that shows the smallest of the methods' means, or two digits of the largest."""
    own: dict[str, list[float]] = {}
    for row in rows:
        if (value := number(row, metric)) is not None:
            own.setdefault(row["method"], []).append(value)
    means = [abs(sum(values) / len(values)) for values in own.values()]
    if not means:
        return 0
    largest = max(means)
    return common_exponent([max(min(means), largest / 100)])


def _whole(rows: Sequence[Row], key: str) -> str:
    return f"{sum(row[key] for row in rows) / len(rows):,.0f}"
