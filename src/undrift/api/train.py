"""``undrift.train``: a training run from keyword options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from undrift.api.configuration import build, named
from undrift.training import dry_run as memory
from undrift.training import runs
from undrift.training.config import IN_MEMORY, TrainConfig


def train(
    data: Any = "digits",  # noqa: ANN401
    *,
    dry_run: bool = False,
    dry_run_batch_size: int | None = None,
    progress: bool = True,
    **options: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Train a diffusion model, plainly, with the regularizer, or by a published method.

    The run is written to a new folder, whose name is returned; :func:`undrift.measure`,
    :func:`undrift.sample` and the commands take it as a model.

    Arguments:
        data: The images: whatever :func:`undrift.load_data` takes.
        dry_run: Make one step on synthetic images, return how much memory the run takes, and write
            nothing.
        dry_run_batch_size: Images of that step.
        progress: Whether to draw a progress bar on stderr.
        **options: The options of ``undrift train``, the fields of
            :class:`undrift.training.config.TrainConfig`: ``steps=3000``, ``method="regularized"``,
            ``output="runs/mine"``; a section as a mapping, ``regularizer={"every": 4}``.

    Returns:
        The result: the folder of the run, its steps, last losses, processor time; or the memory
        that the dry run found.

    Raises:
        InvalidInput: If an option or the data cannot be used; nothing is written then.

    Example:
        >>> found = train("digits", dry_run=True, method="regularized", chain={"num_steps": 50})
        >>> found["image_shape"], found["method"]
        ([1, 8, 8], 'regularized')
    """
    config = build(TrainConfig, dict(named(options, TrainConfig, "undrift.train")))
    if isinstance(data, (str, Path)):
        config, images = replace(config, data=str(data)), None
    else:
        images = runs.load(replace(config, data=data))
        config = replace(config, data=IN_MEMORY)
    if dry_run:
        return memory.dry_run(config, dry_run_batch_size)
    return runs.train(config, images, progress=progress)
