r"""Run directories: what a training run leaves behind, and how it is found again.

================  ==============================================================================
``config.yaml``   the resolved configuration, which ``undrift train --config`` takes
``versions.json``  versions of the packages, machine, data
``log.jsonl``     one row for each logged step
``data.png``      a few training images
``checkpoints/``  all state, to resume exactly
``samples/``      sample grids of the averaged weights, one for each time
``pipeline/``     the averaged weights as a pipeline of diffusers
``lora/``         the averaged adapters, if these were trained, as diffusers has them
``result.json``   the result, written when the run is complete
================  ==============================================================================
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self, cast

from undrift.data.grids import image_grid, write_png
from undrift.data.images import ImageData
from undrift.data.load import load_data
from undrift.exceptions import Interrupted
from undrift.measurement.parallel_chains import draw_images
from undrift.measurement.reading import write_json
from undrift.progress import progress_bar
from undrift.storage.writing import blaming
from undrift.training.config import DataConfig, TrainConfig
from undrift.training.records import LOG, Row, read_log
from undrift.training.run_folder import GRID_IMAGES, claimed
from undrift.training.stopping import command_to_resume, stop_requests
from undrift.training.trainer import Trainer

GRID_STEPS = 100  # at most, for visual inspection


def train(
    config: TrainConfig,
    data: ImageData | None = None,
    *,
    accelerator: Any = None,
    progress: bool = True,
    on_step: Callable[[Trainer], None] = lambda trainer: None,
    wait: bool = False,
) -> dict[str, Any]:
    """Run a training, or what is left of it, in its run directory.

    Arguments:
        config: What was chosen.
        data: The images; loaded as the configuration says when None.
        accelerator: Devices, processes, precision; a new one when None.
        progress: Whether to show progress on stderr.
        on_step: Called after each step, before its checkpoint, with the trainer, which it must not
            change.
        wait: Whether to wait for another process that writes the run, instead of refusing.

    Returns:
        The result: the folder, steps, last losses, processor seconds of the training steps.

    Raises:
        InvalidInput: If an option or the data cannot be used; nothing is written then.
        Interrupted: After Ctrl-C or SIGTERM, once the step is taken and a checkpoint written.
    """
    data = data if data is not None else load(config)
    trainer = Trainer(config, data, accelerator)
    config = trainer.config
    main = trainer.accelerator.is_main_process
    with claimed(config, trainer, wait=wait) as folder:
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
    main, alone = trainer.accelerator.is_main_process, trainer.accelerator.num_processes == 1
    sample_every = max(1, config.steps // 4) if config.sample_every is None else config.sample_every
    label = f"training {folder.name}"
    with (
        progress_bar(label, config.steps, done=trainer.step, show=progress) as tick,
        _Log(folder, trainer.unlogged, config, trainer.step) if main else nullcontext() as log,
        stop_requests(alone) as asked,
    ):

        def record(row: Row) -> None:
            tick(1, f"loss {row['loss']:.4g}" if "loss" in row else "")
            if log:
                log.write(row)
            if sample_every and trainer.step % sample_every == 0 and main:
                _write_grid(trainer, folder / "samples" / f"step-{trainer.step:08d}.png")
            on_step(trainer)
            if is_checkpoint(config, trainer.step) or asked():
                if log:
                    log.sync()
                trainer.save_checkpoint(folder / "checkpoints")
            if number := asked():
                raise Interrupted(_how_to_go_on(trainer, folder), number)

        trainer.run(record)
    result = _result(folder, trainer)
    if main:
        trainer.save_pipeline(folder / "pipeline")
        write_json(folder / "result.json", result)
    return result


def is_checkpoint(config: TrainConfig, step: int) -> bool:
    """Whether the state after a step is kept."""
    every = config.checkpoint_every or max(1, config.steps // 10)
    return step % every == 0 or step == config.steps


def _how_to_go_on(trainer: Trainer, folder: Path) -> str:
    command = command_to_resume(folder, replace(trainer.config, data=trainer.asked.data))
    return f"stopped after step {trainer.step}, which is saved; go on with: {command}"


def load(config: DataConfig, limit: int | None = None) -> ImageData:
    """The images that a configuration names, or the first few of them."""
    options = {f.name: getattr(config, f.name) for f in fields(DataConfig)}
    return load_data(options.pop("data"), limit=limit, **options)


class _Log:
    """The log of a run: a row for a few steps, their mean; the rows that wait are the trainer's.

    Arguments:
        folder: The run.
        waiting: Rows of the steps since the last row of the log.
        config: How many steps a row stands for (the first one has its own), and the last one;
            whether to log for TensorBoard.
        step: The step that was taken last.
    """

    def __init__(self, folder: Path, waiting: list[Row], config: TrainConfig, step: int) -> None:
        self.path, self.waiting, self.config = folder / LOG, waiting, config
        self._open = ExitStack()
        with blaming(self.path):
            self.file = self._open.enter_context(self.path.open("a", encoding="utf-8"))
        self.board: Any = _tensorboard(folder, step) if config.tensorboard else None
        if self.board:
            self._open.callback(self.board.close)

    def write(self, row: Row) -> None:
        """Take the row of a step."""
        self.waiting.append(row)
        if row["step"] % self.config.log_every and row["step"] not in (1, self.config.steps):
            return
        mean = _mean(self.waiting)
        self.waiting.clear()
        with blaming(self.path):
            self.file.write(json.dumps(mean) + "\n")
            self.file.flush()
        for key, value in mean.items() if self.board else ():
            self.board.add_scalar(key, value, int(mean["step"]))

    def sync(self) -> None:
        """Bring the rows to the disk, before a checkpoint that counts on them."""
        with blaming(self.path):
            os.fsync(self.file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what could not be written has been reported
            self._open.close()


def _mean(rows: list[Row]) -> Row:
    """Means over a few steps of what was measured in them; the step is the last one."""
    keys = {key: None for row in rows for key in row}
    mean = {}
    for key in keys:
        values = [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]
        if values:
            mean[key] = values[-1] if key in ("step", "lr") else sum(values) / len(values)
    return mean


def _tensorboard(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    make = cast(Callable[..., Any], SummaryWriter)
    return make(str(folder / "tensorboard"), purge_step=step + 1)


def _write_grid(trainer: Trainer, path: Path) -> None:
    """A grid of samples from the averaged weights, with the same noise each time."""
    steps = min(GRID_STEPS, len(trainer.sampler.grid) - 1)
    sampler = trainer.averaged_sampler(steps)
    images = draw_images(sampler, GRID_IMAGES, trainer.data.image_shape, seed=0)
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
