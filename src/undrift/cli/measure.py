"""``undrift measure``: how the error of a model gathers along its chain, as an error profile."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from undrift.api import files, inputs
from undrift.api.inputs import ChainChoice, DataChoice
from undrift.cli.command import session
from undrift.exceptions import InvalidInput

if TYPE_CHECKING:
    from undrift.data.images import ImageData
    from undrift.diffusion.sampler import Sampler
    from undrift.measurement.profile import ErrorProfile


@dataclass
class Config(DataChoice, ChainChoice):
    """Measure how the error of a model gathers along its sampling chain, with error bars.

    Arguments:
        run: A run of undrift train, or a pipeline of diffusers (a folder, or a name on the hub);
            not needed to merge profiles only.
        num_samples: Chains to run; error bars fall with the root of their number.
        num_forward: True draws at each state (all data, up to four times the samples, if null).
        states: A number of states, spaced where the error grows; all; or their times.
        budget: Run each segment once more from true inputs, for fresh and inherited error; this
            doubles the cost.
        modular: Measure the modular error of every step in nats, split into mean, variance and
            shape, and limits of the cumulative error, all against the data set itself; costs twice
            num_modular chains, and time in proportion to the number of data.
        num_modular: Chains on which the modular error is measured.
        reference: What the data stand for: the population they were drawn from, or themselves
            (empirical).
        seed: Seed of all noise (0, or with --merge the next that is free, if null).
        label: What the profile is called in reports (the name of the run if null).
        merge: Earlier profiles of the same chain: their states are measured with another seed and
            all become one profile; without RUN they are merged as they are.
        output: File to write (a new one in the folder profiles of the run if null).
    """

    run: str | None = None  # type: ignore[assignment]
    num_samples: int = 2000
    num_forward: int | None = None
    states: int | Literal["all"] | list[float] = 16
    budget: bool = True
    modular: bool = False
    num_modular: int = 500
    reference: Literal["population", "empirical"] = "population"
    seed: int | None = None
    label: str | None = None
    merge: list[str] = field(default_factory=list)
    output: str | None = None


POSITIONALS = ("run",)


def run(config: Config) -> dict[str, Any]:
    """Measure or merge, save the profile, show its table."""
    from undrift.measurement.profile import ErrorProfile

    if config.output is not None:
        files.check_free(Path(config.output))
    earlier = [ErrorProfile.load(path) for path in config.merge]
    if config.run is None:
        profile = _merged(config, earlier)
    else:
        profile = _measured(config, earlier)
        if earlier:
            profile = earlier[0].merge(*earlier[1:], profile)
    if config.label is not None:
        profile = replace(profile, label=config.label)
    path = profile.save(_path(config, profile))
    _show(profile, path)
    return profile.to_dict() | {"saved": str(path)}


def _merged(config: Config, earlier: list[ErrorProfile]) -> ErrorProfile:
    """Earlier profiles alone as one."""
    if len(earlier) < 2:
        raise InvalidInput(
            "RUN is missing (a run of undrift train, or a pipeline folder of diffusers); without "
            "it, --merge takes two profiles or more"
        )
    return earlier[0].merge(*earlier[1:])


def _measured(config: Config, earlier: list[ErrorProfile]) -> ErrorProfile:
    """A new measurement, at the states of earlier ones and with another seed if there are any."""
    _check(config)
    from undrift.measurement.measure import measure

    assert config.run is not None
    sampler = inputs.chain(config)
    data = inputs.data(config, config.run, sampler.network)
    seed = _seed(config, earlier)
    if earlier:
        _check_fit(config, earlier, sampler, data, seed)
    states: Any = [state.t for state in earlier[0].states] if earlier else config.states
    profile = measure(
        sampler,
        data,
        num_samples=config.num_samples,
        num_forward=config.num_forward,
        states=states,
        budget=config.budget,
        modular=config.modular,
        num_modular=config.num_modular,
        reference=config.reference,
        batch_size=config.batch_size,
        seed=seed,
        label=config.label or inputs.name_of(config.run),
        progress=not session().quiet,
    )
    how = dict(profile.how) | {"model": config.run, "command": session().command}
    return replace(profile, how=how)


def _check(config: Config) -> None:
    from undrift.measurement.measure import MIN_SAMPLES

    for flag, value in (
        ("--num-samples", config.num_samples),
        ("--num-forward", config.num_forward),
        ("--num-modular", config.num_modular),
    ):
        if value is not None and value < MIN_SAMPLES:
            raise InvalidInput(f"{flag} is {value}: an error bar needs at least {MIN_SAMPLES}")


def _check_fit(
    config: Config, earlier: list[ErrorProfile], sampler: Sampler, data: ImageData, seed: int
) -> None:
    """Stop before the measurement if it will not merge with earlier ones."""
    import json

    from undrift.diffusion.pipelines import weights_digest

    times = {state.t for state in earlier[0].states}
    if not {sampler.grid[0], 0} <= times <= set(sampler.grid):
        raise InvalidInput(f"the states of {config.merge[0]} are not those of this chain")
    if config.modular and sampler.grid[-2] not in times:
        raise InvalidInput(
            f"--modular measures the state t={sampler.grid[-2]:g} too, which {config.merge[0]} "
            "lacks: leave one of --modular and --merge out"
        )
    facts = {
        "seed": seed,
        "sampler": sampler.describe(),
        "weights": weights_digest(sampler.network),
        "data": dict(data.how),
        "reference": config.reference,
    }
    how = json.loads(json.dumps(facts, default=str))
    earlier[0].merge(*earlier[1:], replace(earlier[0], how=how))


def _seed(config: Config, earlier: list[ErrorProfile]) -> int:
    """The seed that was given, or the next after those of earlier profiles."""
    used = [seed for profile in earlier for seed in profile.seeds]
    if config.seed is None:
        return max(used, default=-1) + 1
    if config.seed in used:
        raise InvalidInput(f"seed {config.seed} is in the profiles to merge: give another --seed")
    return config.seed


def _path(config: Config, profile: ErrorProfile) -> Path:
    if config.output is not None:
        path = Path(config.output)
        return path / "profile.json" if path.is_dir() else path
    few = len(profile.seeds) <= 4
    seeds = "+".join(map(str, profile.seeds)) if few else f"{len(profile.seeds)}-seeds"
    folder = Path(config.merge[0]).parent if config.merge else Path()
    if config.run is not None:
        folder = files.place_for(config.run, "profiles")
    return files.free_file(folder, f"{files.slug(profile.label)}-{seeds}", ".json")


def _show(profile: ErrorProfile, path: Path) -> None:
    """Every state in a table, the final error, and where the profile is."""
    from undrift.cli.console import show
    from undrift.reporting.console import console_table, rich_table
    from undrift.reporting.tables import chain_table

    show(rich_table(chain_table(profile.to_dict())))
    _show_nats(profile)
    show(console_table([profile.to_dict()]))
    print(f"profile  {path}")
    print(f"next     undrift report {path}")


def _show_nats(profile: ErrorProfile) -> None:
    """Modular errors and the bracket, with what they advise; or in one line why there are none."""
    from undrift.cli.console import show
    from undrift.reporting.console import rich_table
    from undrift.reporting.nats import nats_findings, nats_table

    modular = profile.how.get("modular")
    if modular is None:
        return
    if reason := modular.get("reason"):
        print(f"no modular errors: {reason}\n")
        return
    plain = profile.to_dict()
    show(rich_table(nats_table(plain)))
    for finding in nats_findings(plain, profile.label):
        show(f"{finding.headline} {finding.detail}\n", highlight=False)
