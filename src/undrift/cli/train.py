"""``undrift train``: a training run, plain or regularized, in a new folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undrift.cli.command import session
from undrift.cli.console import say
from undrift.training.config import TrainConfig

POSITIONALS = ()
SHARED = True


@dataclass
class Config(TrainConfig):
    """Train a diffusion model, plainly, with the regularizer, or by a published method.

    Arguments:
        dry_run: Build everything, make one step on synthetic images, print how much memory the run
            takes, and write nothing; no data are needed.
        dry_run_batch_size: Images of that step, from which the memory of the full batch is
            extrapolated (default: the full batch on a GPU, a few images elsewhere).
        push_to_hub: OWNER/NAME on the Hugging Face hub that gets the pipeline when the run is
            complete, with a card that says how it was made and carries its newest profile (a short
            measurement where there is none).
    """

    dry_run: bool = False
    dry_run_batch_size: int | None = None
    push_to_hub: str | None = None


def run(config: Config) -> dict[str, Any]:
    """Train, and print the folder of the run and the next command."""
    from undrift.api.train import train

    result = train(**vars(config), progress=not session().quiet)
    if config.dry_run:
        _show_dry_run(result)
        return result
    say(f"run        {result['run']}")
    say(f"loss       {result['loss']:.5f} after {result['steps']} steps")
    if result["lambda"] is not None:
        strength, main = result["grad_norm_regularizer"] or 0.0, result["grad_norm_main"] or 0.0
        say(
            f"regularizer  λ = {result['lambda']:.3g}: its gradient is "
            f"{strength / main if main else 0:.0%} of the main term's"
        )
    if result.get("pushed"):
        say(f"pushed     {result['pushed']}")
    say(f"next       undrift measure {result['run']}")
    return result


def _show_dry_run(found: dict[str, Any]) -> None:
    """Print the memory that the run takes, part by part."""
    step, full, memory = found["step"], found["batch_size"], found["memory"]
    shape = "x".join(map(str, found["image_shape"]))
    how = "measured" if step["batch_size"] == full else f"measured at {step['batch_size']} images"
    say(f"network    {found['parameters']:,} parameters, images {shape}, {found['method']}")
    say(
        f"step       {step['seconds']:.2f} s with {step['batch_size']} of {full} images on "
        f"{found['device']}, loss {step['loss']:.3f}"
    )
    where = "" if found["processes"] == 1 else f" in each of {found['processes']} processes"
    say(f"memory     {_size(memory['total'])}{where}, of which")
    notes = {
        "weights": "",
        "gradients": "the term's and the main one's at once" if memory["regularizer"] else "",
        "moments": "of the optimizer",
        "average": "of the weights",
        "copies": "of the starting network, frozen",
        "regularizer": "its data, chains and populations",
        "activations": f"{how}: what autograd keeps; workspace comes on top",
    }
    for part, note in notes.items():
        if memory[part]:
            say(f"  {part:<11}  {_size(memory[part]):>9}  {note}".rstrip())
    if found["measured_peak"] and step["batch_size"] == full:
        say(f"  measured     {_size(found['measured_peak']):>9}  the peak of this step")
    if found["starting_passes"]:
        say(
            f"start      {found['starting_passes']} passes of {found['states']} states, once, to "
            "spread the chains"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.1f} MiB"
