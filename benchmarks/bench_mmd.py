"""MMD² against the matrix products that it cannot do without, on one thread.

``python benchmarks/bench_mmd.py`` takes about three minutes, ``--quick`` a few seconds. Times are
processor times of this process, so that a busy machine changes the ratios little.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.two_sample import mmd_estimate

FULL = (10_000, 3072)
QUICK = (2_000, 768)
TRAINING = [(128, 1024, 64), (128, 1024, 3072)]


def bench(pairs: int = 3, *, quick: bool = False) -> list[dict[str, Any]]:
    """Ratios to their limits: time of the estimate, its memory, and time of a training loss.

    Arguments:
        pairs: Alternating measurements of ours and the baseline; the median ratio counts.
        quick: Whether the samples are small.

    Returns:
        One entry a measurement, with ``name``, ``ratio``, ``limit`` and what it is made of.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        count, dim = QUICK if quick else FULL
        entries = [_estimate(pairs, count, dim)]
        entries += [_training_loss(pairs, *shape) for shape in TRAINING]
    finally:
        torch.set_num_threads(before)
    return [*entries, _memory(count, dim)]


def _estimate(pairs: int, count: int, dim: int) -> dict[str, Any]:
    x, y = _normal(count, dim, 0), _normal(count, dim, 1)
    kernel = RBFMixture().fit(y)

    def products() -> None:
        for a, b in ((x, x), (y, y), (x, y)):
            _in_rows(a, b)

    return {
        "name": f"mmd_sq, {count} x {count} x {dim}, over its three matrix products",
        "limit": 1.3,
        **_ratio(lambda: mmd_sq(x, y, kernel=kernel), products, pairs),
    }


def _training_loss(pairs: int, n: int, m: int, dim: int) -> dict[str, Any]:
    x, y = _normal(n, dim, 0).requires_grad_(), _normal(m, dim, 1)
    kernel, data = RBFMixture().fit(y), x.detach()
    repeats = max(3, 200 * 64 // dim)

    def loss() -> None:
        for _ in range(repeats):
            x.grad = None
            mmd_sq(x, y, kernel=kernel, reference_block="omit").backward()

    def products() -> None:
        for _ in range(repeats):
            (data @ data.T) @ data
            (data @ y.T) @ y

    entry = _ratio(loss, products, 2 * pairs + 1)
    return {
        "name": f"mmd_sq and its gradient, {n} x {m} x {dim}, over its four matrix products",
        "limit": 1.5 if dim > 1000 else 5.0,
        **entry,
        "microseconds": 1e6 * entry["seconds"] / repeats,
    }


def _memory(count: int, dim: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure-memory", str(count), str(dim)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    extra = json.loads(done.stdout)
    return {
        "name": f"peak memory beyond the samples, {count} x {count} x {dim}, over 1 GB",
        "ratio": max(extra.values()) / 1e9,
        "limit": 1.0,
        **{f"{name}_megabytes": value / 1e6 for name, value in extra.items()},
    }


def _measure_memory(count: int, dim: int) -> dict[str, int]:
    """Growth of the peak of this process, in bytes, by each of the two functions."""
    torch.set_num_threads(1)
    x, y = _normal(count, dim, 0), _normal(count, dim, 1)
    mmd_estimate(x[:50], y[:50])
    growth = {}
    for function in (mmd_sq, mmd_estimate):
        before = _peak(forget=True)
        function(x, y)
        growth[function.__name__] = _peak() - before
    return growth


def _peak(*, forget: bool = False) -> int:
    """Peak memory of this process in bytes; on Linux it can be set back to what is in use."""
    status = Path("/proc/self/status")
    if status.exists():
        if forget:
            Path("/proc/self/clear_refs").write_text("5")
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _ratio(ours: Callable[[], Any], baseline: Callable[[], Any], pairs: int) -> dict[str, float]:
    """The median of the ratios of alternating measurements, after one short turn of each."""
    times = [(_seconds(ours), _seconds(baseline)) for _ in range(pairs)]
    return {
        "ratio": statistics.median(a / b for a, b in times),
        "seconds": statistics.median(a for a, _ in times),
        "baseline_seconds": statistics.median(b for _, b in times),
    }


def _seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _in_rows(a: Tensor, b: Tensor) -> None:
    """One whole product, in pieces of 1,000 rows so that it never has to be stored."""
    for rows in a.split(1000):
        rows @ b.T


def _normal(count: int, dim: int, seed: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def main() -> None:
    """Print the entries, one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--measure-memory", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_memory:
        print(json.dumps(_measure_memory(*arguments.measure_memory)))
        return
    for entry in bench(arguments.pairs, quick=arguments.quick):
        print(json.dumps(entry))


if __name__ == "__main__":
    main()
