"""What kernels have in common: features, a bandwidth that is fitted, and their form as plain data.

The kernels themselves are in :mod:`undrift.mmd.kernels`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.mmd.distances import squared_distances

FeatureMap = Callable[[Tensor], Tensor]
KINDS: dict[str, type[Kernel]] = {}
"""Kernels by name."""


@dataclass(frozen=True)
class Kernel(ABC):
    r"""A kernel between the features of samples.

    Arguments:
        feature_map: :math:`\varphi`, a function of a batch, for instance a network in evaluation
            mode. None stands for the identity.
    """

    name: ClassVar[str]
    feature_map: FeatureMap | None = field(default=None, kw_only=True)

    def __init_subclass__(cls) -> None:
        """Make a kernel with a name known to :meth:`from_dict`."""
        if "name" in vars(cls):
            KINDS[cls.name] = cls

    @property
    def resolution(self) -> float:
        """The squared distance at which the kernel changes; infinite where it has no bandwidth."""
        return math.inf

    def fit_features(self, y: Tensor, x: Tensor | None = None) -> Self:
        r"""Fix the bandwidth, if there is one, from features with shape :math:`(N, D)`."""
        return self

    @abstractmethod
    def values(self, x: Tensor, y: Tensor, x_sq: Tensor, y_sq: Tensor) -> Tensor:
        r"""The kernel of all rows, in a new tensor.

        Arguments:
            x: Features, with shape :math:`(N, D)`.
            y: Features, with shape :math:`(M, D)`.
            x_sq: Squared norms of the rows of ``x``, with shape :math:`(N)`.
            y_sq: Squared norms of the rows of ``y``, with shape :math:`(M)`.
        """

    @abstractmethod
    def gram(self, x: Tensor, y: Tensor) -> Tensor:
        """The kernel of all rows of features, with shape :math:`(N, M)`, differentiable."""

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

    def to_dict(self) -> dict[str, Any]:
        """The kernel as plain data; a feature map is recorded by its name only."""
        mapped = self.feature_map
        label = None if mapped is None else getattr(mapped, "__name__", type(mapped).__name__)
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"kernel": self.name, **own, "feature_map": label}

    @staticmethod
    def from_dict(data: Mapping[str, Any], feature_map: FeatureMap | None = None) -> Kernel:
        """The kernel that :meth:`to_dict` described.

        Arguments:
            data: What :meth:`to_dict` returned.
            feature_map: The feature map, which plain data cannot hold.

        Raises:
            InvalidInput: If the kernel is unknown, or its feature map is missing.
        """
        options = dict(data)
        name, label = options.pop("kernel", None), options.pop("feature_map", None)
        if name not in KINDS:
            raise InvalidInput(f"kernel {name!r} is unknown: use one of {[*KINDS]}")
        if label is not None and feature_map is None:
            raise InvalidInput(f"pass feature_map: the kernel used {label!r}")
        if "multipliers" in options:
            options["multipliers"] = tuple(options["multipliers"])
        return KINDS[name](**options, feature_map=feature_map)


@dataclass(frozen=True)
class RadialKernel(Kernel):
    """A kernel that is a function of the squared distance of features."""

    @property
    @abstractmethod
    def self_value(self) -> float:
        r""":math:`k(x, x)`, the same for every :math:`x`."""

    @abstractmethod
    def radial(self, sq_dist: Tensor) -> Tensor:
        """Kernel values of squared distances, differentiable."""

    @abstractmethod
    def radial_(self, sq_dist: Tensor) -> Tensor:
        """Kernel values in place of the squared distances."""

    @abstractmethod
    def sum_and_slope_(self, sq_dist: Tensor) -> tuple[Tensor, Tensor]:
        r"""The sum of :math:`k`, and :math:`\partial k/\partial \|x-y\|^2`; destroys its input."""

    def values(self, x: Tensor, y: Tensor, x_sq: Tensor, y_sq: Tensor) -> Tensor:
        """The kernel of all rows, in a new tensor."""
        return self.radial_(squared_distances(x, y, x_sq, y_sq))

    def gram(self, x: Tensor, y: Tensor) -> Tensor:
        """The kernel of all rows of features, differentiable."""
        return self.radial(squared_distances(x, y))

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        r"""The dense kernel matrix, differentiable; it is stored as a whole.

        Arguments:
            x: Samples, with shape :math:`(N, *)`.
            y: Samples, with shape :math:`(M, *)`.

        Returns:
            :math:`k(x_i, y_j)`, with shape :math:`(N, M)`.
        """
        x, y = self.features(x), self.features(y)
        center = y.detach().mean(0)
        return self.radial(squared_distances(x - center, y - center))
