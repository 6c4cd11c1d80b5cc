"""The rollout of each variant of the regularizer."""

from __future__ import annotations

from undrift.regularizer.bootstrap import BootstrapRollout, Gradient, Rollout
from undrift.regularizer.cohorts import PersistentCohorts
from undrift.regularizer.options import RegularizerConfig, Variant, VariantDefaults


def rollout_of(variant: Variant, config: RegularizerConfig, defaults: VariantDefaults) -> Rollout:
    """The rollout of a variant, with the numbers of its options.

    Arguments:
        variant: The variant.
        config: The options.
        defaults: Those of the variant.
    """
    window = config.window or defaults.window
    if variant == "persistent":
        num_cohorts = config.num_cohorts or defaults.num_cohorts or 1
        return PersistentCohorts(num_cohorts, window, config.stride, config.gradient_steps)
    if variant == "official":
        return BootstrapRollout(config.length, "all", True, last_step=False, window=window)
    gradient: Gradient = "all" if variant == "full" else "last"
    return BootstrapRollout(config.length, gradient, window=window)
