"""A record of a study with known numbers, as ``undrift compare`` writes it."""

from __future__ import annotations

import copy
import functools
import random
from dataclasses import replace

from undrift.study.record import Judgment, ProfileState, RemedyProfile, StudyRecord, StudyRow
from undrift.study.statistics import (
    correlations,
    costs,
    distinct,
    means,
    paired,
    paired_best,
    paired_remedies,
    predictions,
    with_best_samplers,
)

METHODS = ("plain", "persistent", "truncated", "input_perturbation", "scheduled_sampling")
EFFECT = {"plain": 1.0, "persistent": 0.5, "truncated": 0.75}
CHAINS = (("ancestral", 50),)
SOLVER = {"ancestral": 50, "unipc": 20}
REMEDIES = ("epsilon", "time_shift")
CLASSIFIER = (("classifier", 1.0),)
TWO = (*CLASSIFIER, ("efficientnet-lite0", 4.0))


def judgment(own):
    return Judgment(
        frechet=1.6 * own**0.5,
        frechet_se=0.3,
        kernel_distance=7.0 * own,
        precision=0.85,
        recall=0.80,
    )


def rescaled(row, factor):
    """The same row with another Fréchet distance in each network."""
    quality = {
        name: replace(own, frechet=own.frechet * factor) for name, own in row.quality.items()
    }
    return replace(row, quality=quality)


def row(protocol, method, seed, budget, noise, chain, networks):
    factor = EFFECT.get(method, 1.02) * (0.9 if budget == "compute" and method == "plain" else 1.0)
    steps = 800 if protocol == "branched" else 1500
    own = (1 + 0.3 * seed) * (1 + 0.04 * noise.gauss(0, 1)) * factor * SOLVER[chain[0]] / chain[1]
    return StudyRow(
        protocol=protocol,
        method=method,
        seed=seed,
        budget=budget,
        steps=steps,
        train_cpu_s=steps * (0.04 if method == "plain" else 0.08) * (1 + 0.02 * seed),
        mmd_sq=9e-4 * own,
        mmd_sq_se=1e-4,
        mmd_sq_low=8e-4 * own,
        quality={name: judgment(own * scale) for name, scale in networks.items()},
        run=f"seed-{seed}/{protocol}-{method}-{budget}",
        sampler=chain[0],
        num_inference_steps=chain[1],
        network_calls=chain[1],
        grid=f"seed-{seed}/{protocol}-{method}-{budget}.png",
    )


def profile(method, remedy, height):
    states = [ProfileState(t, height * (1 - t / 50) ** 2, 4e-5) for t in (50, 20, 5, 0)]
    return RemedyProfile("branched", method, 0, "ancestral", 50, remedy, 2000, states)


def study(
    methods=METHODS,
    seeds=(0, 1, 2),
    protocols=("branched", "scratch"),
    full=True,
    chains=CHAINS,
    networks=CLASSIFIER,
):
    """Its plain data, without what is asked for besides the rows if not full."""
    return copy.deepcopy(_study(methods, seeds, protocols, full, chains, networks).to_dict())


@functools.cache
def _study(methods, seeds, protocols, full, chains, networks):
    noise = random.Random(0)
    budgets = ("steps", "compute")
    rows = [
        row(protocol, method, seed, budget, noise, chain, dict(networks))
        for protocol in protocols
        for seed in seeds
        for budget in budgets
        for method in methods
        for chain in chains
    ]
    rows = with_best_samplers(rows)
    found = StudyRecord(
        rows=rows,
        paired=paired(rows),
        paired_best=paired_best(rows),
        means=means(rows),
        costs=costs(rows),
        is_complete=True,
        config={"num_samples": 2000, "methods": {name: {} for name in methods}},
        versions={"undrift": "0.1.0"},
        data={"name": "digits"},
        command="undrift compare studies/digits-all.yaml",
        checkpoint_rule="the last weights",
        judged_by={"networks": {name: {"score_name": name} for name, _ in networks}},
    )
    return _with_evaluations(found, methods[:2]) if full else found


def _with_evaluations(found, methods):
    equal = [r for r in found.rows if r.budget == "steps"]
    checkpoints = [
        rescaled(replace(r, step=step, mmd_sq=r.mmd_sq * (2 - step / 800)), 1.2)
        for r in equal
        for step in (200, 400)
    ]
    points = distinct([*checkpoints, *found.rows])
    bare = [r for r in equal if r.protocol == "branched" and r.method in methods]
    remedies = [
        rescaled(replace(r, remedy=name, mmd_sq=r.mmd_sq * 0.9), 0.8 + 0.3 * k)
        for k, name in enumerate(REMEDIES)
        for r in bare
    ]
    return replace(
        found,
        checkpoints=checkpoints,
        correlations=correlations(points),
        predictions=predictions(points),
        remedies=remedies,
        paired_remedies=paired_remedies(found.rows, remedies),
        profiles=[
            profile(method, name, 9e-4 * factor)
            for method in methods
            for name, factor in (("none", 1.0), ("epsilon", 0.8), ("time_shift", 1.2))
        ],
    )
