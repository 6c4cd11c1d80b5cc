"""``undrift.tune``: how strong a remedy at sampling time should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from undrift.api import inputs
from undrift.api.inputs import Choice
from undrift.exceptions import InvalidInput
from undrift.quality.feature_choice import choose_features
from undrift.remedies import search
from undrift.remedies.registry import REMEDIES, parse
from undrift.remedies.remedy import Remedy
from undrift.remedies.search import LEAST_DATA, Metric, Tuning


def tune(
    model: Any,  # noqa: ANN401
    remedy: str | None,
    data: Any = None,  # noqa: ANN401
    *,
    values: Sequence[float] | None = None,
    range: Sequence[float] | None = None,  # noqa: A002
    num_values: int = 7,
    refine: int = 4,
    metric: Metric = "mmd_sq",
    num_samples: int = 1000,
    features: str | None = None,
    seed: int = 0,
    progress: bool = True,
    **choice: Any,  # noqa: ANN401
) -> Tuning:
    """Find the strength of a remedy on one half of the data and test it on the other.

    Arguments:
        model: A run, a pipeline of diffusers (or its folder or name), a sampler or a denoiser.
        remedy: ``NAME[,OPTION=VALUE...]`` without a strength.
        data: The images: whatever :func:`undrift.load_data` takes; what the run was trained on when
            None.
        values: Strengths to try first; a grid of each remedy's own when None.
        range: Lowest and highest strength to try first, instead of values.
        num_values: Strengths of such a range, evenly spaced.
        refine: Strengths to try around the best one, by golden sections.
        metric: What is minimized.
        num_samples: Images to draw for each strength.
        features: The features of the Fréchet distance, by name; the classifier where the data have
            labels, else pixels, when None.
        seed: Seed of the split and of all noise.
        progress: Whether to draw a progress bar on stderr.
        **choice: Further options of ``undrift tune``, which choose the chain and the data, the
            fields of :class:`undrift.api.inputs.Choice` but the remedy.

    Raises:
        InvalidInput: If an option cannot be used.
    """
    chosen = open_remedy(remedy)
    grid = strengths(chosen, values, range, num_values)
    for name, value, least in (("num_samples", num_samples, LEAST_DATA), ("refine", refine, 0)):
        if value < least:
            raise InvalidInput(f"{name} is {value}: at least {least}")
    options = Choice(model, data=data, **choice)
    chain = inputs.bare_chain(options)
    images = inputs.data(options, model, chain.network)
    named = features or ("pixels" if images.labels is None else None)
    return search.tune(
        chain,
        images,
        chosen,
        grid,
        metric=metric,
        refine=refine,
        num_samples=num_samples,
        features=choose_features(named, images),
        batch_size=options.batch_size,
        seed=seed,
        progress=progress,
    )


def open_remedy(text: str | None) -> Remedy:
    """The remedy whose strength is searched.

    Raises:
        InvalidInput: If there is none, or its strength is given.
    """
    if text is None:
        raise InvalidInput(f"--remedy is missing: choose {', '.join(REMEDIES)}")
    remedy = parse(text)
    if remedy is None or remedy.strength is not None:
        raise InvalidInput(
            f"--remedy {text}: name a remedy without a strength; the strength is what tune "
            "searches: give --values instead"
        )
    return remedy


def strengths(
    remedy: Remedy,
    values: Sequence[float] | None,
    ends: Sequence[float] | None,
    count: int,
) -> list[float] | None:
    """The strengths to try first, each one that the remedy can have; None for its own grid.

    Raises:
        InvalidInput: If they cannot be used.
    """
    if ends is not None:
        if values is not None:
            raise InvalidInput("--values and --range exclude each other: give one of them")
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise InvalidInput("--range takes the lowest and the highest strength, as 0.98,1.02")
        if count < 2:
            raise InvalidInput(f"num_values is {count}: at least 2")
        low, step = ends[0], (ends[1] - ends[0]) / (count - 1)
        nearest = remedy.strengths.range.nearest
        values = sorted({nearest(low + step * i) for i in range(count)})
    for value in values or []:
        replace(remedy, strength=value)
    return None if values is None else list(values)
