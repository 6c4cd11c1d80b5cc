"""``undrift.evaluate``: distances between the samples of a model and data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from undrift.api.inputs import Choice, name_of, opened
from undrift.exceptions import InvalidInput
from undrift.progress import progress_bar
from undrift.quality.feature_choice import choose_features
from undrift.quality.scorer import Scorer
from undrift.training.runs import versions

logger = logging.getLogger("undrift")

KIND = "undrift.evaluation"
SCHEMA_VERSION = 2
LEAST_SAMPLES = 4


def evaluate(
    model: Any,  # noqa: ANN401
    data: Any = None,  # noqa: ANN401
    *,
    num_samples: int = 2000,
    features: str | None = None,
    num_resamples: int | None = None,
    seed: int = 0,
    label: str | None = None,
    progress: bool = True,
    **choice: Any,  # noqa: ANN401
) -> dict[str, Any]:
    r"""Evaluate the samples of a model: Fréchet and kernel distance, precision, recall, D₀².

    Arguments:
        model: A run, a pipeline of diffusers (or its folder or name), a sampler or a denoiser.
        data: The images: whatever :func:`undrift.load_data` takes; what the run was trained on when
            None.
        num_samples: Images to draw.
        features: The features, by name; the classifier where the data have labels, else
            efficientnet-lite0, when None.
        num_resamples: Bootstrap resamples for the error of the Fréchet distance; when None 100, or
            none where they would take minutes.
        seed: Seed of all noise; the same as in :func:`undrift.measure` evaluates the same images.
        label: Name of the model in the record; the name of the run, and the remedy, when None.
        progress: Whether to draw a progress bar on stderr.
        **choice: Further options of ``undrift evaluate``, which choose the chain and the data, the
            fields of :class:`undrift.api.inputs.Choice`.

    Returns:
        The record that ``undrift evaluate`` writes: the fields of
        :class:`undrift.quality.scorer.Scores` together with how they were computed.

    Raises:
        InvalidInput: If an option cannot be used.
    """
    if num_samples < LEAST_SAMPLES:
        raise InvalidInput(
            f"num_samples is {num_samples}: an error bar needs at least {LEAST_SAMPLES}"
        )
    if num_resamples is not None and num_resamples < 2:
        raise InvalidInput(f"num_resamples is {num_resamples}: at least 2")
    chosen = Choice(model, data=data, **choice)
    sampler, images = opened(chosen)
    scorer = Scorer(
        images,
        num_samples,
        features=choose_features(features, images),
        num_resamples=num_resamples,
        batch_size=chosen.batch_size,
    )
    _announce(scorer)
    name, passes = name_of(model), num_samples * (len(sampler.grid) - 1)
    with progress_bar(f"sampling {name}", passes, show=progress) as tick:
        samples = scorer.draw(sampler, seed, tick)
    how = scorer.how()
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "label": label or ", ".join(filter(None, [name, chosen.remedy])),
        **{key: how.pop(key) for key in ("num_samples", "num_reference", "score_name", "warning")},
        **scorer.scores(samples, seed).to_dict(),
        "how": how
        | {
            "model": str(model) if isinstance(model, (str, Path)) else type(model).__name__,
            "sampler": sampler.describe(),
            "data": dict(images.how),
            "seed": seed,
            "versions": versions(),
        },
    }


def quality_rows(record: dict[str, Any]) -> list[tuple[str, str, float | None, float | None]]:
    """Label, metric, value and standard error of each number of an evaluation."""
    names = {
        "mmd_sq": "D₀²",
        "empirical_mmd_sq": "D₀² to the data set",
        "frechet": record["score_name"],
        "kernel_distance": "Kernel distance",
        "precision": "Precision",
        "recall": "Recall",
    }
    label = record["label"]
    return [(label, name, record[key], record[f"{key}_se"]) for key, name in names.items()]


def _announce(scorer: Scorer) -> None:
    """Log what the numbers of samples and images do not allow, before any sample is drawn."""
    for note in scorer.notes:
        logger.info("note: %s", note)
    sizes = scorer.num_samples, len(scorer.reference)
    if sizes[0] != sizes[1]:
        logger.info(
            "note: precision and recall depend on both sizes, %s samples and %s images: compare "
            "them at equal ones",
            *sizes,
        )
