"""The record of an evaluation, as ``undrift evaluate`` writes it and reports read it."""

from __future__ import annotations

from typing import Any

KIND = "undrift.evaluation"
SCHEMA_VERSION = 2


def quality_rows(record: dict[str, Any]) -> list[tuple[str, str, float | None, float | None]]:
    """Label, metric, value and standard error of each number of an evaluation."""
    names = {
        "mmd_sq": "D₀²",
        "empirical_mmd_sq": "D₀² to the data set",
        "frechet": record["score_name"],
        "kernel_distance": "Kernel distance",
        "precision": "Precision",
        "recall": "Recall",
    }
    label = record["label"]
    return [(label, name, record[key], record[f"{key}_se"]) for key, name in names.items()]
