"""Checkpoints: the saved state of a run, from which it or another run may start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undrift.data.images import Codes, ImageData
from undrift.diffusion.pipelines import load_pipeline, network_in, space_of
from undrift.exceptions import InvalidInput, reason_of
from undrift.storage.manifest import check_sealed
from undrift.training.config import TrainConfig

STATE_FILE = "training_state.pt"
KEPT_CHECKPOINTS = 2
FREE_TO_CHANGE = (
    "resume",
    "output",
    "checkpoint_every",
    "sample_every",
    "log_every",
    "tensorboard",
)
"""Options that determine where a run is written and what is logged, not its result."""


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first, whether they are whole or not."""
    return sorted(folder.glob("step-*"), reverse=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return next(iter(checkpoints(folder)), None)


def forget_old_checkpoints(folder: Path) -> None:
    """Delete all but the last checkpoints, and incomplete ones."""
    for old in [*sorted(folder.glob("step-*"))[:-KEPT_CHECKPOINTS], *folder.glob(".step-*")]:
        shutil.rmtree(old, ignore_errors=True)


NEEDED_TO_START = ("network", "optimizer", "ema", "config", "image_shape")


def read_state(file: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """What a run saved in a file.

    Arguments:
        file: Its path.
        needs: Names that it has to hold.

    Raises:
        InvalidInput: If it is missing or damaged, another kind of file, or not finite.
    """
    try:
        state = dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a damaged file makes the unpickler raise: one line
        reason = reason_of(error)
        raise InvalidInput(f"{file} is no checkpoint that can be read: {reason}") from error
    check_finite(state, str(file))
    missing = [name for name in needs if name not in state]
    if missing:
        raise InvalidInput(f"{file} is no checkpoint of undrift train: it contains no {missing[0]}")
    return state


def _pipeline_of(run: Path, state: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """A pipeline with the network and the chain of a run, None if its configuration describes them.

    A run that itself started from a pipeline has those of the pipeline, which no option describes:
    they are in what it wrote, or, where it was stopped before, in what it started from.
    """
    start, written = state["config"].get("start_from"), run / "pipeline"
    if start is None:
        return None
    return load_pipeline(written) if written.is_dir() else StartingPoint.load(start).pipeline


def check_finite(state: Any, name: str) -> None:  # noqa: ANN401
    """Check that all tensors in nested mappings and sequences are finite.

    Arguments:
        state: What is checked.
        name: What it is called in messages.

    Raises:
        InvalidInput: Names the first tensor that is not.
    """
    if isinstance(state, Mapping):
        for key, part in state.items():
            check_finite(part, f"{name}: {key}" if name.endswith(".pt") else f"{name}.{key}")
    elif isinstance(state, (list, tuple)):
        for index, part in enumerate(state):
            check_finite(part, f"{name}[{index}]")
    elif isinstance(state, Tensor) and not bool(torch.isfinite(state).all()):
        raise InvalidInput(f"{name} holds NaN or infinity: start from an earlier checkpoint")


def same_run(saved: Mapping[str, Any], config: TrainConfig, checkpoint: Path) -> None:
    """Check that a checkpoint was made with the same configuration.

    Raises:
        InvalidInput: If an option that matters differs.
    """
    if found := difference(saved, config):
        raise InvalidInput(
            f"{checkpoint} does not fit the configuration ({found}): "
            f"resume with --config {checkpoint.parent.parent / 'config.yaml'}"
        )


def difference(
    saved: Mapping[str, Any], config: TrainConfig, but: Collection[str] = ()
) -> str | None:
    """The first option that differs in a saved configuration, of those that determine the result.

    Arguments:
        saved: The saved configuration; options that are not in it have their defaults.
        config: The configuration now. Options that its method does not use may differ.
        but: Further options that may differ.

    Example:
        >>> difference({"steps": 10}, TrainConfig(steps=20))
        'steps: 10 there, 20 now'
    """
    theirs = _deciding(_restored(TrainConfig(), saved))
    for name, value in _deciding(config).items():
        if name not in but and theirs.get(name) != value:
            return f"{name}: {theirs.get(name)} there, {value} now"
    return None


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """The options that determine the result of a run, by their dotted names."""
    found: dict[str, Any] = {}
    config = replace(config, regularizer=config.chosen(config.batch_size))
    for name, value in asdict(config).items():
        if isinstance(value, dict):
            used = config.in_use.get(name, value)
            found |= {f"{name}.{option}": value[option] for option in value if option in used}
        elif name not in FREE_TO_CHANGE:
            found[name] = value
    found["method"] = config.variant or config.method
    # the defaults of a section may follow from the other options: compare these first
    return dict(sorted(found.items(), key=lambda item: "." in item[0]))


def _restored(default: Any, saved: Any) -> Any:
    """A configuration from its plain data."""
    if not is_dataclass(default):
        return saved
    names = saved.keys() & vars(default).keys()
    return replace(default, **{n: _restored(getattr(default, n), saved[n]) for n in names})  # type: ignore[type-var]


@dataclass
class StartingPoint:
    """Where a run starts if it does not start anew: another run, or a pipeline of diffusers.

    Arguments:
        path: Where it is.
        state: The state of an undrift run at its last checkpoint; None for a pipeline.
        pipeline: The pipeline; of a run, one with its network and chain, None if its configuration
            describes them.
        embeddings: Those of prompts of text, once its pipeline has encoded them.
    """

    path: str
    state: dict[str, Any] | None = None
    pipeline: Any = None
    embeddings: Any = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> StartingPoint:
        """From a run's last checkpoint, or else from a pipeline folder of diffusers.

        Raises:
            InvalidInput: If there is neither, or its weights are not finite.
        """
        checkpoint = last_checkpoint(Path(path) / "checkpoints")
        if checkpoint is not None:
            check_sealed(checkpoint, needs=[STATE_FILE])
            state = read_state(checkpoint / STATE_FILE, NEEDED_TO_START)
            if state["config"].get("lora", {}).get("rank"):
                raise InvalidInput(
                    f"the run {path} trained adapters: start from what it wrote, "
                    f"{Path(path) / 'pipeline'}"
                )
            return cls(str(path), state=state, pipeline=_pipeline_of(Path(path), state))
        pipeline = load_pipeline(path)
        network = network_in(pipeline)
        check_finite(network.state_dict() if network is not None else {}, f"{path}")
        return cls(str(path), pipeline=pipeline)

    def inherit(self, config: TrainConfig) -> TrainConfig:
        """The configuration with the network and the chain of the run that it starts from.

        Raises:
            InvalidInput: If it asks for another network or chain.
        """
        saved = _restored(TrainConfig(), self.state["config"] if self.state else {})
        for group in ("model", "chain"):
            asked, theirs = getattr(config, group), getattr(saved, group)
            for name, value in vars(asked).items():
                free = name == "sampler"  # of the regularizer, not of the network
                if not free and value not in (getattr(type(asked)(), name), getattr(theirs, name)):
                    raise InvalidInput(
                        f"{self.path} does not fit --{group}.{name.replace('_', '-')} {value}: its "
                        "network and chain are used; remove the option"
                    )
        chain = replace(saved.chain, sampler=config.chain.sampler)
        return replace(config, model=saved.model, chain=chain)

    def encoded(self, data: ImageData) -> ImageData:
        """The data as its network sees them: codes of images where it is a latent model."""
        space = space_of(self.pipeline)
        if space is None:
            return data
        how = {k: v for k, v in data.how.items() if k not in ("image_shape", "fingerprint")}
        how["encoded"] = space.describe()
        codes, source = space.encode(data.images), data.source and data.source.through(self.encoded)
        return Codes(codes, data.name, data.split, how, data.labels, source)
