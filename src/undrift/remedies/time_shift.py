r"""Time shift: the network gets the time that matches the variance of the state.

The pixels of a state :math:`x_t` have a variance of about :math:`1 - \bar\alpha_t` where there is
much noise. A generated state of another variance matches another time, so

.. math:: \tau = \arg\min_{|\tau - t| \le \lfloor w/2 \rfloor}
                 \big| 1 - \bar\alpha_\tau - \mathrm{var}_{pixels}(x_t) \big|
          \quad\text{while } t > t_{cutoff},

for each image by itself; of two times equally near the one nearer to :math:`t` is taken.

**Which index.** Here :math:`\tau` is the time passed to *the network*; the coefficients of the
denoising step stay those of :math:`t`, so that the remedy works with any scheduler. The algorithm
in the paper passes :math:`\tau` to the network and to the step; the code released with it keeps
:math:`t` for the network and shifts the time that the step *leads to*.

:math:`1 - \bar\alpha_t` leaves out the data's own pixel variance :math:`v_0`: noisy data have
:math:`1 - \bar\alpha_t (1 - v_0)`, so that the published rule takes every state for noisier than it
is, more so at small :math:`t`. Therefore it has a cutoff; ``variance=data`` (ours) compares with
the variance of noisy data instead.

References:
    | Alleviating Exposure Bias in Diffusion Models through Sampling with Shifted Time Steps
      (Li et al., 2024)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from undrift.exceptions import Limits
from undrift.remedies.remedy import Remedy, Strengths

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from undrift.diffusion.sampler import Sampler

CUTOFF = 0.3
"""Share of the chain, its end at data, that is not shifted; the paper uses 0.2 to 0.4."""


@dataclass(frozen=True)
class TimeShift(Remedy):
    r"""Passes the network the time whose pixel variance matches that of the state.

    Arguments:
        strength: :math:`w`, the width of the window in training steps; 0 and 1 shift nothing.
        cutoff: Times at or below it are not shifted; 0.3 of the first time when None.
        variance: The pixel variance expected at a time: that of its noise alone (``schedule``, as
            published) or that of noisy data (``data``), for which the pixel variance :math:`v_0` of
            the data is estimated.

    Example:
        >>> import torch
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser, apply_remedy
        >>> given = []
        >>> def network(x_t, timestep):
        ...     given.append(timestep.tolist())
        ...     return torch.zeros_like(x_t)
        >>> base = AncestralSampler(Denoiser(network, CosineSchedule(100), "sample"))
        >>> noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> _ = apply_remedy(base, TimeShift(10)).step(0.9 * noise, 80, 79)  # it looks less noisy
        >>> given
        [[74, 74]]
    """

    cutoff: float | None = None
    variance: Literal["schedule", "data"] = "schedule"

    remedy = "time_shift"
    strengths = Strengths(
        "width of the window, in training steps",
        default=10.0,
        grid=(0.0, 2.0, 4.0, 8.0, 16.0),
        neutral=0.0,
    )
    limits: ClassVar = {"strength": Limits(0, is_whole=True)}

    @property
    def needs_data(self) -> bool:
        """Whether it compares with the variance of noisy data."""
        return self.variance == "data"

    def estimate(
        self, base: Sampler, data: Tensor, num_data: int, generator: torch.Generator
    ) -> float:
        """The mean pixel variance of one image of the data."""
        return float(data.flatten(1).var(1).mean())

    def wrapped(self, network: Any, base: Sampler, estimate: float | None) -> Any:  # noqa: ANN401
        """The network with another time passed to it.

        Raises:
            InvalidInput: If the network does not see variance-preserving states at timesteps.
        """
        import torch

        from undrift.diffusion.denoiser import call_network
        from undrift.remedies.sampler import interpolate, noise_table

        expected = 1 - (1 - (estimate or 0.0)) * noise_table(base, "the time shift")
        reach, last_fixed = int(self.value) // 2, self._cutoff(base) - 1  # timesteps: times less 1
        # the nearest first, so that the smallest shift wins a tie
        offsets = torch.tensor(sorted(range(-reach, reach + 1), key=abs))

        def shifted(x: Tensor, timestep: Tensor) -> Tensor:
            at = timestep.detach().cpu()
            times = (at[:, None] + offsets).clamp(0, len(expected) - 1)
            variance = x.detach().flatten(1).double().var(1).cpu()
            distance = (interpolate(expected, times) - variance[:, None]).abs()
            nearest = times.gather(1, distance.argmin(1, keepdim=True))[:, 0]
            return torch.where(at > last_fixed, nearest, at).to(timestep)

        def call(x: Tensor, timestep: Tensor, **conditioning: Any) -> Tensor:  # noqa: ANN401
            if self.needs_data:
                self.needed(estimate)
            time = shifted(x, timestep) if reach else timestep
            return call_network(network, x, time, conditioning)

        return call

    def _cutoff(self, base: Sampler) -> float:
        return CUTOFF * base.grid[0] if self.cutoff is None else self.cutoff

    def record(self, base: Sampler, estimate: float | None) -> dict[str, Any]:
        """The options, with the cutoff that is applied and the estimate."""
        own = {"cutoff": self._cutoff(base), "data_variance": estimate or 0.0}
        return super().record(base, estimate) | own
