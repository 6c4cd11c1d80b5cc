r"""Time shift: the network is told the time that a state looks like.

The pixels of a state :math:`x_t` have a variance of about :math:`1 - \bar\alpha_t` where there is
much noise. A generated state whose variance is another one looks like another time, so

.. math:: \tau = \arg\min_{|\tau - t| \le \lfloor w/2 \rfloor}
                 \big| 1 - \bar\alpha_\tau - \mathrm{var}_{pixels}(x_t) \big|
          \quad\text{while } t > t_{cutoff},

for each image by itself; of two times equally near the one nearer to :math:`t` is taken.

**Which index.** Here :math:`\tau` is the time that *the network is told*; the module's own
coefficients stay those of :math:`t`, so that any scheduler takes the remedy. The paper's algorithm
hands :math:`\tau` to the network and to the step; the code released with it keeps :math:`t` for the
network and shifts the time that the step *leads to*.

:math:`1 - \bar\alpha_t` leaves out the data's own pixel variance :math:`v_0`: noisy data have
:math:`1 - \bar\alpha_t (1 - v_0)`, so that the published rule takes every state for noisier than it
is, more so at small :math:`t`. That is what the cutoff is for; ``data_variance`` (ours) compares
with the variance of noisy data instead.

References:
    | Alleviating Exposure Bias in Diffusion Models through Sampling with Shifted Time Steps
      (Li et al., 2024)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from undrift.diffusion.denoiser import call_network
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.remedies.sampler import Network, RemediedSampler, interpolate, noise_table, rewired

CUTOFF = 0.3
"""Share of the chain, its end at data, that is not shifted; the paper uses 0.2 to 0.4."""


class TimeShiftedSampler(RemediedSampler):
    r"""Any chain whose network is told the time that the state's pixel variance stands for.

    Arguments:
        base: The chain; its network sees variance-preserving states at timesteps of a schedule.
        window: :math:`w`, the width of the window in training steps; 0 and 1 shift nothing.
        cutoff: Times at or below it are not shifted; 0.3 of the first time when None.
        data_variance: Mean pixel variance :math:`v_0` of one image of the data; 0 is the paper's.

    Raises:
        InvalidInput: If the window is negative, or the network's time is no such timestep.

    Example:
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser
        >>> told = []
        >>> def network(x_t, timestep):
        ...     told.append(timestep.tolist())
        ...     return torch.zeros_like(x_t)
        >>> base = AncestralSampler(Denoiser(network, CosineSchedule(100), "sample"))
        >>> noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> _ = TimeShiftedSampler(base, 10).step(0.9 * noise, 80, 79)  # it looks less noisy
        >>> told
        [[74, 74]]
    """

    name = "time_shift"

    def __init__(
        self,
        base: Sampler,
        window: int,
        *,
        cutoff: float | None = None,
        data_variance: float = 0.0,
    ) -> None:
        if window < 0:
            raise InvalidInput(f"the window of the time shift is {window}: 0 or more steps")
        self.window, self.data_variance = window, float(data_variance)
        self.cutoff = CUTOFF * base.grid[0] if cutoff is None else cutoff
        super().__init__(base)

    def chain_over(self, base: Sampler) -> Sampler:
        """The base with its network told another time."""
        expected = 1 - (1 - self.data_variance) * noise_table(base, "the time shift")
        reach, last_fixed = self.window // 2, self.cutoff - 1  # timesteps are times less 1
        return rewired(base, lambda net: _ShiftedNetwork(net, expected, reach, last_fixed))

    def options(self) -> dict[str, Any]:
        """Window, cutoff, and what a time's pixel variance is taken to be."""
        return {
            "window": self.window,
            "cutoff": self.cutoff,
            "data_variance": self.data_variance,
            "variant": "the network's time",
        }


class _ShiftedNetwork:
    """A network that is told another time; called as the network is."""

    def __init__(self, network: Network, expected: Tensor, reach: int, last_fixed: float) -> None:
        self.network, self.expected, self.last_fixed = network, expected, last_fixed
        # the nearest first, so that the smallest shift wins a tie
        self.offsets = torch.tensor(sorted(range(-reach, reach + 1), key=abs))

    def __call__(self, x: Tensor, timestep: Tensor, **conditioning: Any) -> Tensor:  # noqa: ANN401
        return call_network(self.network, x, self.shifted(x, timestep), conditioning)

    def shifted(self, x: Tensor, timestep: Tensor) -> Tensor:
        """The timestep that each state looks like, with shape (B,)."""
        if len(self.offsets) == 1:
            return timestep
        at = timestep.detach().cpu()
        times = (at[:, None] + self.offsets).clamp(0, len(self.expected) - 1)
        variance = x.detach().flatten(1).double().var(1).cpu()
        distance = (interpolate(self.expected, times) - variance[:, None]).abs()
        nearest = times.gather(1, distance.argmin(1, keepdim=True))[:, 0]
        return torch.where(at > self.last_fixed, nearest, at).to(timestep)
