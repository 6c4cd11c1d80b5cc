"""``undrift.evaluate``: distances between the samples of a model and data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from undrift.api.chain import opened
from undrift.api.inputs import EvaluateChoice, name_of
from undrift.exceptions import Limits
from undrift.processes import Processes
from undrift.progress import progress_bar
from undrift.quality.feature_choice import choose_judges
from undrift.quality.judges import Judges
from undrift.reporting.evaluation import KIND, SCHEMA_VERSION
from undrift.training.run_folder import versions

logger = logging.getLogger("undrift")

LEAST_SAMPLES = 4


def evaluate(
    model: Any,  # noqa: ANN401
    data: Any = None,  # noqa: ANN401
    *,
    progress: bool = True,
    accelerator: Any = None,  # noqa: ANN401
    **options: Any,  # noqa: ANN401
) -> dict[str, Any]:
    r"""Evaluate the samples of a model: Fréchet and kernel distance, precision, recall, D₀².

    Arguments:
        model: A run, a pipeline of diffusers (or its folder or name), a sampler or a denoiser.
        data: The images: whatever :func:`undrift.load_data` takes; what the run was trained on when
            None.
        progress: Whether to draw a progress bar on stderr.
        accelerator: An ``Accelerator`` whose processes share the samples; each of them has to call,
            and gets the record. This process alone when None.
        **options: Further options of ``undrift evaluate``, the fields of
            :class:`undrift.api.inputs.EvaluateChoice`: ``num_samples=5000``, ``label="ours"``.

    Returns:
        The record that ``undrift evaluate`` writes: the fields of
        :class:`undrift.quality.scores.FinalError`, for each network those of
        :class:`undrift.quality.scores.Quality`, and how they were computed.

    Raises:
        InvalidInput: If an option cannot be used.
    """
    chosen = EvaluateChoice(model, data=data, **options)
    Limits(LEAST_SAMPLES).check("num_samples", chosen.num_samples)
    Limits(2).check("num_resamples", chosen.num_resamples)
    sampler, images = opened(chosen)
    judges = Judges(
        images,
        chosen.num_samples,
        choose_judges(chosen.features, images),
        num_resamples=chosen.num_resamples,
        batch_size=chosen.batch_size,
        processes=Processes.of(accelerator),
    )
    _announce(judges)
    name, passes = name_of(model), chosen.num_samples * (len(sampler.grid) - 1)
    with progress_bar(f"sampling {name}", passes, show=progress) as tick:
        samples = judges.draw(sampler, chosen.seed, tick)
    how = judges.how()
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "label": chosen.label or ", ".join(filter(None, [name, chosen.remedy])),
        **{key: how.pop(key) for key in ("num_samples", "num_reference", "networks")},
        **judges.scores(samples, chosen.seed),
        "how": how
        | {
            "model": str(model) if isinstance(model, (str, Path)) else type(model).__name__,
            "sampler": sampler.describe(),
            "data": dict(images.how),
            "seed": chosen.seed,
            "versions": versions(),
        },
    }


def _announce(judges: Judges) -> None:
    """Log what the numbers of samples and images do not allow, before any sample is drawn."""
    notes, num_images = judges.notes, len(judges.reference)
    if judges.num_samples != num_images:
        notes.append(
            f"precision and recall depend on both sizes, {judges.num_samples} samples and "
            f"{num_images} images: compare them at equal ones"
        )
    for note in notes:
        logger.info("note: %s", note)
