r"""The difference between two chains that share their noise, with its standard error.

.. math:: \Delta = d(p^{best}, q) - d(p^{none}, q)

for a distance d between samples: the unbiased :math:`\mathrm{MMD}^2`, or the Fréchet distance of
features. Chain i of one has the noise of chain i of the other, and both are compared with the same
data, so most of the noise cancels and neither distance's own error bar is that of the difference.
The jackknife leaves out one of G groups of chains, from both at once, then one of G groups of data,

.. math:: \hat\sigma^2 = \frac{G-1}{G} \sum_g \big[ (\Delta_{-g} - \bar\Delta_-)^2
                     + (\Delta^{-g} - \bar\Delta^-)^2 \big].

The Fréchet distance of samples is biased upward, and less so for a chain whose samples spread less:
its plain difference favors samplers whose samples spread too little. The jackknife estimates the
bias too,

.. math:: \hat d = d - (G-1) \big[ (\bar d_- - d) + (\bar d^- - d) \big],

and it is removed from every Fréchet distance here. That takes two samples for each feature, of both
sides: with fewer the bias is no longer of the first order.

References:
    | The Jackknife and the Bootstrap (Shao & Tu, 1995)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from undrift.mmd.kernel import RadialKernel
from undrift.quality.frechet import FrechetStatistics
from undrift.reporting.numbers import Z_95, is_distinguishable

NUM_GROUPS = 20
SAMPLES_PER_FEATURE = 2
"""Samples per feature, of both sides, that removing the bias of a Fréchet distance takes."""


class Distance(NamedTuple):
    """A distance, and what it is without each group of chains and of data, with shape (2, G)."""

    whole: float
    without: Tensor


@dataclass(frozen=True)
class Change:
    r"""How a metric changes from none to the best strength, on the held-out half.

    Arguments:
        none: The metric without the remedy, with the bias removed.
        best: The metric with it.
        difference: best − none.
        standard_error: Of the difference, with common noise.
        interval: 95 % interval of the difference.
    """

    none: float
    best: float
    difference: float
    standard_error: float
    interval: tuple[float, float]

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return is_distinguishable(*self.interval)


def _change(best: Distance, none: Distance, *, is_biased: bool = False) -> Change:
    """The jackknife of the difference; of biased distances, also of the bias of both."""
    wholes = [best.whole, none.whole]
    if is_biased:
        biases = ((NUM_GROUPS - 1) * (d.without.mean(1) - d.whole).sum() for d in (best, none))
        wholes = [whole - float(bias) for whole, bias in zip(wholes, biases, strict=True)]
    variance = float((best.without - none.without).var(1, correction=0).sum())
    difference, error = wholes[0] - wholes[1], math.sqrt((NUM_GROUPS - 1) * variance)
    interval = (difference - Z_95 * error, difference + Z_95 * error)
    return Change(wholes[1], wholes[0], difference, error, interval)


def _groups(x: Tensor) -> tuple[Tensor, ...]:
    return x.tensor_split([len(x) * g // NUM_GROUPS for g in range(1, NUM_GROUPS)])


def mmd_change(best: Tensor, none: Tensor, y: Tensor, kernel: RadialKernel) -> Change:
    r"""Change of the unbiased :math:`\mathrm{MMD}^2` to the data.

    Arguments:
        best: Samples of one chain, with shape :math:`(N, *)`.
        none: Samples of the other, from the same noise row by row, with the same shape.
        y: Data, with shape :math:`(M, *)`.
        kernel: A kernel with a bandwidth.

    Example:
        >>> from undrift.mmd.kernels import RBFMixture
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(2, 400, 2, generator=generator)
        >>> change = mmd_change(x, 1.5 * x, y, RBFMixture(bandwidth=4.0))
        >>> change.difference < 0, change.is_distinguishable
        (True, True)
    """
    yy = _within(y, kernel)

    def distance(x: Tensor) -> Distance:
        xx, (chains, data) = _within(x, kernel), _between(x, y, kernel)
        without = torch.stack([xx[1:] + yy[0] - 2 * chains[1:], xx[0] + yy[1:] - 2 * data[1:]])
        return Distance(float(xx[0] + yy[0] - 2 * chains[0]), without)

    return _change(distance(best), distance(none))


def _within(x: Tensor, kernel: RadialKernel) -> Tensor:
    """Mean kernel of pairs of different points: of all, and without each group."""
    sums = _kernel_sums(x, x, kernel)
    sizes = sums[1].diagonal().sqrt()
    sums.diagonal(dim1=1, dim2=2).sub_(torch.stack([kernel.self_value * sizes, sizes]))
    left_out = sums.sum(1) + sums.sum(2) - sums.diagonal(dim1=1, dim2=2)
    return _means(sums, left_out)


def _between(x: Tensor, y: Tensor, kernel: RadialKernel) -> tuple[Tensor, Tensor]:
    """Mean kernel of pairs of both sides: of all, and without each group of x, or of y."""
    sums = _kernel_sums(x, y, kernel)
    return _means(sums, sums.sum(2)), _means(sums, sums.sum(1))


def _means(sums: Tensor, left_out: Tensor) -> Tensor:
    whole = sums.sum((1, 2))[:, None]
    total, pairs = torch.cat([whole, whole - left_out], dim=1).unbind()
    return total / pairs


def _kernel_sums(x: Tensor, y: Tensor, kernel: RadialKernel) -> Tensor:
    """Sums of the kernel over pairs of groups, and the numbers of pairs, with shape (2, G, G)."""
    cells = [
        [(float(tile.sum(dtype=torch.float64)), tile.numel()) for tile in _groups(rows.T)]
        for rows in (kernel(part, y) for part in _groups(x))
    ]
    return torch.tensor(cells, dtype=torch.float64).movedim(2, 0)


def frechet_change(best: Tensor, none: Tensor, y: Tensor) -> Change:
    """Change of the Fréchet distance of features, each with shape (N, D), bias removed.

    See :func:`mmd_change`. Each of 82 distances costs :math:`O(D^3)`.
    """
    of_y, *parts_of_y = _statistics(y)

    def distance(x: Tensor) -> Distance:
        of_x, *parts_of_x = _statistics(x)
        without = [
            [part.distance(of_y) for part in parts_of_x],
            [of_x.distance(part) for part in parts_of_y],
        ]
        return Distance(of_x.distance(of_y), torch.tensor(without, dtype=torch.float64))

    return _change(distance(best), distance(none), is_biased=True)


def _statistics(x: Tensor) -> list[FrechetStatistics]:
    """Statistics of all features, and without each group."""
    whole = FrechetStatistics.of(x)
    return [whole, *(whole.without(FrechetStatistics.of(part)) for part in _groups(x))]
