"""``undrift advise``: the best way to sample from a model at a number of network calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undrift import __version__
from undrift.api import files, hub
from undrift.api.inputs import AdviseChoice
from undrift.cli.command import session
from undrift.cli.console import say, table

if TYPE_CHECKING:
    from undrift.advice.record import AdviceRecord, Comparison, Finalist


@dataclass
class Config(AdviseChoice):
    """Find the best solver, time grid and remedy for a model at a number of network calls.

    They are compared on one half of the data, and the best are judged on the other half against the
    scheduler that the model has. A folder gets the model with the scheduler that was found.

    Arguments:
        output: Folder to write (default: advice/N-calls in the run); a search that was stopped
            continues in it.
        push_to_hub: OWNER/NAME on the Hugging Face hub that gets the folder, with a card that says
            how it was made and what was found.
    """

    output: str | None = None
    push_to_hub: str | None = None


POSITIONALS = ("run",)


def run(config: Config) -> dict[str, Any]:
    """Search, judge, write the folder, show what was found."""
    from undrift.advice.record import FILE, METRICS
    from undrift.api.advise import advise

    place = files.place_for(config.run, "advice") / f"{config.num_inference_steps}-calls"
    folder = config.output or str(place)
    hub.check_target(config.push_to_hub)
    own = ("run", "output", "push_to_hub")
    chosen = {k: v for k, v in vars(config).items() if k not in own}
    advice = advise(config.run, output=folder, progress=not session().quiet, **chosen)
    name = METRICS[advice.metric]
    table(
        f"{advice.model} at {advice.network_calls} network calls, held-out half: {name}",
        ["", "calls", "value", "change (95 % interval)", "in config"],
        [_present(advice), *(_cells(each, advice.metric) for each in advice.finalists)],
    )
    say(f"verdict  {advice.verdict}")
    if advice.equals:
        say(f"equal    not distinguishable from the best: {'; '.join(advice.equals)}")
    for each in advice.finalists:
        if each.label.startswith("fine-tuned"):
            say(f"tuned    {advice.compared(each)}")
    say(f"tried    {len(advice.tried)} candidates, {folder}/{FILE}")
    say(f"folder   {folder}: {advice.in_folder}")
    if config.push_to_hub:
        say(f"pushed   {hub.push(Path(folder), config.push_to_hub, _made(config, advice))}")
    if not config.fine_tune:
        say(
            "next     --fine-tune STEPS trains on with the regularizer on the chain of the best "
            "solver, and judges that too"
        )
    return advice.to_dict() | {"saved": folder, "verdict": advice.verdict, "helps": advice.helps}


def _made(config: Config, advice: AdviceRecord) -> dict[str, Any]:
    """How the folder was made, for the card of its model."""
    return {
        "made by": f"undrift {__version__}: {session().command}",
        "base": config.run,
        "data": config.data,
        "sampler": f"{advice.in_folder}, {advice.network_calls} network calls",
        "found": advice.verdict,
    }


def _present(advice: AdviceRecord) -> list[str]:
    from undrift.reporting.numbers import MISSING, scientific

    change = advice.finalists[0].against_present[advice.metric]
    value = scientific(change.reference, 3)
    return [f"{advice.present}, the present one", str(advice.present_calls), value, MISSING, "yes"]


def _cells(finalist: Finalist, metric: str) -> list[str]:
    from undrift.reporting.numbers import scientific

    change: Comparison = finalist.against_present[metric]
    low, high = (scientific(end) for end in change.interval)
    return [
        finalist.label,
        str(finalist.network_calls),
        scientific(change.value, 3),
        f"{scientific(change.difference)} ({low} to {high})",
        "yes" if finalist.in_pipeline else "no",
    ]
