r"""Statistics of states that show what drifts: energies of bands, and means.

States with a shape have frequencies. Each channel of :math:`x - \alpha_t m`, m the data's mean, is
written in the orthonormal discrete cosine transform, whose index along an axis counts half waves;
a band is an octave of the radius of the indices (scaled to the shorter side), the lowest one the
mean of the channel. Its energy is the mean of the squares of its coefficients, so that white noise
of variance :math:`\sigma^2` has energy :math:`\sigma^2` in every band. States without a shape have
the principal components of the data for frequencies, and the rank for a radius.

For forward draws the expectation given the datum is known,

.. math:: E[S(\alpha_t x_0 + \sigma_t \epsilon) \mid x_0] = \alpha_t^2\, S(x_0) + \sigma_t^2
          \text{ (energy)}, \qquad \alpha_t\, S(x_0) \text{ (mean)}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from undrift.measurement.scalar_state import Statistic

MOST_BANDS = 6
MOST_CHANNELS = 4
"""Beyond these all channels are taken together."""
MOST_COMPONENTS = 1024
"""Beyond this dimension, states without a shape have one band: all of their numbers."""
_CHUNK = 512


@dataclass(frozen=True)
class Statistics:
    """Energies of bands and means, of states of one shape.

    Arguments:
        listed: What they are: energies first, each band over all channels, then means.
        shape: Shape of a state with its channels first, :math:`(C, *)`.
        bases: One orthonormal matrix for each axis of a channel, rows are coefficients.
        bands: Membership of coefficients in bands, each column divided by the band's size, with
            shape :math:`(L, B)`.
        num_means: Number of means of each channel: its first coefficients.
        scale: Factor from such a coefficient to the mean.
    """

    listed: tuple[Statistic, ...]
    shape: tuple[int, ...]
    bases: tuple[Tensor, ...]
    bands: Tensor
    num_means: int
    scale: float

    @classmethod
    def of(cls, data: Tensor) -> Statistics:
        """The statistics for data of this shape.

        Arguments:
            data: Data, with shape :math:`(n, *)`, channels first where there is more than one axis.

        Example:
            >>> [s.name for s in Statistics.of(torch.zeros(9, 1, 8, 8)).listed]
            ['energy 0', 'energy 1-2', 'energy 2-4', 'energy from 4', 'mean']
        """
        axes = data.shape[2:] or data.shape[1:]
        channels = data.shape[1] if data.ndim > 2 else 1
        shape = (channels, *axes)
        is_frequency = data.ndim > 2
        if is_frequency:
            bases, radius = tuple(map(cosine_basis, axes)), _radius(axes)
        else:
            bases, radius = _components(data), torch.arange(axes[0], dtype=torch.float64)
        edges = _edges(min(axes) if is_frequency else len(bases[0]))
        high = [*edges[1:], math.inf]
        bands = torch.stack(
            [(radius >= a) & (radius < b) for a, b in zip(edges, high, strict=True)]
        )
        num_means = 1 if is_frequency else min(len(bases[0]), MOST_BANDS)
        listed = _listed(bands, edges, channels, is_frequency, num_means)
        weights = (bands / bands.sum(1, keepdim=True)).T.to(data)
        scale = math.prod(axes) ** -0.5 if is_frequency else 1.0
        return cls(listed, shape, tuple(b.to(data) for b in bases), weights, num_means, scale)

    @property
    def is_energy(self) -> Tensor:
        """Which of them are energies, with shape :math:`(K,)`."""
        return torch.tensor([statistic.kind == "energy" for statistic in self.listed])

    def values(self, deviations: Tensor) -> Tensor:
        r"""All statistics of states less their center.

        Arguments:
            deviations: :math:`x - \alpha_t m`, with shape :math:`(N, *)`.

        Returns:
            Values in float64 on the CPU, with shape :math:`(N, K)`.
        """
        return torch.cat([self._values(rows) for rows in deviations.split(_CHUNK)])

    def _values(self, deviations: Tensor) -> Tensor:
        coefficients = deviations.reshape(-1, *self.shape).to(self.bands)
        for axis, basis in enumerate(self.bases):
            coefficients = torch.movedim(
                torch.movedim(coefficients, axis + 2, -1) @ basis.T, -1, axis + 2
            )
        coefficients = coefficients.flatten(2)
        energies = coefficients.square() @ self.bands
        means = coefficients[..., : self.num_means] * self.scale
        if self.shape[0] > MOST_CHANNELS:
            energies, means = energies.mean(1, keepdim=True), means.mean(1, keepdim=True)
        return torch.cat([energies.flatten(1), means.flatten(1)], 1).double().cpu()


def cosine_basis(length: int) -> Tensor:
    r"""The orthonormal discrete cosine transform (II), one row for each frequency.

    .. math:: \sqrt{2/n}\, \cos\left(\tfrac{\pi}{n} (j + \tfrac12) k\right), \qquad
              \text{the first row } \sqrt{1/n}

    Example:
        >>> basis = cosine_basis(5)
        >>> bool(torch.allclose(basis @ basis.T, torch.eye(5, dtype=torch.float64)))
        True
    """
    j = torch.arange(length, dtype=torch.float64)
    basis = torch.cos(math.pi / length * (j + 0.5) * j[:, None]) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis


def _radius(axes: tuple[int, ...]) -> Tensor:
    """Distance of each coefficient from the mean, in half waves along the shorter side."""
    squares = [(torch.arange(n, dtype=torch.float64) * min(axes) / n).square() for n in axes]
    total = reduce(lambda a, b: a[..., None] + b, squares)
    return total.sqrt().flatten()


def _components(data: Tensor) -> tuple[Tensor, ...]:
    """Principal components of data without a shape, one a row, by falling variance."""
    dim = data.shape[1]
    if dim > MOST_COMPONENTS:
        return (torch.eye(dim, dtype=torch.float64),)
    centered = (data - data.mean(0)).double().cpu()
    vectors = torch.linalg.eigh(centered.T @ centered).eigenvectors.flip(1).T
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return (vectors * largest.sign(),)


def _edges(length: int) -> list[float]:
    """Lower edges of the bands: 0, 1, 2, 4, … up to half of the length, the highest six of them."""
    octaves = [2.0**k for k in range(max(length // 2, 1).bit_length())] if length > 1 else []
    return [0.0, *octaves[-(MOST_BANDS - 1) :]]


def _listed(
    bands: Tensor, edges: list[float], channels: int, is_frequency: bool, num_means: int
) -> tuple[Statistic, ...]:
    """What the statistics are, in the order of :meth:`Statistics.values`."""
    basis = "frequency" if is_frequency else "component"
    merged = channels > MOST_CHANNELS
    sizes = [int(size) * (channels if merged else 1) for size in bands.sum(1)]
    found, named = [], range(channels) if 1 < channels <= MOST_CHANNELS else [None]
    for channel in named:
        for low, high, size in zip(edges, [*edges[1:], None], sizes, strict=True):
            name = f"energy {_span(low, high)}" + (
                "" if channel is None else f", channel {channel}"
            )
            found.append(Statistic(name, "energy", basis, low, high, size, channel))
    for channel in named:
        for k in range(num_means):
            name = "mean" if is_frequency else f"mean of component {k}"
            name += "" if channel is None else f", channel {channel}"
            count = channels if merged else 1
            found.append(Statistic(name, "mean", basis, float(k), k + 1.0, count, channel))
    return tuple(found)


def _span(low: float, high: float | None) -> str:
    if high is None:
        return f"from {low:g}" if low else "of all"
    return "0" if high == 1 else f"{low:g}-{high:g}"
