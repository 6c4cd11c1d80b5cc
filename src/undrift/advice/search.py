r"""The search among candidates: successive halving on one half of the data.

A round scores all candidates that are left with the same number of samples and the same sampling
noise, and keeps a third of them; the next round takes twice as many samples, with other noise. The
cost is mostly that of the first round, whose candidates are many and whose samples are few.

Samples are scored as users get them: clamped to the range of images, as pipelines do. Solvers that
do not clip the estimate of the data leave that range.

References:
    | Non-stochastic Best Arm Identification and Hyperparameter Optimization
      (Jamieson and Talwalkar, 2016)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor

from undrift.advice.candidates import Candidate
from undrift.advice.record import Tried
from undrift.advice.trials import Trials
from undrift.data.images import ImageData
from undrift.diffusion.sampler import Sampler
from undrift.quality.features import FeatureMap
from undrift.quality.scorer import Scorer
from undrift.remedies.difference import SAMPLES_PER_FEATURE
from undrift.seeds import stream_seed

T = TypeVar("T")
KEPT = 3
"""One of so many candidates is kept in a round."""
SCORES = ("mmd_sq", "feature_mmd_sq", "frechet", "kernel_distance", "pixel_variance_ratio")


def successive_halving(
    candidates: Sequence[T], value: Callable[[T, int], float], num_rounds: int, keep: int
) -> list[T]:
    """The best candidates, the best first.

    Arguments:
        candidates: All of them.
        value: What is minimized: of a candidate in a round.
        num_rounds: Number of rounds.
        keep: How many are kept after the last, and at least after each.

    Example:
        >>> successive_halving(range(30), lambda x, round: abs(x - 7), 3, 2)
        [7, 6]
    """
    left = list(candidates)
    for k, count in enumerate(sizes(len(left), num_rounds, keep)):
        left = sorted(left[:count], key=lambda each: value(each, k))
    return left[:keep]


def sizes(count: int, num_rounds: int, keep: int) -> Iterator[int]:
    """How many candidates each round scores.

    Example:
        >>> list(sizes(30, 3, 2)), list(sizes(3, 3, 2))
        ([30, 10, 4], [3, 2, 2])
    """
    for k in range(num_rounds):
        yield max(math.ceil(count / KEPT**k), min(count, keep))


def rounds(num_samples: int, dim: int, num_rounds: int = 3) -> list[int]:
    """Samples of each round: twice as many as in the one before, and enough for the features.

    Arguments:
        num_samples: Samples of each candidate on the held-out half.
        dim: Number of features of a Fréchet distance; 0 for a metric that any number serves.
        num_rounds: Number of rounds.

    Example:
        >>> rounds(2000, 64), rounds(2000, 300)
        ([250, 500, 1000], [600, 600, 1000])
    """
    least = min(num_samples, SAMPLES_PER_FEATURE * dim)
    return [max(num_samples // 2 ** (num_rounds - k), least) for k in range(num_rounds)]


@dataclass
class Search:
    """Scores candidates on the search half, each with the same noise in a round.

    Arguments:
        data: The search half.
        features: The feature map; None for pixels.
        metric: What is minimized.
        num_samples: Samples that the best are judged with on the held-out half.
        batch_size: Chains that go through the network at once.
        seed: Seed of all noise.
        trials: Keeps the scores.
        tick: Called with the number of samples that were scored.
        counted: Names of the scores that the tick has counted.
    """

    data: ImageData
    features: FeatureMap | None
    metric: str
    num_samples: int
    batch_size: int | None
    seed: int
    trials: Trials
    tick: Callable[[int], None]
    counted: set[str] = field(default_factory=set)

    @cached_property
    def scorers(self) -> list[Scorer]:
        """The scorer of each round."""
        whole = Scorer(self.data, self.num_samples, features=self.features)
        dim = whole.dim if self.metric == "frechet" else 0
        return [
            Scorer(
                self.data,
                count,
                features=self.features,
                num_resamples=0,
                batch_size=self.batch_size,
            )
            for count in rounds(self.num_samples, dim)
        ]

    def planned(self, count: int, keep: int) -> int:
        """Samples that a search among so many candidates draws."""
        of_rounds = zip(sizes(count, len(self.scorers), keep), self.scorers, strict=True)
        return sum(size * scorer.num_samples for size, scorer in of_rounds)

    def best(self, candidates: Sequence[Candidate], keep: int) -> list[Candidate]:
        """The best candidates, the best first."""
        return successive_halving(candidates, self.value, len(self.scorers), keep)

    def value(self, candidate: Candidate, round: int) -> float:
        """The metric of a candidate in a round; infinite where the sampler diverged."""
        scorer = self.scorers[round]
        name = f"{candidate.label}, round {round}"
        row = self.trials.result(name, lambda: self._scored(candidate, scorer, round))
        if name not in self.counted:
            self.tick(scorer.num_samples)
            self.counted.add(name)
        value = row[self.metric]
        return math.inf if value is None else float(value)

    def _scored(self, candidate: Candidate, scorer: Scorer, round: int) -> dict[str, Any]:
        samples = draw_images(scorer, candidate.sampler, stream_seed(self.seed, "round", round))
        row = {
            "label": candidate.label,
            "num_inference_steps": candidate.num_inference_steps,
            "network_calls": candidate.network_calls,
            "num_samples": scorer.num_samples,
        }
        if diverged(samples):
            return row | dict.fromkeys(SCORES)
        scores = scorer.scores(samples, self.seed)
        return row | {name: getattr(scores, name) for name in SCORES}

    def tried(self) -> tuple[Tried, ...]:
        """All candidates, each in its last round: those of later rounds first, then by metric."""
        rows = {
            result["label"]: Tried(**result)
            for name, result in self.trials.known.items()
            if ", round " in name
        }

        def order(row: Tried) -> tuple[int, float]:
            value = getattr(row, self.metric)
            return -row.num_samples, math.inf if value is None else value

        return tuple(sorted(rows.values(), key=order))


def draw_images(scorer: Scorer, sampler: Sampler, seed: int) -> Tensor:
    """Samples of a chain in the range of images, [-1, 1], to which pipelines clamp them."""
    return scorer.draw(sampler, seed).clamp(-1, 1)


def diverged(samples: Tensor) -> bool:
    """Whether samples are not finite."""
    return not bool(samples.isfinite().all())
