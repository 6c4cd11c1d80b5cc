r"""The Fréchet distance of samples relative to that of held-out images (FDr).

A Fréchet distance has no unit, and most of a small one is bias. The images are split at random into
a held-out half H and the rest R, and

.. math:: \mathrm{FDr} = \frac{\mathrm{FD}(X, R)}{\mathrm{FD}(H, R)},

with as many samples X as held-out images, so that both have the same bias: samples as good as data
have 1, and 2 is twice as far. If there are more samples, the distances of as many parts of them as
there are, each of that size, are averaged. A value below 1 says that samples are nearer to the
images than other images are, as copies of them would be.

The split is the same for all models. A model that was trained on all of the images has seen the
held-out half too; it is held out of the comparison only.

References:
    | Fréchet distance as a loss: FD-loss (arXiv 2604.28190, 2026), eq. 7-8
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.quality.frechet import frechet_distance
from undrift.seeds import stream_seed

LEAST = 20
"""Held-out images below which no ratio is given."""
NUM_GROUPS = 10


@dataclass(frozen=True, eq=False)
class HeldOut:
    r"""Features of images, split into a held-out part H and the rest R.

    Arguments:
        held: H, with shape :math:`(N, D)`.
        rest: R, with shape :math:`(M, D)`.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> data = HeldOut.of(torch.randn(2000, 4, generator=draw), num_samples=3000)
        >>> good = torch.randn(3000, 4, generator=draw)
        >>> 0.5 < data.ratio(good) < 2, data.ratio(2 * good) > 100
        (True, True)
    """

    held: Tensor
    rest: Tensor

    @classmethod
    def of(cls, features: Tensor, num_samples: int, seed: int = 0) -> Self:
        """Split features at random in halves, no more held out than there are samples.

        Raises:
            InvalidInput: If there are fewer than 40 images or 20 samples.
        """
        if reason := too_few(len(features), num_samples):
            raise InvalidInput(reason)
        generator = torch.Generator().manual_seed(stream_seed(seed, "held out"))
        held, rest = features[torch.randperm(len(features), generator=generator)].tensor_split(2)
        return cls(held[:num_samples], rest)

    @cached_property
    def distance(self) -> float:
        """FD(H, R)."""
        return frechet_distance(self.held, self.rest)

    def ratio(self, samples: Tensor) -> float:
        """FDr of the features of samples, with shape :math:`(N, D)`; infinite if FD(H, R) is 0."""
        if not self.distance:
            return math.inf
        count = min(len(samples), len(self.held))
        parts = samples[: len(samples) // count * count].split(count)
        distances = [frechet_distance(part, self.rest) for part in parts]
        return sum(distances) / len(distances) / self.distance

    def standard_error(self, samples: Tensor) -> float:
        """That of the ratio, by a grouped jackknife over samples, held-out images and the rest."""
        variances = [
            _grouped_jackknife(samples, self.ratio),
            _grouped_jackknife(self.held, lambda held: HeldOut(held, self.rest).ratio(samples)),
            _grouped_jackknife(self.rest, lambda rest: HeldOut(self.held, rest).ratio(samples)),
        ]
        return math.sqrt(sum(variances))


def too_few(num_images: int, num_samples: int) -> str | None:
    """Why there is no ratio with so many images and samples, in one line, or None."""
    if min(num_images // 2, num_samples) >= LEAST:
        return None
    return (
        f"{num_samples} samples and {num_images} images are too few for a held-out half: FDr needs "
        f"{LEAST} samples and {2 * LEAST} images"
    )


def _grouped_jackknife(rows: Tensor, statistic: Callable[[Tensor], float]) -> float:
    """Variance of a statistic of rows, from its values without each of a few groups of them."""
    group = torch.arange(len(rows)) % NUM_GROUPS
    without = [statistic(rows[group != k]) for k in range(NUM_GROUPS)]
    return (NUM_GROUPS - 1) * float(torch.tensor(without).var(correction=0))
