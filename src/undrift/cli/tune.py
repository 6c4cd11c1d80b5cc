"""``undrift tune``: how strong a remedy at sampling time should be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from undrift.api import files
from undrift.api.inputs import ChainChoice, DataChoice
from undrift.cli.command import session
from undrift.exceptions import InvalidInput
from undrift.remedies.registry import REMEDIES

if TYPE_CHECKING:
    from undrift.remedies.search import Tuning


@dataclass
class Config(DataChoice, ChainChoice):
    """Find the strength of a remedy at sampling time on one half of the data.

    The other half, with fresh noise, then compares the best strength with no remedy at all.

    Arguments:
        remedy: A remedy without a strength, ``NAME[,OPTION=VALUE...]``.
        values: Strengths to try first (default: a grid for each remedy).
        range: Lowest and highest strength to try first, instead of values.
        num_values: Strengths of such a range, evenly spaced.
        refine: Strengths to try around the best one, by golden sections.
        metric: What is minimized.
        num_samples: Images to draw for each strength.
        features: classifier (of the data's labels), efficientnet-lite0, pixels, or a TorchScript
            file (if null, the classifier where the data have labels, else pixels).
        seed: Seed of the split and of all noise; every strength gets the same noise.
        output: File to write, with a plot beside it (a new one in the folder tunings of the run if
            null).
    """

    values: list[float] | None = None
    range: list[float] | None = None
    num_values: int = 7
    refine: int = 4
    metric: Literal["mmd_sq", "frechet"] = "mmd_sq"
    num_samples: int = 1000
    features: str | None = None
    seed: int = 0
    output: str | None = None


POSITIONALS = ("run",)


def run(config: Config) -> dict[str, Any]:
    """Search, judge, save the curve, show it."""
    from undrift.api.tune import open_remedy, tune
    from undrift.training.runs import versions, write_json

    remedy = open_remedy(config.remedy)
    _check_output(config.output)
    options = {name: value for name, value in vars(config).items() if name not in ("run", "output")}
    tuning = tune(config.run, progress=not session().quiet, **options)
    path = Path(config.output) if config.output else _free(config, remedy.remedy)
    path.parent.mkdir(parents=True, exist_ok=True)
    result = tuning.to_dict()
    result["how"] |= {
        "model": config.run,
        "command": session().command,
        "versions": versions(),
    }
    write_json(path, result)
    plot = path.with_suffix(".png")
    _plot(tuning, remedy.remedy, plot)
    _show(tuning, remedy.remedy, config.run, path)
    return result | {"saved": str(path), "plot": str(plot)}


def _check_output(output: str | None) -> None:
    """Stop before any work if the record or its plot would overwrite a file."""
    if output is None:
        return
    if Path(output).suffix == ".png":
        raise InvalidInput(f"--output {output} is for the record: choose a .json file")
    files.check_free(Path(output))
    files.check_free(Path(output).with_suffix(".png"))


def _free(config: Config, name: str) -> Path:
    folder = files.place_for(config.run, "tunings")
    k = 1
    while any((folder / f"{name}-{config.seed}-{k}{s}").exists() for s in (".json", ".png")):
        k += 1
    return folder / f"{name}-{config.seed}-{k}.json"


def _show(tuning: Tuning, name: str, run: str, path: Path) -> None:
    """The curve in a table, then what the held-out half says."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from undrift.reporting.numbers import MISSING, plus_minus, scientific

    if session().json:
        return
    table = Table(title=f"{name}: the search half", title_justify="left", header_style="bold")
    table.box = box.SIMPLE_HEAD
    for column in ("strength", "D₀² ± se", "Fréchet ± se", "pixel variance"):
        table.add_column(column, justify="right", no_wrap=True)
    for trial in tuning.curve:
        cells = ["none" if trial.strength is None else f"{trial.strength:g}"]
        scores = trial.scores
        for name in ("mmd_sq", "frechet"):
            value, error = (getattr(scores, key, None) for key in (name, f"{name}_se"))
            known = value is not None and error is not None
            cells.append(plus_minus(value, error) if known else scientific(value))  # type: ignore[arg-type]
        cells.append(MISSING if scores is None else f"{scores.pixel_variance_ratio:.3f}")
        table.add_row(*cells, style="bold" if trial is tuning.best else None)
    console = Console()
    console.print(table)
    print(f"verdict  {tuning.verdict}")
    print(f"curve    {path}, {path.with_suffix('.png').name}")
    if tuning.helps and tuning.remedy:
        print(f"next     undrift evaluate {run} --remedy {tuning.remedy.text}")


def _plot(tuning: Tuning, name: str, path: Path) -> None:
    """The curve of both metrics as a picture, the best strength marked."""
    from matplotlib.figure import Figure

    trials = [(trial.strength, trial.scores) for trial in tuning.curve if trial.scores]
    shown = [(strength, scores) for strength, scores in trials if strength is not None]
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    panels = {"mmd_sq": "$D_0^2$", "frechet": "Fréchet distance"}
    for axes, metric in zip(figure.subplots(1, len(panels)), panels, strict=True):
        strengths = [strength for strength, _ in shown]
        values = [getattr(scores, metric) for _, scores in shown]
        errors = [getattr(scores, f"{metric}_se") or 0.0 for _, scores in shown]
        axes.errorbar(strengths, values, yerr=errors, fmt="o-", capsize=3, color="#2563eb")
        for strength, scores in trials:
            if strength is None:
                axes.axhline(getattr(scores, metric), ls="--", color="#6b7280", label="none")
        if tuning.best.strength is not None:
            axes.axvline(tuning.best.strength, color="#d97706", lw=1, label="best")
        axes.set(xlabel=REMEDIES[name].strengths.meaning, ylabel=panels[metric])
        axes.legend(frameon=False)
        axes.grid(axis="y", alpha=0.3)
    figure.suptitle(f"{name}, search half, error bars of one standard error", fontsize=11)
    figure.savefig(path)
