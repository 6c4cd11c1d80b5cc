r"""A branched study: methods side by side, over seeds, at equal steps and at equal compute.

From scratch, plain training varies more between seeds than methods do; methods that continue one
checkpoint on the same data and noise differ by what they do alone. Relative changes are taken
within a seed,

.. math:: r_i = \frac{D_{0}^2(\text{method}, i)}{D_{0}^2(\text{plain}, i)} - 1,

and their mean over seeds has Student's interval.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from undrift.chain import Sampler
from undrift.checkpoint import last_checkpoint
from undrift.config import MethodConfig, TrainConfig
from undrift.data import ImageData
from undrift.exceptions import InvalidInput
from undrift.features import FeatureMap, extract_features
from undrift.features.classifier import ClassifierFeatures
from undrift.interop import as_sampler
from undrift.kernels import RBFMixture
from undrift.protocol import PLAIN, Budget, StudyConfig
from undrift.quality.frechet import frechet_estimate
from undrift.runs import load, load_model, train, versions, write_json
from undrift.two_sample import mmd_estimate

Row = dict[str, Any]
SAMPLING_SEED = 10_000
METRICS = ("mmd_sq", "frechet")


def run_study(
    config: StudyConfig,
    folder: Path,
    on_row: Callable[[Row], None] = lambda row: None,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Run what is left of a study and write ``study.json``.

    Arguments:
        config: The plan.
        folder: Where its runs are; a study that was stopped goes on there.
        on_row: Called with each result as it comes.
        progress: Whether runs draw progress bars (with one worker).

    Returns:
        ``"rows"``, one for each seed, method and budget, and ``"paired"``, the mean relative
        changes against plain with their intervals.

    Raises:
        InvalidInput: If the plan contradicts itself or the data cannot be had, before any training.
    """
    check(config)
    data = load(config.base)
    features(data)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for row in _all_rows(config, folder, progress):
        on_row(row)
        rows.append(row)
        _write(config, folder, rows, data)
    return _write(config, folder, rows, data)


def check(config: StudyConfig) -> None:
    """Stop before any training if the plan contradicts itself.

    Raises:
        InvalidInput: If it does.
    """
    if PLAIN not in config.methods or config.methods[PLAIN].method != "plain":
        raise InvalidInput(f"a study needs the method {PLAIN} of method plain, to compare with")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise InvalidInput(f"seeds {config.seeds}: give at least one, each once")
    named = [config.reference] if "compute" in config.budgets else []
    for name in [*named, *(config.compute_methods or [])]:
        if name not in config.methods:
            known = ", ".join(config.methods)
            raise InvalidInput(f"{name!r} is no method of the study: choose from {known}")
    if config.num_samples < 4:
        raise InvalidInput(f"num_samples is {config.num_samples}: give at least 4")


def features(data: ImageData) -> FeatureMap | None:
    """Features that no generative method was trained on: a classifier's; pixels without labels."""
    return ClassifierFeatures.cached(data) if data.labels is not None else None


def judge(sampler: Sampler, data: ImageData, num_samples: int, seed: int) -> Row:
    """Final cumulative error and Fréchet distance of a chain's samples, with standard errors.

    Arguments:
        sampler: The chain.
        data: The images that it should be like.
        num_samples: Number of samples.
        seed: Seed of the samples: the same noise for every method.
    """
    generator = torch.Generator().manual_seed(SAMPLING_SEED + seed)
    sizes = [min(250, num_samples - done) for done in range(0, num_samples, 250)]
    shape = data.image_shape
    samples = torch.cat([sampler.sample((n, *shape), generator=generator) for n in sizes])
    estimate = mmd_estimate(samples, data.images, kernel=RBFMixture().fit(data.images))
    x, y = (extract_features(images, features(data)) for images in (samples, data.images))
    quality = frechet_estimate(x, y, num_resamples=30, generator=generator)
    return {
        "mmd_sq": estimate.mmd_sq,
        "mmd_sq_se": estimate.standard_error,
        "p_value": estimate.p_value,
        "frechet": quality.value,
        "frechet_se": quality.standard_error,
        "pixel_variance_ratio": float(samples.var(0).sum() / data.images.var(0).sum()),
    }


