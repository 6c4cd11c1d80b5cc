"""Several studies together: quality against network calls on each data set, plain and regularized.

Each study gives two curves, in the network that judges it first: plain and the study's reference,
at equal compute where the study has it, each with its best sampler at that number of calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from undrift.exceptions import InvalidInput
from undrift.reporting import page
from undrift.reporting.canvas import Canvas, Plot, draw
from undrift.reporting.content import PLAIN
from undrift.reporting.numbers import scaled
from undrift.reporting.study import markdown_table
from undrift.reporting.study_chains import networks
from undrift.reporting.study_content import BUDGETS, NAMES, Study
from undrift.reporting.study_figures import QUALITY, quality_legend, quality_panel
from undrift.reporting.tables import Table

PICTURE = "quality.svg"


class Curve(NamedTuple):
    """A metric of one method against network calls.

    Arguments:
        method: The method.
        values: The values of all seeds, by the number of network calls.
    """

    method: str
    values: Mapping[int, Sequence[float]]


class Panel(NamedTuple):
    """The curves of one study.

    Arguments:
        title: Its data and the budget.
        network: The network that judges.
        curves: Plain and the reference, by metric.
    """

    title: str
    network: str
    curves: Mapping[str, Sequence[Curve]]


def panel(study: Study) -> Panel:
    """The curves of a study, in the first network that judges it.

    Raises:
        InvalidInput: If it has no results, or only one number of network calls.
    """
    views = networks(study)
    calls = {row["network_calls"] for row in study["rows"]}
    name = str(study["data"].get("name", "data"))
    if not views or len(calls) < 2:
        raise InvalidInput(
            f"the study of {name} has no quality at several numbers of network calls: give it "
            "alone, or studies with several num_inference_steps"
        )
    rows = [row for row in views[0]["rows"] if row.get("is_best_sampler")]
    budgets = [kind for kind in ("compute", "steps") if any(r["budget"] == kind for r in rows)]
    rows = [row for row in rows if row["budget"] == budgets[0]]
    pair = [PLAIN, study["config"]["reference"]]
    curves = {metric: [_curve(rows, method, metric) for method in pair] for metric in QUALITY}
    return Panel(f"{name}, {BUDGETS[budgets[0]]}", next(iter(study["rows"][0]["quality"])), curves)


def _curve(rows: Sequence[Mapping[str, Any]], method: str, metric: str) -> Curve:
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["method"] == method and row.get(metric) is not None:
            found.setdefault(row["network_calls"], []).append(float(row[metric]))
    return Curve(method, dict(sorted(found.items())))


def quality_figure(panels: Sequence[Panel], metric: str = "frechet") -> Plot:
    """A metric against network calls, one panel for each study, on logarithmic axes."""

    def draw_on(canvas: Canvas) -> None:
        shown = canvas.panels(len(panels), columns=len(panels))
        for axes, one in zip(shown, panels, strict=True):
            curves = one.curves[metric]
            labels = ("plain", "regularized")
            calls = sorted({count for curve in curves for count in curve.values})
            quality_panel(axes, [*zip(labels, (c.values for c in curves), strict=True)], calls)
            axes.set_title(one.title)
        shown[0].set_ylabel(NAMES[metric])
        quality_legend(canvas, shown[0], columns=2)

    words = "; ".join(
        f"{one.title}, {curve.method}: "
        + ", ".join(f"{scaled(fmean(v), 0)} with {count}" for count, v in curve.values.items())
        for one in panels
        for curve in one.curves[metric]
    )
    alt = f"{NAMES[metric]} against network calls. {words}."
    return draw(f"studies-{metric}", alt, draw_on, (984, 360), (340, 280 * len(panels)))


def quality_table(panels: Sequence[Panel]) -> Table:
    """Both metrics of all studies at each number of network calls: means and deviations."""
    rows = [
        [one.title, one.network, curve.method, str(count)]
        + [_cell(one.curves[metric][k].values.get(count, ())) for metric in QUALITY]
        for one in panels
        for k, curve in enumerate(one.curves[QUALITY[0]])
        for count in curve.values
    ]
    columns = ["study", "judged in", "method", "network calls", *(NAMES[m] for m in QUALITY)]
    return Table("Quality against network calls", columns, rows)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{fmean(values):.3g}{spread}"


def write_studies(studies: Sequence[Study], path: Path) -> Path:
    """Write several studies as one Markdown page; its picture is in a folder next to it.

    Arguments:
        studies: What each ``study.json`` holds.
        path: The file to write, which ends in ``.md``.

    Returns:
        The path of the file.

    Raises:
        InvalidInput: If a study has no quality at several numbers of network calls, or the folder
            of the picture is there and the page is not.
    """
    panels = [panel(study) for study in studies]
    pictures = path.with_name(f"{path.stem}_files")
    if pictures.exists() and not path.exists():
        raise InvalidInput(f"{pictures} is there already: choose another --output")
    page.write_page(pictures / PICTURE, page.standalone(quality_figure(panels)).encode())
    text = [
        f"<!-- {page.MARK} -->",
        f"![{NAMES['frechet']} against network calls, plain and regularized]"
        f"({pictures.name}/{PICTURE})",
        markdown_table(quality_table(panels)),
        "Means over seeds ± their standard deviation; each method with its best sampler at that "
        "number of network calls.",
    ]
    return page.write_page(path, "\n\n".join(text) + "\n")
