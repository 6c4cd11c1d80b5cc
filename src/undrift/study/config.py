"""The plan of a study, as ``undrift compare`` reads it: plain dataclasses without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from undrift.remedies.remedy import Remedy
from undrift.reporting.content import PLAIN as PLAIN
from undrift.training.config import MethodConfig, TrainConfig
from undrift.training.records import DATA_GRID as DATA_GRID

Protocol = Literal["branched", "scratch"]
Budget = Literal["steps", "compute"]
BASE = "base"
"""Name of the run that branches continue, among the checkpoints."""
CHECKPOINT_RULE = (
    "the averaged weights after the last step are evaluated; no checkpoint is selected"
)


class Chain(NamedTuple):
    """A sampler and its number of denoising steps: the run's own, and all training steps, if None.

    Example:
        >>> str(Chain("unipc", 10)), str(Chain())
        ('unipc, 10 steps', "the run's own sampler, all steps")
    """

    sampler: str | None = None
    num_inference_steps: int | None = None

    def __str__(self) -> str:
        name = self.sampler or "the run's own sampler"
        return f"{name}, {self.num_inference_steps or 'all'} steps"


@dataclass
class StudyConfig:
    """A study: methods side by side, over seeds, by one or both protocols.

    branched: for each seed a plain model is trained (``base``) and each method continues it, with
    the same data, the same noise and an optimizer in the same state; additional draws of a method
    come from a separate random stream. scratch: each method starts from the same initial weights,
    with the same data and noise. All models are sampled with the same noise. Checkpoint rule: the
    averaged weights after the last step, nothing is selected.

    Each model is trained once and evaluated on every chain: each sampler with each number of steps.

    Arguments:
        base: The plain training that all methods continue, and whose options all share.
        methods: Training methods by names that you choose; one of them is plain, of method plain.
        protocols: branched, scratch, or both.
        steps: Steps that each method continues for.
        scratch_steps: Steps of each method from scratch.
        seeds: Seeds of data, noise and weights; no two differ by 1000, which branches add to the
            seed of their base.
        budgets: steps gives each method the same number of steps; compute gives each as many steps
            as take the processor time that the reference needs for its steps.
        reference: The method whose cost is the compute budget.
        compute_methods: Methods that are run at equal compute (default: all), plain among them.
        num_samples: Samples of each model that are evaluated.
        num_inference_steps: Numbers of denoising steps, or one (default: all training steps). A
            regularizer has an option of the same name: give it one of these values.
        samplers: Samplers, by the names that ``undrift sample`` takes (default: the run's own,
            ancestral).
        num_reference: Images that samples are compared with, evenly spread over the data (default:
            all, up to four times the samples).
        features: Networks that judge quality, one or several, in whose features no method is
            trained: classifier (of the labels), efficientnet-lite0 (or -lite1, -lite2), pixels, or
            a TorchScript file (default: the classifier where the data have labels, else
            efficientnet-lite0).
        remedies: Remedies at sampling time by names that you choose, tried on trained models.
        remedy_methods: Methods that they are tried on (default: plain and the reference), by the
            first protocol at equal steps.
        judge_every: Also evaluate the averaged weights every so many steps (default: only after the
            last step), to see whether the cumulative error predicts quality.
        measure: Also measure each trained run on every chain, after every denoising step; the
            samples of the measurement are those that are judged.
        workers: Runs at the same time, each on one thread.
    """

    base: TrainConfig = field(default_factory=TrainConfig)
    methods: dict[str, MethodConfig] = field(default_factory=lambda: {PLAIN: MethodConfig()})
    protocols: list[Protocol] = field(default_factory=lambda: ["branched"])
    steps: int = 1000
    scratch_steps: int | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    budgets: list[Budget] = field(default_factory=lambda: ["steps"])
    reference: str = "persistent"
    compute_methods: list[str] | None = None
    num_samples: int = 3000
    num_inference_steps: list[int] | int | None = None
    samplers: list[str] | None = None
    num_reference: int | None = None
    features: list[str] | str | None = None
    remedies: dict[str, Remedy] = field(default_factory=dict)
    remedy_methods: list[str] | None = None
    judge_every: int | None = None
    measure: bool = False
    workers: int = 1

    def length(self, protocol: Protocol) -> int:
        """Steps of a run at equal steps."""
        return self.steps if protocol == "branched" else self.scratch_steps or 0

    @property
    def step_counts(self) -> list[int | None]:
        """Numbers of denoising steps that models are evaluated with; None for all."""
        counts = self.num_inference_steps
        return [*counts] if isinstance(counts, list) else [counts]

    @property
    def chains(self) -> list[Chain]:
        """The chains that every model is evaluated on.

        Example:
            >>> [str(chain) for chain in StudyConfig(num_inference_steps=[5, 9]).chains]
            ["the run's own sampler, 5 steps", "the run's own sampler, 9 steps"]
        """
        names = [None] if self.samplers is None else self.samplers
        return [Chain(name, count) for count in self.step_counts for name in names]

    @property
    def judge_names(self) -> list[str] | None:
        """The networks that judge; None for the default of the data."""
        return [self.features] if isinstance(self.features, str) else self.features

    @property
    def tries_remedies_on(self) -> list[str]:
        """Methods whose models are also evaluated with remedies."""
        return [PLAIN, self.reference] if self.remedy_methods is None else self.remedy_methods
