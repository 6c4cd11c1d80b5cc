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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.mmd.kernels import RadialKernel
from undrift.quality.frechet import FrechetStatistics
from undrift.reporting.numbers import Z_95

NUM_GROUPS = 20
SAMPLES_PER_FEATURE = 2
"""Samples per feature, of both sides, that removing the bias of a Fréchet distance takes."""

Left = int | None
Distance = Callable[[Left, Left], float]
"""A distance as a function of the group of chains and the group of data that are left out."""


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
        return self.interval[0] > 0 or self.interval[1] < 0


def _change(best: Distance, none: Distance, *, is_biased: bool = False) -> Change:
    """Both distances on everything, and the jackknife of their difference."""
    groups, wholes, left_out = range(NUM_GROUPS), [], []
    for distance in (best, none):
        whole = distance(None, None)
        without = [[distance(g, None) for g in groups], [distance(None, g) for g in groups]]
        terms = torch.tensor(without, dtype=torch.float64)
        bias = (NUM_GROUPS - 1) * float((terms.mean(1) - whole).sum())
        wholes.append(whole - bias if is_biased else whole)
        left_out.append(terms)
    variance = float((left_out[0] - left_out[1]).var(1, correction=0).sum())
    difference, error = wholes[0] - wholes[1], math.sqrt((NUM_GROUPS - 1) * variance)
    half = Z_95 * error
    interval = (difference - half, difference + half)
    return Change(wholes[1], wholes[0], difference, error, interval)


def _groups(count: int) -> list[slice]:
    ends = [count * g // NUM_GROUPS for g in range(NUM_GROUPS + 1)]
    return [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]


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
    within = _kernel_sums(y, y, kernel)
    near, far = (
        _mmd_of(_kernel_sums(x, x, kernel), within, _kernel_sums(x, y, kernel), len(x), len(y))
        for x in (best, none)
    )
    return _change(near, far)


def _kernel_sums(x: Tensor, y: Tensor, kernel: RadialKernel) -> Tensor:
    """Sums of the kernel over pairs of groups, without pairs of a point with itself."""
    rows, columns = _groups(len(x)), _groups(len(y))
    sums = torch.stack(
        [
            torch.stack([tile[:, c].double().sum() for c in columns])
            for tile in (kernel(x[r], y) for r in rows)
        ]
    )
    if x is y:
        sizes = torch.tensor([r.stop - r.start for r in rows], dtype=sums.dtype)
        sums.diagonal().sub_(kernel.self_value * sizes)
    return sums


def _mmd_of(xx: Tensor, yy: Tensor, xy: Tensor, n: int, m: int) -> Distance:
    sizes = [torch.tensor([g.stop - g.start for g in _groups(k)]).double() for k in (n, m)]

    def value(chains: Left, data: Left) -> float:
        keep_x, keep_y = _kept(chains), _kept(data)
        n, m = float(sizes[0][keep_x].sum()), float(sizes[1][keep_y].sum())
        within = xx[keep_x][:, keep_x].sum() / (n * (n - 1))
        within = within + yy[keep_y][:, keep_y].sum() / (m * (m - 1))
        return float(within - 2 * xy[keep_x][:, keep_y].sum() / (n * m))

    return value


def frechet_change(best: Tensor, none: Tensor, y: Tensor) -> Change:
    """Change of the Fréchet distance of features, each with shape (N, D), bias removed.

    See :func:`mmd_change`. Each of 82 distances costs :math:`O(D^3)`.
    """
    of_y = _statistics(y)

    def distance(x: Tensor) -> Distance:
        of_x = _statistics(x)
        return lambda chains, data: of_x(chains).distance(of_y(data))

    return _change(distance(best), distance(none), is_biased=True)


def _statistics(x: Tensor) -> Callable[[Left], FrechetStatistics]:
    """Statistics of all features (of None), and of those without a group."""
    whole, groups = FrechetStatistics.of(x), _groups(len(x))

    def of(left_out: Left) -> FrechetStatistics:
        if left_out is None:
            return whole
        return whole.without(FrechetStatistics.of(x[groups[left_out]]))

    return of


def _kept(left_out: Left) -> Tensor:
    return torch.tensor([g for g in range(NUM_GROUPS) if g != left_out])
