"""Repair of networks that were trained with diffusers alone: each kind, before and after.

Three small U-Nets are trained on scikit-learn's digits with diffusers and PyTorch only, each as its
kind is trained: DDPM by the mean squared error of the noise, EDM with its preconditioning and noise
levels from a log-normal distribution, flow matching by the velocity. Each is saved as a pipeline,
measured, continued for a tenth of its steps, and measured again on the same chains: with
undrift's regularizer, and plainly by the same loop of diffusers for as many steps and for as long.
One report per network has them all; a table has the errors and their differences, and the error of
the network as it was by a better solver with as many calls.

    python studies/repair.py --output runs/repair --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from sklearn.datasets import load_digits
from torch import Tensor

LEARNING_RATE, AGAIN = 1e-3, 3e-4
"""The largest learning rate of training, and of its continuation."""
Loss = Callable[[Any, Any, Tensor], Tensor]


def ddpm_loss(network: Any, scheduler: Any, x_0: Tensor) -> Tensor:
    """The mean squared error of the noise."""
    noise = torch.randn_like(x_0)
    t = torch.randint(scheduler.config.num_train_timesteps, (len(x_0),))
    x_t = scheduler.add_noise(x_0, noise, t)
    return (network(x_t, t).sample - noise).square().mean()


def edm_loss(network: Any, scheduler: Any, x_0: Tensor) -> Tensor:
    """The weighted error of the data, at levels with ln σ ~ N(-1.2, 1.2²) (Karras et al., 2022)."""
    sigma = torch.exp(1.2 * torch.randn(len(x_0), 1, 1, 1) - 1.2)
    x_t = x_0 + sigma * torch.randn_like(x_0)
    raw = network(
        scheduler.precondition_inputs(x_t, sigma), scheduler.precondition_noise(sigma).flatten()
    ).sample
    x0_hat, data = scheduler.precondition_outputs(x_t, raw, sigma), scheduler.config.sigma_data
    weight = (sigma**2 + data**2) / (sigma * data) ** 2
    return (weight * (x0_hat - x_0).square()).mean()


def flow_loss(network: Any, scheduler: Any, x_0: Tensor) -> Tensor:
    """The mean squared error of the velocity, at the scheduler's levels."""
    rows = torch.randint(scheduler.config.num_train_timesteps, (len(x_0),))
    noise, sigma = torch.randn_like(x_0), scheduler.sigmas[rows].view(-1, 1, 1, 1)
    x_t = (1 - sigma) * x_0 + sigma * noise
    return (network(x_t, scheduler.timesteps[rows]).sample - (noise - x_0)).square().mean()


KINDS: dict[str, tuple[Callable[[], Any], Loss, list[str]]] = {
    "DDPM": (diffusers.DDPMScheduler, ddpm_loss, ["euler"]),
    "EDM": (diffusers.EDMEulerScheduler, edm_loss, []),
    "flow matching": (diffusers.FlowMatchEulerDiscreteScheduler, flow_loss, []),
}
"""The scheduler of each kind, its loss, and the sampler where it is not that of the scheduler."""


def digits() -> Tensor:
    """The images in [-1, 1], with shape (1797, 1, 8, 8)."""
    return torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 8 - 1


