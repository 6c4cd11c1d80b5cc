"""``study.json``: what came out of a study, for people, programs and its report.

==================  ============================================================================
``rows``            one for each protocol, seed, budget and method: steps, processor time, metrics
``paired``          mean relative change against plain with its interval, for each metric
``absolute``        mean and spread over seeds of each metric
``costs``           processor time of a step relative to plain's
``checkpoints``     judgments of weights on the way (``judge_every``)
``correlation``     rank correlation of the cumulative error with the Fréchet distance
``remedies``        judgments of chains with remedies; a row says which in ``remedy``
``paired_remedies`` their mean relative changes against the same method without
``profiles``        cumulative error along chains, without remedy and with each
``failures``        runs that could not be trained to their end, and why
==================  ============================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from undrift.quality.scorer import Judge, Row
from undrift.study.config import CHECKPOINT_RULE, StudyConfig
from undrift.study.correlation import correlations, distinct
from undrift.study.jobs import Job
from undrift.study.statistics import absolute, changes, costs, paired
from undrift.study.worker import Outcome
from undrift.training.runs import versions, write_json

KIND = "undrift.study"
SCHEMA_VERSION = 2


@dataclass
class Findings:
    """What has come out of a study so far."""

    rows: list[Row] = field(default_factory=list)
    checkpoints: list[Row] = field(default_factory=list)
    remedies: list[Row] = field(default_factory=list)
    profiles: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Add what a run has come to."""
        self.rows += [outcome.row] if outcome.row else []
        self.checkpoints += outcome.checkpoints
        self.remedies += outcome.remedies
        self.profiles += outcome.profiles

    def fail(self, job: Job, reason: str) -> None:
        """Add a run that could not be trained or judged."""
        place = {"protocol": job.protocol, "method": job.method, "seed": job.seed}
        self.failures.append(place | {"budget": job.budget, "reason": reason})


def record(
    config: StudyConfig,
    judge: Judge,
    found: Findings,
    command: str | None,
    *,
    is_complete: bool = False,
) -> dict[str, Any]:
    """Everything that is known about a study so far, as plain data."""
    rows = _sorted(found.rows, config)
    budgets = [b for b in ("steps", "compute") if any(row["budget"] == b for row in rows)]
    points = distinct([*found.checkpoints, *rows])
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "rows": rows,
        "paired": paired(rows, budgets),
        "absolute": absolute(rows),
        "costs": costs(rows),
        "checkpoints": _sorted(distinct(found.checkpoints), config),
        "correlation": {
            metric: correlations(points, metric) if is_complete else None
            for metric in ("mmd_sq", "mmd_sq_low")
        },
        "is_complete": is_complete,
        "remedies": _sorted(found.remedies, config),
        "paired_remedies": _paired_remedies(rows, found.remedies),
        "profiles": _sorted(found.profiles, config),
        "failures": found.failures,
        "checkpoint_rule": CHECKPOINT_RULE,
        "judged_by": judge.account,
        "config": asdict(config),
        "versions": versions(),
        "data": dict(judge.data.how),
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """Write ``study.json``, whole or not at all."""
    write_json(folder / "study.json", dict(found))


def rows_of(folder: Path) -> int:
    """How many results the ``study.json`` of a folder has; 0 for none that can be read."""
    try:
        return len(json.loads((folder / "study.json").read_text("utf-8"))["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _sorted(rows: Sequence[Row], config: StudyConfig) -> list[Row]:
    methods = {name: k for k, name in enumerate(config.methods)}
    remedies = {name: k for k, name in enumerate(config.remedies)}

    def place(row: Row) -> tuple[Any, ...]:
        return (
            config.protocols.index(row["protocol"]),
            row["seed"],
            row.get("budget") == "compute",
            methods.get(row["method"], -1),
            remedies.get(row.get("remedy", ""), -1),
            row.get("step", 0),
        )

    return sorted(rows, key=place)


def _paired_remedies(rows: Sequence[Row], remedied: Sequence[Row]) -> list[Row]:
    """Mean relative changes of chains with a remedy against the same runs without."""
    bare = {row["run"]: row for row in rows}
    found = []
    for method, remedy in dict.fromkeys((row["method"], row["remedy"]) for row in remedied):
        pairs = [
            (bare[row["run"]], row)
            for row in remedied
            if (row["method"], row["remedy"]) == (method, remedy)
        ]
        found += [{"method": method, "remedy": remedy} | change for change in changes(pairs)]
    return found
