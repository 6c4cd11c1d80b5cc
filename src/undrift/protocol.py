"""What a study compares: the plan of ``undrift compare``, in plain dataclasses without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from undrift.config import MethodConfig, TrainConfig

Budget = Literal["steps", "compute"]
PLAIN = "plain"


@dataclass
class StudyConfig:
    """A branched study: methods that continue one plain checkpoint, side by side.

    For each seed a plain model is trained (``base``). Each method then continues it with the same
    data, the same noise and an optimizer in the same state; its own term has a random stream of its
    own. All models are sampled with the same noise. Checkpoint rule: the averaged weights after the
    last step, nothing is selected.

    Arguments:
        base: The plain training that all methods continue.
        methods: Training methods by a name of your own; one of them is plain, of method plain.
        steps: Steps that each method continues for.
        seeds: Seeds of data, noise and weights.
        budgets: steps gives each method the same number of steps; compute gives each as many steps
            as take the processor time that the reference needs for its steps.
        reference: The method whose cost is the compute budget.
        compute_methods: Methods that are run at equal compute (all if null), plain among them.
        num_samples: Samples of each model that are judged.
        workers: Seeds that run at once, each on one thread.
    """

    base: TrainConfig = field(default_factory=TrainConfig)
    methods: dict[str, MethodConfig] = field(default_factory=lambda: {PLAIN: MethodConfig()})
    steps: int = 1000
    seeds: list[int] = field(default_factory=lambda: [0])
    budgets: list[Budget] = field(default_factory=lambda: ["steps"])
    reference: str = "persistent"
    compute_methods: list[str] | None = None
    num_samples: int = 3000
    workers: int = 1
