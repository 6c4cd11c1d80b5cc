"""``undrift.tune``: how strong a remedy at sampling time should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undrift.api import inputs
from undrift.api.inputs import TuneChoice
from undrift.exceptions import FINITE, InvalidInput, Limits
from undrift.quality.feature_choice import choose_features
from undrift.remedies import search
from undrift.remedies.registry import REMEDIES, parse
from undrift.remedies.remedy import Remedy
from undrift.remedies.search import Tuning, nearest


def tune(
    model: Any,  # noqa: ANN401
    remedy: str | None,
    data: Any = None,  # noqa: ANN401
    *,
    progress: bool = True,
    **options: Any,  # noqa: ANN401
) -> Tuning:
    """Find the strength of a remedy on one half of the data and test it on the other.

    Arguments:
        model: A run, a pipeline of diffusers (or its folder or name), a sampler or a denoiser.
        remedy: ``NAME[,OPTION=VALUE...]`` without a strength.
        data: The images: whatever :func:`undrift.load_data` takes; what the run was trained on when
            None.
        progress: Whether to draw a progress bar on stderr.
        **options: Further options of ``undrift tune``, the fields of
            :class:`undrift.api.inputs.TuneChoice`: ``values=[0.99, 1.01]``, ``metric="frechet"``.

    Raises:
        InvalidInput: If an option cannot be used.
    """
    choice = TuneChoice(model, remedy=remedy, data=data, **options)
    chosen = parse(remedy or "none")
    if chosen is None:
        raise InvalidInput(f"the remedy is missing: choose {', '.join(REMEDIES)}")
    values = strengths(choice, chosen)
    searched: dict[str, Any] = {
        "metric": choice.metric,
        "refine": choice.refine,
        "num_samples": choice.num_samples,
    }
    search.check_search(chosen, values, **searched)
    chain = inputs.bare_chain(choice)
    chain, images = inputs.over_data(choice, chain, inputs.data(choice, model, chain))
    features = choice.features or ("pixels" if images.labels is None else None)
    return search.tune(
        chain,
        images,
        chosen,
        values,
        features=choose_features(features, images),
        batch_size=choice.batch_size,
        seed=choice.seed,
        progress=progress,
        **searched,
    )


def strengths(choice: TuneChoice, remedy: Remedy) -> Sequence[float] | None:
    """The strengths to try first; None for the grid of the remedy.

    Raises:
        InvalidInput: If they cannot be used.
    """
    if choice.range is None:
        return choice.values
    if choice.values is not None:
        raise InvalidInput("--values and --range exclude each other: give one of them")
    if len(choice.range) != 2 or not choice.range[0] < choice.range[1]:
        raise InvalidInput("--range takes the lowest and the highest strength, as 0.98,1.02")
    Limits(2).check("num_values", choice.num_values)
    low, high = choice.range
    step, allowed = (high - low) / (choice.num_values - 1), remedy.limits.get("strength", FINITE)
    return sorted({nearest(low + step * i, allowed) for i in range(choice.num_values)})
