"""``advice.json``: what was tried, what is best, and how sure that is.

:class:`AdviceRecord` is the file. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from undrift.measurement.reading import Record, Schema
from undrift.reporting.numbers import is_distinguishable

FILE = "advice.json"
METRICS = {"mmd_sq": "D₀²", "feature_mmd_sq": "D₀² in features", "frechet": "Fréchet distance"}


@dataclass(frozen=True)
class Comparison:
    """A metric of one way to sample less that of another, on the held-out half.

    Arguments:
        value: The metric of the first.
        reference: The metric of the second.
        difference: The first less the second.
        standard_error: Of the difference; both have the same sampling noise and data.
        interval: 95 % interval of the difference.
    """

    value: float
    reference: float
    difference: float
    standard_error: float
    interval: tuple[float, float]

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return is_distinguishable(*self.interval)

    @property
    def is_better(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.interval[1] < 0


@dataclass(frozen=True)
class Tried:
    """A candidate, scored on the search half with as many samples as it reached.

    Arguments:
        label: Solver, time grid and remedy.
        num_inference_steps: Steps of its scheduler.
        network_calls: Network calls for one sample, counted.
        num_samples: Samples of its last round.
        mmd_sq: Final cumulative error in pixels; None where the sampler diverged.
        feature_mmd_sq: The same in the features, likewise.
        frechet: Fréchet distance of features, likewise.
        kernel_distance: Kernel distance of features, likewise.
        pixel_variance_ratio: Total variance of the samples over that of the data, likewise.
    """

    label: str
    num_inference_steps: int
    network_calls: int
    num_samples: int
    mmd_sq: float | None = None
    feature_mmd_sq: float | None = None
    frechet: float | None = None
    kernel_distance: float | None = None
    pixel_variance_ratio: float | None = None


@dataclass(frozen=True)
class Finalist:
    """A candidate that was judged on the held-out half.

    Arguments:
        label: Solver, time grid and remedy, or the fine-tuned model.
        num_inference_steps: Steps to ask its scheduler for.
        network_calls: Network calls for one sample, counted.
        in_pipeline: Whether the model's class of pipelines gives the same samples with its
            scheduler, so that a scheduler's configuration says all of it.
        against_present: For each metric, its change from the sampler that the model has.
        against_best: For each metric, its change from the best of the search half.
    """

    label: str
    num_inference_steps: int
    network_calls: int
    in_pipeline: bool
    against_present: dict[str, Comparison]
    against_best: dict[str, Comparison]


def is_refuted(finalists: Sequence[Finalist], label: str, metric: str) -> bool:
    """Whether a candidate diverged or is worse than what the model has on the held-out half."""
    changes = [each.against_present[metric] for each in finalists if each.label == label]
    return not changes or changes[0].interval[0] > 0


@dataclass(frozen=True)
class AdviceRecord(Record):
    """What ``undrift advise`` found.

    Arguments:
        model: Name of the model.
        network_calls: The number of network calls that was asked for.
        metric: What candidates were compared by.
        present: The sampler that the model has, at this number of network calls.
        present_calls: Its network calls, counted.
        best: Label of the best candidate of the search half.
        in_folder: Label of the candidate whose scheduler the folder has.
        finalists: Those that were judged on the held-out half, the best of the search half first.
        tried: All candidates, by their number of samples and the metric.
        left_out: Why a solver or a remedy was left out, by its name.
        how: Sizes, seed, data, versions.
    """

    schema = Schema("undrift.advice", 1, "advice", "advise")

    model: str
    network_calls: int
    metric: str
    present: str
    present_calls: int
    best: str
    in_folder: str
    finalists: tuple[Finalist, ...]
    tried: tuple[Tried, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)

    def finalist(self, label: str) -> Finalist:
        """The finalist of a label."""
        return next(each for each in self.finalists if each.label == label)

    def has_finalist(self, label: str) -> bool:
        """Whether a candidate was judged, which one that diverges is not."""
        return any(each.label == label for each in self.finalists)

    @property
    def helps(self) -> bool:
        """Whether the held-out half says that the best is better than what the model has."""
        return self.finalist(self.best).against_present[self.metric].is_better

    @property
    def equals(self) -> list[str]:
        """Labels of the finalists that the held-out half does not distinguish from the best."""
        others = (each for each in self.finalists if each.label != self.best)
        return [e.label for e in others if not e.against_best[self.metric].is_distinguishable]

    @property
    def verdict(self) -> str:
        """What may be said of the best, in one sentence."""
        return self.compared(self.finalist(self.best))

    def compared(self, finalist: Finalist) -> str:
        """What may be said of a finalist against the present sampler, in one sentence."""
        change = finalist.against_present[self.metric]
        low, high = change.interval
        word = "better than" if change.is_better else "worse than"
        word = word if change.is_distinguishable else "not distinguishable from"
        return (
            f"On the held-out half {finalist.label} is {word} the model's own {self.present}: "
            f"{METRICS[self.metric]} {change.value:.3g} against {change.reference:.3g}, a change "
            f"of {change.difference:.2g} (95 % interval {low:.2g} to {high:.2g})."
        )
