r"""Moment map: finished samples get the mean and the covariance of the data.

Of all maps that take a Gaussian :math:`N(m_x, \Sigma_x)` to :math:`N(m_y, \Sigma_y)` this one moves
it least (it is the optimal transport for the squared distance),

.. math:: x \mapsto m_y + A (x - m_x), \qquad
          A = \Sigma_y^{1/2} (\Sigma_y^{1/2} \Sigma_x \Sigma_y^{1/2})^{-1/2} \Sigma_y^{1/2}.

It is estimated once, from the data and from samples of the chain itself that are drawn for it, and
applied after the last denoising step; mapped samples are clamped to the range of the data.

A covariance of d dimensions from n samples has relative errors of the order :math:`\sqrt{d/n}`.
Therefore A is the identity outside of the span of the data's first k principal components,

.. math:: k = \min(d, \lfloor n / 10 \rfloor),

with n the smaller number of samples and images: with 1,000 samples all of the covariance of 64
pixels, and 100 components of larger images (above 2,000 dimensions those of 2,000 of the data's
images). Inside, :math:`\rho = 10^{-4}` times the mean variance
of the components is added to both covariances, so that no direction without variance is amplified.

Optimal transport does not know which sample is wrong: the map can repair moments and nothing else.

References:
    | Computational Optimal Transport (Peyré & Cuturi, 2019), remark 2.31
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from undrift.remedies.remedy import Remedy, Strengths
from undrift.seeds import drawn_seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from undrift.diffusion.sampler import GaussianKernel, RandomSource, Sampler, State

SAMPLES_PER_COMPONENT = 10
MOST = 2000
"""Most dimensions of a full covariance; with more, the components are those of so many images."""
RIDGE = 1e-4


class MomentMap(NamedTuple):
    r"""An affine map of samples that differs from a shift in the span of k directions.

    Arguments:
        mean_x: Mean of the samples, with shape :math:`(d,)`.
        mean_y: Mean of the data, with shape :math:`(d,)`.
        span: Orthonormal directions, with shape :math:`(k, d)`.
        change: :math:`A - I` in the span, with shape :math:`(k, k)`.
        low: Least value of the data.
        high: Greatest value of the data.
    """

    mean_x: Tensor
    mean_y: Tensor
    span: Tensor
    change: Tensor
    low: float
    high: float

    def __call__(self, x: Tensor) -> Tensor:
        """The mapped samples, with the shape of ``x``, clamped to the range of the data."""
        mean_x, mean_y, span, change = (part.to(x) for part in self[:4])
        rows = x.flatten(1) - mean_x
        moved = rows + rows @ span.mT @ change.mT @ span + mean_y
        return moved.clamp(self.low, self.high).view_as(x)


@dataclass(frozen=True)
class Moments(Remedy):
    """Maps finished samples onto the mean and the covariance of the data.

    Arguments:
        strength: Share of the way from a sample to its image under the map.

    Example:
        >>> import torch
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser, apply_remedy
        >>> denoiser = Denoiser(lambda x_t, t: torch.zeros_like(x_t), CosineSchedule(10), "sample")
        >>> data = torch.rand(50, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> sampler = apply_remedy(AncestralSampler(denoiser), Moments(), data)
        >>> bool(torch.allclose(sampler.sample((3, 1, 2, 2)), data.mean(0)))
        True
    """

    remedy = "moments"
    estimate_type = MomentMap
    strengths = Strengths(
        "share of the way to the mapped sample",
        default=1.0,
        grid=(0.0, 0.25, 0.5, 0.75, 1.0),
        neutral=0.0,
    )

    @property
    def needs_data(self) -> bool:
        """Always: the moments are those of the data."""
        return True

    def estimate(
        self, base: Sampler, data: Tensor, num_data: int, generator: torch.Generator
    ) -> MomentMap:
        """The map, from all images and from ``num_data`` samples of the chain."""
        from undrift.measurement.parallel_chains import draw_samples

        seed = drawn_seed(generator)
        x = draw_samples(base, (num_data, *data.shape[1:]), seed)
        return moment_map(x.to(data), data)

    def kernel(
        self, chain: Sampler, x_t: Tensor, t: float, s: float, estimate: MomentMap | None
    ) -> GaussianKernel | None:
        """The density of one denoising step; a point mass for a last step without noise."""
        kernel = chain.kernel(x_t, t, s)
        if s > 0 or kernel is None or self.value == 0:
            return kernel
        is_point = isinstance(kernel.variance, float) and kernel.variance == 0
        return replace(kernel, mean=self._moved(kernel.mean, estimate)) if is_point else None

    def advance(
        self,
        chain: Sampler,
        state: State,
        s: float,
        estimate: MomentMap | None,
        generator: RandomSource | None,
    ) -> State:
        """One denoising step, the last one followed by the map."""
        after = chain.advance(state, s, generator=generator)
        return after if s > 0 else replace(after, x=self._moved(after.x, estimate))

    def _moved(self, x: Tensor, estimate: MomentMap | None) -> Tensor:
        if self.value == 0:
            return x
        return x.lerp(self.needed(estimate)(x), self.value)

    def record(self, base: Sampler, estimate: MomentMap | None) -> dict[str, Any]:
        """The strength, and the number of principal components in which the map is more."""
        return super().record(base, estimate) | {
            "components": len(estimate.span) if estimate else 0
        }


def moment_map(x: Tensor, y: Tensor, components: int | None = None) -> MomentMap:
    r"""The map that gives samples the mean of data, and their covariance in a span.

    Arguments:
        x: Samples, with shape :math:`(N, *)`.
        y: Data, with shape :math:`(M, *)`.
        components: k, the number of the data's principal components that span it, at most one for
            each dimension and image; one for each 10 samples and images when None.

    Example:
        >>> import torch
        >>> y = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
        >>> x = 5 + y @ torch.tensor([[1.0, 0, 0], [0.5, 1, 0], [0, 0, 0.1]])
        >>> moved = moment_map(x, y)(x)
        >>> bool(torch.allclose(moved.T.cov(), y.T.cov(), atol=0.02))
        True
    """
    import torch

    samples, data = x.flatten(1).double(), y.flatten(1).double()
    count = min(len(x), len(y)) // SAMPLES_PER_COMPONENT if components is None else components
    deviations, span = _principal(data, count)
    mean_x, mean_y = samples.mean(0), data.mean(0)
    inside = (samples - mean_x) @ span.mT
    variances = deviations.square()
    ridge = RIDGE * variances.mean() if len(variances) else 0.0
    eye = torch.eye(len(span), dtype=torch.float64, device=data.device)
    cov_x = inside.mT @ inside / max(len(x) - 1, 1) + ridge * eye
    root = (variances + ridge).sqrt()
    squares, axes = torch.linalg.eigh(root[:, None] * cov_x * root)
    inverse = axes @ (squares.clamp(min=1e-300).rsqrt()[:, None] * axes.mT)
    change = root[:, None] * inverse * root - eye
    return MomentMap(mean_x, mean_y, span, change, float(y.min()), float(y.max()))


def _principal(data: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Standard deviations and directions of the first principal components, largest first."""
    import torch

    dim = data.shape[1]
    if dim <= MOST:
        values, axes = torch.linalg.eigh(data.mT.cov(correction=min(1, len(data) - 1)))
        values, axes = values.flip(0).clamp(min=0).sqrt(), axes.flip(1).mT
    else:  # the covariance itself is too large
        some = data[torch.linspace(0, len(data) - 1, min(len(data), MOST)).long()]
        _, values, axes = torch.linalg.svd(some - some.mean(0), full_matrices=False)
        values = values / max(len(some) - 1, 1) ** 0.5
    return values[:count], axes[:count]
