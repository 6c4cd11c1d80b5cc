"""The runs of a study: what each needs before it can start, its steps and its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from undrift.study.config import Budget, Protocol, StudyConfig
from undrift.training.config import MethodConfig, TrainConfig

SHIFT = 1_000
"""Added to the seed of a base for its branches, so that they draw other batches and noise."""


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Arguments:
        seed: Seed of the study.
        protocol: Protocol of the run.
        method: Name of the method in the study; None for the base of the seed's branches.
        budget: Equal steps or equal compute.
    """

    seed: int
    protocol: Protocol
    method: str | None
    budget: Budget = "steps"

    @property
    def base(self) -> Job | None:
        """The run that this one continues, if any."""
        if self.method is None or self.protocol == "scratch":
            return None
        return replace(self, method=None, budget="steps")

    def needs(self, config: StudyConfig) -> list[Job]:
        """Runs that have to be complete before this one."""
        found = [self.base] if self.base is not None else []
        if self.budget == "compute":
            names = (self.method, config.reference)
            found += [replace(self, method=name, budget="steps") for name in names]
        return found

    def planned(self, config: StudyConfig) -> int:
        """Training steps at equal steps."""
        return config.base.steps if self.method is None else config.length(self.protocol)

    def steps(self, config: StudyConfig, costs: Mapping[Job, float]) -> int:
        """Training steps, at equal compute as many as take the reference's processor time."""
        steps = self.planned(config)
        if self.budget == "steps":
            return steps
        own = costs[replace(self, budget="steps")]
        reference = costs[replace(self, method=config.reference, budget="steps")]
        return max(1, round(steps * reference / max(own, 0.01)))

    def folder(self, study: Path, steps: int) -> Path:
        """Folder of the run."""
        place = study / f"seed-{self.seed}"
        if self.method is None:
            return place / "base"
        prefix = "scratch-" if self.protocol == "scratch" else ""
        return place / f"{prefix}{self.method}-{steps}"

    def training(self, config: StudyConfig, study: Path, steps: int) -> TrainConfig:
        """The configuration of the run."""
        output = str(self.folder(study, steps))
        start = replace(config.base, seed=self.seed, steps=steps, output=output)
        if self.method is None:
            return start
        start = with_method(start, config.methods[self.method])
        if self.base is None:
            return start
        base = self.base.folder(study, config.base.steps)
        return replace(start, start_from=str(base), seed=self.seed + SHIFT)


def with_method(config: TrainConfig, method: MethodConfig) -> TrainConfig:
    """A training by a method, whose separate random stream follows from the seed."""
    regularizer, objective = method.regularizer, method.objective
    return replace(
        config,
        method=method.method,
        regularizer=replace(regularizer, seed=regularizer.seed + config.seed),
        objective=replace(objective, seed=objective.seed + config.seed),
        checkpoint_every=None,
    )


def jobs(config: StudyConfig) -> Iterator[Job]:
    """All runs of a study, each after those that it needs."""
    at_compute = config.compute_methods or list(config.methods)
    for seed in config.seeds:
        if "branched" in config.protocols:
            yield Job(seed, "branched", None)
        for protocol in config.protocols:
            for method in config.methods:
                yield Job(seed, protocol, method)
            if "compute" in config.budgets:
                for method in config.methods:
                    if method in at_compute:
                        yield Job(seed, protocol, method, "compute")
