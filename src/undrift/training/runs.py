r"""Run directories: what a training run leaves behind, and how it is found again.

================  ==============================================================================
``config.yaml``   the resolved configuration, which ``undrift train --config`` takes
``versions.json``  versions of the packages, machine, data
``log.jsonl``     one row for each logged step
``data.png``      a few training images
``checkpoints/``  all state, to resume exactly
``samples/``      sample grids of the averaged weights, one for each time
``pipeline/``     the averaged weights as a pipeline of diffusers
``result.json``   the result, written when the run is complete
================  ==============================================================================
"""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

from undrift.data.grids import image_grid, write_png
from undrift.data.images import ImageData
from undrift.data.load import load_data
from undrift.exceptions import InvalidInput
from undrift.measurement.reading import write_json
from undrift.progress import progress_bar
from undrift.storage.lock import is_transient, locked
from undrift.storage.writing import sweep, written
from undrift.training.checkpoint import last_checkpoint
from undrift.training.config import DataConfig, TrainConfig
from undrift.training.records import DATA_GRID, LOG, Row, read_log
from undrift.training.trainer import Trainer

PACKAGES = ("undrift", "torch", "diffusers", "accelerate", "numpy")
GRID_IMAGES = 64
GRID_STEPS = 100  # at most, for visual inspection


def train(
    config: TrainConfig,
    data: ImageData | None = None,
    *,
    accelerator: Any = None,
    progress: bool = True,
    on_step: Callable[[Trainer], None] = lambda trainer: None,
) -> dict[str, Any]:
    """Run a training, or what is left of it, in its run directory.

    Arguments:
        config: What was chosen.
        data: The images; loaded as the configuration says when None.
        accelerator: Devices, processes, precision; a new one when None.
        progress: Whether to draw a progress bar on stderr.
        on_step: Called after each step with the trainer, which it must not change.

    Returns:
        The result: the folder, steps, last losses, processor seconds of the training steps.

    Raises:
        InvalidInput: If an option or the data cannot be used; nothing is written then.
    """
    data = data if data is not None else load(config)
    trainer = Trainer(config, data, accelerator)
    config = trainer.config
    main = trainer.accelerator.is_main_process
    with _claimed(config, trainer) as folder:
        return _train(config, trainer, folder, progress=progress and main, on_step=on_step)


