"""``study.json``: what came out of a study, for people, programs and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from undrift.protocol import CHECKPOINT_RULE, StudyConfig
from undrift.runs import versions, write_json
from undrift.study.judgment import Judge, Row
from undrift.study.pairing import absolute, costs, paired

KIND = "undrift.study"
SCHEMA_VERSION = 2


def record(
    config: StudyConfig,
    judge: Judge,
    rows: Sequence[Row],
    failures: Sequence[Row],
    command: str | None,
) -> dict[str, Any]:
    """Everything that is known about a study so far, as plain data."""
    order = {name: k for k, name in enumerate(config.methods)}
    rows = sorted(rows, key=lambda r: (r["protocol"], r["seed"], r["budget"], order[r["method"]]))
    budgets = [b for b in ("steps", "compute") if any(row["budget"] == b for row in rows)]
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "rows": rows,
        "paired": paired(rows, budgets),
        "absolute": absolute(rows),
        "costs": costs(rows),
        "failures": list(failures),
        "checkpoint_rule": CHECKPOINT_RULE,
        "judged_by": judge.how(),
        "config": asdict(config),
        "versions": versions(),
        "data": dict(judge.data.how),
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """Write ``study.json``, whole or not at all."""
    write_json(folder / "study.json", dict(found))
