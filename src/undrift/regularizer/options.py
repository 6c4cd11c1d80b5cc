"""The regularizer's options: their defaults, those of each variant, and their ranges.

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from undrift.exceptions import InvalidInput, Limits, check_choice

Variant = Literal["official", "full", "truncated", "persistent"]
Averaging = Literal["queue", "moving"]


@dataclass
class RegularizerConfig:
    """The regularizer on the cumulative error.

    Arguments:
        strength: A fixed λ (default: balanced by gradient norms; for official 1, as released).
        gradient_share: The gradient norm of the regularizer over that of the denoising loss (the
            main loss), which a balanced λ keeps.
        main_loss_limit: The rise of the main loss over that of the model before the first term, on
            the same data and noise, above which a balanced λ takes a smaller share (null: none). A
            learning rate that starts anew raises it too, by several percent for a while.
        num_inference_steps: Denoising steps of the chain that is regularized, as many as it will be
            sampled with (default: all training steps; official always uses these, as released).
        gradient_steps: Denoising steps of the chain, the last ones, that the gradient of persistent
            goes through; as many as the chain has, the whole chain. A term makes all of them anew
            and keeps their activations.
        length: Denoising steps of a rollout.
        num_states: States that are rolled out, or the size of a cohort (default: a share of the
            batch that bounds the cost of a training step: half for persistent, a quarter for
            truncated, full, and persistent with a population, all of it for official).
        num_forward: Forward draws that they are compared with, four or more with a population
            (default: 1024; for official, as many as states).
        num_cohorts: Cohorts of the persistent variant (default: 4; 2 with a population, which the
            states of older weights in more of them would hold back).
        every: The term is computed in every k-th training step (default: 2; for official 1, as
            released).
        window: Share of the chain, its end at data, in which the term is computed (default: 0.15
            for persistent, 0.3 for truncated and full, where the error was measured; all of it for
            official, as released).
        stride: Times of the chain that one step of a new cohort spans on its way to the window; a
            scheduler of diffusers takes each of its steps.
        weighting: Weights of the denoising steps; measured takes the downstream gains of a profile.
        rho: Exponent of the exponential weights.
        profile: Profile whose downstream gains are the measured weights.
        kernel: The kernel of the comparison: a mixture of Gaussian kernels, the Laplace kernel,
            the energy distance, or the cubic kernel of the kernel distance (needs a population);
            official has another one, as released.
        bandwidth: Bandwidth of the Gaussian and the Laplace kernel, as a multiple of the mean
            squared distance of the forward draws.
        features: What the kernel compares: pixels; pyramid, block means of all sizes, which weigh
            coarse differences, such as the brightness, more; network, the activations of the
            network as it is at the start; encoder, those of its first stages, for less than half
            of the time; efficientnet-lite1 or efficientnet-lite2, trained on images; or several of
            them together, such as network+pixels, each in its own units (all
            but pixels or pyramid alone need a population). A regularizer shows an image network
            the starting network's estimate of the data, where states have noise.
        population: Generated states that the states of a term are compared as a part of, the last
            that were made: 16 times as many as a term has, such as 256, because older ones are of
            other weights; 0 compares each batch of states alone.
        averaging: How a population is kept: the states themselves in a queue; or moving, a moving
            average of random Fourier features (of the kernels rbf and laplace), whose cost does not
            depend on the size of the population.
        start: Share of the training steps that are plain before the first term.
        seed: Seed of the regularizer's random stream, combined with that of the run.
    """

    strength: float | None = None
    gradient_share: float = 1.0
    main_loss_limit: float | None = 0.2
    num_inference_steps: int | None = None
    gradient_steps: int = 1
    length: int = 5
    num_states: int | None = None
    num_forward: int | None = None
    num_cohorts: int | None = None
    every: int | None = None
    window: float | None = None
    stride: int = 3
    weighting: Literal["uniform", "exponential", "measured"] = "uniform"
    rho: float = 3.0
    profile: str | None = None
    kernel: Literal["rbf", "laplace", "cubic", "energy"] = "rbf"
    bandwidth: float = 1.0
    features: str = "pixels"
    population: int = 0
    averaging: Averaging = "queue"
    start: float = 0.0
    seed: int = 0

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces of the features by name.

        Raises:
            InvalidInput: If one is unknown or given twice.

        Example:
            >>> RegularizerConfig(features="encoder+pixels").spaces
            ('encoder', 'pixels')
        """
        names = tuple(self.features.split("+"))
        for name in names:
            check_choice("space of --regularizer.features", name, FEATURES)
        if len(set(names)) < len(names):
            raise InvalidInput(f"--regularizer.features {self.features} has a space twice")
        return names

    def chosen(self, variant: Variant, batch_size: int) -> RegularizerConfig:
        """The options with the defaults of a variant where they are null.

        Arguments:
            variant: The variant.
            batch_size: Images of a training step, over all processes.

        Example:
            >>> RegularizerConfig(every=3).chosen("persistent", batch_size=64).num_states
            32
        """
        table = defaults_of(variant, self.population)
        choice = table._asdict() | {"num_states": table.num_states(batch_size)}
        return replace(
            self, **{k: choice[k] for k, v in vars(self).items() if v is None and k in choice}
        )


