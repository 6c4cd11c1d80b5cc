"""The record of an evaluation, as ``undrift evaluate`` writes it and reports read it."""

from __future__ import annotations

from typing import Any

KIND = "undrift.evaluation"
SCHEMA_VERSION = 1


def quality_rows(record: dict[str, Any]) -> list[tuple[str, str, float | None, float | None]]:
    """Label, metric, value and standard error of each number of an evaluation."""
    label, frechet, kernel = record["label"], record["frechet"], record["kernel"]
    error = record["final_error"]
    return [
        (label, "D₀²", error["mmd_sq"], error["mmd_sq_se"]),
        (label, frechet["name"], frechet["value"], frechet["standard_error"]),
        (label, "Kernel distance", kernel["value"], kernel["standard_error"]),
        (label, "Precision", record["precision"], record.get("precision_se")),
        (label, "Recall", record["recall"], record.get("recall_se")),
    ]
