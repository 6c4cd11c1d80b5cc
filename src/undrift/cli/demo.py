"""``undrift demo``: train, regularize, measure and report on the digits, by one command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undrift.cli.command import session


@dataclass
class Config:
    """Train a plain model on the digits, continue it plainly and regularized, measure both.

    Arguments:
        output: Folder of the demo (a new numbered one under runs if null).
        seed: Seed of everything.
        base_steps: Steps of the plain training that both models continue.
        steps: Steps that each of them continues for.
        num_samples: Samples of each measurement.
        num_steps: T, the number of steps of the chain.
    """

    output: str | None = None
    seed: int = 0
    base_steps: int = 3000
    steps: int = 1000
    num_samples: int = 2000
    num_steps: int = 50


POSITIONALS = ()


def run(config: Config) -> dict[str, Any]:
    """Run the demo; ends with a table and the path of the report."""
    from rich.console import Console

    from undrift.reporting.console import console_table
    from undrift.reporting.findings import verdict
    from undrift.study.demo import demo

    called = session()
    result = demo(
        output=config.output,
        seed=config.seed,
        base_steps=config.base_steps,
        steps=config.steps,
        num_samples=config.num_samples,
        num_steps=config.num_steps,
        progress=not called.quiet,
        command=called.command,
    )
    if not called.json:
        console = Console()
        console.print(console_table(result["profiles"]))
        for sentence in verdict(result["profiles"]):
            console.print(f"• {sentence}")
        console.print(f"\nreport  {result['report']}", soft_wrap=True)
    return result
