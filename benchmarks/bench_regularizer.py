"""A training step of each method over the plain step: time, and peak memory.

``python benchmarks/bench_regularizer.py`` takes about four minutes; ``--methods`` chooses. Both
sides are the trainer of ``undrift train`` with its defaults, on the same 32x32 color images,
network and batch, one thread. Steps of both sides alternate; times are processor times of this
process, so that a busy machine changes the ratios little. The chain has ten modules and one cohort,
so that the steps that are timed are whole laps of it: what a restart costs is shared among the
steps as in a long run. The published baselines keep no chains: theirs has a thousand modules.
``features`` is the default for few steps: ``persistent`` on the network's own features and pixels,
a population of 256, along UniPC's chain of ten steps. The published baselines, which have no
limits, are timed over fewer pairs.

Memory is the peak of the resident memory over a few training steps, less what is there before the
first one, of a process of its own for each variant; populations are full.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from undrift.data.images import ImageData
from undrift.training.config import ChainConfig, ModelConfig, RegularizerConfig, TrainConfig
from undrift.training.trainer import Trainer

MODULES = 10
PAIRS = 12  # whole laps of the two or three steps of a window at every second training step
PAIRS_OF_BASELINES = 2
BASELINE_MODULES = 1000
MODULES_OF_FEATURES = 50  # of which UniPC takes ten
VARIANTS = ("official", "full", "truncated", "persistent", "features")
BASELINES = (
    *("input_perturbation", "mixflow", "dream", "scheduled_sampling", "consistent"),
    "fokker_planck",
)
METHODS = VARIANTS + BASELINES
OF_NETWORK = {"features": "network+pixels", "population": 256, "num_inference_steps": MODULES}
SAMPLER = "unipc"
TIME_LIMITS = {"full": 2.5, "truncated": 1.9, "persistent": 1.55, "features": 1.6, "mixflow": 1.6}
MEMORY_LIMITS = {"truncated": 1.15, "persistent": 1.15, "features": 1.2, "mixflow": 1.2}
NAMES = {"time": "training step", "memory": "peak memory of training"}


def bench(pairs: int | None = None, methods: Sequence[str] = METHODS) -> list[dict[str, Any]]:
    """Ratios with their limits.

    Arguments:
        pairs: Steps of each side; 12, or 2 for a published baseline, when None.
        methods: Which methods are held against plain.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [
            _entry("time", m, time_ratio(m, pairs or _pairs(m)), TIME_LIMITS.get(m))
            for m in methods
        ]
    finally:
        torch.set_num_threads(threads)
    plain = memory_of("plain")
    for method in methods:
        ratio = memory_of(method) / plain
        found.append(_entry("memory", method, ratio, MEMORY_LIMITS.get(method)))
    return found


def build(method: str, modules: int = MODULES) -> Trainer:
    """A trainer whose pool of data is full, as it is in most steps of a run."""
    images = torch.rand(2048, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data = ImageData(images, "noise")
    config = TrainConfig(
        steps=1_000_000,
        batch_size=64,
        model=ModelConfig(block_out_channels=[32, 64, 64]),
        chain=ChainConfig(num_steps=modules),
        method="persistent" if method == "features" else method,  # type: ignore[arg-type]
        regularizer=RegularizerConfig(num_cohorts=1, **OF_NETWORK if method == "features" else {}),
    )
    if method == "features":  # which are those of a model
        with tempfile.TemporaryDirectory() as folder:
            Trainer(replace(config, method="plain"), data).save_pipeline(Path(folder) / "model")
            own = {"model": ModelConfig(), "chain": ChainConfig(sampler=SAMPLER)}
            trainer = Trainer(replace(config, start_from=f"{folder}/model", **own), data)
    else:
        trainer = Trainer(config, data)
    if trainer.regularizer:
        states, draws = trainer.regularizer.sizes(config.batch_size)
        trainer.regularizer.pool.capacity = states + draws
        trainer.regularizer.pool.add(images)
    return trainer


def time_ratio(method: str, pairs: int) -> float:
    """Processor time of the steps of a method's trainer over that of a plain one."""
    trainers = build(method, _modules(method)), build("plain")
    for trainer in trainers:
        _step(trainer)
    if method == "features":
        _fill(trainers[0])
    if regularizer := trainers[0].regularizer:
        while not regularizer.terms:  # brings up all that is made once
            _step(trainers[0])
        regularizer.log_every = 10**9  # 1 in 25 terms logs, for half a percent
    seconds = [0.0, 0.0]
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            seconds[side] += _step(trainers[side])
    return seconds[0] / seconds[1]


def memory_of(method: str) -> float:
    """Peak memory that a few training steps need, in bytes, measured in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", method]
    # freed memory goes back at once, so that the peak is that of what is in use
    known = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    out = subprocess.run(command, env=os.environ | known, check=True, stdout=subprocess.PIPE)
    return float(out.stdout)


def _step(trainer: Trainer) -> float:
    start = time.process_time()
    trainer.run(until=trainer.step + 1)
    return time.process_time() - start


def _pairs(method: str) -> int:
    return PAIRS if method in VARIANTS else PAIRS_OF_BASELINES


def _modules(method: str) -> int:
    if method == "features":
        return MODULES_OF_FEATURES
    return BASELINE_MODULES if method in BASELINES else MODULES


def _measure_memory(method: str) -> int:
    torch.set_num_threads(1)
    trainer = build(method, _modules(method))
    status = Path("/proc/self/status")
    before = _kilobytes(status, "VmRSS")
    if method == "features":
        _fill(trainer)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    trainer.run(until=4)
    return 1024 * (_kilobytes(status, "VmHWM") - before)


def _fill(trainer: Trainer) -> None:
    """Fill the populations with noise."""
    regularizer = trainer.regularizer
    assert regularizer is not None
    grid, weights = regularizer.sampler.grid, regularizer.weights
    times = [t for t, weight in zip(grid, weights, strict=True) if weight]
    noise = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    draws = regularizer.sizes(trainer.config.batch_size)[1]
    regularizer.comparison.fill(times, lambda n: noise(n, *trainer.data.image_shape), draws)


def _kilobytes(status: Path, key: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def _entry(kind: str, method: str, ratio: float, limit: float | None) -> dict[str, Any]:
    return {"name": f"{NAMES[kind]}, {method} over plain", "ratio": ratio, "limit": limit}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, help="steps of each side")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    parser.add_argument("--memory-of", help="only the peak memory of this method, in bytes")
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(_measure_memory(arguments.memory_of))
    else:
        print(json.dumps(bench(arguments.pairs, arguments.methods), indent=2))
