r"""Effective time: when the forward process has the energies that the sampler's states have.

Forward draws at time u have the energy :math:`Q_k(u) = \alpha_u^2 V_k + \sigma_u^2` in band k, with
:math:`V_k` that of the data. The effective time of the sampler's states at t in one band is the u
nearest to t with :math:`\log Q_k(u) = \log Q_k(t) + e_{t,k}`; over all bands it is

.. math:: t' = \arg\min_u \sum_k w_k \left[\log Q_k(t) + e_{t,k} - \log Q_k(u)\right]^2, \qquad
          w_k = 1 / \mathrm{se}(e_{t,k})^2 .

States at t = 20 with t' = 23 have the noise of the forward process at 23, more than the network
expects. To first order :math:`dt' = \sum_k w_k g_k\, de_k / \sum_k w_k g_k^2` with the slopes
:math:`g_k = d \log Q_k / du`, which gives the standard error. Between the times of the noise
schedule, :math:`\log Q_k` is linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler

_PARTS = 16
"""Points between two times of the schedule at which the weighted sum is compared."""


@dataclass(frozen=True)
class EnergyTable:
    r"""Logarithms of the forward energies at the times of a noise schedule.

    Arguments:
        times: Ascending times, with shape :math:`(U,)`.
        logs: :math:`\log Q_k`, with shape :math:`(U, K)`.
    """

    times: Tensor
    logs: Tensor

    @classmethod
    def of(cls, sampler: Sampler, energies: Tensor) -> EnergyTable:
        r"""The table of a chain: of its schedule, where that is known, else of its grid.

        Arguments:
            sampler: The chain.
            energies: :math:`V_k` of the data, with shape :math:`(K,)`.
        """
        times = sorted(sampler.grid)
        scales = [(1.0, 0.0) if t == 0 else sampler.scale(t) for t in times]
        squares = torch.tensor(scales, dtype=torch.float64).square()
        if sampler.schedule is not None:
            table = sampler.schedule.alphas_cumprod.double().cpu()
            whole = [round(t) for t in times]
            if whole == times and torch.allclose(table[whole], squares[:, 0], atol=1e-4):
                times, squares = list(range(len(table))), torch.stack([table, 1 - table], 1)
        logs = (squares[:, :1] * energies + squares[:, 1:]).log()
        return cls(torch.tensor(times, dtype=torch.float64), logs)

    def at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Values and slopes at some times, each with shape (N, K)."""
        right = torch.searchsorted(self.times, times).clamp(1, len(self.times) - 1)
        width = (self.times[right] - self.times[right - 1])[:, None]
        slope = (self.logs[right] - self.logs[right - 1]) / width
        return self.logs[right - 1] + slope * (times - self.times[right - 1])[:, None], slope

    def nearest(self, values: Tensor, t: float) -> Tensor:
        """For each band the time nearest to t at which it has this value; NaN if at none, (K,)."""
        below, above = self.logs[:-1], self.logs[1:]
        share = (values - below) / (above - below)
        crossing = self.times[:-1, None] + share * self.times.diff()[:, None]
        crossing = torch.where((share >= 0) & (share <= 1), crossing, torch.inf)
        found = crossing.gather(0, (crossing - t).abs().argmin(0, keepdim=True))[0]
        return torch.where(found.isfinite(), found, torch.nan)

    def best(self, values: Tensor, weights: Tensor) -> Tensor:
        """The time at which all bands together are nearest to these values, with shape (1,)."""
        parts = torch.arange(_PARTS, dtype=torch.float64) / _PARTS
        dense = self.times[:-1, None] + self.times.diff()[:, None] * parts
        dense = torch.cat([dense.flatten(), self.times[-1:]])
        misfit = ((values - self.at(dense)[0]).square() * weights).sum(1)
        time = dense[misfit.argmin()][None]
        for _ in range(2):  # steps of Gauss and Newton, from a point next to the minimum
            value, slope = self.at(time)
            norm = (weights * slope.square()).sum()
            step = (weights * slope * (values - value)).sum() / norm if norm > 0 else 0.0
            moved = (time + step).clamp(dense[0], dense[-1])
            if ((values - self.at(moved)[0]).square() * weights).sum() <= misfit.min():
                time = moved
        return time
