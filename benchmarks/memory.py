"""Peak memory of a measurement by the number of its chains, over that of few.

    python benchmarks/memory.py 2000 8000 20000 50000

Each number is measured in a process of its own: 8x8 states of 256 bytes, a network without weights
of note, ten steps, the digits as data, three states with the budget and 200 permutations. The peak
is that of the operating system; what 200 chains need is subtracted.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

FEW, STATE = 200, 64 * 4


def peak(count: int) -> int:
    """Peak resident memory of this process once it has measured so many chains, in bytes."""
    import torch

    from undrift import AncestralSampler, CosineSchedule, Denoiser, load_data, measure

    data = load_data("digits").images
    denoiser = Denoiser(lambda x, timestep: torch.zeros_like(x), CosineSchedule(10), "sample")
    measure(AncestralSampler(denoiser), data, num_samples=count, states=3, progress=False)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(count: int) -> int:
    """The same, in a process of its own."""
    line = [sys.executable, __file__, "--peak", str(count)]
    return int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure each number, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("counts", type=int, nargs="*", default=[2000, 8000, 20000])
    parser.add_argument("--peak", type=int)
    options = parser.parse_args()
    if options.peak:
        print(peak(options.peak))
        return
    least = measured(FEW)
    print(f"{FEW:>6} chains: {least / 2**20:.0f} MiB")
    for count in options.counts:
        more = measured(count) - least
        print(
            f"{count:>6} chains: {more / 2**20:+.0f} MiB, {more / (count - FEW) / 1000:.1f} kB a "
            f"chain (a state has {STATE / 1000} kB)",
            flush=True,
        )


if __name__ == "__main__":
    main()
