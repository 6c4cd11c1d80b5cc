"""Whether a run that is there already is the one that a plan asks for."""

from __future__ import annotations

from pathlib import Path

import yaml

from undrift.checkpoint import difference
from undrift.config import TrainConfig
from undrift.exceptions import InvalidInput


def same_plan(output: Path, config: TrainConfig) -> None:
    """Stop at a run that was made with other options; a study may have moved, with its bases.

    Raises:
        InvalidInput: If there is one.
    """
    file = output / "config.yaml"
    if not file.is_file():
        return
    found = difference(yaml.safe_load(file.read_text()) or {}, config, but=["start_from"])
    if found:
        raise InvalidInput(
            f"{output} holds a run of another plan ({found}): choose another --output"
        )
