"""Whether a run that is there already is the one that a plan asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from undrift.checkpoint import FREE_TO_CHANGE
from undrift.config import VARIANTS, TrainConfig
from undrift.exceptions import InvalidInput

MOVABLE = FREE_TO_CHANGE | {"start_from"}
OFFICIAL = ("strength", "length", "num_states", "num_forward", "seed")
"""The options that the released algorithm takes."""


def same_plan(output: Path, config: TrainConfig) -> None:
    """Stop at a run that was made with other options; options that it does not know are new.

    Raises:
        InvalidInput: If there is one.
    """
    file = output / "config.yaml"
    if not file.is_file():
        return
    saved = yaml.safe_load(file.read_text()) or {}
    difference = _difference(saved | {"method": _method(saved)}, _deciding(config))
    if difference:
        raise InvalidInput(
            f"{output} holds a run of another plan ({difference}): choose another --output"
        )


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """The options that decide what a run comes to."""
    options = {name: value for name, value in asdict(config).items() if name not in MOVABLE}
    options["method"] = config.variant or config.method
    if config.method == "plain" or config.variant is not None:
        options.pop("objective")
    if config.variant is None:
        options.pop("regularizer")
    elif config.variant != "persistent":
        for name in ("num_cohorts", "stride"):
            options["regularizer"].pop(name)
    if config.variant == "official":
        options["regularizer"] = {k: options["regularizer"][k] for k in OFFICIAL}
    return options


def _method(saved: Mapping[str, Any]) -> str:
    """The method of a run, a variant by its own name; first runs name it among the options."""
    variant = (saved.get("regularizer") or {}).get("variant", "none")
    method = str(saved.get("method") or ("plain" if variant == "none" else variant))
    return VARIANTS.get(method, method)


def _difference(saved: Any, asked: Mapping[str, Any], prefix: str = "") -> str | None:  # noqa: ANN401
    for name, value in asked.items():
        if not isinstance(saved, Mapping) or name not in saved:
            continue
        if isinstance(value, Mapping):
            found = _difference(saved[name], value, f"{prefix}{name}.")
            if found:
                return found
        elif saved[name] != value:
            return f"{prefix}{name}: {saved[name]} there, {value} now"
    return None