def unet() -> Any:
    """A U-Net of 8x8 images."""
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def trained(kind: str, steps: int, seed: int, output: Path, start: Path | None = None) -> float:
    """Train with diffusers alone, from a pipeline if there is one, and save the averaged weights.

    Returns:
        Processor time, in seconds.
    """
    started = time.process_time()
    torch.manual_seed(seed)
    scheduler, loss = KINDS[kind][0](), KINDS[kind][1]
    network, images, rate = unet(), digits(), LEARNING_RATE
    if start is not None:
        network, rate = diffusers.UNet2DModel.from_pretrained(start / "unet"), AGAIN
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.0)
    rates = get_scheduler(
        "cosine", optimizer, num_warmup_steps=steps // 10, num_training_steps=steps
    )
    ema = EMAModel(network.parameters(), decay=0.995)
    for _ in range(steps):
        loss(network, scheduler, images[torch.randint(len(images), (64,))]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rates.step()
        ema.step(network.parameters())
    ema.copy_to(network.parameters())
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(output)
    return time.process_time() - started


def undrift(*words: object) -> dict[str, Any]:
    """Run a command of undrift, show it, and return its result."""
    from contextlib import redirect_stdout
    from io import StringIO

    from undrift.cli import main

    line = [str(word) for word in words]
    print("$ undrift", *line, flush=True)
    with redirect_stdout(StringIO()) as printed:
        code = main([*line, "--quiet", "--json"])
    if code:
        raise SystemExit(code)
    return json.loads(printed.getvalue())


def fine_tuned(kind: str, seed: int, folder: Path, steps: int, calls: int) -> float:
    """Continue with the regularizer on the chain that the model is sampled with.

    Returns:
        Processor time, in seconds.
    """
    own = {"num-inference-steps": calls, "gradient-steps": calls, "window": 1, "every": 1}
    result = undrift(
        *("train", "--data", "digits", "--start-from", folder / "before", "--steps", steps),
        *("--method", "regularized", *(f"--regularizer.{k}={v}" for k, v in own.items())),
        *(f"--chain.sampler={name}" for name in KINDS[kind][2]),
        *("--optimizer.learning-rate", AGAIN, "--optimizer.warmup-steps", steps // 10),
        *("--sample-every", 0, "--seed", seed, "--output", folder / "regularized"),
    )
    return float(result["train_cpu_s"])


def measured(model: Path, label: str, chain: list[object], num_samples: int) -> list[float]:
    """D_0² of a model and its standard error; the profile lies beside the model."""
    profile = undrift(
        *("measure", model, "--data", "digits", *chain, "--num-samples", num_samples),
        *("--label", label, "--output", model.parent / f"{label}.json"),
    )
    error = profile["states"][-1]["error"]
    return [error["mmd_sq"], error["mmd_sq_se"]]


def repaired(kind: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train, measure, continue in each way, and measure again."""
    more, calls = options.steps // 10, options.calls
    seconds = {"before": trained(kind, options.steps, seed, folder / "before")}
    seconds["regularized"] = fine_tuned(kind, seed, folder, more, calls)
    go_on = {"kind": kind, "seed": seed + 1000, "start": folder / "before"}
    seconds["plain"] = trained(**go_on, steps=more, output=folder / "plain")
    longer = math.ceil(more * max(1.0, seconds["regularized"] / seconds["plain"]))
    seconds["longer"] = trained(**go_on, steps=longer, output=folder / "longer")
    found: dict[str, Any] = {"kind": kind, "seed": seed, "seconds": seconds, "longer_steps": longer}
    chain = ["--num-inference-steps", calls]
    own = [f"--sampler={name}" for name in KINDS[kind][2]]
    for name in seconds:
        found[name] = measured(folder / name, name, chain + own, options.num_samples)
    solver = [*chain, "--sampler=unipc"]
    found["unipc"] = measured(folder / "before", "unipc", solver, options.num_samples)
    files = (folder / f"{name}.json" for name in seconds)
    undrift("report", *files, "--output", folder / "report.html")
    return found


def change(before: list[float], after: list[float]) -> tuple[float, float]:
    """The difference of two squared errors, and half of its 95 % interval (independent chains)."""
    return after[0] - before[0], 1.96 * math.hypot(before[1], after[1])


def table(rows: list[dict[str, Any]]) -> str:
    """D_0² (x 10^-3) before and after, with differences and their 95 % intervals, in Markdown."""
    ways = {
        "regularized": "regularized",
        "plain": "plain, as many steps",
        "longer": "plain, as long",
        "unipc": "untrained, by UniPC",
    }
    lines = [" | ".join(["| kind | seed | before", *ways.values()]) + " |", "|---" * 7 + "|"]
    for row in rows:
        cells = [f"{1e3 * row['before'][0]:.2f} ± {1e3 * row['before'][1]:.2f}"]
        for name in ways:
            value, half = (1e3 * x for x in change(row["before"], row[name]))
            ends = f"{value - half:+.2f} to {value + half:+.2f}"
            cells.append(f"{1e3 * row[name][0]:.2f} ({value:+.2f}, {ends})")
        lines.append(f"| {row['kind']} | {row['seed']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Repair each kind with each seed, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/repair"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--num-samples", type=int, default=2000)
    options = parser.parse_args()
    rows = []
    for seed, kind in product(options.seeds, options.kinds):
        folder = options.output / f"{kind.replace(' ', '-').lower()}-{seed}"
        rows.append(repaired(kind, seed, folder, options))
        (options.output / "repair.json").write_text(json.dumps(rows, indent=1) + "\n")
        print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
