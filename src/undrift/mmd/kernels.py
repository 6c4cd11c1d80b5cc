r"""Kernels between samples: functions of the squared distance, and one of the inner product.

A kernel :math:`k(x, y) = g(\|\varphi(x) - \varphi(y)\|^2)` turns two distributions into points of a
Hilbert space, and :math:`\mathrm{MMD}` (:mod:`undrift.mmd.estimate`) is the distance of these
points. Here

.. math::
    k_{\text{RBF}}(x, y) = \frac{1}{M} \sum_{i=1}^{M} \exp\!\Big({-\frac{\|x-y\|^2}{m_i\, b}}\Big),
    \qquad
    k_{\text{Laplace}}(x, y) = \exp\!\Big({-\frac{\|x-y\|}{\sqrt{m\, b}}}\Big),
    \qquad
    k_{\text{energy}}(x, y) = -\|x - y\|,

with multipliers :math:`m_i` of one bandwidth :math:`b`, in units of a squared distance. The
averaged mixture has :math:`0 \le k \le 1` and :math:`k(x, x) = 1`, which the bounds on the
Kullback-Leibler divergence need. The bandwidth is a statistic of the *forward* samples
:math:`y \sim q_t` alone, so that the kernel does not change with the model that is measured.
:math:`\varphi` is a feature map, by default the identity.

Five multipliers cost as much as one: for :math:`e = \exp(-\|x-y\|^2 / (m_{\max} b))` the other
components are :math:`e^2, e^4, e^8, e^{16}`, that is repeated squaring. The methods for
inner loops, whose names end in ``_``, work in place on a buffer of squared distances.

References:
    | A Kernel Two-Sample Test (Gretton et al., 2012)
    | Equivalence of distance-based and RKHS-based statistics (Sejdinovic et al., 2013)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput, Limits
from undrift.mmd.bandwidth import (
    BandwidthRule,
    bandwidth_of,
    check_bandwidth,
    known_bandwidth,
)
from undrift.mmd.kernel import Kernel, RadialKernel

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class RBFMixture(RadialKernel):
    r"""Mixture of Gaussian kernels, one bandwidth times a few multipliers.

    .. math:: k(x, y) = \frac{1}{M} \sum_i \exp\!\Big({-\frac{\|x-y\|^2}{m_i\, b}}\Big)

    ``bandwidth="mean"`` and ``"median"`` are statistics of the squared distances within the forward
    samples. ``"pooled"`` with ``reduction="sum"`` is the rule of the code released with "On Error
    Propagation of Diffusion Models": the total of the pooled squared distances over
    :math:`N^2 - N`, and a sum of kernels that reaches :math:`M`, not 1.

    Arguments:
        bandwidth: :math:`b`, in squared units of the samples, or the rule that finds it.
        multipliers: :math:`m_i > 0`.
        reduction: ``"mean"`` for :math:`0 \le k \le 1`, or ``"sum"``.
        feature_map: :math:`\varphi`; None stands for the identity.

    Example:
        >>> import torch
        >>> y = torch.tensor([[0.0], [2.0]])
        >>> kernel = RBFMixture(multipliers=(1.0,)).fit(y)
        >>> kernel.bandwidth
        4.0
        >>> kernel(y, y)
        tensor([[1.0000, 0.3679],
                [0.3679, 1.0000]])
    """

    name: ClassVar[str] = "rbf_mixture"
    bandwidth: float | BandwidthRule = "mean"
    multipliers: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        check_bandwidth(self.bandwidth)
        if not self.multipliers or not all(0 < m < math.inf for m in self.multipliers):
            raise InvalidInput(f"multipliers {self.multipliers} must be positive, at least one")
        if self.reduction not in get_args(Reduction):
            raise InvalidInput(f"reduction {self.reduction!r}: use 'mean' or 'sum'")

    @property
    def self_value(self) -> float:
        r""":math:`k(x, x)`: 1, or the number of kernels if they are summed."""
        return 1.0 if self.reduction == "mean" else float(len(self.multipliers))

    @property
    def scales(self) -> tuple[float, ...]:
        r""":math:`m_i b`, the largest first."""
        bandwidth = known_bandwidth(self.bandwidth)
        return tuple(m * bandwidth for m in sorted(self.multipliers, reverse=True))

    @property
    def resolution(self) -> float:
        """The squared distance at which the kernel changes: the smallest scale."""
        return self.scales[-1]

    @property
    def weight(self) -> float:
        """The weight of one component: :math:`1/M`, or 1 if the components are summed."""
        return 1 / len(self.multipliers) if self.reduction == "mean" else 1.0

    def fit_features(self, y: Tensor, x: Tensor | None = None) -> Self:
        """Fix the bandwidth; a bandwidth that is already a number stays."""
        if not isinstance(self.bandwidth, str):
            return self
        return replace(self, bandwidth=bandwidth_of(self.bandwidth, y, x))

    def radial(self, sq_dist: Tensor) -> Tensor:
        """Kernel values of squared distances, differentiable."""
        components = [(-sq_dist / scale).exp() for scale in self.scales]
        return self.weight * torch.stack(components).sum(0)

    def radial_(self, sq_dist: Tensor) -> Tensor:
        """Kernel values in place of the squared distances."""
        components = self._components_(sq_dist)
        total = next(components)[0].clone() if len(self.multipliers) > 1 else next(components)[0]
        for component, _ in components:
            total.add_(component)
        return total.mul_(self.weight) if self.weight != 1 else total

    def sum_and_slope_(self, sq_dist: Tensor) -> tuple[Tensor, Tensor]:
        r"""The sum of :math:`k`, and :math:`\partial k/\partial \|x-y\|^2`; destroys its input."""
        components = self._components_(sq_dist)
        component, scale = next(components)
        total, slope = component.sum(), component * (-self.weight / scale)
        for component, scale in components:
            total += component.sum()
            slope.add_(component, alpha=-self.weight / scale)
        return total * self.weight, slope

    def _components_(self, sq_dist: Tensor) -> Iterator[tuple[Tensor, float]]:
        """Each component in turn in the same buffer, as a power of the one before it."""
        scales = self.scales
        component = sq_dist.mul_(-1 / scales[0]).exp_()
        yield component, scales[0]
        for wider, scale in zip(scales, scales[1:], strict=False):
            ratio = wider / scale
            if ratio != 1:
                component = component.square_() if ratio == 2 else component.pow_(ratio)
            yield component, scale


@dataclass(frozen=True)
class LaplaceKernel(RadialKernel):
    r"""The Laplace kernel, sharper at small distances than a Gaussian one and with a heavier tail.

    .. math:: k(x, y) = \exp\!\Big({-\frac{\|x-y\|}{\sqrt{m\, b}}}\Big)

    At :math:`x = y`, where it has a kink, its gradient is taken as 0.

    Arguments:
        bandwidth: :math:`b`, in squared units of the samples, or the rule that finds it.
        multiplier: :math:`m > 0`.
        feature_map: :math:`\varphi`; None stands for the identity.

    References:
        | Inductive Moment Matching (Zhou et al., 2025)

    Example:
        >>> import torch
        >>> y = torch.tensor([[0.0], [2.0]])
        >>> LaplaceKernel().fit(y)(y, y)
        tensor([[1.0000, 0.3679],
                [0.3679, 1.0000]])
    """

    name: ClassVar[str] = "laplace"
    bandwidth: float | BandwidthRule = "mean"
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        check_bandwidth(self.bandwidth)
        Limits(0, ends="()").check("multiplier of the bandwidth", self.multiplier)

    @property
    def self_value(self) -> float:
        r""":math:`k(x, x) = 1`."""
        return 1.0

    @property
    def resolution(self) -> float:
        r"""The squared distance at which the kernel changes: :math:`m b`."""
        return self.multiplier * known_bandwidth(self.bandwidth)

    def fit_features(self, y: Tensor, x: Tensor | None = None) -> Self:
        """Fix the bandwidth; a bandwidth that is already a number stays."""
        if not isinstance(self.bandwidth, str):
            return self
        return replace(self, bandwidth=bandwidth_of(self.bandwidth, y, x))

    def radial(self, sq_dist: Tensor) -> Tensor:
        """Kernel values of squared distances, differentiable."""
        return (-_root(sq_dist) / math.sqrt(self.resolution)).exp()

    def radial_(self, sq_dist: Tensor) -> Tensor:
        """Kernel values in place of the squared distances."""
        return sq_dist.sqrt_().mul_(-1 / math.sqrt(self.resolution)).exp_()

    def sum_and_slope_(self, sq_dist: Tensor) -> tuple[Tensor, Tensor]:
        r"""The sum of :math:`k`, and :math:`\partial k/\partial \|x-y\|^2`; destroys its input."""
        length = math.sqrt(self.resolution)
        distance = sq_dist.sqrt_()
        values = (distance / -length).exp_()
        total, inverse = values.sum(), distance.reciprocal_().nan_to_num_(posinf=0.0)
        return total, inverse.mul_(values).mul_(-0.5 / length)


@dataclass(frozen=True)
class EnergyKernel(RadialKernel):
    r"""The kernel of the energy distance, without a bandwidth.

    .. math:: k(x, y) = -\|x - y\|

    Conditionally positive definite, which suffices: the weights of MMD sum to zero, and
    :math:`\mathrm{MMD}^2 = 2 E\|x-y\| - E\|x-x'\| - E\|y-y'\|`. It is unbounded, so the bounds on
    the Kullback-Leibler divergence do not apply to it. At :math:`x = y` its gradient is taken as 0.

    References:
        | Equivalence of distance-based and RKHS-based statistics (Sejdinovic et al., 2013)
    """

    name: ClassVar[str] = "energy"

    @property
    def self_value(self) -> float:
        r""":math:`k(x, x) = 0`."""
        return 0.0

    def radial(self, sq_dist: Tensor) -> Tensor:
        """Kernel values of squared distances, differentiable."""
        return -_root(sq_dist)

    def radial_(self, sq_dist: Tensor) -> Tensor:
        """Kernel values in place of the squared distances."""
        return sq_dist.sqrt_().neg_()

    def sum_and_slope_(self, sq_dist: Tensor) -> tuple[Tensor, Tensor]:
        r"""The sum of :math:`k`, and :math:`\partial k/\partial \|x-y\|^2`; destroys its input."""
        distance = sq_dist.sqrt_()
        total = -distance.sum()
        return total, distance.reciprocal_().nan_to_num_(posinf=0.0).mul_(-0.5)


@dataclass(frozen=True)
class PolynomialKernel(Kernel):
    r"""A polynomial of the inner product, by default the cubic one of the kernel distance (KID).

    .. math:: k(x, y) = (\gamma \langle x, y \rangle + c)^p

    It is unbounded and no function of the distance: of the estimates only ``mmd_estimate`` takes
    it, and no bound on the Kullback-Leibler divergence follows from it.

    Arguments:
        degree: :math:`p`.
        gamma: :math:`\gamma`; None takes :math:`1/D`.
        coefficient: :math:`c`.

    References:
        | Demystifying MMD GANs (Bińkowski et al., 2018)
    """

    name: ClassVar[str] = "polynomial"
    degree: int = 3
    gamma: float | None = None
    coefficient: float = 1.0

    def fit_features(self, y: Tensor, x: Tensor | None = None) -> Self:
        r"""Fix :math:`\gamma`."""
        return self if self.gamma is not None else replace(self, gamma=1 / y.shape[1])

    def values(self, x: Tensor, y: Tensor, x_sq: Tensor, y_sq: Tensor) -> Tensor:
        """The kernel of all rows, in a new tensor."""
        gamma = 1 / x.shape[1] if self.gamma is None else self.gamma
        return (x @ y.T).mul_(gamma).add_(self.coefficient).pow_(self.degree)

    def gram(self, x: Tensor, y: Tensor) -> Tensor:
        """The kernel of all rows of features, differentiable."""
        gamma = 1 / x.shape[1] if self.gamma is None else self.gamma
        return (gamma * (x @ y.T) + self.coefficient).pow(self.degree)


def _root(sq_dist: Tensor) -> Tensor:
    """Distances, differentiable, with gradient 0 where they are 0."""
    positive = sq_dist > 0
    return torch.where(positive, sq_dist, 1.0).sqrt() * positive
