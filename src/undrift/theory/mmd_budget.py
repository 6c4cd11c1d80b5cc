r"""The MMD error budget of a Gaussian chain in closed form.

With :math:`D_t = MMD(p_t, q_t)`, the kernel K of all denoising steps of a segment from state t
down to state s, :math:`F = MMD(K q_t, q_s)` and :math:`I = MMD(K p_t, K q_t)` (docs/theory,
section 5):

.. math:: D_s \le F + \lambda D_t, \quad \lambda = I / D_t, \qquad
          D_0 \le \sum G F + G_{T} D_T, \quad G = \prod_{\text{later segments}} \lambda.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.mmd.gaussian import rbf_mmd_sq
from undrift.theory.gaussian_chain import GaussianChain

MULTIPLIERS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class MMDBudget:
    r"""The exact MMD budget over chosen states.

    Arguments:
        discrepancy: :math:`D` of each state, upwards from 0, with shape :math:`(S,)`.
        fresh: :math:`F` of the segment that arrives at each state but the last, :math:`(S-1,)`.
        inherited: :math:`I` of the same segment.
    """

    discrepancy: Tensor
    fresh: Tensor
    inherited: Tensor

    @property
    def amplification(self) -> Tensor:
        r""":math:`\lambda` of each segment; not a number where no error arrives at it."""
        upper = self.discrepancy[1:]
        return torch.where(upper > 1e-13, self.inherited / upper, math.nan)

    @property
    def gain(self) -> Tensor:
        r""":math:`G` of the error made in each segment, then of :math:`D_T`, with shape (S,).

        An undefined :math:`\lambda` counts as 0: where no error arrives, none is inherited.
        """
        later = torch.cumprod(self.amplification.nan_to_num(0.0), 0)
        return torch.cat([torch.ones(1, dtype=later.dtype), later])

    @property
    def bound(self) -> float:
        r""":math:`\sum G F + G_T D_T`, which :math:`D_0` cannot exceed."""
        gain = self.gain
        return float((gain[:-1] * self.fresh).sum() + gain[-1] * self.discrepancy[-1])


def forward_widths(chain: GaussianChain, states: Sequence[int]) -> Tensor:
    r"""Kernel widths at each state: the multipliers of the mean squared forward distance.

    The mean of :math:`\|x - x'\|^2` over two forward draws is :math:`2 \mathrm{tr}\,\Sigma_t`; it
    does not depend on the model. With shape :math:`(S, M)`.
    """
    mean_sq = 2 * chain.forward_cov[list(states)].diagonal(dim1=-2, dim2=-1).sum(-1)
    return mean_sq[:, None] * torch.tensor(MULTIPLIERS, dtype=torch.float64)


def mmd_sq_to_forward(
    chain: GaussianChain, states: Sequence[int], mean: Tensor, cov: Tensor
) -> Tensor:
    """Exact squared MMD between Gaussians and the forward marginals of the states."""
    chosen = list(states)
    forward = chain.forward_mean[chosen], chain.forward_cov[chosen]
    return rbf_mmd_sq(mean, cov, *forward, forward_widths(chain, chosen))


def mmd_sq_of_states(chain: GaussianChain, states: Sequence[int] | None = None) -> Tensor:
    """Exact squared MMD between sampled and forward marginals, one number per state."""
    chosen = list(range(chain.num_steps + 1) if states is None else states)
    return mmd_sq_to_forward(chain, chosen, chain.sampled_mean[chosen], chain.sampled_cov[chosen])


def mmd_budget(chain: GaussianChain, states: Sequence[int] | None = None) -> MMDBudget:
    r"""The exact MMD budget of a Gaussian chain.

    Arguments:
        chain: The chain.
        states: Times from 0 to T, upwards, both ends included; every state when None.

    Raises:
        InvalidInput: If the states do not rise from 0 to T.

    Example:
        >>> from undrift.diffusion.schedule import CosineSchedule
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> chain = GaussianChain.from_schedule(
        ...     0 * eye[0], 0.5 * eye, CosineSchedule(50), slope_error=-0.05)
        >>> budget = mmd_budget(chain, (0, 10, 25, 50))
        >>> bool(budget.discrepancy[0] <= budget.bound)
        True
    """
    times = tuple(range(chain.num_steps + 1)) if states is None else tuple(states)
    rises = all(s < t for s, t in pairwise(times))
    if len(times) < 2 or not rises or times[0] != 0 or times[-1] != chain.num_steps:
        raise InvalidInput(f"states must rise from 0 to {chain.num_steps}, both included")
    lower, upper = list(times[:-1]), times[1:]
    mean, cov = pushforward(chain, upper, lower)
    fresh = mmd_sq_to_forward(chain, lower, mean, cov)
    sampled = chain.sampled_mean[lower], chain.sampled_cov[lower]
    inherited = rbf_mmd_sq(*sampled, mean, cov, forward_widths(chain, lower))
    discrepancy = mmd_sq_of_states(chain, times)
    return MMDBudget(discrepancy.sqrt(), fresh.sqrt(), inherited.sqrt())


def pushforward(
    chain: GaussianChain, upper: Sequence[int], lower: Sequence[int]
) -> tuple[Tensor, Tensor]:
    r"""Mean and covariance of :math:`K q_t`, forward draws after the denoising steps from t to s.

    Arguments:
        chain: The chain.
        upper: The times t, one per segment.
        lower: The times s they lead to, each below its t.
    """
    t, s = torch.tensor(upper), torch.tensor(lower)
    mean, cov = chain.forward_mean[t], chain.forward_cov[t]
    while (running := t > s).any():
        mean[running], cov[running] = chain.step(mean[running], cov[running], t[running] - 1)
        t = t - running.long()
    return mean, cov


def bootstrap_mmd_sq(chain: GaussianChain, length: int) -> Tensor:
    r"""Exact squared MMD after a short bootstrap: forward draws, then `length` denoising steps.

    .. math:: MMD^2(K_{t+1} \cdots K_{t+L}\, q_{t+L},\; q_t)

    It contains the error that the last L steps make from forward draws, and nothing inherited.

    Arguments:
        chain: The chain.
        length: L, the number of denoising steps.

    Returns:
        One number for each state from 0 to T − L.

    Raises:
        InvalidInput: If the chain has fewer steps than the bootstrap.
    """
    if not 1 <= length <= chain.num_steps:
        raise InvalidInput(f"a bootstrap of {length} steps: choose from 1 to {chain.num_steps}")
    states = range(chain.num_steps - length + 1)
    return mmd_sq_to_forward(
        chain, states, *pushforward(chain, [t + length for t in states], states)
    )
