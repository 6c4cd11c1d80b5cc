r"""How strong should a remedy be? A search on one half of the data, a verdict on the other.

The data are split in two by the seed. On the *search* half, every strength is scored with the same
sampling noise: first those of a grid, then by golden sections between the neighbors of the best.
The *held-out* half, with fresh sampling noise, sees two chains only: the best strength and none.
Their difference in :math:`D_0^2` or in the Fréchet distance,

.. math:: \Delta = d(p^{best}, q) - d(p^{none}, q),

has common noise in both terms, and an error bar of its own (:mod:`undrift.remedies.difference`). A
search always finds something that looks better; whether it is better is what the second half says.

References:
    | Sequential Minimax Search for a Maximum (Kiefer, 1953)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from undrift.data.images import ImageData
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.progress import progress_bar
from undrift.quality.features import FeatureMap, extract_features
from undrift.quality.frechet import MOST_RANK
from undrift.quality.scorer import Scorer, Scores
from undrift.remedies.analytic_variance import AnalyticVarianceSampler
from undrift.remedies.config import NEUTRAL, RemedyConfig, apply_remedy
from undrift.remedies.difference import SAMPLES_PER_FEATURE, Change, frechet_change, mmd_change
from undrift.seeds import stream_seed

logger = logging.getLogger("undrift")

Metric = Literal["mmd_sq", "frechet"]

GRIDS = {
    "epsilon_scaling": (0.98, 0.99, 0.995, 1.0, 1.005, 1.01, 1.02),
    "time_shift": (0.0, 2.0, 4.0, 8.0, 16.0),
    "analytic_variance": (0.6, 0.8, 1.0, 1.25, 1.6),
    "snr_t": (-0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02),
}
"""The strengths that are tried where none are given."""

LEAST_DATA = 40
GOLDEN = (3 - math.sqrt(5)) / 2


@dataclass(frozen=True)
class Trial:
    """One strength, scored on the search half.

    Arguments:
        strength: The strength; None for no remedy, where no strength stands for it.
        phase: Whether it was on the grid or came from the refinement.
        scores: Scores of its samples; None where the chain blew up.
    """

    strength: float | None
    phase: Literal["grid", "refinement"]
    scores: Scores | None = None

    def value(self, metric: Metric) -> float:
        """What the search compares; infinite where the chain blew up."""
        return math.inf if self.scores is None else float(getattr(self.scores, metric))

    def to_dict(self) -> dict[str, Any]:
        """The strength and its scores, ready for JSON."""
        unknown = dict.fromkeys(f.name for f in fields(Scores))
        scores = self.scores.to_dict() if self.scores else unknown
        return {"strength": self.strength, "phase": self.phase} | scores


@dataclass(frozen=True)
class Tuning:
    """What came out of a search.

    Arguments:
        remedy: The remedy with the best strength, or none if nothing beat none in the search.
        metric: What was searched by.
        curve: Every strength that was tried, in order, none among them.
        best: The best of them.
        changes: For each metric, best against none on the held-out half; empty if none is best.
        how: Sizes, seed, data.
    """

    remedy: RemedyConfig
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
        if self.remedy.remedy == "none":
            return "On the search half no strength does better than none: leave the remedy out."
        if not self.changes:
            return f"On the held-out half a chain blows up, without {self.remedy.text} or with it."
        change, (low, high) = self.changes[self.metric], self.changes[self.metric].interval
        name = {"mmd_sq": "D₀²", "frechet": "the Fréchet distance"}[self.metric]
        word = "better than" if self.helps else "worse than"
        word = word if change.is_distinguishable else "not distinguishable from"
        return (
            f"On the held-out half {self.remedy.text} is {word} none: {name} {change.best:.3g} "
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
            "remedy": self.remedy.text,
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
    remedy: RemedyConfig,
    values: Sequence[float] | None = None,
    *,
    metric: Metric = "mmd_sq",
    refine: int = 4,
    num_samples: int = 1000,
    features: FeatureMap | None = None,
    batch_size: int = 250,
    seed: int = 0,
    progress: bool = True,
) -> Tuning:
    r"""Find the strength of a remedy on one half of the data and judge it on the other.

    Costs one run of the chain with ``num_samples`` samples for each strength, and three more.

    Arguments:
        sampler: The chain without the remedy.
        data: Images, best such as the model was not trained on.
        remedy: The remedy, its strength open; its other options are kept.
        values: The grid of strengths; :data:`GRIDS` when None. No remedy at all is always tried
            too, as the strength that does nothing where there is one.
        metric: What is minimized.
        refine: Strengths that are tried between the neighbors of the best one.
        num_samples: Chains for each strength.
        features: The feature map of the Fréchet distance; None for pixels.
        batch_size: Chains that go through the network at once.
        seed: Seed of the split and of all noise.
        progress: Whether to draw a progress bar on stderr.

    Raises:
        InvalidInput: If there is nothing to search, the data are too few to be split, the features
            too many for the Fréchet distance, or the remedy does not serve the sampler.
    """
    values = _values(remedy, values, refine)
    if metric not in get_args(Metric):
        raise InvalidInput(f"metric {metric!r}: choose {' or '.join(get_args(Metric))}")
    if num_samples < LEAST_DATA:
        raise InvalidInput(
            f"{num_samples} samples are too few for error bars: {LEAST_DATA} or more"
        )
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
    runs = 3 + refine + len([v for v in values if not replace(remedy, strength=v).is_neutral])
    total = runs * num_samples * (len(sampler.grid) - 1)
    with progress_bar(f"tuning {remedy.remedy}", total, show=progress) as tick:
        search = StrengthSearch(sampler, remedy, scorer, metric, seed, tick)
        curve = search.curve(values, refine)
        best = min(curve, key=lambda trial: trial.value(metric))
        chosen = (
            RemedyConfig() if _is_none(remedy, best) else replace(remedy, strength=best.strength)
        )
        changes = {} if chosen.remedy == "none" else search.changes(chosen, held_out)
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
    """Draws samples of the chain at any strength, always from the same noise, and scores them."""

    sampler: Sampler
    remedy: RemedyConfig
    scorer: Scorer
    metric: Metric
    seed: int
    tick: Callable[[int], None]
    fitted: AnalyticVarianceSampler | None = None

    def curve(self, values: Sequence[float], refine: int) -> tuple[Trial, ...]:
        """Every strength that was tried, from the lowest on; none first if it has no strength."""
        none = self._trial(_neutral(self.remedy), "grid", RemedyConfig())
        trials = {none.strength: none}
        for value in values:
            remedy = replace(self.remedy, strength=value)
            if not remedy.is_neutral:
                trials[value] = self._trial(value, "grid", remedy)
        known = {k: trial.value(self.metric) for k, trial in trials.items() if k is not None}
        for value in _sections(known, self.remedy, refine):
            remedy = replace(self.remedy, strength=value)
            trials[value] = self._trial(value, "refinement", remedy)
            known[value] = trials[value].value(self.metric)
        order = sorted(
            trials.values(), key=lambda t: -math.inf if t.strength is None else t.strength
        )
        return tuple(order)

    def changes(self, best: RemedyConfig, held_out: Scorer) -> dict[str, Change]:
        """The metrics with and without the best remedy, on other data with other noise.

        The Fréchet distance only where there are samples enough, and where it would take minutes
        only if it is what was searched by; nothing where a chain blows up.
        """
        noise = stream_seed(self.seed, "held out")
        with_it, without = (self.draw(each, held_out, noise) for each in (best, RemedyConfig()))
        if _blew_up(with_it) or _blew_up(without):
            return {}
        changes = {"mmd_sq": mmd_change(with_it, without, held_out.reference, held_out.kernel)}
        is_quick = self.metric == "frechet" or held_out.dim <= MOST_RANK
        if is_quick and _is_enough(held_out, self.scorer):
            x_best, x_none = (extract_features(x, held_out.features) for x in (with_it, without))
            changes["frechet"] = frechet_change(x_best, x_none, held_out.reference_features)
        return changes

    def _trial(
        self, strength: float | None, phase: Literal["grid", "refinement"], remedy: RemedyConfig
    ) -> Trial:
        x = self.draw(remedy, self.scorer, self.seed)
        return Trial(strength, phase, None if _blew_up(x) else self.scorer.scores(x, self.seed))

    def draw(self, remedy: RemedyConfig, scorer: Scorer, seed: int) -> Tensor:
        """Samples of the chain with a remedy."""
        return scorer.draw(self._remedied(remedy), seed, self.tick)

    def _remedied(self, remedy: RemedyConfig) -> Sampler:
        """The chain with a remedy; what is estimated from data is estimated once."""
        if self.fitted is not None and remedy.remedy == "analytic_variance":
            return self.fitted.with_factor(remedy.value)
        sampler = apply_remedy(self.sampler, remedy, self.scorer.data.images, seed=self.seed)
        if isinstance(sampler, AnalyticVarianceSampler):
            self.fitted = sampler
        return sampler


def _blew_up(x: Tensor) -> bool:
    """Whether samples are so large, or no numbers, that no distance of them is one."""
    return not bool(x.square().sum().isfinite())


def _sections(known: dict[float, float], remedy: RemedyConfig, count: int) -> Iterator[float]:
    """Strengths to try next, by golden sections around the best; ``known`` grows in between.

    Past an end of the grid it goes on in steps that double, as far as the remedy takes them.
    """
    is_whole = remedy.remedy == "time_shift"
    for _ in range(count):
        best = min(known, key=lambda value: known[value])
        below = max((v for v in known if v < best), default=None)
        above = min((v for v in known if v > best), default=None)
        if below is None and above is not None and _is_allowed(remedy, 3 * best - 2 * above):
            probe = 3 * best - 2 * above
        elif above is None and below is not None and _is_allowed(remedy, 3 * best - 2 * below):
            probe = 3 * best - 2 * below
        else:
            left = 0.0 if below is None else best - below
            right = 0.0 if above is None else above - best
            probe = best + GOLDEN * right if right > left else best - GOLDEN * left
        probe = float(round(probe)) if is_whole else float(f"{probe:.6g}")
        if probe in known:
            return
        yield probe


def _is_allowed(remedy: RemedyConfig, strength: float) -> bool:
    try:
        replace(remedy, strength=strength)
    except InvalidInput:
        return False
    return True


def _neutral(remedy: RemedyConfig) -> float | None:
    """The strength at which a remedy with its options does nothing, if there is one."""
    strength = NEUTRAL.get(remedy.remedy)
    is_none = strength is not None and replace(remedy, strength=strength).is_neutral
    return strength if is_none else None


def _is_none(remedy: RemedyConfig, trial: Trial) -> bool:
    return trial.strength is None or trial.strength == _neutral(remedy)


def _values(remedy: RemedyConfig, values: Sequence[float] | None, refine: int) -> list[float]:
    """The grid, each value once and one that the remedy takes."""
    if remedy.remedy == "none":
        raise InvalidInput("there is nothing to tune about none: choose a remedy")
    if remedy.strength is not None:
        raise InvalidInput(
            f"{remedy.text} has a strength, which is what is searched: leave it out, or give it "
            "among the values"
        )
    chosen = GRIDS[remedy.remedy] if values is None else values
    if not chosen:
        raise InvalidInput("no strength to try: give at least one value")
    if refine < 0:
        raise InvalidInput(f"{refine} refinements asked for: 0 or more")
    for value in chosen:
        replace(remedy, strength=value)
    return sorted(set(map(float, chosen)))


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
