r"""Epsilon scaling: the noise estimate of the network is divided by a number near 1.

.. math:: \hat\epsilon \leftarrow \hat\epsilon / \lambda_i, \qquad \lambda_i = k\, i + b

for the i-th denoising step, counted from 0 at the last one. :math:`\hat x_0` follows it, so the
output of a network which predicts something else changes too: with
:math:`\delta = 1 - 1/\lambda`,

==================  ===============================================
what it predicts    its output :math:`o` at the input :math:`x`
==================  ===============================================
``epsilon``         :math:`o / \lambda`
``sample``          :math:`o / \lambda + \delta\, x / \alpha_t`
``v_prediction``    :math:`o / \lambda - \delta\, x \sigma_t / \alpha_t`
EDM's               :math:`o / \lambda \pm \delta\, x \sigma / \sigma_{data}`
==================  ===============================================

**Which index.** The paper writes :math:`\lambda_t = kt + b` over sampling steps; its released code
reads a table at the respaced step, 0 at the data, which is the index here. (The code of the
time-shift sampler, which has a linear scale too, counts from the noise instead.)

Where a schedule ends almost without signal, :math:`1/\alpha_t` makes the smallest scale a large
change of :math:`\hat x_0`. The released code clips :math:`\hat x_0`; where a sampler does not, the
remedy can increase the error there.

References:
    | Elucidating the Exposure Bias in Diffusion Models (Ning et al., 2024)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from undrift.exceptions import InvalidInput, Limits
from undrift.remedies.remedy import Remedy, Strengths

if TYPE_CHECKING:
    from torch import Tensor

    from undrift.diffusion.sampler import Sampler

_OfTimesteps = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class EpsilonScaling(Remedy):
    r"""Divides the noise estimate by k i + b, with i the number of denoising steps left.

    Arguments:
        strength: :math:`b`; 1.005 to 1.017 in the paper, below 1 where the network's noise is too
            small.
        slope: :math:`k`, per denoising step, counted from 0 at the last one.

    Example:
        >>> import torch
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser, apply_remedy
        >>> base = AncestralSampler(Denoiser(lambda x, t: 1.01 * x, CosineSchedule(10)))
        >>> x_t = torch.ones(2, 1, 4, 4)
        >>> scaled = apply_remedy(base, EpsilonScaling(1.01))
        >>> bool(torch.allclose(scaled.epsilon(x_t, 5), x_t))
        True
    """

    slope: float = 0.0

    remedy = "epsilon_scaling"
    strengths = Strengths(
        "b, by which the noise estimate is divided",
        default=1.005,
        grid=(0.98, 0.99, 0.995, 1.0, 1.005, 1.01, 1.02),
        neutral=1.0,
    )
    limits: ClassVar = {"strength": Limits(0, ends="()")}
    further_strengths = ("slope",)

    def wrapped(self, network: Any, base: Sampler, estimate: Any) -> Any:  # noqa: ANN401
        """The network with its noise estimate divided.

        Raises:
            InvalidInput: If a scale is not positive, or the scaled noise does not determine the
                data: in a schedule that ends without signal, and in flow matching.
        """
        import torch

        from undrift.diffusion.denoiser import call_network, split_variance
        from undrift.remedies.sampler import broadcast

        scale_of, offset_of = self._scales(base.timesteps), _offsets(base)

        def scaled(x: Tensor, timestep: Tensor, **conditioning: Any) -> Tensor:  # noqa: ANN401
            output, scale = call_network(network, x, timestep, conditioning), scale_of(timestep)
            if bool((scale == 1).all()):
                return output
            prediction, variance = split_variance(output, x)
            prediction = prediction / broadcast(scale, x)
            offset = (1 - 1 / scale) * offset_of(timestep)
            if bool((offset != 0).any()):
                prediction = prediction + broadcast(offset, x) * x
            return prediction if variance is None else torch.cat([prediction, variance], dim=1)

        return scaled

    def _scales(self, timesteps: list[float]) -> _OfTimesteps:
        r""":math:`k i + b` of timesteps, the index of those between two steps interpolated."""
        import numpy as np
        import torch

        b, k, starts = self.value, self.slope, timesteps[::-1]
        smallest = min(b, k * (len(starts) - 1) + b)
        if not smallest > 0:
            raise InvalidInput(f"epsilon scaling divides by {smallest:g}: choose scales above 0")

        def scale_of(timestep: Tensor) -> Tensor:
            at = timestep.detach().cpu().double().numpy()
            index = np.interp(at, starts, np.arange(len(starts)))
            return torch.from_numpy(np.atleast_1d(k * index + b))

        return scale_of


def _offsets(base: Sampler) -> _OfTimesteps:
    r"""The factor on :math:`\delta x` in the output, by what the network predicts.

    Raises:
        InvalidInput: If it is not known, or infinite.
    """
    import torch

    from undrift.remedies.sampler import innermost, interpolate, noise_table

    kind = base.prediction_type
    scheduler: Any = getattr(innermost(base), "scheduler", None)
    if hasattr(scheduler, "precondition_outputs"):
        factor = (-1 if kind == "v_prediction" else 1) / float(scheduler.config.sigma_data)
        # the time of the network is ln(sigma) / 4
        return lambda timestep: factor * (4 * timestep.detach().cpu().double()).exp()
    if kind == "epsilon":
        return lambda timestep: torch.zeros(1, dtype=torch.float64)
    if kind not in ("sample", "v_prediction"):
        raise InvalidInput(
            f"epsilon scaling does not serve a network whose prediction type is "
            f"{kind or 'unknown'}: use one that predicts epsilon, sample or v_prediction"
        )
    table = noise_table(base, "epsilon scaling")
    if table[-1] == 0:
        raise InvalidInput(
            "the schedule ends without signal, where a scaled noise does not determine the data: "
            "choose another remedy than epsilon scaling"
        )
    ratios = (1 / table - 1).sqrt()

    def offset_of(timestep: Tensor) -> Tensor:
        ratio = interpolate(ratios, timestep)  # sigma_t / alpha_t
        return (1 + ratio**2).sqrt() if kind == "sample" else -ratio

    return offset_of
