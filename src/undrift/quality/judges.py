"""Several networks that judge the same samples: final error once, quality in each network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from undrift.data.images import ImageData
from undrift.diffusion.sampler import Sampler
from undrift.processes import ALONE, Processes
from undrift.quality.features import FeatureMap
from undrift.quality.scorer import Row, Scorer
from undrift.quality.scores import mean_ratio


@dataclass(frozen=True, eq=False)
class Judges:
    """Scores samples in the features of each of several networks.

    Arguments:
        data: The images to compare the samples with.
        num_samples: Number of samples, four or more.
        features: The feature maps by name; None for pixels.
        num_reference: As in :class:`~undrift.quality.scorer.Scorer`.
        num_resamples: As there.
        batch_size: As there.
        processes: As there.

    Example:
        >>> from undrift.data.load import load_data
        >>> digits = load_data("digits", limit=200)
        >>> judges = Judges(digits, 50, {"pixels": None, "left": lambda x: x[..., :4]})
        >>> scores = judges.scores(digits.images[::4])
        >>> {name: round(found["precision"]) for name, found in scores["quality"].items()}
        {'pixels': 1, 'left': 1}
    """

    data: ImageData
    num_samples: int
    features: Mapping[str, FeatureMap | None]
    num_reference: int | None = None
    num_resamples: int | None = None
    batch_size: int | None = None
    processes: Processes = ALONE

    @cached_property
    def scorers(self) -> dict[str, Scorer]:
        """The scorer of each network."""
        options = (self.num_resamples, self.batch_size, self.processes)
        return {
            name: Scorer(self.data, self.num_samples, self.num_reference, features, *options)
            for name, features in self.features.items()
        }

    @property
    def first(self) -> Scorer:
        """That of the first: samples and final error do not depend on the network."""
        return next(iter(self.scorers.values()))

    @property
    def reference(self) -> Tensor:
        """The images that samples are compared with."""
        return self.first.reference

    def draw(
        self, sampler: Sampler, seed: int, tick: Callable[[int], None] = lambda amount: None
    ) -> Tensor:
        """Samples of a chain, the same noise for every chain, with shape (N, C, H, W)."""
        return self.first.draw(sampler, seed, tick)

    def scores(self, samples: Tensor, seed: int = 0) -> Row:
        """Final error, quality by network, and the mean of FDr over networks; ready for JSON.

        Arguments:
            samples: Images, with shape (N, C, H, W).
            seed: Seed of permutations and bootstrap.

        Raises:
            InvalidInput: If the samples are not finite or too few.
        """
        error = self.first.error(samples, seed)
        quality = {name: each.quality(samples, seed) for name, each in self.scorers.items()}
        return {
            **asdict(error),
            "frechet_ratio": mean_ratio(quality),
            "quality": {name: asdict(found) for name, found in quality.items()},
        }

    @property
    def notes(self) -> list[str]:
        """Limits of these numbers of samples and images, one line each."""
        if len(self.scorers) == 1:
            return self.first.notes
        return [f"{name}: {note}" for name, each in self.scorers.items() for note in each.notes]

    def how(self) -> dict[str, Any]:
        """All that the scores depend on besides the chain and the seed."""
        parts = {name: each.how() for name, each in self.scorers.items()}
        shared = {
            key: self.first.how()[key] for key in ("num_samples", "num_reference", "data", "scores")
        }
        own = ("features", "score_name", "num_resamples", "warning")
        networks = {name: {key: part[key] for key in own} for name, part in parts.items()}
        return {**shared, "networks": networks}
