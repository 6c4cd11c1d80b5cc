"""Files of a run that reports show, and its log. Reading them imports no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TypeAlias

from undrift.exceptions import InvalidInput
from undrift.measurement.reading import load_json

LOG = "log.jsonl"
DATA_GRID = "data.png"
Row: TypeAlias = dict[str, float]
"""What was measured in a training step, or its mean over a few: ``step``, ``loss``, ``lr``, …"""


def made_with(folder: Path) -> dict[str, Any]:
    """Data, versions and regularizer of a run; nothing where it does not say.

    Raises:
        InvalidInput: If its record is damaged.
    """
    file = folder / "versions.json"
    found = load_json(file, "record of a run") if file.is_file() else {}
    if not isinstance(found, dict) or not isinstance(found.get("data") or {}, dict):
        raise InvalidInput(f"{file} is damaged: it is no record of a run")
    return found


def read_log(folder: Path) -> list[Row]:
    """The rows that a run has logged; an incomplete last line is ignored.

    Raises:
        InvalidInput: If another line is no row.
    """
    rows = []
    for number, (row, _) in enumerate(_rows(folder), start=1):
        if row is None:
            raise InvalidInput(f"{folder / LOG} is damaged: line {number} is no row of numbers")
        rows.append(row)
    return rows


def lines_until(folder: Path, step: int) -> list[str]:
    """The lines of the log of a run up to a step, without those that are torn or damaged."""
    return [line for row, line in _rows(folder) if row and row["step"] <= step]


def _rows(folder: Path) -> list[tuple[Row | None, str]]:
    """Each complete line of a log and its row, None where it has none."""
    file = folder / LOG
    text = file.read_bytes().decode("utf-8", errors="replace") if file.exists() else ""
    return [(_row(line), f"{line}\n") for line in text.split("\n")[:-1]]


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and "step" in row and all(map(_is_number, row.values()))
    return row if is_row else None


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max
