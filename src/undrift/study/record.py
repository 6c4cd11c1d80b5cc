"""``study.json``: the results of a study.

:class:`StudyRecord` is the file; its fields are the keys of the JSON, those of the other classes
the keys of the objects in its lists. Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from undrift.measurement.reading import Record, Schema, write_json
from undrift.quality.scores import Quality

FILE = "study.json"


@dataclass(frozen=True)
class Judgment(Quality):
    """Quality of a model's samples in the features of one network.

    Arguments:
        is_best_sampler: Whether the sampler is the best one at its number of network calls: that
            with the lowest Fréchet distance of the method, a mean over the other seeds.
    """

    is_best_sampler: bool = False


@dataclass(frozen=True)
class StudyRow:
    """One model of a study on one chain, and the error and quality of its samples.

    Arguments:
        protocol: branched or scratch.
        method: Name of the method in the study; base for the run that branches continue.
        seed: Seed of the study.
        budget: At equal steps or equal compute.
        steps: Training steps.
        train_cpu_s: Processor time of the training, in seconds.
        run: Folder of the run, in that of the study.
        sampler: The sampler.
        num_inference_steps: Its number of denoising steps.
        network_calls: How often it calls the network for one sample, counted.
        mmd_sq: Final cumulative error against the population of the data.
        mmd_sq_low: Its lower confidence limit.
        empirical_mmd_sq: The same error against the data set itself.
        interval: 95 % interval of the error against the population.
        frechet_ratio: Mean over networks of the Fréchet distance relative to held-out images (FDr).
        quality: Quality in the features of each network, by its name.
        own_mmd_sq: The error against the population in the features of the base that the run
            continues, which is another one for each seed; null for a run that continues none, and
            for conditional and latent models.
        grid: File of a grid of its samples, in the folder of the study.
        profile: File of the error profile whose samples were judged, in the folder of the study.
        step: Training step whose averaged weights were evaluated, before the last.
        remedy: Name of the remedy of its sampler.
    """

    protocol: str
    method: str
    seed: int
    budget: str
    steps: int
    train_cpu_s: float
    run: str
    sampler: str
    num_inference_steps: int
    network_calls: int
    mmd_sq: float
    mmd_sq_se: float | None = None
    mmd_sq_low: float | None = None
    p_value: float | None = None
    empirical_mmd_sq: float | None = None
    pixel_variance_ratio: float | None = None
    empirical_mmd_sq_se: float | None = None
    interval: tuple[float, float] | None = None
    frechet_ratio: float | None = None
    quality: dict[str, Judgment] = field(default_factory=dict)
    own_mmd_sq: float | None = None
    own_mmd_sq_se: float | None = None
    grid: str | None = None
    profile: str | None = None
    step: int | None = None
    remedy: str | None = None

    @property
    def chain(self) -> tuple[str, int]:
        """Its sampler and number of denoising steps."""
        return self.sampler, self.num_inference_steps


@dataclass(frozen=True)
class MeanInterval:
    """Mean over seeds with its 95 % interval by Student's distribution; no interval of one seed."""

    mean: float
    interval: tuple[float, float] | None
    num_seeds: int


@dataclass(frozen=True)
class Change(MeanInterval):
    """Mean relative change of a metric against a baseline, which a model is compared with by seed.

    Arguments:
        changes: The change of each seed.
        seeds: The seeds.
        metric: What changes.
        method: Whose change: against plain by the same protocol and budget; with a remedy, against
            the same run without.
        network: The network of the metric, or by which the best samplers are chosen; null for an
            error in pixels on one chain.
        sampler: The sampler of both; null where each has its best one at the same network calls.
        num_inference_steps: Its number of denoising steps.
        network_calls: Network calls of both, where each has its best sampler.
    """

    metric: str
    changes: list[float]
    seeds: list[int]
    method: str
    network: str | None = None
    protocol: str | None = None
    budget: str | None = None
    remedy: str | None = None
    sampler: str | None = None
    num_inference_steps: int | None = None
    network_calls: int | None = None


@dataclass(frozen=True)
class Mean(MeanInterval):
    """Mean over seeds of a score without bias: whether it is distinguishable from 0.

    Arguments:
        metric: ``mmd_sq`` or ``kernel_distance``.
        network: The network of the metric, or by which the best samplers are chosen.
        sampler: The sampler; null where each method and seed has its best one.
        num_inference_steps: Its number of denoising steps.
        network_calls: Network calls, where each has its best sampler.
    """

    metric: str
    protocol: str
    budget: str
    method: str
    network: str | None = None
    sampler: str | None = None
    num_inference_steps: int | None = None
    network_calls: int | None = None


@dataclass(frozen=True)
class Ratios(MeanInterval):
    """Processor time of a step relative to plain's of the same seed."""

    ratios: list[float]


