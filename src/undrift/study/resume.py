"""Checks that a run in the folder of a study is the one that the plan asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput
from undrift.measurement.reading import load_json
from undrift.storage.reading import read_yaml
from undrift.training.checkpoint import difference
from undrift.training.config import TrainConfig


def same_plan(output: Path, config: TrainConfig, *, moved: bool) -> None:
    """Check that a run was made with the options of the plan.

    Arguments:
        output: Folder of the run.
        config: What the plan asks for.
        moved: Whether it continues a run of the study, which may have been moved.

    Raises:
        InvalidInput: If an option differs; names it.
    """
    file = output / "config.yaml"
    if not file.is_file():
        return
    saved = read_yaml(file)
    if chosen := _made(output).get("regularizer"):  # the defaults of that time
        saved["regularizer"] = chosen
    found = difference(saved, config, but=["start_from"] if moved else [])
    if found:
        raise InvalidInput(
            f"{output} holds a run of another plan ({found}): choose another --output"
        )


def same_data(output: Path, data: ImageData) -> None:
    """Check that a complete run was trained on these images.

    Raises:
        InvalidInput: If it was trained on others.
    """
    there = (_made(output).get("data") or {}).get("fingerprint")
    if there not in (None, data.fingerprint):
        raise InvalidInput(
            f"{output} was trained on other images than {data.name} holds now: restore these, "
            "or choose another --output"
        )


def _made(output: Path) -> dict[str, Any]:
    """Data, versions and regularizer of a run."""
    file = output / "versions.json"
    found = load_json(file, "record of a run") if file.is_file() else {}
    if not isinstance(found, dict) or not isinstance(found.get("data") or {}, dict):
        raise InvalidInput(f"{file} is damaged: it is no record of a run")
    return found
