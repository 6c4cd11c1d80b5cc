"""``undrift measure``: how the error of a model accumulates along its chain."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from undrift.api import files, inputs, launch
from undrift.api.inputs import Choice
from undrift.cli.command import session
from undrift.cli.console import say
from undrift.exceptions import InvalidInput, check_choice

if TYPE_CHECKING:
    from undrift.data.images import ImageData
    from undrift.diffusion.sampler import Sampler
    from undrift.measurement.profile import ErrorProfile


@dataclass
class Config(Choice):
    """Measure how the error of a model accumulates along its sampling chain, with error bars.

    Arguments:
        run: A run of undrift train, or a pipeline of diffusers (a folder, or a name on the hub);
            not needed to merge profiles only.
        num_samples: Chains to run; error bars fall with the root of their number.
        num_forward: Forward draws (noised data) at each state (default: all data, up to four times
            the samples).
        states: A number of states, spaced where the error grows; all; or their times.
        budget: Run each segment once more from forward draws, for fresh and inherited error; this
            doubles the cost.
        modular: Measure the modular error of every denoising step in nats, split into mean,
            variance and shape, and limits of the cumulative error, all against the data set itself;
            costs twice num_modular chains, and time in proportion to the number of data.
        num_modular: Chains on which the modular error is measured.
        growth: Measure how much each segment enlarges small perturbations, from derivatives of the
            denoising steps on 32 more chains, without data.
        features: Other spaces in which states are compared with forward draws, beside pixels:
            network (the activations of the model itself), efficientnet-lite0, efficientnet-lite1 or
            efficientnet-lite2 (trained on images; of a state with noise it sees the model's
            estimate of the data), or pyramid (block means of all sizes); or several of them.
        reference: Whether the data are draws of a population or the target themselves (empirical).
        seed: Seed of all noise (default: 0, or with --merge the next that is free).
        label: Name of the profile in reports (default: the name of the run).
        merge: Earlier profiles of the same chain: their states are measured with another seed and
            all become one profile; without RUN they are merged as they are.
        output: File to write (default: a new one in the folder profiles of the run).
    """

    run: str | None = None  # type: ignore[assignment]
    num_samples: int = 2000
    num_forward: int | None = None
    states: int | Literal["all"] | list[float] = 16
    budget: bool = True
    modular: bool = False
    num_modular: int = 500
    growth: bool = False
    features: list[str] | str | None = None
    reference: Literal["population", "empirical"] = "population"
    seed: int | None = None
    label: str | None = None
    merge: list[str] = field(default_factory=list)
    output: str | None = None


POSITIONALS = ("run",)
SPACES = ("network", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "pyramid")
SHARED = True
OPTIONS = ("num_samples", "num_forward", "budget", "modular", "num_modular", "growth", "reference")


def run(config: Config) -> dict[str, Any]:
    """Measure or merge, save the profile, show its table."""
    if launch.rank():
        _profile(config)
        return {}
    with files.reserved(config.output):
        profile = _profile(config)
        with _file(config, profile) as path:
            profile.save(path)
    _show(profile, path)
    return profile.to_dict() | {"saved": str(path)}


def _profile(config: Config) -> ErrorProfile:
    """The profile, measured or merged."""
    from undrift.measurement.profile import ErrorProfile

    profiles = [ErrorProfile.load(path) for path in config.merge]
    if config.run is not None:
        profiles.append(_measured(config, profiles))
    elif len(profiles) < 2:
        raise InvalidInput(
            "RUN is missing (a run of undrift train, or a pipeline folder of diffusers); without "
            "it, --merge takes two profiles or more"
        )
    profile = profiles[0].merge(*profiles[1:]) if len(profiles) > 1 else profiles[0]
    return replace(profile, label=config.label or profile.label)


def _measured(config: Config, earlier: list[ErrorProfile]) -> ErrorProfile:
    """A new measurement, at the states of earlier ones and with another seed if there are any."""
    from undrift.api.chain import opened
    from undrift.measurement.measure import measure
    from undrift.regularizer.spaces import spaces_named
    from undrift.remedies.sampler import without_remedy

    names = _feature_names(config.features)
    accelerator = launch.joined()
    sampler, data = opened(config)
    used = [seed for profile in earlier for seed in profile.seeds]
    seed = max(used, default=-1) + 1 if config.seed is None else config.seed
    if seed in used:
        raise InvalidInput(f"seed {seed} is in the profiles to merge: give another --seed")
    if earlier:
        _check_fit(config, earlier, sampler, data, seed)
    states: Any = [state.t for state in earlier[0].states] if earlier else config.states
    profile = measure(
        sampler,
        data,
        states=states,
        batch_size=config.batch_size,
        seed=seed,
        accelerator=accelerator,
        label=config.label or inputs.name_of(config.run),
        progress=not session().quiet,
        spaces=spaces_named(names, without_remedy(sampler)) if names else None,
        **{name: getattr(config, name) for name in OPTIONS},
    )
    return replace(profile, how={**profile.how, "model": config.run, "command": session().command})


def _feature_names(features: list[str] | str | None) -> list[str]:
    """The spaces beside pixels that were chosen.

    Raises:
        InvalidInput: If one is unknown or given twice.
    """
    names = [features] if isinstance(features, str) else list(features or [])
    for name in names:
        check_choice("--features", name, SPACES)
    if len(set(names)) < len(names):
        raise InvalidInput(f"--features {','.join(names)} has a space twice")
    return names


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


def _file(config: Config, profile: ErrorProfile) -> AbstractContextManager[Path]:
    seeds = "+".join(map(str, profile.seeds))
    seeds = seeds if len(profile.seeds) <= 4 else f"{len(profile.seeds)}-seeds"
    run = config.run
    folder = files.place_for(run, "profiles") if run else Path(config.merge[0]).parent
    return files.output_file(config.output, folder, f"{files.slug(profile.label)}-{seeds}", ".json")


def _show(profile: ErrorProfile, path: Path) -> None:
    """Every state in a table, the final error, and where the profile is."""
    from undrift.cli.console import show
    from undrift.reporting.features import feature_names, feature_table
    from undrift.reporting.nats import nats_findings, nats_table
    from undrift.reporting.tables import chain_table, console_table, rich_table

    plain = profile.to_dict()
    show(rich_table(chain_table(plain)))
    modular = profile.how.get("modular") or {}
    if reason := modular.get("reason"):
        say(f"no modular errors: {reason}\n")
    elif modular:
        show(rich_table(nats_table(plain)))
        for finding in nats_findings(plain, profile.label):
            show(f"{finding.headline} {finding.detail}\n", highlight=False)
    show(console_table([plain]))
    for name in feature_names([plain]):
        show(rich_table(feature_table([plain], name)))
    say(f"profile  {path}\nnext     undrift report {path}")
