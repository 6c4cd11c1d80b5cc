r"""Epsilon scaling: the network's noise estimate divided by a number near 1.

.. math:: \hat\epsilon \leftarrow \hat\epsilon / \lambda_i, \qquad \lambda_i = k\, i + b

for the i-th module, counted from 0 at the last one. :math:`\hat x_0` follows it, so that a network
which predicts something else has its output moved by what that means: with
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
change of :math:`\hat x_0`. The released code clips :math:`\hat x_0`; where a sampler does not, this
remedy can do harm there.

References:
    | Elucidating the Exposure Bias in Diffusion Models (Ning et al., 2024)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift.diffusion.denoiser import call_network, split_variance
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.remedies.sampler import (
    Network,
    RemediedSampler,
    broadcast,
    innermost,
    interpolate,
    noise_table,
    rewired,
)

_Offsets = Callable[[Tensor], Tensor]


class EpsilonScaledSampler(RemediedSampler):
    r"""Any chain with its noise estimate divided by :math:`\lambda_i = k i + b`.

    Arguments:
        base: The chain.
        b: :math:`b`; 1.005 to 1.017 in the paper, below 1 where the network's noise is too small.
        k: :math:`k`, per module, counted from 0 at the last module.

    Raises:
        InvalidInput: If a :math:`\lambda_i` is not positive, or the scaled noise says nothing of
            the data: in a schedule that ends without signal, and in flow matching.

    Example:
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser
        >>> base = AncestralSampler(Denoiser(lambda x, t: 1.01 * x, CosineSchedule(10)))
        >>> x_t = torch.ones(2, 1, 4, 4)
        >>> scaled = EpsilonScaledSampler(base, 1.01)
        >>> bool(torch.allclose(scaled.epsilon(x_t, 5), x_t))
        True
    """

    name = "epsilon_scaling"

    def __init__(self, base: Sampler, b: float, k: float = 0.0) -> None:
        count = len(base.grid) - 1
        smallest = min(b, k * (count - 1) + b)
        if not smallest > 0:
            raise InvalidInput(f"epsilon scaling divides by {smallest:g}: choose scales above 0")
        self.b, self.k = float(b), float(k)
        super().__init__(base)

    def chain_over(self, base: Sampler) -> Sampler:
        """The base with the noise estimate of its network divided."""
        line, offsets = _Line(base.timesteps, self.b, self.k), _offset_of(base)
        return rewired(base, lambda network: _ScaledNetwork(network, line, offsets))

    def options(self) -> dict[str, Any]:
        """The line of scales."""
        return {"b": self.b, "k": self.k}


class _ScaledNetwork:
    """A network whose noise estimate is divided; called as the network is."""

    def __init__(self, network: Network, line: _Line, offsets: _Offsets) -> None:
        self.network, self.line, self.offsets = network, line, offsets

    def __call__(self, x: Tensor, timestep: Tensor, **conditioning: Any) -> Tensor:  # noqa: ANN401
        output = call_network(self.network, x, timestep, conditioning)
        scale = self.line(timestep)
        if bool((scale == 1).all()):
            return output
        prediction, variance = split_variance(output, x)
        scaled = prediction / broadcast(scale, x)
        offset = (1 - 1 / scale) * self.offsets(timestep)
        if bool((offset != 0).any()):
            scaled = scaled + broadcast(offset, x) * x
        return scaled if variance is None else torch.cat([scaled, variance], dim=1)


class _Line:
    r""":math:`k i + b` of timesteps, the index of calls between modules interpolated."""

    def __init__(self, timesteps: list[float], b: float, k: float) -> None:
        self.starts, self.b, self.k = timesteps[::-1], b, k

    def __call__(self, timestep: Tensor) -> Tensor:
        at = timestep.detach().cpu().double().numpy()
        index = np.interp(at, self.starts, np.arange(len(self.starts)))
        return torch.from_numpy(np.atleast_1d(self.k * index + self.b))


def _offset_of(base: Sampler) -> _Offsets:
    r"""The factor on :math:`\delta x` in the output, by what the network predicts.

    Raises:
        InvalidInput: If it is not known, or infinite.
    """
    kind = base.prediction_type
    scheduler: Any = getattr(innermost(base), "scheduler", None)
    if hasattr(scheduler, "precondition_outputs"):
        return _edm_offset(float(scheduler.config.sigma_data), kind)
    if kind == "epsilon":
        return lambda timestep: torch.zeros(1, dtype=torch.float64)
    if kind not in ("sample", "v_prediction"):
        raise InvalidInput(
            f"epsilon scaling does not serve a network that predicts {kind or 'who knows what'}: "
            "use one that predicts epsilon, sample or v_prediction"
        )
    table = noise_table(base, "epsilon scaling")
    if table[-1] == 0:
        raise InvalidInput(
            "the schedule ends without signal, where a scaled noise says nothing of the data: "
            "choose another remedy than epsilon scaling"
        )

    ratios = (1 / table - 1).sqrt()

    def offset(timestep: Tensor) -> Tensor:
        ratio = interpolate(ratios, timestep)  # sigma_t / alpha_t
        return (1 + ratio**2).sqrt() if kind == "sample" else -ratio

    return offset


def _edm_offset(sigma_data: float, kind: str) -> _Offsets:
    r""":math:`\pm\sigma/\sigma_{data}`; the network is told :math:`\frac14 \ln\sigma`."""
    sign = -1 if kind == "v_prediction" else 1
    return lambda timestep: sign * (4 * timestep.detach().cpu().double()).exp() / sigma_data
