"""The record of an evaluation as rows of a table: label, metric, value, standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from undrift.reporting.content import QualityRow
from undrift.reporting.numbers import MISSING, Z_95, scientific

KIND = "undrift.evaluation"
SCHEMA_VERSION = 3
ERRORS = {"mmd_sq": "D₀²", "empirical_mmd_sq": "D₀² to the data set"}
QUALITY = {
    "frechet_ratio": "FDr",
    "feature_mmd_sq": "D₀² in the features",
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
    if not is_one:
        rows.append((label, "FDr, mean over networks", record["frechet_ratio"], None))
    return rows


def interval_texts(record: Mapping[str, Any]) -> list[str]:
    """The 95 % interval of each row, as :func:`quality_rows` has them.

    That of a Fréchet distance has the bias removed and is given where it is reliable. The others
    are 1.96 standard errors to both sides; a sliced distance and FDr keep their bias.
    """
    own = {0: record["interval"]}
    for k, scores in enumerate(record["quality"].values()):
        own[len(ERRORS) + k * (1 + len(QUALITY))] = scores["frechet_interval"]
    return [
        _interval_text(own[k] if k in own else _around(value, error))
        for k, (_, _, value, error) in enumerate(quality_rows(record))
    ]


def _around(value: float | None, error: float | None) -> tuple[float, float] | None:
    if value is None or error is None:
        return None
    return value - Z_95 * error, value + Z_95 * error


def _interval_text(interval: Sequence[float] | None) -> str:
    return " to ".join(scientific(end, 3) for end in interval) if interval else MISSING
