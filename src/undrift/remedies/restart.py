r"""Restart: a part of the chain is run again from states that got forward noise.

When the chain has come down to a time l it goes back to a time h > l by the forward process,

.. math:: x_h = \frac{\alpha_h}{\alpha_l} x_l
                + \Big(\sigma_h^2 - \frac{\alpha_h^2}{\alpha_l^2} \sigma_l^2\Big)^{1/2} \epsilon,

and the steps from h to l are taken again, K times in all. If :math:`x_l` has the forward marginal
:math:`q_l`, so has :math:`x_h` the marginal :math:`q_h`: a chain without error is left as it is.
An error of :math:`x_l` shrinks, since the noise is new; the error that the steps from h to l make
themselves is made again.

A solver starts from :math:`x_h` without history, with steps of lower order. Each restart costs the
network calls of the steps that it takes again; compare at equal numbers of calls.

References:
    | Restart Sampling for Improving Generative Processes (Xu et al., 2023)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from undrift.exceptions import InvalidInput, Limits
from undrift.remedies.remedy import Remedy, Strengths

if TYPE_CHECKING:
    from torch import Tensor

    from undrift.diffusion.sampler import GaussianKernel, RandomSource, Sampler, State


@dataclass(frozen=True)
class Restart(Remedy):
    """Adds noise near the end of the chain and takes the same steps again.

    Arguments:
        strength: K, how often.
        low: Denoising steps that are left where the noise is added.
        length: Denoising steps that are taken again.

    Example:
        >>> import torch
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser, apply_remedy
        >>> calls = []
        >>> def network(x_t, timestep):
        ...     calls.append(int(timestep[0]) + 1)
        ...     return torch.zeros_like(x_t)
        >>> base = AncestralSampler(Denoiser(network, CosineSchedule(5), "sample"))
        >>> _ = apply_remedy(base, Restart(1, low=1, length=2)).sample((1, 2))
        >>> calls
        [5, 4, 3, 2, 3, 2, 1]
    """

    low: float = 1.0
    length: float = 2.0

    remedy = "restart"
    strengths = Strengths(
        "number of restarts",
        default=1.0,
        grid=(0.0, 1.0, 2.0, 4.0),
        neutral=0.0,
    )
    limits: ClassVar = {
        "strength": Limits(0, is_whole=True),
        "low": Limits(0, is_whole=True),
        "length": Limits(1, is_whole=True),
    }

    def wrapped(self, network: Any, base: Sampler, estimate: Any) -> Any:  # noqa: ANN401
        """The network itself.

        Raises:
            InvalidInput: If the chain has fewer steps than are left and taken again.
        """
        steps = len(base.grid) - 1
        if self.low + self.length > steps:
            raise InvalidInput(
                f"restart takes {self.length:g} steps again with {self.low:g} left, of a chain of "
                f"{steps} steps: choose smaller low and length, or more steps"
            )
        return network

    def _times(self, chain: Sampler) -> tuple[float, ...]:
        """The times that are run through again, from h to l."""
        last = len(chain.grid) - int(self.low)
        return chain.grid[last - int(self.length) - 1 : last]

    def kernel(
        self, chain: Sampler, x_t: Tensor, t: float, s: float, estimate: Any
    ) -> GaussianKernel | None:
        """The density of one denoising step, or None where restarts follow it."""
        return None if self.value and s == self._times(chain)[-1] else chain.kernel(x_t, t, s)

    def advance(
        self,
        chain: Sampler,
        state: State,
        s: float,
        estimate: Any,
        generator: RandomSource | None,
    ) -> State:
        """One denoising step, and the restarts if it leads to where they begin."""
        state = chain.advance(state, s, generator=generator)
        high, *times = self._times(chain)
        if s != times[-1]:
            return state
        for _ in range(int(self.value)):
            state = noisier(chain, state, high, generator)
            for time in times:
                state = chain.advance(state, time, generator=generator)
        return state


def noisier(chain: Sampler, state: State, t: float, generator: RandomSource | None = None) -> State:
    """A state that the forward process has taken to a time t with more noise, without history."""
    from undrift.diffusion.sampler import State, draw_noise

    (alpha_l, sigma_l), (alpha_h, sigma_h) = chain.scale(state.t), chain.scale(t)
    ratio = alpha_h / alpha_l
    added = max(sigma_h**2 - (ratio * sigma_l) ** 2, 0.0) ** 0.5
    return State(t, (ratio * state.x).add(draw_noise(state.x, generator), alpha=added))
