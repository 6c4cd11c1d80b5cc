r"""SNR-t correction: each new state is pushed away from the estimate of the data.

Sampled states are found to carry less signal for their time than forward ones. The correction adds
a part of what a module leaves of the noise, for low and high frequencies apart,

.. math:: x_s \leftarrow x_s + \lambda^{low}_t P (x_s - \hat x_0)
                             + \lambda^{high}_t (I - P) (x_s - \hat x_0),

with :math:`P` the low band of one level of Haar wavelets, which replaces each block of 2×2 pixels
by its mean. P is a projection, so the bands need no transform back. The strengths follow the noise,
low frequencies being made first:

.. math:: \lambda^{low}_t = \lambda_l\, \sigma_t / \sigma_T, \qquad
          \lambda^{high}_t = \lambda_h\, (1 - \sigma_t / \sigma_T)

(``"dynamic"``), or are constant, the paper's correction in pixel space where both are equal. The
state is taken in the scaling of the sampler, and :math:`\hat x_0` is the estimate at :math:`x_t`
that the module started from (the released code of the two-call Heun sampler takes the second one).
Where the last module returns :math:`\hat x_0` itself there is nothing to correct.

With two different strengths the noise of a module differs between the bands, and
:class:`~undrift.diffusion.sampler.GaussianKernel` has one variance a pixel: ``kernel`` then gives
None where a module draws noise.

References:
    | Elucidating the SNR-t Bias of Diffusion Probabilistic Models (Yu et al., 2026)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from undrift.diffusion.denoiser import call_network
from undrift.diffusion.sampler import GaussianKernel, Sampler, State
from undrift.exceptions import InvalidInput
from undrift.remedies.sampler import Network, RemediedSampler, rewired

Weighting = Literal["dynamic", "constant"]


def low_band(x: Tensor) -> Tensor:
    r"""The low band of one level of Haar wavelets, :math:`P x`: means of blocks of 2×2 pixels.

    Arguments:
        x: Images, with shape :math:`(B, C, H, W)`, both sides even.

    Returns:
        :math:`P x`, with the shape of ``x``; :math:`x - P x` is the high band.

    Raises:
        InvalidInput: If these are no images, or a side is odd.

    Example:
        >>> low_band(torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]]))
        tensor([[[[3., 3.],
                  [3., 3.]]]])
    """
    if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2:
        raise InvalidInput(
            f"frequency bands need images with even sides, not states of shape "
            f"{tuple(x.shape[1:])}: give both bands the same strength, with constant weighting"
        )
    means = avg_pool2d(x, 2)
    return means.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


class SNRCorrectedSampler(RemediedSampler):
    r"""Any chain with the differential correction of its states, per frequency band.

    Arguments:
        base: The chain.
        low: :math:`\lambda_l`, the strength of the low band.
        high: :math:`\lambda_h`, the strength of the high band.
        weighting: How the strengths follow the noise.

    Raises:
        InvalidInput: If the weighting is unknown, or the chain has no network.

    Example:
        >>> from undrift import CosineSchedule, DDIMSampler, Denoiser
        >>> denoiser = Denoiser(lambda x_t, t: torch.zeros_like(x_t), CosineSchedule(10), "sample")
        >>> base, x_t = DDIMSampler(denoiser), torch.ones(1, 1, 4, 4)
        >>> sampler = SNRCorrectedSampler(base, 0.1, 0.1, weighting="constant")
        >>> float((sampler.step(x_t, 5, 4) / base.step(x_t, 5, 4)).mean())
        1.100...
    """

    name = "snr_t"

    def __init__(
        self, base: Sampler, low: float, high: float = 0.0, *, weighting: Weighting = "dynamic"
    ) -> None:
        if weighting not in get_args(Weighting):
            known = ", ".join(get_args(Weighting))
            raise InvalidInput(f"unknown weighting {weighting!r}: choose {known}")
        self.low, self.high, self.weighting = float(low), float(high), weighting
        super().__init__(base)

    def chain_over(self, base: Sampler) -> Sampler:
        """The base with a network that the step and the correction ask the same thing."""
        return rewired(base, _RememberingNetwork)

    def options(self) -> dict[str, Any]:
        """The strengths."""
        return {"low": self.low, "high": self.high, "weighting": self.weighting}

    def strengths(self, t: float) -> tuple[float, float]:
        r""":math:`(\lambda^{low}_t, \lambda^{high}_t)` of the module that starts at t."""
        if self.weighting == "constant":
            return self.low, self.high
        share = self.base.scale(t)[1] / self.base.scale(self.grid[0])[1]
        return self.low * share, self.high * (1 - share)

    def kernel(self, x_t: Tensor, t: float, s: float) -> GaussianKernel | None:
        """The density of one module, or None where its noise differs between the bands."""
        kernel, (low, high) = self.chain.kernel(x_t, t, s), self.strengths(t)
        if kernel is None or low == high == 0:
            return kernel
        is_drawn = not (isinstance(kernel.variance, float) and kernel.variance == 0)
        if is_drawn and low != high:
            return None
        mean = self._corrected(kernel.mean, self.chain.x0_hat(x_t, t), t)
        return GaussianKernel(mean, (1 + low) ** 2 * kernel.variance if is_drawn else 0.0)

    def advance(self, state: State, s: float, *, generator: torch.Generator | None = None) -> State:
        """One denoising step and the correction, from which a scheduler's history goes on."""
        if self.strengths(state.t) == (0, 0):
            return self.chain.advance(state, s, generator=generator)
        x0_hat = self.chain.x0_hat(state.x, state.t)
        after = self.chain.advance(state, s, generator=generator)
        return replace(after, x=self._corrected(after.x, x0_hat, state.t))

    def _corrected(self, x_s: Tensor, x0_hat: Tensor, t: float) -> Tensor:
        """A state with both bands moved away from the estimate of the data."""
        low, high = self.strengths(t)
        noise = x_s - x0_hat
        if low == high:
            return torch.add(x_s, noise, alpha=low)
        coarse = low_band(noise)
        return x_s + low * coarse + high * (noise - coarse)


class _RememberingNetwork:
    """A network that is asked the same thing twice in a row, and computes it once."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.last: tuple[Tensor, Tensor, Tensor, bool] | None = None

    def __call__(self, x: Tensor, timestep: Tensor, **conditioning: Any) -> Tensor:  # noqa: ANN401
        last, self.last = self.last, None
        graph = torch.is_grad_enabled()
        if last and last[3] == graph and _same(last[0], x) and torch.equal(last[1], timestep):
            return last[2]
        output = call_network(self.network, x, timestep, conditioning)
        self.last = x, timestep, output, graph
        return output


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))
