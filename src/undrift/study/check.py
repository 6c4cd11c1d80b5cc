"""Checks of the configuration of a study before any training."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from undrift.data.images import ImageData
from undrift.diffusion.sampler import Sampler
from undrift.diffusion.solvers import first_of_class
from undrift.diffusion.trial import try_first_step
from undrift.exceptions import InvalidInput, Limits
from undrift.quality.feature_choice import default_features
from undrift.remedies.registry import apply_remedy
from undrift.remedies.remedy import Remedy, UnfitChain
from undrift.study.config import PLAIN, StudyConfig
from undrift.study.jobs import SHIFT, with_method
from undrift.training.check import check as check_training
from undrift.training.config import MethodConfig, TrainConfig
from undrift.training.trainer import Trainer

logger = logging.getLogger("undrift")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
SCRATCH = "scratch-"
FEW = 64
LIMITS = {
    **dict.fromkeys(("steps", "scratch_steps"), Limits(1)),
    **dict.fromkeys(("judge_every", "workers"), Limits(1)),
    **dict.fromkeys(("num_samples", "num_reference"), Limits(4)),
}
"""Ranges of the numbers of a plan."""
NOT_OF_A_BASE = {
    "seed": "give seeds",
    "output": "give --output",
    "resume": "a study always resumes the runs of its folder",
    "streaming": "it compares on all of the data",
}
"""Options of a training that a study sets itself, and what to do instead."""


def check(config: StudyConfig) -> None:
    """Check before any training that the plan does not contradict itself.

    Raises:
        InvalidInput: Names the first contradiction.
    """
    for find in (_methods, _base, _names, _lists, _chains, _budgets, _remedies):
        for complaint in find(config):
            raise InvalidInput(complaint)
    for key, limits in LIMITS.items():
        limits.check(key, getattr(config, key))
    for count in config.step_counts:
        Limits(1).check("num_inference_steps", count)
    with _part("base"):
        check_training(config.base)
    for name, training in _trainings(config):
        with _part(f"method {name}"):
            check_training(training)


def check_judges(config: StudyConfig, data: ImageData) -> None:
    """Check that no network judges in whose features a method is trained.

    A method names them in an option ``features``, several joined by +.

    Raises:
        InvalidInput: If one does; names the method.
    """
    judges = config.judge_names or [default_features(data)]
    for name, method in config.methods.items():
        for section, used in method.in_use.items():
            option = getattr(getattr(method, section), "features", None)
            trained_in = str(option).split("+") if "features" in used else []
            for judge in judges:
                if judge in trained_in and judge != "pixels":
                    raise InvalidInput(
                        f"features: {judge} cannot judge method {name}, which is trained in it "
                        f"({section}.features: {option}): choose another network to judge"
                    )


def try_building(config: StudyConfig, data: ImageData) -> None:
    """Build what each method trains with, and try each chain and each remedy on the base.

    Raises:
        InvalidInput: If a method, a chain or a remedy cannot be built, or a remedy serves no chain.
    """
    with _part("base"):
        base = Trainer(config.base, data)
    with TemporaryDirectory() as folder:
        base.save_checkpoint(Path(folder) / "checkpoints")
        for protocol, (name, training) in product(config.protocols, _trainings(config)):
            if protocol == "branched":
                training = replace(training, start_from=folder)
            with _part(f"method {name}"):
                Trainer(training, data)
    unfit = defaultdict[str, list[str]](list)
    for chain in config.chains:
        with _part(str(chain)):
            sampler = base.averaged_sampler(chain.num_inference_steps, chain.sampler)
            try_first_step(sampler, base.data.image_shape)
        for name, remedy in config.remedies.items():
            with _part(f"{chain}: remedy {name}"):
                if not _fits(sampler, remedy, data):
                    unfit[name].append(str(chain))
    for name, chains in unfit.items():
        if len(chains) == len(config.chains):
            raise InvalidInput(f"remedy {name} serves no chain of the study: leave it out")
        logger.info("remedy %s does not serve %s: left out there", name, "; ".join(chains))


def _fits(sampler: Sampler, remedy: Remedy, data: ImageData) -> bool:
    """Whether a remedy serves a chain.

    Raises:
        InvalidInput: If it would, but its options cannot be used.
    """
    try:
        apply_remedy(sampler, remedy, data.images[:FEW], num_data=1)
    except UnfitChain:
        return False
    return True


def _trainings(config: StudyConfig) -> list[tuple[str, TrainConfig]]:
    start = replace(config.base, steps=max(map(config.length, config.protocols)))
    return [(name, with_method(start, method)) for name, method in config.methods.items()]


@contextmanager
def _part(name: str) -> Iterator[None]:
    """Errors say which part of the plan they are about."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error}") from None


