r"""A limit on what the regularizer may cost the main term.

The main loss :math:`\ell` of the model is compared with that of the model as it was before the
first term, :math:`\ell_0`, on the same data, times and noise: a pair differs by little more than
what training has changed, while each of them alone varies much more from batch to batch. With
moving averages of both,

.. math:: r = \bar\ell / \bar\ell_0 - 1, \qquad
          s \leftarrow \min\Bigl(1,\; s\, \exp\bigl(g\, \operatorname{clip}_{[-1, 1]}
          (1 - r / r_\text{max})\bigr)\Bigr),

and the share of the gradient norm that the regularizer has is multiplied by s. Where the full share
raises the main loss by less than :math:`r_\text{max}`, s stays 1; where it raises it by more, s
settles where the rise is :math:`r_\text{max}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import nn

from undrift.exceptions import Limits
from undrift.regularizer.resumable import Resumable


@dataclass
class MainLossGuard(Resumable):
    r"""Lowers the share of the regularizer's gradient where the main loss has risen too much.

    Arguments:
        limit: :math:`r_\text{max}`, the rise that is allowed.
        decay: Weight of the past in the averages.
        every: After how many steps the pair is measured.
        gain: g, the most by which one measurement changes ln s.
        main: The moving average of the main loss; the first value counts as all of the past.
        start: The same of the model before the first term.
        scale: s.
        network: The model before the first term.

    Example:
        >>> guard = MainLossGuard(limit=0.02)
        >>> guard.update(main=1.10, start=1.00)
        >>> guard.scale < 1
        True
    """

    limit: float = 0.02
    decay: float = 0.8
    every: int = 10
    gain: float = 0.1
    main: float = 0.0
    start: float = 0.0
    scale: float = 1.0
    network: nn.Module = field(default_factory=nn.Identity)

    saved = ("main", "start", "scale", "network")

    def __post_init__(self) -> None:
        """Check the options."""
        Limits(0, ends="()").check("the limit on the rise of the main loss", self.limit)

    def update(self, main: float, start: float) -> None:
        """Record the main loss of both models on one batch; what is not finite is ignored."""
        if not (math.isfinite(main) and math.isfinite(start)):
            return
        decay = self.decay if self.start > 0 else 0.0
        self.main = decay * self.main + (1 - decay) * main
        self.start = decay * self.start + (1 - decay) * start
        room = 1 - self.rise / self.limit
        self.scale = min(1.0, self.scale * math.exp(self.gain * min(1.0, max(-1.0, room))))

    @property
    def rise(self) -> float:
        """r, the relative rise of the main loss."""
        return self.main / self.start - 1 if self.start > 0 else 0.0
