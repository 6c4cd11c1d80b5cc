r"""The scalar error budget of a Gaussian chain in closed form.

For the energy of a band, the mean square of the coefficients :math:`b^\top (x - \alpha_t m)` over
its orthonormal rows b, a Gaussian with mean :math:`\mu` and covariance P has

.. math:: E S = \frac{1}{|B|} \sum_{b \in B} \left[ b^\top P b
                + \left( b^\top (\mu - \alpha_t m) \right)^2 \right],

so that all terms of :math:`e_t = \text{inherited} + \text{fresh}` are known (docs/theory,
section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.theory.gaussian_chain import GaussianChain
from undrift.theory.mmd_budget import pushforward


@dataclass(frozen=True)
class ScalarBudget:
    r"""The exact scalar budget over chosen states, of B statistics.

    Arguments:
        error: :math:`e_t` of each state, upwards from 0, with shape :math:`(S, B)`.
        inherited: What the segment that arrives at each state but the last leaves of the error
            before, with shape :math:`(S-1, B)`.
        fresh: The error that the same segment adds.
    """

    error: Tensor
    inherited: Tensor
    fresh: Tensor

    @property
    def amplification(self) -> Tensor:
        r""":math:`\mu` of each segment, with shape :math:`(S-1, B)`."""
        return self.inherited / self.error[1:]


def energy_budget(
    chain: GaussianChain, states: Sequence[int], bands: Sequence[Tensor]
) -> ScalarBudget:
    r"""The exact budget of the energies of bands about :math:`\alpha_t m`.

    Arguments:
        chain: The chain.
        states: Times, upwards.
        bands: For each band orthonormal rows, with shape :math:`(|B|, d)`.

    Example:
        >>> from undrift.diffusion.schedule import CosineSchedule
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> chain = GaussianChain.from_schedule(
        ...     0 * eye[0], 0.5 * eye, CosineSchedule(50), variance="exact", slope_error=-0.05)
        >>> budget = energy_budget(chain, (0, 10, 50), [eye])
        >>> bool(torch.allclose(budget.error[:-1], budget.inherited + budget.fresh))
        True
    """
    chosen, lower = list(states), list(states[:-1])

    def logs(mean: Tensor, cov: Tensor, times: list[int]) -> Tensor:
        shift = mean - chain.forward_mean[times]
        second = cov + shift[:, :, None] * shift[:, None, :]
        energies = [((rows @ second) * rows).sum((1, 2)) / len(rows) for rows in bands]
        return torch.stack(energies, 1).log()

    sampled = logs(chain.sampled_mean[chosen], chain.sampled_cov[chosen], chosen)
    forward = logs(chain.forward_mean[chosen], chain.forward_cov[chosen], chosen)
    rolled = logs(*pushforward(chain, states[1:], lower), lower)
    return ScalarBudget(sampled - forward, sampled[:-1] - rolled, rolled - forward[:-1])


def mean_budget(
    chain: GaussianChain, states: Sequence[int], directions: Sequence[Tensor]
) -> ScalarBudget:
    """The exact budget of the means along directions.

    Arguments:
        chain: The chain.
        states: Times, upwards.
        directions: Vectors, each with shape :math:`(d,)`.
    """
    chosen, lower, rows = list(states), list(states[:-1]), torch.stack(list(directions)).T
    sampled, forward = chain.sampled_mean[chosen] @ rows, chain.forward_mean[chosen] @ rows
    rolled = pushforward(chain, states[1:], lower)[0] @ rows
    return ScalarBudget(sampled - forward, sampled[:-1] - rolled, rolled - forward[:-1])
