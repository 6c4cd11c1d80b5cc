r"""Checkpoints: what a run leaves on disk, and where another run may start.

A folder is written under another name and renamed when it is whole: a run that is stopped while it
writes loses nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from undrift.diffusion.pipelines import load_pipeline
from undrift.exceptions import InvalidInput
from undrift.regularizer.options import RegularizerConfig
from undrift.training.config import (
    VARIANTS,
    ChainConfig,
    MethodConfig,
    ModelConfig,
    TrainConfig,
)

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
"""Options that say where a run is written and what is shown of it, not what it comes to."""


class appearing:  # noqa: N801
    """A folder that is written under another name and appears whole or not at all.

    Arguments:
        path: Its name in the end; what was there before is replaced.
        when: Whether this process is the one that renames it.
        agree: Waits for all processes that write into it.
    """

    def __init__(
        self, path: Path, *, when: bool = True, agree: Callable[[], None] = lambda: None
    ) -> None:
        self.path, self.when, self.agree = path, when, agree
        self.part = path.with_name(f".{path.name}.part")

    def __enter__(self) -> Path:
        if self.when:
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir(parents=True)
        self.agree()
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            if self.when:
                shutil.rmtree(self.part, ignore_errors=True)
            return
        self.agree()
        if self.when:
            before = self.path.with_name(f".{self.path.name}.before")
            shutil.rmtree(before, ignore_errors=True)
            if self.path.exists():
                self.path.replace(before)
            self.part.replace(self.path)
            shutil.rmtree(before, ignore_errors=True)
        self.agree()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    found = sorted(path for path in folder.glob("step-*") if (path / STATE_FILE).is_file())
    return found[-1] if found else None


def forget_old_checkpoints(folder: Path) -> None:
    """Keep the last few checkpoints only, and nothing that was left half written."""
    for old in [*sorted(folder.glob("step-*"))[:-KEPT_CHECKPOINTS], *folder.glob(".step-*")]:
        shutil.rmtree(old, ignore_errors=True)


def read_state(file: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """What a run saved in a file.

    Arguments:
        file: Its path.
        needs: Names that it has to hold.

    Raises:
        InvalidInput: If it is missing or damaged, or no such file of ours.
    """
    try:
        state = dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a damaged file makes the unpickler raise: one line
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"{file} is no checkpoint that can be read: {reason}") from error
    missing = [name for name in needs if name not in state]
    if missing:
        raise InvalidInput(f"{file} is no checkpoint of undrift train: it holds no {missing[0]}")
    return state


def same_run(saved: Mapping[str, Any], config: TrainConfig, checkpoint: Path) -> None:
    """Stop if a checkpoint was made with another configuration.

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
    """The first option, of those that matter, that a saved configuration has otherwise; or None.

    Arguments:
        saved: The saved configuration; options that are younger than it have their defaults.
        config: The configuration now. What its method has no use for does not matter.
        but: Further options that may differ.

    Example:
        >>> difference({"steps": 10}, TrainConfig(steps=20))
        'steps: 10 there, 20 now'
    """
    saved = _completed(saved)
    saved = {
        **saved,
        "method": VARIANTS.get(saved["method"], saved["method"]),
        "regularizer": saved["regularizer"] | _chosen(saved),
    }
    deciding = {name: value for name, value in _deciding(config).items() if name not in but}
    return _first_difference(saved, deciding)


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """The options that decide what a run comes to."""
    options = {name: value for name, value in asdict(config).items() if name not in FREE_TO_CHANGE}
    options["method"] = config.variant or config.method
    options["regularizer"] = asdict(config.chosen(config.batch_size))
    for section, used in config.in_use.items():
        options[section] = {k: value for k, value in options[section].items() if k in used}
    return options


def _chosen(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The regularizer's options of a saved configuration, as its variant chooses them if null."""
    known = {f.name: saved["regularizer"][f.name] for f in fields(RegularizerConfig)}
    method = MethodConfig(saved["method"], RegularizerConfig(**known))
    return asdict(method.chosen(saved["batch_size"]))


def _completed(saved: Mapping[str, Any], default: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """A saved configuration, with the defaults of options that are younger than it."""
    default = asdict(TrainConfig()) if default is None else default
    known = {
        key: _completed(saved[key], value) if isinstance(value, Mapping) else saved[key]
        for key, value in default.items()
        if key in saved
    }
    return {**default, **saved, **known}


def _first_difference(
    saved: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> str | None:
    # what a section holds may follow from the rest
    for name, value in sorted(asked.items(), key=lambda item: isinstance(item[1], Mapping)):
        there = saved.get(name)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            if found := _first_difference(there, value, f"{prefix}{name}."):
                return found
        elif there != value:
            return f"{prefix}{name}: {there} there, {value} now"
    return None


@dataclass
class StartingPoint:
    """Where a run starts that does not start from nothing: a run, or a pipeline of diffusers.

    Arguments:
        path: Where it is.
        state: The state of an undrift run at its last checkpoint; None for a pipeline.
        pipeline: The pipeline; None for a run.
    """

    path: str
    state: dict[str, Any] | None = None
    pipeline: Any = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> StartingPoint:
        """From a run's last checkpoint, or else from a pipeline folder of diffusers.

        Raises:
            InvalidInput: If there is neither, or its weights are not finite.
        """
        checkpoint = last_checkpoint(Path(path) / "checkpoints")
        if checkpoint is not None:
            state = read_state(checkpoint / STATE_FILE, ("network", "optimizer", "ema", "config"))
            start, weights = cls(str(path), state=state), state["network"]
        else:
            start = cls(str(path), pipeline=load_pipeline(path))
            network = getattr(start.pipeline, "unet", None)
            weights = network.state_dict() if network is not None else {}
        for name, value in weights.items():
            if not bool(torch.isfinite(value).all()):
                raise InvalidInput(f"{path}: the weights hold NaN or infinity in {name}")
        return start

    def inherit(self, config: TrainConfig) -> TrainConfig:
        """The configuration with the network and the chain of the run that it starts from.

        Raises:
            InvalidInput: If it asks for another network or chain.
        """
        if self.state is None:
            for group, kind in (("model", ModelConfig), ("chain", ChainConfig)):
                own = asdict(kind())  # its defaults
                _inherited(getattr(config, group), kind, own, group, self.path)
            return config
        saved = _completed(self.state["config"])
        model = _inherited(config.model, ModelConfig, saved["model"], "model", self.path)
        chain = _inherited(config.chain, ChainConfig, saved["chain"], "chain", self.path)
        return replace(config, model=model, chain=chain)


def _inherited(asked: Any, kind: type[Any], saved: dict[str, Any], group: str, path: str) -> Any:  # noqa: ANN401
    for f in fields(kind):
        value = getattr(asked, f.name)
        default = f.default if f.default is not MISSING else None
        if value not in (default, saved[f.name]):
            raise InvalidInput(
                f"{path} does not fit --{group}.{f.name.replace('_', '-')} {value}: it brings its "
                f"own network and chain; leave the option away"
            )
    return kind(**saved)
