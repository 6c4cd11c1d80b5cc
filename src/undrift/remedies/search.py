r"""How strong should a remedy be? A search on one half of the data, a verdict on the other.

The data are split in two by the seed. On the *search* half, every strength is judged with the same
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

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from undrift.data.images import ImageData
from undrift.diffusion.network import device_of, evaluating
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.measurement.population import Population
from undrift.mmd.kernels import Kernel, RBFMixture
from undrift.mmd.two_sample import mmd_estimate
from undrift.progress import progress_bar
from undrift.quality.features import FeatureMap, extract_features
from undrift.quality.frechet import frechet_distance, frechet_estimate, sample_size_warning
from undrift.remedies.analytic_variance import AnalyticVarianceSampler
from undrift.remedies.config import NEUTRAL, RemedyConfig, apply_remedy
from undrift.remedies.difference import SAMPLES_PER_FEATURE, Change, frechet_change, mmd_change
from undrift.seeds import stream_seed

Metric = Literal["mmd_sq", "frechet"]

GRIDS = {
    "epsilon_scaling": (0.98, 0.99, 0.995, 1.0, 1.005, 1.01, 1.02),
    "time_shift": (0.0, 2.0, 4.0, 8.0, 16.0),
    "analytic_variance": (0.6, 0.8, 1.0, 1.25, 1.6),
    "snr_t": (-0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02),
}
"""The strengths that are tried where none are given."""

LEAST_DATA = 40
MOST_DIM = 256
GOLDEN = (3 - math.sqrt(5)) / 2


@dataclass(frozen=True)
class Trial:
    """One strength, judged on the search half.

    Arguments:
        strength: The strength; None for no remedy, where no strength stands for it.
        phase: Whether it was on the grid or came from the refinement.
        mmd_sq: Final cumulative error; None where the chain blew up, as the other numbers.
        mmd_sq_se: Its standard error.
        frechet: Fréchet distance; None for very many pixels, unless it is what is searched by.
        frechet_se: Its standard error; None with more features than a bootstrap can take.
        pixel_variance_ratio: Total variance of the samples over that of the data.
    """

    strength: float | None
    phase: Literal["grid", "refinement"]
    mmd_sq: float | None = None
    mmd_sq_se: float | None = None
    frechet: float | None = None
    frechet_se: float | None = None
    pixel_variance_ratio: float | None = None

    def value(self, metric: Metric) -> float:
        """What the search compares; infinite where the chain blew up."""
        value = getattr(self, metric)
        return math.inf if value is None else float(value)


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
            "curve": [asdict(trial) for trial in self.curve],
            "best": asdict(self.best),
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
    search, held_out = _halves(data, seed)
    network = sampler.network
    runs = 3 + refine + len([v for v in values if not replace(remedy, strength=v).is_neutral])
    total = runs * num_samples * (len(sampler.grid) - 1)
    label = f"tuning {remedy.remedy}"
    with evaluating(network), progress_bar(label, total, show=progress) as tick:
        bench = _Bench(
            sampler, remedy, search, features, metric, num_samples, batch_size, seed, tick
        )
        if metric == "frechet" and not bench.enough(len(held_out)):
            raise InvalidInput(
                f"{bench.dim} features are too many for the Fréchet distance of "
                f"{num_samples} samples and {len(search)} images: take half as many features as "
                "the fewer of them, or search by mmd_sq"
            )
        curve = bench.search(values, refine)
        best = min(curve, key=lambda trial: trial.value(metric))
        chosen = (
            RemedyConfig() if _is_none(remedy, best) else replace(remedy, strength=best.strength)
        )
        changes = {} if chosen.remedy == "none" else bench.compare(chosen, held_out)
    how = {
        "num_samples": num_samples,
        "num_search": len(search),
        "num_held_out": len(held_out),
        "seed": seed,
        "sampler": sampler.describe(),
        "data": dict(data.how),
        "features": dict(getattr(features, "how", {"features": "pixels"})),
        "warning": None
        if best.frechet is None
        else sample_size_warning(num_samples, min(len(search), len(held_out)), bench.dim),
    }
    return Tuning(chosen, metric, curve, best, changes, how)


@dataclass
class _Bench:
    """Draws samples of the chain at any strength, always from the same noise, and judges them."""

    sampler: Sampler
    remedy: RemedyConfig
    images: Tensor
    features: FeatureMap | None
    metric: Metric
    num_samples: int
    batch_size: int
    seed: int
    tick: Callable[[int], None]

    def __post_init__(self) -> None:
        self.kernel: Kernel = RBFMixture().fit(self.images)
        self.reference = extract_features(self.images, self.features)
        self.dim = self.reference.shape[1]
        self.variance = float(self.images.var(0).sum())
        self.fitted: AnalyticVarianceSampler | None = None
        self.device = device_of(self.sampler.network)

    def enough(self, num_held_out: int) -> bool:
        """Whether there are samples enough for changes of the Fréchet distance without bias."""
        fewest = min(self.num_samples, len(self.images), num_held_out)
        return fewest >= SAMPLES_PER_FEATURE * self.dim

    def search(self, values: Sequence[float], refine: int) -> tuple[Trial, ...]:
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

    def compare(self, best: RemedyConfig, held_out: Tensor) -> dict[str, Change]:
        """The metrics with and without the best remedy, on other data with other noise.

        The Fréchet distance of very many features only where it is what was searched by, and where
        there are samples enough; nothing where a chain blows up.
        """
        noise = stream_seed(self.seed, "held out")
        with_it, without = (self._draw(each, noise) for each in (best, RemedyConfig()))
        if _blew_up(with_it) or _blew_up(without):
            return {}
        changes = {"mmd_sq": mmd_change(with_it, without, held_out, RBFMixture().fit(held_out))}
        few = self.dim <= MOST_DIM and self.enough(len(held_out))
        if self.metric == "frechet" or few:
            mapped = (extract_features(x, self.features) for x in (with_it, without, held_out))
            changes["frechet"] = frechet_change(*mapped)
        return changes

    def _trial(
        self, strength: float | None, phase: Literal["grid", "refinement"], remedy: RemedyConfig
    ) -> Trial:
        x = self._draw(remedy, stream_seed(self.seed, "search"))
        if _blew_up(x):
            return Trial(strength, phase)
        found = mmd_estimate(x, self.images, kernel=self.kernel, num_permutations=0)
        frechet, spread = self._frechet(x)
        ratio = float(x.var(0).sum()) / self.variance
        return Trial(strength, phase, found.mmd_sq, found.standard_error, frechet, spread, ratio)

    def _frechet(self, x: Tensor) -> tuple[float | None, float | None]:
        """The Fréchet distance and its error, where many features do not make them too dear."""
        few = self.dim <= MOST_DIM
        if not few and self.features is None and self.metric != "frechet":
            return None, None
        mapped = extract_features(x, self.features)
        if not few:
            return frechet_distance(mapped, self.reference), None
        resamples = torch.Generator().manual_seed(stream_seed(self.seed, "bootstrap"))
        found = frechet_estimate(mapped, self.reference, num_resamples=20, generator=resamples)
        return found.value, found.standard_error

    def _draw(self, remedy: RemedyConfig, seed: int) -> Tensor:
        sampler = self._remedied(remedy)
        shape = (self.num_samples, *self.images.shape[1:])
        chains = Population.from_prior(
            sampler, shape, self.batch_size, seed, device=self.device, tick=self.tick
        )
        return chains.advance(0).cpu()

    def _remedied(self, remedy: RemedyConfig) -> Sampler:
        """The chain with a remedy; what is estimated from data is estimated once."""
        if self.fitted is not None and remedy.remedy == "analytic_variance":
            return self.fitted.with_factor(remedy.value)
        sampler = apply_remedy(self.sampler, remedy, self.images, seed=self.seed)
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


def _halves(data: ImageData, seed: int) -> tuple[Tensor, Tensor]:
    """The search half and the held-out half of the images."""
    if len(data) < LEAST_DATA:
        raise InvalidInput(f"{len(data)} images are too few to be split: give {LEAST_DATA} or more")
    generator = torch.Generator().manual_seed(stream_seed(seed, "split"))
    order = torch.randperm(len(data), generator=generator)
    half = len(data) // 2
    return data.images[order[:half]], data.images[order[half:]]
