"""Files of a run that reports show, and its log. Reading them imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

LOG = "log.jsonl"
DATA_GRID = "data.png"
Row: TypeAlias = dict[str, float]
"""What was measured in a training step, or its mean over a few: ``step``, ``loss``, ``lr``, …"""


def read_log(folder: Path) -> list[Row]:
    """The rows that a run has logged; an incomplete last line is ignored.

    Raises:
        ValueError: If another line is no JSON.
    """
    file = folder / LOG
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
