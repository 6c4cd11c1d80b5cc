r"""SNR-t correction: each new state is pushed away from the estimate of the data.

Sampled states are found to carry less signal for their time than forward ones. The correction adds
a part of the noise that a denoising step leaves, for low and high frequencies apart,

.. math:: x_s \leftarrow x_s + \lambda^{low}_t P (x_s - \hat x_0)
                             + \lambda^{high}_t (I - P) (x_s - \hat x_0),

with :math:`P` the low band of one level of Haar wavelets, which replaces each block of 2×2 pixels
by its mean. P is a projection, so the bands need no transform back. The strengths follow the noise,
low frequencies being made first:

.. math:: \lambda^{low}_t = \lambda_l\, \sigma_t / \sigma_T, \qquad
          \lambda^{high}_t = \lambda_h\, (1 - \sigma_t / \sigma_T)

(``"dynamic"``), or are constant, the paper's correction in pixel space where both are equal. The
state is taken in the scaling of the sampler, and :math:`\hat x_0` is the estimate at :math:`x_t`
that the step started from (the released code of the two-call Heun sampler takes the second one).
Where the last step returns :math:`\hat x_0` itself there is nothing to correct.

With two different strengths the noise of a step differs between the bands, and
:class:`~undrift.diffusion.sampler.GaussianKernel` has one variance per pixel: ``kernel`` then gives
None where a step draws noise.

References:
    | Elucidating the SNR-t Bias of Diffusion Probabilistic Models (Yu et al., 2026)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from undrift.remedies.remedy import Remedy, Strengths

if TYPE_CHECKING:
    from torch import Tensor

    from undrift.diffusion.sampler import GaussianKernel, RandomSource, Sampler, State


@dataclass(frozen=True)
class SNRCorrection(Remedy):
    r"""Moves each new state away from the estimate of the data, per frequency band.

    Arguments:
        strength: :math:`\lambda_l`, the strength of the low band.
        high: :math:`\lambda_h`, the strength of the high band.
        weighting: Whether the strengths follow the noise (``dynamic``) or are ``constant``.

    Example:
        >>> import torch
        >>> from undrift import CosineSchedule, DDIMSampler, Denoiser, apply_remedy
        >>> denoiser = Denoiser(lambda x_t, t: torch.zeros_like(x_t), CosineSchedule(10), "sample")
        >>> base, x_t = DDIMSampler(denoiser), torch.ones(1, 1, 4, 4)
        >>> sampler = apply_remedy(base, SNRCorrection(0.1, 0.1, "constant"))
        >>> float((sampler.step(x_t, 5, 4) / base.step(x_t, 5, 4)).mean())
        1.100...
    """

    high: float = 0.0
    weighting: Literal["dynamic", "constant"] = "dynamic"

    remedy = "snr_t"
    strengths = Strengths(
        "lambda of the low frequencies",
        default=0.01,
        grid=(-0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02),
        neutral=0.0,
    )
    further_strengths = ("high",)

    def wrapped(self, network: Any, base: Sampler, estimate: Any) -> Any:  # noqa: ANN401
        """The network, called once where the step and the correction need the same output."""
        import torch

        from undrift.diffusion.denoiser import call_network

        last: list[tuple[Tensor, Tensor, Tensor, bool]] = []

        def call(x: Tensor, timestep: Tensor, **conditioning: Any) -> Tensor:  # noqa: ANN401
            graph = torch.is_grad_enabled()
            if last:
                x_before, time, output, had_graph = last.pop()
                is_same = had_graph == graph and _is_same(x_before, x)
                if is_same and torch.equal(time, timestep):
                    return output
            output = call_network(network, x, timestep, conditioning)
            last.append((x, timestep, output, graph))
            return output

        return call

    def kernel(
        self, chain: Sampler, x_t: Tensor, t: float, s: float, estimate: Any
    ) -> GaussianKernel | None:
        """The density of one denoising step, or None where its noise differs between the bands."""
        kernel, (low, high) = chain.kernel(x_t, t, s), self._band_strengths(chain, t)
        if kernel is None or low == high == 0:
            return kernel
        is_drawn = not (isinstance(kernel.variance, float) and kernel.variance == 0)
        if is_drawn and low != high:
            return None
        mean = _corrected(kernel.mean, chain.x0_hat(x_t, t), low, high)
        return replace(kernel, mean=mean, variance=(1 + low) ** 2 * kernel.variance)

    def advance(
        self,
        chain: Sampler,
        state: State,
        s: float,
        estimate: Any,
        generator: RandomSource | None,
    ) -> State:
        """One denoising step and the correction, from which a scheduler's history continues."""
        from undrift.remedies.sampler import moved

        low, high = self._band_strengths(chain, state.t)
        if low == high == 0:
            return chain.advance(state, s, generator=generator)
        x0_hat = chain.x0_hat(state.x, state.t)
        after = chain.advance(state, s, generator=generator)
        return moved(chain, state.t, after, _corrected(after.x, x0_hat, low, high))

    def _band_strengths(self, chain: Sampler, t: float) -> tuple[float, float]:
        r""":math:`(\lambda^{low}_t, \lambda^{high}_t)` of the denoising step that starts at t."""
        if self.weighting == "constant":
            return self.value, self.high
        share = chain.scale(t)[1] / chain.scale(chain.grid[0])[1]
        return self.value * share, self.high * (1 - share)


def _corrected(x_s: Tensor, x0_hat: Tensor, low: float, high: float) -> Tensor:
    """A state with both bands moved away from the estimate of the data."""
    from undrift.remedies.haar import low_band

    noise = x_s - x0_hat
    if low == high:
        return x_s.add(noise, alpha=low)
    coarse = low_band(noise)
    return x_s + low * coarse + high * (noise - coarse)


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all()))
