"""The folder of a run: who writes it, what a new one holds, and where an old one goes on."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

import torch

from undrift.data.grids import image_grid, write_png
from undrift.exceptions import InvalidInput
from undrift.measurement.reading import write_json
from undrift.storage.lock import is_transient, locked
from undrift.storage.manifest import Damaged
from undrift.storage.reading import read_yaml, to_yaml
from undrift.storage.writing import sweep, written
from undrift.training.checkpoint import checkpoints, difference
from undrift.training.config import TrainConfig
from undrift.training.records import DATA_GRID, LOG, lines_until
from undrift.training.trainer import Trainer

logger = logging.getLogger("undrift")
PACKAGES = ("undrift", "torch", "diffusers", "accelerate", "numpy")
GRID_IMAGES = 64
CONFIG = "config.yaml"
LONGEST_NAME = 100
JUDGMENTS = "judged-*"
BEFORE_A_CHECKPOINT = (
    *(CONFIG, "versions.json", LOG, DATA_GRID, "samples", "tensorboard", "checkpoints"),
    JUDGMENTS,
)
"""What a run, and the study it belongs to, have written before its first checkpoint."""


@contextmanager
def claimed(config: TrainConfig, trainer: Trainer, *, wait: bool = False) -> Iterator[Path]:
    """The folder of a run, resumed or new, which no other process writes.

    Arguments:
        config: What was chosen.
        trainer: The run, to which the state of the last checkpoint is restored.
        wait: Whether to wait for another process that writes it.

    Raises:
        InvalidInput: If another process writes it, it holds something else, or its checkpoints
            cannot be read or are another run's.
    """
    main = trainer.accelerator.is_main_process
    folder = _folder_to_resume(config) if config.resume else _new_folder(config, trainer)
    with locked(folder, inside=True, wait=wait) if main else nullcontext():
        if main:
            sweep(folder, folder / "checkpoints", folder / "samples")
        if config.resume:
            _resume(folder, trainer)
        elif main:
            _check_empty(folder)
            _describe(folder, trainer)
        yield folder


def new_folder(parent: Path, name: str) -> Path:
    """Make ``parent/name-K`` with the first K that is free."""
    parent.mkdir(parents=True, exist_ok=True)
    for k in range(1, 1_000_000):
        folder = parent / f"{name}-{k}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise InvalidInput(f"no free folder in {parent}: clear it")


def versions() -> dict[str, str]:
    """Versions of the packages that matter, and the machine."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    found |= {name: version(name) for name in PACKAGES}
    return found | {"threads": str(torch.get_num_threads())}


def _new_folder(config: TrainConfig, trainer: Trainer) -> Path:
    """An empty folder for a new run; a second run never overwrites a first."""
    if config.output is None:
        if trainer.accelerator.num_processes > 1:
            raise InvalidInput("several processes need to agree on a folder: give --output")
        name = re.sub(r"\W+", "-", Path(config.data).name)[-LONGEST_NAME:] or "data"
        return new_folder(Path("runs"), f"{name}-{config.method}")
    folder = Path(config.output)
    if trainer.accelerator.is_main_process:
        _check_empty(folder)
        folder.mkdir(parents=True, exist_ok=True)
    trainer.accelerator.wait_for_everyone()
    return folder


def _check_empty(folder: Path) -> None:
    """Check that a folder holds nothing but what a process killed at its start has left.

    Raises:
        InvalidInput: If it does, or is a file.
    """
    if folder.exists() and not (folder.is_dir() and all(map(is_transient, folder.iterdir()))):
        raise InvalidInput(
            f"{folder} is there already: choose another --output, or resume it with --resume"
        )


def _folder_to_resume(config: TrainConfig) -> Path:
    if config.output is None:
        raise InvalidInput("--resume needs the folder of the run: give --output")
    folder = Path(config.output)
    if not folder.is_dir():
        raise InvalidInput(f"no such run: {folder}: leave --resume out to start it")
    return folder


def _resume(folder: Path, trainer: Trainer) -> None:
    """Restore the newest checkpoint that is whole, and cut the log back to it; or start anew."""
    found = checkpoints(folder / "checkpoints")
    if not found:
        _start_anew(folder, trainer)
        return
    for path in found:
        try:
            trainer.load_checkpoint(path)
            break
        except Damaged as error:
            if path == found[-1]:
                raise InvalidInput(
                    f"{error}, and no other checkpoint can be read: start the run again in another "
                    "--output"
                ) from None
            logger.warning("%s: going on from the checkpoint before it", error)
    if trainer.accelerator.is_main_process:
        _write_log(folder, lines_until(folder, trainer.step))


def _start_anew(folder: Path, trainer: Trainer) -> None:
    """Start a run again that was stopped before its first checkpoint.

    Raises:
        InvalidInput: If the folder holds anything else, or was started with other options.
    """
    names = [path.name for path in folder.iterdir() if not is_transient(path)]
    if other := [n for n in names if not any(fnmatch(n, known) for known in BEFORE_A_CHECKPOINT)]:
        raise InvalidInput(
            f"{folder} holds {min(other)} and no checkpoint to resume from: start the run in "
            "another --output"
        )
    if found := difference(saved_config(folder), trainer.asked) if CONFIG in names else None:
        raise InvalidInput(
            f"{folder} does not fit the configuration ({found}): resume with --config "
            f"{folder / CONFIG}"
        )
    logger.warning("%s was stopped before its first checkpoint: starting it anew", folder)
    if trainer.accelerator.is_main_process:
        for judgment in folder.glob(JUDGMENTS):
            judgment.unlink()
        _describe(folder, trainer)
        _write_log(folder, [])


def saved_config(folder: Path) -> dict[str, object]:
    """The options that a run keeps in its folder.

    Raises:
        InvalidInput: If they cannot be read.
    """
    return read_yaml(folder / CONFIG)


def _write_log(folder: Path, lines: list[str]) -> None:
    with written(folder / LOG) as part:
        part.write_text("".join(lines), "utf-8")


def _describe(folder: Path, trainer: Trainer) -> None:
    """Write the options, the versions and a grid of the data."""
    resolved = asdict(replace(trainer.asked, output=str(folder)))
    with written(folder / CONFIG) as part:
        part.write_text(to_yaml(resolved), "utf-8")
    made = {"data": dict(trainer.data.how), "chain": trainer.sampler.describe()}
    if trainer.config.variant:  # the defaults of the variant
        made["regularizer"] = asdict(trainer.config.regularizer)
    write_json(folder / "versions.json", {"versions": versions(), **made})
    images, space = trainer.data.images, trainer.sampler.space
    spread = images[:: max(1, len(images) // GRID_IMAGES)][:GRID_IMAGES]
    spread = spread if space is None else space.decode(spread)
    if spread.shape[1] in (1, 3):  # others have no picture
        write_png(image_grid(spread), folder / DATA_GRID)
