r"""The best strength of a remedy: a search on one half of the data, a test on the other.

The data are split in two by the seed. On the *search* half, every strength is scored with the same
sampling noise: first those of a grid, then by golden sections between the neighbors of the best.
The *held-out* half, with fresh sampling noise, sees two chains only: the best strength and none.
Their difference in :math:`D_0^2` or in the Fréchet distance,

.. math:: \Delta = d(p^{best}, q) - d(p^{none}, q),

has common noise in both terms, and a separate error bar (:mod:`undrift.remedies.difference`). The
best strength of a search looks better by selection; the held-out half tests whether it is.

References:
    | Sequential Minimax Search for a Maximum (Kiefer, 1953)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from undrift.data.images import ImageData
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import FINITE, InvalidInput, Limits, check_choice
from undrift.progress import progress_bar
from undrift.quality.features import FeatureMap, extract_features
from undrift.quality.frechet import MOST_RANK
from undrift.quality.scorer import Scorer
from undrift.quality.scores import Scores
from undrift.remedies.difference import SAMPLES_PER_FEATURE, Change, frechet_change, mmd_change
from undrift.remedies.remedy import Remedy
from undrift.remedies.sampler import RemediedSampler
from undrift.seeds import stream_seed

logger = logging.getLogger("undrift")

Metric = Literal["mmd_sq", "frechet"]

LEAST_DATA = 40
GOLDEN = (3 - math.sqrt(5)) / 2


@dataclass(frozen=True)
class Trial:
    """One strength, scored on the search half.

    Arguments:
        strength: The strength; None for no remedy, where no strength stands for it.
        phase: Whether it was on the grid or came from the refinement.
        scores: Scores of its samples; None where the sampler diverged.
    """

    strength: float | None
    phase: Literal["grid", "refinement"]
    scores: Scores | None = None

    def value(self, metric: Metric) -> float:
        """What the search compares; infinite where the sampler diverged."""
        return math.inf if self.scores is None else float(getattr(self.scores, metric))

    def to_dict(self) -> dict[str, Any]:
        """The strength and its scores, ready for JSON."""
        unknown = dict.fromkeys(f.name for f in fields(Scores))
        scores = self.scores.to_dict() if self.scores else unknown
        return {"strength": self.strength, "phase": self.phase} | scores


@dataclass(frozen=True)
class Tuning:
    """The result of a search.

    Arguments:
        remedy: The remedy with the best strength; None if no strength improved on the sampler
            without remedy in the search.
        metric: The metric that was minimized.
        curve: Every strength that was tried, in order, none among them.
        best: The best of them.
        changes: For each metric, best against none on the held-out half; empty if none is best.
        how: Sizes, seed, data.
    """

    remedy: Remedy | None
    metric: Metric
    curve: tuple[Trial, ...]
    best: Trial
    changes: dict[str, Change]
    how: dict[str, Any]

    @property
    def helps(self) -> bool:
        """Whether the held-out half says that the best strength is better than none."""
        change = self.changes.get(self.metric)
        return change is not None and change.is_distinguishable and change.difference < 0

    @property
    def verdict(self) -> str:
        """What may be said, in one sentence."""
        if self.remedy is None:
            return "On the search half no strength is better than no remedy: leave the remedy out."
        text = self.remedy.text
        if not self.changes:
            return f"On the held-out half the sampler diverged, with or without {text}."
        change, (low, high) = self.changes[self.metric], self.changes[self.metric].interval
        name = {"mmd_sq": "D₀²", "frechet": "the Fréchet distance"}[self.metric]
        word = "better than" if self.helps else "worse than"
        word = word if change.is_distinguishable else "not distinguishable from"
        return (
            f"On the held-out half {text} is {word} no remedy: {name} {change.best:.3g} "
            f"against {change.none:.3g}, a change of {change.difference:.2g} (95 % interval "
            f"{low:.2g} to {high:.2g})."
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        changes = {
            name: asdict(change) | {"distinguishable": change.is_distinguishable}
            for name, change in self.changes.items()
        }
        return {
            "schema_version": 1,
            "kind": "undrift.tuning",
            "remedy": self.remedy.text if self.remedy else "none",
            "metric": self.metric,
            "curve": [trial.to_dict() for trial in self.curve],
            "best": self.best.to_dict(),
            "held_out": changes,
            "helps": self.helps,
            "verdict": self.verdict,
            "how": self.how,
        }


def tune(
    sampler: Sampler,
    data: ImageData,
    remedy: Remedy,
    values: Sequence[float] | None = None,
    *,
    metric: Metric = "mmd_sq",
    refine: int = 4,
    num_samples: int = 1000,
    features: FeatureMap | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Tuning:
    r"""Find the strength of a remedy on one half of the data and test it on the other.

    Costs one run of the chain with ``num_samples`` samples for each strength, and three more.

    Arguments:
        sampler: The chain without the remedy.
        data: Images, best such as the model was not trained on.
        remedy: The remedy, its strength open; its other options are kept.
        values: The grid of strengths; that of the remedy when None. No remedy at all is always
            tried too, as the strength without effect where there is one.
        metric: What is minimized.
        refine: Strengths that are tried between the neighbors of the best one.
        num_samples: Chains for each strength.
        features: The feature map of the Fréchet distance; None for pixels.
        batch_size: Chains that go through the network at once; by its activations when None.
        seed: Seed of the split and of all noise.
        progress: Whether to draw a progress bar on stderr.

    Raises:
        InvalidInput: If there is nothing to search, the data are too few to be split, the features
            too many for the Fréchet distance, or the remedy cannot be applied to the sampler.
    """
    values = check_search(remedy, values, metric, refine, num_samples)
    scorer, held_out = (
        Scorer(half, num_samples, features=features, batch_size=batch_size)
        for half in halves(data, seed)
    )
    if metric == "frechet" and not _is_enough(held_out, scorer):
        raise InvalidInput(
            f"{scorer.dim} features are too many for the Fréchet distance of {num_samples} samples "
            f"and {len(scorer.data)} images: take half as many features as the fewer of them, or "
            "search by mmd_sq"
        )
    for note in scorer.notes:
        logger.info("note: %s", note)
    runs = 3 + refine + sum(value != remedy.neutral for value in values)
    total = runs * num_samples * (len(sampler.grid) - 1)
    with progress_bar(f"tuning {remedy.remedy}", total, show=progress) as tick:
        search = StrengthSearch(sampler, remedy, scorer, metric, seed, tick)
        curve = search.curve(values, refine)
        best = min(curve, key=lambda trial: trial.value(metric))
        is_none = best.strength == remedy.neutral
        chosen = None if is_none else replace(remedy, strength=best.strength)
        changes = {} if is_none else search.changes(best.strength, held_out)
    how = {
        **scorer.how(),
        "num_search": len(scorer.data),
        "num_held_out": len(held_out.data),
        "seed": seed,
        "sampler": sampler.describe(),
        "data": dict(data.how),
    }
    return Tuning(chosen, metric, curve, best, changes, how)


def _is_enough(*scorers: Scorer) -> bool:
    """Whether there are samples enough for changes of the Fréchet distance without bias."""
    fewest = min(min(each.num_samples, len(each.reference)) for each in scorers)
    return fewest >= SAMPLES_PER_FEATURE * scorers[0].dim


@dataclass
class StrengthSearch:
    """Draws samples of the chain at any strength, always from the same noise, and scores them.

    No remedy is the strength without effect, or None where there is none.
    """

    sampler: Sampler
    remedy: Remedy
    scorer: Scorer
    metric: Metric
    seed: int
    tick: Callable[[int], None]

    @cached_property
    def remedied(self) -> RemediedSampler:
        """The chain with the remedy, estimated from data once for all strengths."""
        remedied = RemediedSampler(self.sampler, self.remedy)
        if self.remedy.needs_data:
            remedied = remedied.estimated(self.scorer.data.images, self.seed, check_range=False)
        return remedied

    def curve(self, values: Sequence[float], refine: int) -> tuple[Trial, ...]:
        """Every strength that was tried, from the lowest on; none first if it has no strength."""
        none = self.remedy.neutral
        trials = {value: self._trial(value, "grid") for value in dict.fromkeys([none, *values])}
        known = {k: trial.value(self.metric) for k, trial in trials.items() if k is not None}
        allowed = self.remedy.limits.get("strength", FINITE)
        for value in _sections(known, allowed, refine):
            trials[value] = self._trial(value, "refinement")
            known[value] = trials[value].value(self.metric)
        order = sorted(trials, key=lambda value: -math.inf if value is None else value)
        return tuple(trials[value] for value in order)

    def changes(self, best: float | None, held_out: Scorer) -> dict[str, Change]:
        """The metrics with and without the best strength, on other data with other noise.

        The Fréchet distance only where there are samples enough, and where it would take minutes
        only if it is what was searched by; nothing where the sampler diverges.
        """
        noise, none = stream_seed(self.seed, "held out"), self.remedy.neutral
        with_it, without = (self.draw(strength, held_out, noise) for strength in (best, none))
        if _diverged(with_it) or _diverged(without):
            return {}
        changes = {"mmd_sq": mmd_change(with_it, without, held_out.reference, held_out.kernel)}
        is_quick = self.metric == "frechet" or held_out.dim <= MOST_RANK
        if is_quick and _is_enough(held_out, self.scorer):
            x_best, x_none = (extract_features(x, held_out.features) for x in (with_it, without))
            changes["frechet"] = frechet_change(x_best, x_none, held_out.reference_features)
        return changes

    def _trial(self, strength: float | None, phase: Literal["grid", "refinement"]) -> Trial:
        x = self.draw(strength, self.scorer, self.seed)
        return Trial(strength, phase, None if _diverged(x) else self.scorer.scores(x, self.seed))

    def draw(self, strength: float | None, scorer: Scorer, seed: int) -> Tensor:
        """Samples of the chain with the remedy at a strength."""
        sampler = self.sampler
        if strength is not None and strength != self.remedy.neutral:
            sampler = self.remedied.with_strength(strength)
        return scorer.draw(sampler, seed, self.tick)


def _diverged(x: Tensor) -> bool:
    """Whether samples are not finite, or too large for any distance."""
    return not bool(x.square().sum().isfinite())


def _sections(known: dict[float, float], allowed: Limits, count: int) -> Iterator[float]:
    """Strengths to try next, by golden sections around the best; ``known`` grows in between.

    Past an end of the grid it continues in steps that double, within the allowed strengths.
    """
    for _ in range(count):
        best, order = min(known, key=lambda value: known[value]), sorted(known)
        i = order.index(best)
        left = best - order[max(i - 1, 0)]
        right = order[min(i + 1, len(order) - 1)] - best
        probe = best + 2 * (left - right)
        if (left and right) or not allowed.includes(probe):
            probe = best + GOLDEN * right if right > left else best - GOLDEN * left
        probe = nearest(probe, allowed)
        if probe in known:
            return
        yield probe


def nearest(value: float, allowed: Limits) -> float:
    """A strength as it is tried: whole where it has to be, else with six digits."""
    return float(round(value)) if allowed.is_whole else float(f"{value:.6g}")


def check_search(
    remedy: Remedy, values: Sequence[float] | None, metric: Metric, refine: int, num_samples: int
) -> list[float]:
    """The strengths to try first, each once and one that the remedy can have.

    Raises:
        InvalidInput: If there are none, or the search cannot be made.
    """
    if remedy.strength is not None:
        raise InvalidInput(
            f"{remedy.text} has a strength, but the strength is what tune searches: leave it out, "
            "or give it among the values"
        )
    check_choice("metric", metric, get_args(Metric))
    Limits(0).check("refine", refine)
    Limits(LEAST_DATA).check("num_samples", num_samples)
    chosen = remedy.strengths.grid if values is None else values
    if not chosen:
        raise InvalidInput("no strength to try: give at least one value")
    return sorted({float(value) for value in chosen if replace(remedy, strength=value)})


def halves(data: ImageData, seed: int) -> tuple[ImageData, ImageData]:
    """The search half and the held-out half of the images."""
    if len(data) < LEAST_DATA:
        raise InvalidInput(f"{len(data)} images are too few to be split: give {LEAST_DATA} or more")
    generator = torch.Generator().manual_seed(stream_seed(seed, "split"))
    search, held_out = torch.randperm(len(data), generator=generator).tensor_split([len(data) // 2])
    return (
        ImageData(data.images[search], f"{data.name}, search half"),
        ImageData(data.images[held_out], f"{data.name}, held-out half"),
    )