def _train(
    config: TrainConfig,
    trainer: Trainer,
    folder: Path,
    *,
    progress: bool,
    on_step: Callable[[Trainer], None],
) -> dict[str, Any]:
    """Take the steps that are left, and write what a run leaves behind."""
    main = trainer.accelerator.is_main_process
    checkpoint_every = config.checkpoint_every or max(1, config.steps // 10)
    sample_every = max(1, config.steps // 4) if config.sample_every is None else config.sample_every
    label = f"training {folder.name}"
    with (
        progress_bar(label, config.steps, show=progress) as tick,
        _log(folder, trainer, config) as write,
    ):
        tick(trainer.step)

        def record(row: Row) -> None:
            tick(1)
            write(row)
            step = trainer.step
            if sample_every and step % sample_every == 0 and main:
                _write_grid(trainer, folder / "samples" / f"step-{step:08d}.png")
            if step % checkpoint_every == 0 or step == config.steps:
                trainer.save_checkpoint(folder / "checkpoints")
            on_step(trainer)

        trainer.run(record)
    result = _result(folder, trainer)
    if main:
        trainer.save_pipeline(folder / "pipeline")
        write_json(folder / "result.json", result)
    return result


def load(config: DataConfig, limit: int | None = None) -> ImageData:
    """The images that a configuration names, or the first few of them."""
    options = {f.name: getattr(config, f.name) for f in fields(DataConfig)}
    return load_data(options.pop("data"), limit=limit, **options)


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


@contextmanager
def _claimed(config: TrainConfig, trainer: Trainer) -> Iterator[Path]:
    """The folder of a run, resumed or new, which no other process writes."""
    main = trainer.accelerator.is_main_process
    folder = _folder_to_resume(config) if config.resume else _new_folder(config, trainer)
    with locked(folder, inside=True) if main else nullcontext():
        if main:
            sweep(folder, folder / "checkpoints", folder / "samples")
        if config.resume:
            _resume(folder, trainer)
        elif main:
            _check_empty(folder)
            _describe(folder, trainer)
        yield folder


def _new_folder(config: TrainConfig, trainer: Trainer) -> Path:
    """An empty folder for a new run; a second run never overwrites a first."""
    if config.output is None:
        if trainer.accelerator.num_processes > 1:
            raise InvalidInput("several processes need to agree on a folder: give --output")
        name = re.sub(r"\W+", "-", Path(config.data).name) or "data"
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
    """Load the last checkpoint, and cut the log back to it."""
    checkpoint = last_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise InvalidInput(f"{folder} contains no checkpoint to resume from: start it again")
    trainer.load_checkpoint(checkpoint)
    if trainer.accelerator.is_main_process:
        rows = [row for row in read_log(folder) if row["step"] <= trainer.step]
        with written(folder / LOG) as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _describe(folder: Path, trainer: Trainer) -> None:
    import yaml

    resolved = asdict(replace(trainer.asked, output=str(folder)))
    with written(folder / "config.yaml") as part:
        part.write_text(yaml.safe_dump(resolved, sort_keys=False), "utf-8")
    made = {"data": dict(trainer.data.how), "chain": trainer.sampler.describe()}
    if trainer.config.variant:  # the defaults of the variant
        made["regularizer"] = asdict(trainer.config.regularizer)
    write_json(folder / "versions.json", {"versions": versions(), **made})
    images = trainer.data.images
    if images.shape[1] in (1, 3):  # others have no picture
        spread = images[:: max(1, len(images) // GRID_IMAGES)][:GRID_IMAGES]
        write_png(image_grid(spread), folder / DATA_GRID)


@contextmanager
def _log(folder: Path, trainer: Trainer, config: TrainConfig) -> Iterator[Callable[[Row], None]]:
    """Yield a function that takes the row of every step and writes the mean of a few."""
    if not trainer.accelerator.is_main_process:
        yield lambda row: None
        return
    waiting: list[Row] = []
    with ExitStack() as stack:
        file = stack.enter_context((folder / LOG).open("a"))
        board: Any = stack.enter_context(_tensorboard(folder)) if config.tensorboard else None

        def write(row: Row) -> None:
            waiting.append(row)
            if row["step"] % config.log_every and row["step"] != config.steps:
                return
            mean = _mean(waiting)
            waiting.clear()
            file.write(json.dumps(mean) + "\n")
            file.flush()
            for key, value in mean.items() if board else ():
                board.add_scalar(key, value, int(mean["step"]))

        yield write


def _mean(rows: list[Row]) -> Row:
    """Means over a few steps of what was measured in them; the step is the last one."""
    keys = {key: None for row in rows for key in row}
    mean = {}
    for key in keys:
        values = [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]
        if values:
            mean[key] = values[-1] if key in ("step", "lr") else sum(values) / len(values)
    return mean


def _tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return cast(Callable[[str], Any], SummaryWriter)(str(folder / "tensorboard"))


def _write_grid(trainer: Trainer, path: Path) -> None:
    """A grid of samples from the averaged weights, with the same noise each time."""
    steps = min(GRID_STEPS, len(trainer.sampler.grid) - 1)
    sampler = trainer.averaged_sampler(steps)
    generator = torch.Generator().manual_seed(0)
    shape = (GRID_IMAGES, *trainer.data.image_shape)
    images = sampler.sample(shape, generator=generator, device=trainer.accelerator.device)
    write_png(image_grid(images), path)


def _result(folder: Path, trainer: Trainer) -> dict[str, Any]:
    """The result: of each number that was logged, the last."""
    last = {key: value for row in read_log(folder) for key, value in row.items()}
    measured = ("regularizer", "regularizer_null", "lambda", "grad_norm_main")
    return {
        "run": str(folder),
        "steps": trainer.step,
        "loss": last.get("loss"),
        **{key: last.get(key) for key in (*measured, "grad_norm_regularizer")},
        "train_cpu_s": round(trainer.cpu_seconds, 2),
        "parameters": sum(p.numel() for p in trainer.bare_network.parameters()),
        "pipeline": str(folder / "pipeline"),
    }