@dataclass(frozen=True)
class Cost:
    """Processor time of a training step of a method, in seconds and relative to plain's."""

    protocol: str
    method: str
    cpu_s_per_step: float
    relative: Ratios


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation with a 95 % interval, which resamples runs."""

    rho: float
    interval: tuple[float, float] | None
    num_points: int
    num_runs: int


@dataclass(frozen=True)
class Correlations:
    """Rank correlation of a cumulative error with the Fréchet distance, on one chain.

    Arguments:
        network: The network in whose features the distance is taken.
        metric: The cumulative error: ``mmd_sq``, or ``mmd_sq_low``, its lower confidence limit.
    """

    sampler: str
    num_inference_steps: int
    network: str
    metric: str
    overall: Correlation | None
    within_seed: Correlation | None
    within_method: Correlation | None


@dataclass(frozen=True)
class Prediction:
    """Rank correlation of an error with quality in a network that it is not taken in.

    Arguments:
        space: Where the error is taken: pixels, own (the features of the base), or a network.
        network: The network that judges quality.
        metric: ``frechet`` or ``kernel_distance``.
        overall: Over all evaluations, of all chains.
        within_seed: Within seeds, in which the base is the same.
        within_chain: Within chains, where only training differs.
    """

    space: str
    network: str
    metric: str
    overall: Correlation | None
    within_seed: Correlation | None
    within_chain: Correlation | None


@dataclass(frozen=True)
class ProfileState:
    """Cumulative error after one state of a chain."""

    t: float
    mmd_sq: float
    mmd_sq_se: float | None


@dataclass(frozen=True)
class RemedyProfile:
    """Cumulative error along one chain of a run, with a remedy or with none."""

    protocol: str
    method: str
    seed: int
    sampler: str
    num_inference_steps: int
    remedy: str
    num_samples: int
    states: list[ProfileState]


@dataclass(frozen=True)
class Failure:
    """A run that could not be trained to its end, and why; the method is null for a base."""

    protocol: str
    method: str | None
    seed: int
    budget: str
    reason: str


@dataclass(frozen=True)
class StudyRecord(Record):
    """The results of a study so far.

    Arguments:
        rows: One for each protocol, seed, budget, method and chain.
        paired: Mean relative change of each metric against plain, within seeds and chains.
        paired_best: The same with the best sampler of each, at the same number of network calls.
        means: Mean over seeds of each score without bias, on each chain and with the best samplers.
        costs: Processor time of a step of each method.
        checkpoints: Evaluations of intermediate weights (``judge_every``).
        correlations: On each chain, the rank correlation of ``mmd_sq`` and its lower limit with
            the Fréchet distance; none until the study is complete, or of too few evaluations.
        predictions: The same for the error in each space and the quality in each other network,
            over all chains.
        is_complete: Whether all runs have been made.
        remedies: Evaluations of samplers with remedies.
        paired_remedies: Their mean relative changes against the same runs without.
        profiles: Cumulative error along each chain, without remedy and with each.
        failures: Runs that could not be trained to their end.
        checkpoint_rule: Which weights are evaluated.
        judged_by: How all models are evaluated, and by which networks.
        config: The plan.
        versions: Versions of the packages, and the machine.
        data: Description of the data.
        command: The command line.
        created: When it was written, as ISO 8601 writes it.
    """

    schema = Schema("undrift.study", 4, "study", "compare")
    rows: list[StudyRow]
    paired: list[Change]
    paired_best: list[Change] = field(default_factory=list)
    means: list[Mean] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    checkpoints: list[StudyRow] = field(default_factory=list)
    correlations: list[Correlations] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    is_complete: bool = False
    remedies: list[StudyRow] = field(default_factory=list)
    paired_remedies: list[Change] = field(default_factory=list)
    profiles: list[RemedyProfile] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    checkpoint_rule: str = ""
    judged_by: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    command: str | None = None
    created: str = ""

    def save(self, folder: Path) -> Path:
        """Write ``study.json`` atomically, a row on each line, without nulls that are defaults."""
        schema = {"kind": self.schema.kind, "schema_version": self.schema.version}
        return write_json(folder / FILE, schema | _compact(self), rows=True)


def _compact(value: Any) -> Any:  # noqa: ANN401
    """Plain data of dataclasses, without the fields that are null and are so by default."""
    if is_dataclass(value):
        pairs = [(own, getattr(value, own.name)) for own in fields(value)]
        kept = [(own.name, item) for own, item in pairs if (item, own.default) != (None, None)]
        return {name: _compact(item) for name, item in kept}
    if isinstance(value, dict):
        return {key: _compact(item) for key, item in value.items()}
    return [_compact(item) for item in value] if isinstance(value, (list, tuple)) else value
