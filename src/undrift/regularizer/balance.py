r"""The strength of a term relative to the main one, by measured gradient norms."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from undrift.exceptions import Limits
from undrift.regularizer.resumable import Resumable

NO_EFFECT_SHARE = 0.01
NO_EFFECT_CALLS = 100


@dataclass
class GradientBalance(Resumable):
    r"""The strength λ that keeps the regularizer's gradient at a share of the main term's.

    .. math:: \lambda = \text{share} \cdot
              \sqrt{\overline{\|g_\text{main}\|^2} / \overline{\|g_\text{reg}\|^2}},

    both squared norms averaged exponentially. Norms that are measured at every call
    (``regularizer.backward``) keep the share within a few percent; those that are measured now and
    then keep it within a factor of about 1.5, because few steps carry most of the gradient.

    Arguments:
        share: The wanted :math:`\lambda\|g_\text{reg}\| / \|g_\text{main}\|`.
        decay: Weight of the past in the averages.
        every: After how many terms the norms are measured again where that costs extra
            backward passes; a prime, so that all cohorts and steps occur.
        scale: Factor of the share, which a :class:`~undrift.regularizer.guard.MainLossGuard` sets.

    Example:
        >>> balance = GradientBalance(share=0.5)
        >>> balance.update(main_norm=1.0, reg_norm=0.01)
        >>> round(balance.strength, 6)
        50.0
    """

    share: float = 1.0
    decay: float = 0.97
    every: int = 7
    main_sq: float = 0.0
    reg_sq: float = 0.0
    scale: float = 1.0

    saved = ("main_sq", "reg_sq", "scale")

    def __post_init__(self) -> None:
        """Check the options."""
        Limits(0, ends="()").check("the share of the gradient norm", self.share)
        Limits(0, 1).check("the decay of the averages", self.decay)
        Limits(1).check("the interval of the measured norms", self.every)

    def update(self, main_norm: float, reg_norm: float) -> None:
        """Record the two gradient norms of one step; norms that are not finite are ignored."""
        if math.isfinite(main_norm) and math.isfinite(reg_norm):
            self.main_sq = self.decay * self.main_sq + (1 - self.decay) * main_norm**2
            self.reg_sq = self.decay * self.reg_sq + (1 - self.decay) * reg_norm**2

    @property
    def strength(self) -> float:
        """λ now; 0 before anything was measured."""
        share = self.share * self.scale
        return share * math.sqrt(self.main_sq / self.reg_sq) if self.reg_sq > 0 else 0.0


@dataclass
class NoEffectWarning(Resumable):
    """Warns of a term without effect.

    Arguments:
        name: What the term is called in the warning.
        advice: What to do then.
        weak_since: The term from which on its gradient was negligible; None if it is not now.
    """

    name: str = "the regularizer"
    advice: str = "raise its strength or balance it"
    weak_since: int | None = None

    saved = ("weak_since",)

    def note(self, term: int, main_norm: float, reg_norm: float, strength: float) -> None:
        """Record the norms of one step.

        Arguments:
            term: Which term it is, counted.
            main_norm: Norm of the main term's gradient.
            reg_norm: Norm of the regularizer's gradient, λ included.
            strength: λ.
        """
        if not reg_norm < NO_EFFECT_SHARE * main_norm:
            self.weak_since = None
            return
        self.weak_since = term if self.weak_since is None else self.weak_since
        if term - self.weak_since + 1 >= NO_EFFECT_CALLS:
            self.weak_since = term + 10 * NO_EFFECT_CALLS  # once in a while is enough
            warnings.warn(
                f"the gradient of {self.name} stayed below {NO_EFFECT_SHARE:.0%} of that of the "
                f"main term for {NO_EFFECT_CALLS} calls: it has no effect; {self.advice} "
                f"(now {strength:.3g})",
                stacklevel=4,
            )
