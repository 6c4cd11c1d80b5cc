r"""A schedule between its steps, for methods that were published in continuous time.

Time is :math:`\tau = t/T` in [0, 1]. Between the steps :math:`\log\bar\alpha` is a cubic with
matching slopes at the steps, the harmonic mean of the slopes on both sides: it falls everywhere,
and so the diffusion coefficient

.. math:: g^2(\tau) = \beta(\tau) = -\frac{d}{d\tau}\log\bar\alpha(\tau)

is continuous and positive. The table itself is kept. A network is called with the fractional step
:math:`T\tau - 1`, which the time embeddings of diffusers take.

References:
    | A Method for Constructing Local Monotone Piecewise Cubic Interpolants
      (Fritsch & Butland, 1984)
"""

from __future__ import annotations

import torch
from torch import Tensor

from undrift.schedule import Schedule

SMALLEST_ALPHA_BAR = 1e-12  # a schedule that ends without signal has no logarithm there


class ContinuousSchedule:
    r"""A schedule at any time, in float64 on the CPU.

    Arguments:
        schedule: The schedule.

    Example:
        >>> from undrift.schedule import CosineSchedule
        >>> schedule = CosineSchedule(100)
        >>> between = ContinuousSchedule(schedule)
        >>> abar = between.alpha_bar(torch.tensor([0.50, 0.505, 0.51]))
        >>> bool(abar[0] > abar[1] > abar[2]), round(float(abar[0] - schedule.alpha_bar(50)), 12)
        (True, 0.0)
    """

    def __init__(self, schedule: Schedule) -> None:
        self.num_steps = schedule.num_steps
        table = schedule.alphas_cumprod.clamp(min=SMALLEST_ALPHA_BAR)
        self._log = table.log()
        fall = self._log.diff()
        inner = 2 * fall[:-1] * fall[1:] / (fall[:-1] + fall[1:])
        self._slope = torch.cat([fall[:1], inner, fall[-1:]])
        self._log_ratio = ((1 - table[1:]) / table[1:]).log() / 2

    def alpha_bar(self, tau: Tensor) -> Tensor:
        r""":math:`\bar\alpha(\tau)`, with the shape of the times."""
        return self._log_alpha_bar(tau)[0].exp()

    def beta(self, tau: Tensor) -> Tensor:
        r""":math:`\beta(\tau) = g^2(\tau)`, a unit of time being the whole process."""
        return -self.num_steps * self._log_alpha_bar(tau)[1]

    def step(self, ratio: Tensor) -> Tensor:
        r"""The fractional step t at a noise level :math:`\sigma/\alpha`; constant beyond 1 and T.

        Arguments:
            ratio: Noise levels, with shape :math:`(B,)`.
        """
        at, table = ratio.log(), self._log_ratio
        if len(table) == 1:
            return torch.ones_like(at)
        right = torch.searchsorted(table, at).clamp(1, len(table) - 1)
        share = (at - table[right - 1]) / (table[right] - table[right - 1])
        return right + share.clamp(0, 1)

    def _log_alpha_bar(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """The cubic and its derivative by the step."""
        t = (tau.double().cpu() * self.num_steps).clamp(0, self.num_steps)
        left = t.floor().long().clamp(max=self.num_steps - 1)
        u = t - left
        y_0, y_1 = self._log[left], self._log[left + 1]
        m_0, m_1 = self._slope[left], self._slope[left + 1]
        fall = y_1 - y_0
        curve, twist = 3 * fall - 2 * m_0 - m_1, m_0 + m_1 - 2 * fall
        return y_0 + u * (m_0 + u * (curve + u * twist)), m_0 + u * (2 * curve + 3 * u * twist)
