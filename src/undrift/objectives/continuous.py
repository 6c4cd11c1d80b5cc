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

from undrift.diffusion.schedule import Schedule

NEWTON_STEPS = 6
SMALLEST_ALPHA_BAR = 1e-300  # a schedule that ends without signal has no logarithm there


class ContinuousSchedule:
    r"""A schedule at any time, in float64 on the CPU.

    Arguments:
        schedule: The schedule.

    Example:
        >>> from undrift.diffusion.schedule import CosineSchedule
        >>> schedule = CosineSchedule(100)
        >>> between = ContinuousSchedule(schedule)
        >>> abar = between.alpha_bar(torch.tensor([0.50, 0.505, 0.51]))
        >>> bool(abar[0] > abar[1] > abar[2]), round(float(abar[0] - schedule.alpha_bar(50)), 12)
        (True, 0.0)
        >>> between.step(((1 - abar) / abar).sqrt())
        tensor([50.0000, 50.5000, 51.0000], dtype=torch.float64)
    """

    def __init__(self, schedule: Schedule) -> None:
        self.num_steps = schedule.num_steps
        table = schedule.alphas_cumprod.clamp(min=SMALLEST_ALPHA_BAR)
        self._log = table.log()
        fall = self._log.diff()
        inner = 2 * fall[:-1] * fall[1:] / (fall[:-1] + fall[1:])
        self._slope = torch.cat([fall[:1], inner, fall[-1:]])

    def alpha_bar(self, tau: Tensor) -> Tensor:
        r""":math:`\bar\alpha(\tau)`, with the shape of the times."""
        return self._log_alpha_bar(tau)[0].exp()

    def beta(self, tau: Tensor) -> Tensor:
        r""":math:`\beta(\tau) = g^2(\tau)`, a unit of time being the whole process."""
        return -self.num_steps * self._log_alpha_bar(tau)[1]

    def step(self, ratio: Tensor) -> Tensor:
        r"""The fractional step at which :math:`\sigma/\alpha` has a value, between 1 and T.

        Arguments:
            ratio: Noise levels, with shape :math:`(B,)`.
        """
        wanted = -torch.log1p(ratio.double() ** 2)
        right = torch.searchsorted(-self._log, -wanted).clamp(1, self.num_steps)
        left, y_0, y_1 = right - 1, self._log[right - 1], self._log[right]
        u = ((wanted - y_0) / (y_1 - y_0)).clamp(0, 1)
        for _ in range(NEWTON_STEPS):
            value, slope = self._cubic(left, u)
            u = (u - (value - wanted) / slope).clamp(0, 1)
        return (left + u).clamp(min=1)

    def _log_alpha_bar(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm and its derivative by the step."""
        t = (tau.double().cpu() * self.num_steps).clamp(0, self.num_steps)
        left = t.floor().long().clamp(max=self.num_steps - 1)
        return self._cubic(left, t - left)

    def _cubic(self, left: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope between two steps, at a share u of the distance."""
        y_0, m_0, m_1 = self._log[left], self._slope[left], self._slope[left + 1]
        fall = self._log[left + 1] - y_0
        curve, twist = 3 * fall - 2 * m_0 - m_1, m_0 + m_1 - 2 * fall
        return y_0 + u * (m_0 + u * (curve + u * twist)), m_0 + u * (2 * curve + 3 * u * twist)