def paired(rows: Sequence[Row], budgets: Iterable[str]) -> list[Row]:
    """Mean relative change of each method against plain with the same seed and budget.

    Arguments:
        rows: Results.
        budgets: Budgets to compare within.

    Returns:
        For each method, budget and metric: mean, 95 % interval (Student's over seeds; None for one
        seed), and the changes themselves.
    """
    found = []
    table = {(row["method"], row["budget"], row["seed"]): row for row in rows}
    methods = dict.fromkeys(row["method"] for row in rows if row["method"] != PLAIN)
    for budget in budgets:
        for method in methods:
            for metric in METRICS:
                changes = [
                    table[method, budget, seed][metric] / row[metric] - 1
                    for (name, b, seed), row in table.items()
                    if name == PLAIN and b == budget and (method, budget, seed) in table
                ]
                if changes:
                    head = {"method": method, "budget": budget, "metric": metric}
                    found.append(head | mean_interval(changes) | {"changes": changes})
    return found


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % interval by Student's distribution.

    Example:
        >>> mean_interval([1.0, 3.0])["mean"]
        2.0
    """
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return {"mean": mean, "interval": None, "num_seeds": n}
    half = _student(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return {"mean": mean, "interval": [mean - half, mean + half], "num_seeds": n}


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def _all_rows(config: StudyConfig, folder: Path, progress: bool) -> Iterable[Row]:
    if config.workers == 1:
        for seed in config.seeds:
            yield from _seed_rows(config, folder, seed, progress)
        return
    with ProcessPoolExecutor(
        config.workers, get_context("spawn"), torch.set_num_threads, (1,)
    ) as pool:
        jobs = [pool.submit(_seed_list, config, folder, seed) for seed in config.seeds]
        for job in as_completed(jobs):
            yield from job.result()


def _seed_list(config: StudyConfig, folder: Path, seed: int) -> list[Row]:
    return list(_seed_rows(config, folder, seed, progress=False))


def _seed_rows(config: StudyConfig, folder: Path, seed: int, progress: bool) -> Iterable[Row]:
    """All results of one seed."""
    place = folder / f"seed-{seed}"
    data = load(config.base)
    base = replace(config.base, seed=seed, output=str(place / "base"))
    _run(base, data, progress)
    costs: dict[str, float] = {}
    for budget in sorted(set(config.budgets) | {"steps"}, reverse=True):
        for method, options in config.methods.items():
            steps = config.steps
            if budget == "compute":
                if method not in (config.compute_methods or config.methods):
                    continue
                target = costs[config.reference]
                steps = max(1, round(config.steps * target / costs[method]))
            branch = _branch(base, options, steps, place / f"{method}-{steps}")
            result = _run(branch, data, progress)
            if budget == "steps":
                costs[method] = result["train_cpu_s"]
            head = {"method": method, "seed": seed, "budget": budget, "steps": steps}
            yield (
                head | {"train_cpu_s": result["train_cpu_s"]} | _judged(branch, data, config, seed)
            )


def _branch(base: TrainConfig, method: MethodConfig, steps: int, output: Path) -> TrainConfig:
    """A run that continues the base: other data order and noise than the base, same for all."""
    return replace(
        base,
        start_from=base.output,
        output=str(output),
        steps=steps,
        seed=base.seed + 1_000,
        method=method.method,
        regularizer=replace(method.regularizer, seed=method.regularizer.seed + base.seed),
        objective=replace(method.objective, seed=method.objective.seed + base.seed),
        checkpoint_every=None,
    )


def _run(config: TrainConfig, data: ImageData, progress: bool) -> Mapping[str, Any]:
    """The result of a run that is complete, resumed from its last checkpoint, or new."""
    assert config.output is not None
    output = Path(config.output)
    if (output / "result.json").is_file():
        return dict(json.loads((output / "result.json").read_text()))
    resume = last_checkpoint(output / "checkpoints") is not None
    if output.exists() and not resume:
        _clear(output)
    return train(replace(config, resume=resume), data, progress=progress)


def _clear(output: Path) -> None:
    """Set aside what a run left that was stopped before its first checkpoint."""
    k = 1
    while (aside := output.with_name(f"{output.name}.stopped-{k}")).exists():
        k += 1
    output.rename(aside)


def _judged(config: TrainConfig, data: ImageData, study: StudyConfig, seed: int) -> Row:
    assert config.output is not None
    file = Path(config.output) / f"judged-{study.num_samples}.json"
    if not file.is_file():
        sampler = as_sampler(load_model(config.output))
        write_json(file, judge(sampler, data, study.num_samples, seed))
    return dict(json.loads(file.read_text()))


def _write(
    config: StudyConfig, folder: Path, rows: Sequence[Row], data: ImageData
) -> dict[str, Any]:
    budgets: list[Budget] = list(config.budgets)
    kept = [row for row in rows if row["budget"] in budgets]
    result = {
        "rows": sorted(kept, key=lambda row: (row["seed"], row["budget"], row["method"])),
        "paired": paired(kept, budgets),
        "config": asdict(config),
        "versions": versions(),
        "data": dict(data.how),
    }
    write_json(folder / "study.json", result)
    return result
