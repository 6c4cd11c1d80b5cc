"""The regularizer's options: their defaults, what each variant chooses where they are null, limits.

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from undrift.exceptions import InvalidInput
from undrift.regularizer.limits import Limits

Variant = Literal["official", "full", "truncated", "persistent"]


@dataclass
class RegularizerConfig:
    """The regularizer on the cumulative error.

    Arguments:
        strength: A fixed λ (if null, balanced by gradient norms; 1 for official, as released).
        gradient_share: The share of the main term's gradient norm that a balanced λ keeps.
        num_inference_steps: Denoising steps of the chain that is regularized, as many as it will be
            sampled with (all training steps if null, and for official, as released).
        length: Denoising steps of a rollout.
        num_states: States that are rolled out, or the size of a cohort (if null, a share of the
            batch that bounds the cost of a training step: half for persistent, a quarter for
            truncated and full, all of it for official).
        num_forward: Forward draws that they are compared with (1024 if null; for official, as many
            as states).
        num_cohorts: Cohorts of the persistent variant.
        every: The term is computed in every k-th training step (if null, 2; 1 for official, as
            released).
        window: Share of the chain, its end at data, in which the term is computed (if null, 0.15
            for persistent, 0.3 for truncated and full, where the error is by measurement; all of it
            for official, as released).
        stride: Times of the chain that one step of a new cohort spans on its way to the window.
        weighting: Weights of the denoising steps; measured takes the downstream gains of a profile.
        rho: Exponent of the exponential weights.
        profile: Profile whose downstream gains are the measured weights.
        kernel: What compares states with forward draws: a mixture of Gaussian kernels, or the
            energy distance; official has its own.
        bandwidth: Bandwidth of the Gaussian kernels over the mean squared distance of the draws.
        features: What the kernel compares: pixels; a pyramid of block means, which weighs coarse
            differences, such as the brightness, more; the activations of the network as it is at
            the start; or these and pixels (both need a population).
        population: Generated states that the states of a term are compared as a part of, the last
            that were made; 0 compares each batch of states alone.
        start: Share of the training steps that are plain before the first term.
        seed: Seed of the regularizer's own random stream, mixed with that of the run.
    """

    strength: float | None = None
    gradient_share: float = 1.0
    num_inference_steps: int | None = None
    length: int = 5
    num_states: int | None = None
    num_forward: int | None = None
    num_cohorts: int = 4
    every: int | None = None
    window: float | None = None
    stride: int = 3
    weighting: Literal["uniform", "exponential", "measured"] = "uniform"
    rho: float = 3.0
    profile: str | None = None
    kernel: Literal["rbf", "energy"] = "rbf"
    bandwidth: float = 1.0
    features: Literal["pixels", "pyramid", "network", "both"] = "pixels"
    population: int = 0
    start: float = 0.0
    seed: int = 0

    def chosen(self, variant: Variant, batch_size: int) -> RegularizerConfig:
        """The options with what a variant chooses where they are null.

        Arguments:
            variant: The variant.
            batch_size: Images of a training step, over all processes.

        Example:
            >>> RegularizerConfig(every=3).chosen("persistent", batch_size=64).num_states
            32
        """
        table = CHOSEN[variant]
        choice = table._asdict() | {"num_states": table.num_states(batch_size)}
        null = {name for name, value in vars(self).items() if value is None}
        return replace(self, **{name: choice[name] for name in null & choice.keys()})


class Chosen(NamedTuple):
    """What a variant of the regularizer chooses where an option is null.

    Arguments:
        states: States that are rolled out, as a share of the batch, which bounds the cost of a
            training step.
        num_forward: Forward draws; as many as there are states if None.
        every: The term is computed in every k-th call.
        window: Share of the chain.
        strength: λ; balanced by gradient norms if None.
    """

    states: float
    num_forward: int | None
    every: int
    window: float
    strength: float | None = None

    def num_states(self, batch_size: int) -> int:
        """Number of states for a batch, 2 at least."""
        return max(2, int(self.states * batch_size))


DEFAULTS = RegularizerConfig()
CHOSEN: dict[Variant, Chosen] = {
    "official": Chosen(1.0, None, 1, 1.0, 1.0),  # as released
    "full": Chosen(0.25, 1024, 2, 0.3),
    "truncated": Chosen(0.25, 1024, 2, 0.3),
    "persistent": Chosen(0.5, 1024, 2, 0.15),
}
"""What null stands for in the regularizer's options."""
UNUSED: dict[Variant, set[str]] = {
    "persistent": {"length"},
    "truncated": {"num_cohorts", "stride"},
    "full": {"num_cohorts", "stride"},
    "official": {
        *("num_cohorts", "stride", "gradient_share", "num_inference_steps"),
        *("kernel", "bandwidth", "features", "population"),
    },
}
"""Options of the regularizer that have no effect with a variant."""
LIMITS: dict[str, Limits] = {
    **dict.fromkeys(("length", "num_cohorts", "every", "stride"), Limits(1)),
    **dict.fromkeys(("num_states", "num_forward"), Limits(2)),
    **dict.fromkeys(("gradient_share", "bandwidth"), Limits(0, ends="()")),
    "strength": Limits(0),
    "population": Limits(0),
    "window": Limits(0, 1, "(]"),
    "start": Limits(0, 1),
}
"""Ranges of the regularizer's options."""


def check_options(variant: str, **options: float | None) -> None:
    """Stop at an unknown variant, or at an option outside of its range.

    Raises:
        InvalidInput: Names it.
    """
    if variant not in CHOSEN:
        known = ", ".join(CHOSEN)
        raise InvalidInput(f"unknown variant {variant!r} of the regularizer: choose {known}")
    for name, value in options.items():
        LIMITS[name].check(f"{name} of the regularizer", value)
