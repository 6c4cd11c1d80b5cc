"""The record of an evaluation as rows of a table: label, metric, value, standard error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from undrift.reporting.content import QualityRow

KIND = "undrift.evaluation"
SCHEMA_VERSION = 2


def quality_rows(record: Mapping[str, Any]) -> list[QualityRow]:
    """Label, metric, value and standard error of each number of an evaluation.

    Raises:
        ValueError: If it is no evaluation, or one of another schema.
        KeyError: If it lacks a number.
    """
    if record["kind"] != KIND or record["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"no {KIND} of schema version {SCHEMA_VERSION}")
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