FEATURES = (
    *("pixels", "pyramid", "network", "encoder"),
    *("efficientnet-lite1", "efficientnet-lite2"),
)
"""The spaces in which states are compared. EfficientNet-Lite0, which judges samples, is none."""
OF_MODEL = frozenset({"network", "encoder"})
"""Those of the activations of the starting model."""


def is_image_network(name: str) -> bool:
    """Whether a space is that of a network of images."""
    return name.startswith("efficientnet")


class VariantDefaults(NamedTuple):
    """The defaults of a variant of the regularizer, for the options that are null.

    Arguments:
        states: States that are rolled out, as a share of the batch, which bounds the cost of a
            training step.
        num_forward: Forward draws; as many as there are states if None.
        every: The term is computed in every k-th call.
        window: Share of the chain.
        strength: λ; balanced by gradient norms if None.
        num_cohorts: Cohorts of the persistent variant.
    """

    states: float
    num_forward: int | None
    every: int
    window: float
    strength: float | None = None
    num_cohorts: int | None = None

    def num_states(self, batch_size: int) -> int:
        """Number of states for a batch, 2 at least."""
        return max(2, int(self.states * batch_size))


VARIANTS: dict[Variant, VariantDefaults] = {
    "official": VariantDefaults(1.0, None, 1, 1.0, 1.0),  # as released
    "full": VariantDefaults(0.25, 1024, 2, 0.3),
    "truncated": VariantDefaults(0.25, 1024, 2, 0.3),
    "persistent": VariantDefaults(0.5, 1024, 2, 0.15, num_cohorts=4),
}
"""The defaults of the options that are null."""
WITH_POPULATION = VARIANTS["persistent"]._replace(states=0.25, num_cohorts=2)
"""Those of persistent with a population: few states at once, all of new weights."""


def defaults_of(variant: Variant, population: int = 0) -> VariantDefaults:
    """The defaults of a variant, with or without a population.

    Example:
        >>> defaults_of("persistent", population=512).num_cohorts
        2
    """
    return WITH_POPULATION if population and variant == "persistent" else VARIANTS[variant]


UNUSED: dict[Variant, set[str]] = {
    "persistent": {"length"},
    "truncated": {"num_cohorts", "stride", "gradient_steps"},
    "full": {"num_cohorts", "stride", "gradient_steps"},
    "official": {
        *("num_cohorts", "stride", "gradient_steps", "gradient_share", "num_inference_steps"),
        "main_loss_limit",
        *("kernel", "bandwidth", "features", "population", "averaging"),
    },
}
"""Options of the regularizer that have no effect with a variant."""
LIMITS: dict[str, Limits] = {
    **dict.fromkeys(("length", "num_cohorts", "every", "stride", "gradient_steps"), Limits(1)),
    **dict.fromkeys(("num_states", "num_forward"), Limits(2)),
    **dict.fromkeys(("gradient_share", "bandwidth", "main_loss_limit"), Limits(0, ends="()")),
    "strength": Limits(0),
    "population": Limits(0),
    "window": Limits(0, 1, "(]"),
    "start": Limits(0, 1),
}
"""Ranges of the regularizer's options."""
LEAST_OF_POPULATION = 4
"""Fewest forward draws of a population: its null floor compares two halves of them."""
OF_TERM = (
    *("num_inference_steps", "length", "num_states", "num_forward", "num_cohorts"),
    *("every", "window", "stride", "gradient_steps", "rho", "population", "averaging", "seed"),
)
"""Options that are numbers of the term itself, which its constructor takes as they are."""


def term_options(
    variant: str, strength: float | None, options: dict[str, Any]
) -> RegularizerConfig:
    """The options of a term, checked, with their defaults where they are not given.

    Arguments:
        variant: The variant.
        strength: λ, if it is fixed.
        options: Those of :data:`OF_TERM` that are given, by name.

    Raises:
        InvalidInput: If the variant or an option is unknown, or an option is out of its range.

    Example:
        >>> term_options("persistent", None, {"window": 0.2}).window
        0.2
    """
    check_choice("variant", variant, VARIANTS)
    for name in options:
        check_choice("option of the regularizer", name, OF_TERM)
    config = RegularizerConfig(strength=strength, **options)
    for name, limits in LIMITS.items():
        limits.check(f"{name} of the regularizer", getattr(config, name))
    if config.population:
        name = "num_forward of the regularizer with a population"
        Limits(LEAST_OF_POPULATION).check(name, config.num_forward)
    return config
