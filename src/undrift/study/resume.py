"""Checks that a run in the folder of a study is the one that the plan asks for."""

from __future__ import annotations

from pathlib import Path

from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput
from undrift.storage.reading import read_yaml
from undrift.training.checkpoint import difference
from undrift.training.config import TrainConfig
from undrift.training.records import made_with


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
    if chosen := made_with(output).get("regularizer"):  # the defaults of that time
        saved["regularizer"] = chosen
    found = difference(saved, config, but=["start_from"] if moved else [])
    if found:
        raise InvalidInput(
            f"{output} holds a run of another plan ({found}): choose another --output"
        )


def same_data(output: Path, data: ImageData) -> None:
    """Check that a complete run was trained on these images, with these labels.

    Raises:
        InvalidInput: If it was trained on others.
    """
    if changed := data.change_since(made_with(output).get("data") or {}):
        raise InvalidInput(
            f"{output} was trained on other {changed} than {data.name} holds now: restore these, "
            "or choose another --output"
        )
