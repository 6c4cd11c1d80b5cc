"""The record of an evaluation as rows of a table: label, metric, value, standard error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from undrift.reporting.content import QualityRow

KIND = "undrift.evaluation"
SCHEMA_VERSION = 3
ERRORS = {"mmd_sq": "D₀²", "empirical_mmd_sq": "D₀² to the data set"}
QUALITY = {
    "frechet_ratio": "FDr",
    "kernel_distance": "Kernel distance",
    "sliced": "Sliced distance",
    "precision": "Precision",
    "recall": "Recall",
}
"""Scores in the features of a network besides the Fréchet distance."""


def quality_rows(record: Mapping[str, Any]) -> list[QualityRow]:
    """Label, metric, value and standard error of each number of an evaluation.

    Raises:
        ValueError: If it is no evaluation, or one of another schema.
        KeyError: If it lacks a number.
    """
    if record["kind"] != KIND or record["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"no {KIND} of schema version {SCHEMA_VERSION}")
    label, is_one = record["label"], len(record["quality"]) == 1
    rows = [(label, name, record[key], record[f"{key}_se"]) for key, name in ERRORS.items()]
    for network, scores in record["quality"].items():
        names = {"frechet": record["networks"][network]["score_name"]}
        names |= {key: name if is_one else f"{name} ({network})" for key, name in QUALITY.items()}
        rows += [(label, name, scores[key], scores[f"{key}_se"]) for key, name in names.items()]
    return rows
