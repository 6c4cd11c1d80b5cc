"""A record of a study with known numbers, as ``undrift compare`` writes it."""

from __future__ import annotations

import copy
import functools
import random

from undrift.study.correlation import correlations, distinct
from undrift.study.statistics import absolute, changes, costs, paired

METHODS = ("plain", "persistent", "truncated", "input_perturbation", "scheduled_sampling")
EFFECT = {"plain": 1.0, "persistent": 0.5, "truncated": 0.75}
REMEDIES = ("epsilon", "time_shift")


def row(protocol, method, seed, budget, noise):
    factor = EFFECT.get(method, 1.02) * (0.9 if budget == "compute" and method == "plain" else 1.0)
    steps = 800 if protocol == "branched" else 1500
    own = (1 + 0.3 * seed) * (1 + 0.04 * noise.gauss(0, 1)) * factor
    return {
        "protocol": protocol,
        "method": method,
        "seed": seed,
        "budget": budget,
        "steps": steps,
        "train_cpu_s": steps * (0.04 if method == "plain" else 0.08) * (1 + 0.02 * seed),
        "mmd_sq": 9e-4 * own,
        "mmd_sq_se": 1e-4,
        "mmd_sq_low": 8e-4 * own,
        "frechet": 1.6 * own**0.5,
        "frechet_se": 0.3,
        "kernel_distance": 7.0 * own,
        "precision": 0.85,
        "recall": 0.80,
        "run": f"seed-{seed}/{protocol}-{method}-{budget}",
        "grid": f"seed-{seed}/{protocol}-{method}-{budget}.png",
    }


def profile(method, remedy, height):
    states = [
        {"t": t, "mmd_sq": height * (1 - t / 50) ** 2, "mmd_sq_se": 4e-5} for t in (50, 20, 5, 0)
    ]
    return {"protocol": "branched", "method": method, "seed": 0, "remedy": remedy, "states": states}


def study(methods=METHODS, seeds=(0, 1, 2), protocols=("branched", "scratch"), full=True):
    return copy.deepcopy(_study(methods, seeds, protocols, full))


@functools.cache
def _study(methods, seeds, protocols, full):
    noise = random.Random(0)
    budgets = ("steps", "compute")
    rows = [
        row(protocol, method, seed, budget, noise)
        for protocol in protocols
        for seed in seeds
        for budget in budgets
        for method in methods
    ]
    checkpoints = [
        r | {"step": step, "mmd_sq": r["mmd_sq"] * (2 - step / 800), "frechet": r["frechet"] * 1.2}
        for r in rows
        if r["budget"] == "steps"
        for step in (200, 400)
    ]
    points = distinct([*checkpoints, *rows])
    bare = [
        r
        for r in rows
        if r["protocol"] == "branched" and r["budget"] == "steps" and r["method"] in methods[:2]
    ]
    remedied = [
        r | {"remedy": name, "mmd_sq": r["mmd_sq"] * 0.9, "frechet": r["frechet"] * (0.8 + 0.3 * k)}
        for k, name in enumerate(REMEDIES)
        for r in bare
    ]
    found = {
        "kind": "undrift.study",
        "schema_version": 2,
        "rows": rows,
        "paired": paired(rows, budgets),
        "absolute": absolute(rows),
        "costs": costs(rows),
        "config": {"num_samples": 2000, "methods": {name: {} for name in methods}},
        "versions": {"undrift": "0.1.0"},
        "data": {"name": "digits"},
        "command": "undrift compare studies/digits-all.yaml",
        "checkpoint_rule": "the last weights",
        "judged_by": {"score_name": "Fréchet distance (digits classifier)"},
        "failures": [],
    }
    if not full:
        return found
    return found | {
        "checkpoints": checkpoints,
        "correlation": {m: correlations(points, m) for m in ("mmd_sq", "mmd_sq_low")},
        "remedies": remedied,
        "paired_remedies": [
            {"method": method, "remedy": name} | change
            for method in methods[:2]
            for name in REMEDIES
            for change in changes(
                [
                    (a, b)
                    for a in bare
                    for b in remedied
                    if a["run"] == b["run"] and (b["method"], b["remedy"]) == (method, name)
                ]
            )
        ],
        "profiles": [
            profile(method, name, 9e-4 * factor)
            for method in methods[:2]
            for name, factor in (("none", 1.0), ("epsilon", 0.8), ("time_shift", 1.2))
        ],
    }
