"""A study in each judging network, on each chain, with the best sampler at equal network calls.

The parts of a study are plain data of a study too, so every table and plot of a study serves each
of them. What sets a part apart is its ``part``, in words, and ``is_one_of_many`` chains.
"""

from __future__ import annotations

from typing import Any

from undrift.reporting.findings import Finding
from undrift.reporting.numbers import MISSING
from undrift.reporting.study_content import (
    CORRELATIONS,
    NAMES,
    Row,
    Study,
    correlation,
    missing_runs,
    rho_text,
    verdicts,
)
from undrift.reporting.tables import Table

LISTS = (
    "rows",
    "paired",
    "checkpoints",
    "remedies",
    "paired_remedies",
    "profiles",
    "correlations",
)
"""What a study holds of each chain."""


def networks(study: Study) -> list[Study]:
    """The study in the features of each network: rows have the scores in it beside the others."""
    names = list(dict.fromkeys(name for row in study["rows"] for name in row["quality"]))
    return [_in_network(study, name, len(names) > 1) for name in names]


def _in_network(study: Study, network: str, is_named: bool) -> Study:
    found = {
        key: [{**row, **row["quality"].get(network, {})} for row in study[key]]
        for key in ("rows", "checkpoints", "remedies")
    }
    for key in ("paired", "paired_best", "means", "paired_remedies", "correlations"):
        found[key] = [row for row in study[key] if row["network"] in (None, network)]
    return {**study, **found} | ({"part": network} if is_named else {})


def _part(study: Study, words: str) -> str:
    """What a part of a part is, in words."""
    return ", ".join(filter(None, [words, study.get("part")]))


def parts(view: Study) -> list[Study]:
    """A study in one network with the best samplers, and on each chain."""
    return [*best_samplers(view), *chains(view)]


def chains(study: Study) -> list[Study]:
    """A study in one network on each chain; the study itself if there is but one."""
    found = dict.fromkeys(map(_chain, study["rows"]))
    if len(found) < 2:
        return [study]
    return [
        {
            **study,
            **{key: [row for row in study[key] if _chain(row) == chain] for key in LISTS},
            "part": _part(study, "{}, {} steps".format(*chain)),
            "is_one_of_many": True,
        }
        for chain in found
    ]


def best_samplers(study: Study) -> list[Study]:
    """The study with the best sampler of each method, at each number of network calls."""
    best = [row for row in study["rows"] if row["is_best_sampler"]]
    return [
        {
            **study,
            **dict.fromkeys(LISTS, ()),
            "rows": [row for row in best if row["network_calls"] == calls],
            "paired": [row for row in study["paired_best"] if row["network_calls"] == calls],
            "part": _part(study, f"the best sampler of each, {calls} network calls"),
            "is_one_of_many": True,
        }
        for calls in sorted({row["network_calls"] for row in study["paired_best"]})
    ]


def findings(study: Study) -> list[Finding]:
    """What the study says: with the best samplers where there are several, else on each chain."""
    views = networks(study)
    parts = [part for view in views for part in best_samplers(view) or chains(view)]
    return [finding for part in parts for finding in verdicts(part)] + missing_runs(study)


def correlation_table(study: Study) -> Table | None:
    """Rank correlation of the cumulative error with the Fréchet distance, on each chain."""
    body = []
    for part in (part for view in networks(study) for part in chains(view)):
        if found := correlation(part):
            texts = [rho_text(found[key]) if found[key] else MISSING for key in CORRELATIONS]
            body.append([part.get("part", ""), *texts])
    columns = ["chain", *CORRELATIONS.values()]
    title = "Rank correlation of D₀² with the Fréchet distance"
    return Table(title, columns, body, num_names=1) if body else None


def prediction_table(study: Study) -> Table | None:
    """Rank correlation of the error in each space with quality in each other network."""
    kinds = {"overall": "overall", "within_seed": "within seeds", "within_chain": "within chains"}
    body = [
        [
            {"own": "own features"}.get(row["space"], row["space"]),
            f"{NAMES[row['metric']]} ({row['network']})",
            *(rho_text(row[kind]) if row[kind] else MISSING for kind in kinds),
        ]
        for row in study["predictions"]
    ]
    title = "Which error predicts quality: rank correlation of D₀² with other networks"
    columns = ["D₀² in", "quality", *kinds.values()]
    return Table(title, columns, body, num_names=2) if body else None


def _chain(row: Row) -> tuple[Any, Any]:
    return row["sampler"], row["num_inference_steps"]
