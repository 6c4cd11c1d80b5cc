r"""The error budget of one chain: inherited + fresh − forgotten, and whether it closes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ABSOLUTE_FLOOR = 1e-12
"""Nats below which a closed-form divergence in float64 is not distinguishable from zero."""
COLUMNS = ("inherited", "e_mod", "e_cumu", "e_con", "mu")
REASONS = {
    "e_cumu": "the sampled distribution is singular, so its divergence is infinite",
    "inherited": "the sampled distribution before this step is singular",
    "e_mod": "the step adds no noise in some direction: a point mass has no divergence",
    "mu": "the inherited error is 0, so the amplification factor is undefined",
}
"""Why a number of a step is missing; the first that applies is given."""


@dataclass(frozen=True)
class ErrorBudget:
    r"""Inherited + fresh − forgotten for steps 1 to T of one chain, in nats.

    Arguments:
        e_prior: :math:`E_{cumu}(T+1)`.
        e_cumu: :math:`E_{cumu}(t)`, with shape :math:`(T,)`; infinite where :math:`p_{t-1}` is
            singular.
        e_mod: :math:`E_{mod}(t)` (fresh); infinite where the step adds no noise.
        e_con: :math:`E_{con}(t)` (forgotten); infinite where the step adds no noise.
    """

    e_prior: float
    e_cumu: Tensor
    e_mod: Tensor
    e_con: Tensor

    @property
    def inherited(self) -> Tensor:
        r""":math:`E_{cumu}(t+1)`, with shape :math:`(T,)`."""
        return torch.cat([self.e_cumu[1:], self.e_cumu.new_tensor([self.e_prior])])

    @property
    def mu(self) -> Tensor:
        r"""Amplification factor as the paper defines it, with shape :math:`(T,)`.

        .. math:: \mu_t = \frac{E_{cumu}(t) - E_{mod}(t)}{E_{cumu}(t+1)}
                        = 1 - \frac{E_{con}(t)}{E_{cumu}(t+1)} \le 1

        The second form keeps full precision where the modular error is much larger than the others.
        Not a number where nothing is inherited or a term does not exist.
        """
        defined = self.e_con.isfinite() & self.inherited.isfinite() & (self.inherited > 0)
        return torch.where(defined, 1 - self.e_con / self.inherited, math.nan)

    def rows(self) -> list[dict[str, Any]]:
        """The budget as plain data, one row per step from T down to 1; None where undefined.

        A row that lacks a number says why under ``"reason"``.
        """
        columns = {name: getattr(self, name).tolist() for name in COLUMNS}
        rows = []
        for i in reversed(range(len(self.e_cumu))):
            numbers = {name: column[i] for name, column in columns.items()}
            missing = {name for name, x in numbers.items() if not math.isfinite(x)}
            row: dict[str, Any] = {"t": i + 1, **numbers, **dict.fromkeys(missing)}
            reasons = [reason for name, reason in REASONS.items() if name in missing]
            rows.append(row | ({"reason": reasons[0]} if reasons else {}))
        return rows

    @property
    def relative_gap(self) -> float:
        """Largest residual of the budget over the largest term of its step, where the terms exist.

        The residual is cumulative − (inherited + fresh − forgotten), in theory 0. A term counts as
        at least 1e-3 nats, so that 1e-9 here means a residual below 1e-9 of the largest term or
        below 1e-12 nats.
        """
        terms = torch.stack([self.e_cumu, self.inherited, self.e_mod, self.e_con])
        scale = terms.amax(0).clamp(min=1e9 * ABSOLUTE_FLOOR)
        residual = self.e_cumu - (self.inherited + self.e_mod - self.e_con)
        ratio = (residual.abs() / scale)[terms.isfinite().all(0)]
        return float(ratio.max()) if len(ratio) else 0.0
