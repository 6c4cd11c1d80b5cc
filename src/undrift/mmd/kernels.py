r"""Kernels between samples, as functions of the squared distance.

A kernel :math:`k(x, y) = g(\|\varphi(x) - \varphi(y)\|^2)` turns two distributions into points of a
Hilbert space, and :math:`\mathrm{MMD}` (:mod:`undrift.mmd.estimate`) is the distance of these
points. Here

.. math::
    k_{\text{RBF}}(x, y) = \frac{1}{M} \sum_{i=1}^{M} \exp\!\Big({-\frac{\|x-y\|^2}{m_i\, b}}\Big),
    \qquad
    k_{\text{energy}}(x, y) = -\|x - y\|,

with multipliers :math:`m_i` of one bandwidth :math:`b`, in units of a squared distance. The
averaged mixture has :math:`0 \le k \le 1` and :math:`k(x, x) = 1`, which the bounds on the
Kullback-Leibler divergence need. The bandwidth is a statistic of the *forward* samples
:math:`y \sim q_t` alone, so that the yardstick does not move with the model that is measured.
:math:`\varphi` is a feature map, by default the identity.

Five multipliers cost as much as one: for :math:`e = \exp(-\|x-y\|^2 / (m_{\max} b))` the other
components are :math:`e^2, e^4, e^8, e^{16}`, that is repeated squaring. What the rest of the
library calls in its inner loops works in place on a buffer of squared distances (names ending in
``_``).

References:
    | A Kernel Two-Sample Test (Gretton et al., 2012)
    | Equivalence of distance-based and RKHS-based statistics (Sejdinovic et al., 2013)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, cast, get_args

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput

BandwidthRule = Literal["mean", "median", "pooled"]
Reduction = Literal["mean", "sum"]
FeatureMap = Callable[[Tensor], Tensor]

MEDIAN_SUBSAMPLE = 1024


def squared_distances(
    x: Tensor, y: Tensor, x_sq: Tensor | None = None, y_sq: Tensor | None = None
) -> Tensor:
    r"""Squared distances between all rows, from one matrix product.

    .. math:: \|x_i - y_j\|^2 = \|x_i\|^2 + \|y_j\|^2 - 2 \langle x_i, y_j \rangle

    The cancellation costs digits where the norms exceed the distances by much: center the samples.

    Arguments:
        x: Samples, with shape :math:`(N, D)`.
        y: Samples, with shape :math:`(M, D)`.
        x_sq: Squared norms of the rows of ``x``, with shape :math:`(N)`, if known.
        y_sq: Squared norms of the rows of ``y``, with shape :math:`(M)`, if known.

    Returns:
        The squared distances, not below zero, with shape :math:`(N, M)`.
    """
    x_sq = x.square().sum(1) if x_sq is None else x_sq
    y_sq = y.square().sum(1) if y_sq is None else y_sq
    return torch.addmm(y_sq, x, y.T, alpha=-2).add_(x_sq[:, None]).clamp_(min=0)


def mean_squared_distance(y: Tensor) -> float:
    r"""Mean squared distance between different samples, exactly, in :math:`O(ND)`.

    .. math::
        \frac{1}{N(N-1)} \sum_{i \ne j} \|y_i - y_j\|^2
        = \frac{2}{N-1} \sum_i \|y_i - \bar y\|^2

    Arguments:
        y: Samples, with shape :math:`(N, D)`.

    Returns:
        The mean, in squared units of ``y``.
    """
    center = y.mean(0)
    about_zero = float(torch.linalg.vector_norm(y, dim=1).square_().sum())
    total = about_zero - len(y) * float(center.square().sum())
    if total < 0.1 * about_zero:  # too many digits were lost
        total = sum(float((rows - center).square_().sum()) for rows in y.split(1024))
    return 2 * total / (len(y) - 1)


def median_squared_distance(y: Tensor, *, max_samples: int = MEDIAN_SUBSAMPLE) -> float:
    r"""Median squared distance between different samples, on a bounded subsample.

    Beyond ``max_samples`` rows the median is that of a random subset, always the same one for the
    same number of rows, so that a bandwidth is reproducible.

    Arguments:
        y: Samples, with shape :math:`(N, D)`.
        max_samples: The largest number of rows that enter the median.

    Returns:
        The median, in squared units of ``y``.
    """
    if len(y) > max_samples:
        chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:max_samples]
        y = y[chosen.to(y.device)]
    y = y - y.mean(0)
    rows, columns = torch.triu_indices(len(y), len(y), offset=1, device=y.device)
    return float(squared_distances(y, y)[rows, columns].median())


@dataclass(frozen=True)
class Kernel(ABC):
    r"""A kernel that is a function of the squared distance of features.

    Arguments:
        feature_map: :math:`\varphi`, a function of a batch, for instance a network in evaluation
            mode or :class:`RandomFourierFeatures`. None stands for the identity.
    """

    name: ClassVar[str]
    feature_map: FeatureMap | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def is_fitted(self) -> bool:
        """Whether the kernel is a fixed function that needs no samples to set a bandwidth."""

    @property
    @abstractmethod
    def self_value(self) -> float:
        r""":math:`k(x, x)`, the same for every :math:`x`."""

    @abstractmethod
    def fit_features(self, y: Tensor, x: Tensor | None = None) -> Self:
        r"""Fix the bandwidth from features that are already computed, with shape :math:`(N, D)`."""

    @abstractmethod
    def radial(self, sq_dist: Tensor) -> Tensor:
        """Kernel values of squared distances, differentiable."""

    @abstractmethod
    def radial_(self, sq_dist: Tensor) -> Tensor:
        """Kernel values in place of the squared distances."""

    @abstractmethod
    def sum_and_slope_(self, sq_dist: Tensor) -> tuple[Tensor, Tensor]:
        r"""The sum of :math:`k`, and :math:`\partial k/\partial \|x-y\|^2`; destroys its input."""

    def features(self, samples: Tensor) -> Tensor:
        r"""Features of samples, one row each, with shape :math:`(N, D)`."""
        mapped = samples if self.feature_map is None else self.feature_map(samples)
        rows = mapped.shape[0] if mapped.ndim else 1
        return mapped.reshape(rows, math.prod(mapped.shape[1:]))

    def fit(self, y: Tensor, x: Tensor | None = None) -> Self:
        r"""Fix the bandwidth.

        Arguments:
            y: Forward samples, with shape :math:`(N, *)`.
            x: Generated samples, needed by the rule ``"pooled"`` only, with shape :math:`(M, *)`.

        Returns:
            The same kernel with a number as its bandwidth.
        """
        with torch.no_grad():
            return self.fit_features(self.features(y), None if x is None else self.features(x))

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        r"""The dense kernel matrix, differentiable, for samples few enough.

        Arguments:
            x: Samples, with shape :math:`(N, *)`.
            y: Samples, with shape :math:`(M, *)`.

        Returns:
            :math:`k(x_i, y_j)`, with shape :math:`(N, M)`.
        """
        if not self.is_fitted:
            raise InvalidInput("the kernel has no bandwidth yet: call kernel.fit(y) first")
        return self.radial(squared_distances(self.features(x), self.features(y)))

    def to_dict(self) -> dict[str, Any]:
        """The kernel as plain data; a feature map is recorded by its name only."""
        mapped = self.feature_map
        label = None if mapped is None else getattr(mapped, "__name__", type(mapped).__name__)
        return {"kernel": self.name, "feature_map": label}

    @staticmethod
    def from_dict(data: Mapping[str, Any], feature_map: FeatureMap | None = None) -> Kernel:
        """The kernel that :meth:`to_dict` described.

        Arguments:
            data: What :meth:`to_dict` returned.
            feature_map: The feature map, which plain data cannot hold.
        """
        arguments = {key: value for key, value in data.items() if key not in _NOT_ARGUMENTS}
        kinds = {kind.name: kind for kind in (RBFMixture, EnergyKernel)}
        if data.get("kernel") not in kinds:
            raise InvalidInput(f"kernel {data.get('kernel')!r} is unknown: use one of {[*kinds]}")
        if data.get("feature_map") is not None and feature_map is None:
            raise InvalidInput(f"pass feature_map: the kernel used {data['feature_map']!r}")
        if "multipliers" in arguments:
            arguments["multipliers"] = tuple(arguments["multipliers"])
        return cast(Kernel, kinds[data["kernel"]](**arguments, feature_map=feature_map))


_NOT_ARGUMENTS = ("kernel", "feature_map")


@dataclass(frozen=True)
class RBFMixture(Kernel):
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
        rules = get_args(BandwidthRule)
        if isinstance(self.bandwidth, str):
            if self.bandwidth not in rules:
                raise InvalidInput(f"bandwidth {self.bandwidth!r}: use a number or one of {rules}")
        elif not (self.bandwidth > 0 and math.isfinite(self.bandwidth)):
            raise InvalidInput(f"bandwidth {self.bandwidth} must be positive and finite")
        if not self.multipliers or not all(0 < m < math.inf for m in self.multipliers):
            raise InvalidInput(f"multipliers {self.multipliers} must be positive, at least one")
        if self.reduction not in get_args(Reduction):
            raise InvalidInput(f"reduction {self.reduction!r}: use 'mean' or 'sum'")

    @property
    def is_fitted(self) -> bool:
        """Whether the bandwidth is a number."""
        return not isinstance(self.bandwidth, str)

    @property
    def self_value(self) -> float:
        r""":math:`k(x, x)`: 1, or the number of kernels if they are summed."""
        return 1.0 if self.reduction == "mean" else float(len(self.multipliers))

    @property
    def scales(self) -> tuple[float, ...]:
        r""":math:`m_i b`, the largest first."""
        if isinstance(self.bandwidth, str):
            raise InvalidInput("the kernel has no bandwidth yet: call kernel.fit(y) first")
        return tuple(m * self.bandwidth for m in sorted(self.multipliers, reverse=True))

    @property
    def weight(self) -> float:
        """The weight of one component: :math:`1/M`, or 1 if the components are summed."""
        return 1 / len(self.multipliers) if self.reduction == "mean" else 1.0

    def fit_features(self, y: Tensor, x: Tensor | None = None) -> Self:
        """Fix the bandwidth; a bandwidth that is already a number stays."""
        if not isinstance(self.bandwidth, str):
            return self
        if self.bandwidth == "pooled":
            if x is None:
                raise InvalidInput("bandwidth 'pooled' needs both samples: call kernel.fit(y, x)")
            y = torch.cat([x, y])
        if len(y) < 2:
            raise InvalidInput(f"a bandwidth needs 2 forward samples or more, not {len(y)}")
        y = y.detach().to(torch.promote_types(y.dtype, torch.float32))
        rule = median_squared_distance if self.bandwidth == "median" else mean_squared_distance
        if not (bandwidth := rule(y)) > 0 or not math.isfinite(bandwidth):
            raise InvalidInput(
                f"the {self.bandwidth} squared distance of the forward samples is {bandwidth}: "
                "pass samples that are finite and differ, or a number as the bandwidth"
            )
        return replace(self, bandwidth=bandwidth)

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

    def to_dict(self) -> dict[str, Any]:
        """The kernel as plain data."""
        own = {
            "bandwidth": self.bandwidth,
            "multipliers": list(self.multipliers),
            "reduction": self.reduction,
        }
        return {**super().to_dict(), **own}


@dataclass(frozen=True)
class EnergyKernel(Kernel):
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
    def is_fitted(self) -> bool:
        """True: there is no bandwidth."""
        return True

    @property
    def self_value(self) -> float:
        r""":math:`k(x, x) = 0`."""
        return 0.0

    def fit_features(self, y: Tensor, x: Tensor | None = None) -> Self:
        """The kernel itself: there is nothing to fit."""
        return self

    def radial(self, sq_dist: Tensor) -> Tensor:
        """Kernel values of squared distances, differentiable."""
        positive = sq_dist > 0
        return -torch.where(positive, sq_dist, 1.0).sqrt() * positive

    def radial_(self, sq_dist: Tensor) -> Tensor:
        """Kernel values in place of the squared distances."""
        return sq_dist.sqrt_().neg_()

    def sum_and_slope_(self, sq_dist: Tensor) -> tuple[Tensor, Tensor]:
        r"""The sum of :math:`k`, and :math:`\partial k/\partial \|x-y\|^2`; destroys its input."""
        distance = sq_dist.sqrt_()
        total = -distance.sum()
        return total, distance.reciprocal_().nan_to_num_(posinf=0.0).mul_(-0.5)


@dataclass(frozen=True, eq=False)
class RandomFourierFeatures:
    r"""Random features whose inner product approximates a Gaussian kernel.

    .. math::
        \varphi(x) = \sqrt{2/F}\, \cos(\Omega^\top x + \beta), \qquad
        E \langle \varphi(x), \varphi(y) \rangle = \exp(-\|x-y\|^2 / b)

    with :math:`\Omega_{ij} \sim N(0, 2/b)` and :math:`\beta_j \sim U(0, 2\pi)`.

    Arguments:
        frequencies: :math:`\Omega`, with shape :math:`(D, F)`.
        phases: :math:`\beta`, with shape :math:`(F)`.

    References:
        | Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007)
    """

    frequencies: Tensor
    phases: Tensor

    @classmethod
    def draw(
        cls, num_dims: int, num_features: int, bandwidth: float, *, generator: torch.Generator
    ) -> Self:
        r"""Draw the frequencies.

        Arguments:
            num_dims: :math:`D`, the number of entries of one sample.
            num_features: :math:`F`.
            bandwidth: :math:`b`, in squared units of the samples.
            generator: Makes the features reproducible.
        """
        shape = (num_dims, num_features)
        options: dict[str, Any] = {"generator": generator, "device": generator.device}
        frequencies = torch.randn(shape, **options) * math.sqrt(2 / bandwidth)
        return cls(frequencies, 2 * math.pi * torch.rand(num_features, **options))

    def __call__(self, x: Tensor) -> Tensor:
        r"""Features, with shape :math:`(N, F)`, of samples with shape :math:`(N, *)`."""
        frequencies, phases = self.frequencies.to(x), self.phases.to(x)
        scale = math.sqrt(2 / len(phases))
        return torch.addmm(phases, x.flatten(1), frequencies).cos().mul(scale)
