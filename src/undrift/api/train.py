"""``undrift.train``: a training run from keyword options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from undrift import __version__
from undrift.api import hub, launch
from undrift.api.configuration import build, named
from undrift.data.images import ImageData
from undrift.training import dry_run as memory
from undrift.training import runs
from undrift.training.config import IN_MEMORY, TrainConfig


def train(
    data: Any = "digits",  # noqa: ANN401
    *,
    dry_run: bool = False,
    dry_run_batch_size: int | None = None,
    push_to_hub: str | None = None,
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
        push_to_hub: OWNER/NAME on the hub that gets the pipeline, with a card and its profile.
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
    hub.check_target(push_to_hub)
    result = runs.train(config, images, progress=progress)
    if push_to_hub and launch.rank() == 0:
        result["pushed"] = _push(push_to_hub, Path(result["run"]), config, images)
    return result


def _push(name: str, run: Path, config: TrainConfig, images: ImageData | None) -> str:
    """Push a run's pipeline with its newest profile, which is measured where there is none."""
    from undrift.measurement.callback import FEW_CHAINS
    from undrift.measurement.measure import measure
    from undrift.measurement.profile import ErrorProfile

    found = sorted(run.glob("profiles/*.json"), key=lambda file: file.stat().st_mtime)
    pipeline = run / "pipeline"
    if found:
        profile = ErrorProfile.load(found[-1])
    else:
        data = images or runs.load(config)
        profile = measure(pipeline, data, label=run.name, **FEW_CHAINS)
    made = {
        "made by": f"undrift {__version__}, undrift train",
        "base": config.start_from,
        "data": config.data,
        "method": config.method,
        "options of the regularizer": config.regularizer if config.variant else None,
        "training": f"{config.steps} steps of {config.batch_size} images, seed {config.seed}",
    }
    return hub.push(pipeline, name, made, profile)
