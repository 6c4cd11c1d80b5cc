"""The rollout of each variant of the regularizer."""

from __future__ import annotations

from undrift.regularizer.bootstrap import BootstrapRollout, Gradient, Rollout
from undrift.regularizer.cohorts import PersistentCohorts
from undrift.regularizer.options import RegularizerConfig, Variant


def rollout_of(variant: Variant, config: RegularizerConfig, window: float) -> Rollout:
    """The rollout of a variant, with the numbers of its options.

    Arguments:
        variant: The variant.
        config: The options.
        window: Share of the chain, its end at data, in which the term is computed.
    """
    if variant == "persistent":
        return PersistentCohorts(
            config.num_cohorts, window, config.stride, config.gradient_steps, config.laps
        )
    if variant == "official":
        return BootstrapRollout(config.length, "all", True, last_step=False, window=window)
    gradient: Gradient = "all" if variant == "full" else "last"
    return BootstrapRollout(config.length, gradient, window=window)
