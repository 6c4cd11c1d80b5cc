r"""Checkpoints: what a run leaves on disk, and where another run may start.

A folder is written under another name and renamed when it is whole: a run that is stopped while it
writes loses nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from undrift.config import ChainConfig, ModelConfig, TrainConfig
from undrift.exceptions import InvalidInput
from undrift.interop import load_pipeline

STATE_FILE = "training_state.pt"
KEPT_CHECKPOINTS = 2
FREE_TO_CHANGE = {
    "resume",
    "output",
    "checkpoint_every",
    "sample_every",
    "log_every",
    "tensorboard",
}


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
    saved = _completed(saved)
    for key, value in asdict(config).items():
        if key not in FREE_TO_CHANGE and saved.get(key) != value:
            raise InvalidInput(
                f"{checkpoint} does not fit the configuration ({_difference(key, saved, value)}): "
                f"resume with --config {checkpoint.parent.parent / 'config.yaml'}"
            )


def _completed(saved: Mapping[str, Any], default: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """A saved configuration, with the defaults of options that are younger than it."""
    default = asdict(TrainConfig()) if default is None else default
    known = {
        key: _completed(saved[key], value) if isinstance(value, Mapping) else saved[key]
        for key, value in default.items()
        if key in saved
    }
    return {**default, **saved, **known}


def _difference(key: str, saved: Mapping[str, Any], value: Any) -> str:  # noqa: ANN401
    """Which option differs, by its full name."""
    there = saved.get(key)
    if isinstance(there, Mapping) and isinstance(value, Mapping):
        inner = next(name for name in value if there.get(name) != value[name])
        return _difference(inner, there, value[inner]).replace(inner, f"{key}.{inner}", 1)
    return f"{key}: {there} there, {value} now"


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