def _methods(config: StudyConfig) -> Iterator[str]:
    plain = config.methods.get(PLAIN)
    if plain is None or plain.method != "plain":
        yield f"a study needs the method {PLAIN} of method plain, to compare with"
    for name, method in config.methods.items():
        for option in _unused(method):
            yield f"methods.{name}.{option} has no effect with {method.method}: leave it out"


def _base(config: StudyConfig) -> Iterator[str]:
    """Options of the base that the study does not pass on."""
    base, default = config.base, TrainConfig()
    if base.method != "plain":
        yield f"base.method is {base.method}: the base is plain; name methods under methods"
    for option in _unused(base):
        yield f"base.{option} is no option of a plain base: put it under methods"
    for option, instead in NOT_OF_A_BASE.items():
        if getattr(base, option) != getattr(default, option):
            yield f"base.{option} is not an option of a study: {instead}"


def _unused(method: MethodConfig) -> list[str]:
    """Options that are set, though they have no effect with the method."""
    default = MethodConfig()
    return [
        f"{section}.{option}"
        for section, used in method.in_use.items()
        for option, value in asdict(getattr(method, section)).items()
        if option not in used and value != getattr(getattr(default, section), option)
    ]


def _names(config: StudyConfig) -> Iterator[str]:
    folders: dict[str, str] = {}
    for name in config.methods:
        if not NAME.fullmatch(name) or name.startswith(SCRATCH):
            yield (
                f"methods: {name!r} is not a valid run name: use letters, digits, _ . + - and no "
                f"{SCRATCH} in front"
            )
        if (same := folders.setdefault(name.casefold(), name)) != name:
            yield f"methods {same} and {name} would share a folder: rename one"


def _lists(config: StudyConfig) -> Iterator[str]:
    for key in ("seeds", "protocols", "budgets"):
        yield from _each_once(key, getattr(config, key))
    for seed in config.seeds:
        if "branched" in config.protocols and (other := seed + SHIFT) in config.seeds:
            yield (
                f"seeds {seed} and {other} share their random streams (branches of {seed} draw "
                f"with seed {other}): choose seeds that do not differ by {SHIFT}"
            )
    has_scratch, has_steps = "scratch" in config.protocols, config.scratch_steps is not None
    if has_scratch and not has_steps:
        yield "the protocol scratch needs a number of steps: give scratch_steps"
    if has_steps and not has_scratch:
        yield "scratch_steps are given, but protocols has no scratch: add it"


def _each_once(key: str, values: Sequence[Any]) -> Iterator[str]:
    if not values or len(set(values)) < len(values):
        yield f"{key} {list(values)}: give at least one, each once"


def _chains(config: StudyConfig) -> Iterator[str]:
    yield from _each_once("num_inference_steps", config.step_counts)
    if config.samplers is None:
        return
    yield from _each_once("samplers", [first_of_class(name) for name in config.samplers])
    solvers = [name for name in config.samplers if name not in ("ancestral", "ddim")]
    if solvers and None in config.step_counts:
        yield f"the sampler {solvers[0]} needs a number of steps: give num_inference_steps"


def _budgets(config: StudyConfig) -> Iterator[str]:
    if "compute" in config.budgets or config.reference != StudyConfig.reference:
        yield from _unknown([config.reference], config, "reference")
    if config.compute_methods is None:
        return
    yield from _unknown(config.compute_methods, config, "compute_methods")
    if "compute" not in config.budgets:
        yield "compute_methods are given, but budgets has no compute: add it, or leave them out"
    if PLAIN not in config.compute_methods:
        yield f"compute_methods has no {PLAIN}, to compare with: add it"


def _remedies(config: StudyConfig) -> Iterator[str]:
    if config.remedy_methods is not None:
        yield from _unknown(config.remedy_methods, config, "remedy_methods")
        if not config.remedies or not config.remedy_methods:
            yield "remedies and remedy_methods go together: give both, or neither"
    for name in config.remedies:
        if not NAME.fullmatch(name) or name == "none":
            yield (
                f"remedies: {name!r} is not a valid name (none stands for no remedy): use letters, "
                "digits, _ . + -"
            )


def _unknown(names: Sequence[str], config: StudyConfig, key: str) -> Iterator[str]:
    for name in [name for name in names if name not in config.methods]:
        close = get_close_matches(name, config.methods, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(config.methods)}"
        yield f"{key}: {name!r} is no method of the study: {hint}"
