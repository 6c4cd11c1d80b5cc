"""``undrift tune``: how strong a remedy at sampling time should be."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undrift.api import files
from undrift.api.inputs import TuneChoice
from undrift.cli.command import session
from undrift.cli.console import say, table
from undrift.remedies.registry import REMEDIES
from undrift.reporting.commands import CHAIN_OPTIONS, DATA_OPTIONS, repeated
from undrift.storage.writing import written

if TYPE_CHECKING:
    from undrift.remedies.search import Trial, Tuning

METRICS = {"mmd_sq": "D₀²", "frechet": "Fréchet"}


@dataclass
class Config(TuneChoice):
    """Find the strength of a remedy at sampling time on one half of the data.

    The other half, with fresh noise, then compares the best strength with no remedy at all.

    Arguments:
        output: File to write, with a plot next to it (default: a new one in the folder tunings of
            the run).
    """

    output: str | None = None


POSITIONALS = ("run",)


def run(config: Config) -> dict[str, Any]:
    """Search, test the best strength, save the curve, show it."""
    from undrift.api.tune import tune

    options = {name: value for name, value in vars(config).items() if name not in ("run", "output")}
    name = str(config.remedy).partition(",")[0].strip()
    with files.reserved(config.output, also=".png"):
        tuning = tune(config.run, progress=not session().quiet, **options)
        result, path = _saved(config, tuning, name)
    plot = path.with_suffix(".png")
    table(
        f"{name}: the search half",
        ["strength", *(f"{label} ± se" for label in METRICS.values()), "pixel variance"],
        [_cells(trial, is_best=trial is tuning.best) for trial in tuning.curve],
    )
    say(f"verdict  {tuning.verdict}\ncurve    {path}, {plot.name}")
    if tuning.helps and tuning.remedy:
        say(f"next     {_next(config.run, tuning.remedy.text)}")
    return result | {"saved": str(path), "plot": str(plot)}


def _next(run: str, remedy: str) -> str:
    """The command that evaluates a remedy on the chain and the data of this search."""
    names = {*CHAIN_OPTIONS, *DATA_OPTIONS} - {"--remedy"}
    kept = repeated(session().command, names)
    return shlex.join(["undrift", "evaluate", run, *kept, "--remedy", remedy])


def _saved(config: Config, tuning: Tuning, name: str) -> tuple[dict[str, Any], Path]:
    """The record of a search, and its file, with a plot of the curve next to it."""
    from undrift.measurement.reading import write_json
    from undrift.training.run_folder import versions

    result, called = tuning.to_dict(), session().command
    result["how"] |= {"model": config.run, "command": called, "versions": versions()}
    folder, stem = files.place_for(config.run, "tunings"), f"{name}-{config.seed}"
    with files.output_file(config.output, folder, stem, ".json", ".png") as path:
        _plot(tuning, name, path.with_suffix(".png"))
        return result, write_json(path, result)


def _cells(trial: Trial, *, is_best: bool) -> list[str]:
    from undrift.reporting.numbers import MISSING, plus_minus, scientific

    scores, strength = trial.scores, "none" if trial.strength is None else f"{trial.strength:g}"
    cells = [f"{strength} (best)" if is_best else strength]
    for key in METRICS:
        value: Any = getattr(scores, key, None)
        error = getattr(scores, f"{key}_se", None)
        cells.append(scientific(value) if error is None else plus_minus(value, error))
    return [*cells, MISSING if scores is None else f"{scores.pixel_variance_ratio:.3f}"]


def _plot(tuning: Tuning, name: str, path: Path) -> None:
    """The curve of both metrics as a picture, the best strength marked."""
    from matplotlib.figure import Figure

    trials = [trial for trial in tuning.curve if trial.scores]
    shown = [trial for trial in trials if trial.strength is not None]
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    for axes, (metric, label) in zip(figure.subplots(1, 2), METRICS.items(), strict=True):
        values, errors = (
            [getattr(trial.scores, key) or 0.0 for trial in shown]
            for key in (metric, f"{metric}_se")
        )
        strengths = [trial.strength for trial in shown]
        axes.errorbar(strengths, values, yerr=errors, fmt="o-", capsize=3, color="#2563eb")
        for none in (trial for trial in trials if trial.strength is None):
            axes.axhline(getattr(none.scores, metric), ls="--", color="#6b7280", label="none")
        if tuning.best.strength is not None:
            axes.axvline(tuning.best.strength, color="#d97706", lw=1, label="best")
        axes.set(xlabel=REMEDIES[name].strengths.meaning, ylabel=label)
        axes.legend(frameon=False)
        axes.grid(axis="y", alpha=0.3)
    figure.suptitle(f"{name}, search half, error bars of one standard error", fontsize=11)
    with written(path) as part:
        figure.savefig(part, format="png")
