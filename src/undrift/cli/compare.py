"""``undrift compare``: methods side by side, over seeds, by a plan in YAML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undrift.cli.command import session


@dataclass
class Config:
    """Compare training methods by a study file, over seeds, each against plain training.

    Arguments:
        study: YAML file with the plan.
        output: Folder of the study; it goes on there if it was stopped (named after the file, under
            runs, if null).
        seeds: Seeds, in the place of those of the plan.
        workers: Runs that go on at once, in the place of the plan's.
    """

    study: str
    output: str | None = None
    seeds: list[int] | None = None
    workers: int | None = None


POSITIONALS = ("study",)


def run(config: Config) -> dict[str, Any]:
    """Run what is left of the study, show its table and where it is."""
    from dataclasses import replace
    from pathlib import Path

    from rich.console import Console

    from undrift.study import run_study

    plan = read_plan(config.study)
    plan = replace(plan, seeds=config.seeds or plan.seeds, workers=config.workers or plan.workers)
    folder = Path(config.output or Path("runs") / Path(config.study).stem)
    called = session()
    console = Console(stderr=True, quiet=called.quiet)
    result = run_study(
        plan,
        folder,
        lambda row: console.print(
            f"seed {row['seed']}  {row['protocol']:<8}  {row['method']:<18} {row['budget']:<7} "
            f"{row['steps']:>6} steps  D0² {1e4 * row['mmd_sq']:6.2f}e-4  "
            f"Fréchet {row['frechet']:.4g}  {row['train_cpu_s']:.0f} s"
        ),
        progress=not called.quiet,
        command=called.command,
    )
    Console().print(_table(result))
    print(f"study  {folder / 'study.json'}")
    return result


def read_plan(path: str) -> Any:  # noqa: ANN401
    """The plan in a YAML file, each value checked.

    Raises:
        InvalidInput: If there is no such file, or it is no plan.
    """
    from pathlib import Path

    import yaml

    from undrift.cli.command import build
    from undrift.exceptions import InvalidInput
    from undrift.protocol import StudyConfig

    if not Path(path).is_file():
        raise InvalidInput(f"no such study file: {path}")
    try:
        values = yaml.load(Path(path).read_text(), _unique_keys())
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InvalidInput(f"{path} holds no study: give base, methods, steps and seeds")
    return build(StudyConfig, values, (), f"undrift compare {path}")


def _unique_keys() -> Any:  # noqa: ANN401
    """A YAML loader that refuses a name that is given twice."""
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: ANN401
            keys = [key.value for key, _ in node.value]
            twice = {key for key in keys if keys.count(key) > 1}
            if twice:
                raise yaml.YAMLError(f"the name {twice.pop()!r} is given twice")
            return super().construct_mapping(node, deep)

    return UniqueKeys


def _table(result: dict[str, Any]) -> Any:  # noqa: ANN401
    from rich.table import Table

    table = Table(title="change against plain, mean over seeds with its 95 % interval")
    for column in ("protocol", "method", "budget", "metric", "change", "interval", "seeds"):
        table.add_column(column)
    for row in result["paired"]:
        interval = row["interval"]
        shown = f"{interval[0]:+.1%} to {interval[1]:+.1%}" if interval else "–"
        table.add_row(
            row["protocol"],
            row["method"],
            row["budget"],
            row["metric"],
            f"{row['mean']:+.1%}",
            shown,
            str(row["num_seeds"]),
        )
    return table
