"""What is wrong with a plan, told in one line before any training starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from functools import partial
from typing import TypeVar

from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput
from undrift.remedies.config import apply_remedy
from undrift.study.config import NO_REMEDY, PLAIN, StudyConfig
from undrift.study.jobs import with_method
from undrift.training.check import check as check_training
from undrift.training.config import MethodConfig, TrainConfig
from undrift.training.trainer import Trainer

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
SCRATCH = "scratch-"
FEW = 64
LEAST = {
    "steps": 1,
    "scratch_steps": 1,
    "num_samples": 4,
    "num_inference_steps": 1,
    "num_reference": 4,
    "judge_every": 1,
    "workers": 1,
}
T = TypeVar("T")
Complaints = Iterator[tuple[bool, str]]
"""Whether something is wrong, and what to say of it; the first that is wrong is told."""


def check(config: StudyConfig) -> None:
    """Stop before any training if the plan contradicts itself.

    Raises:
        InvalidInput: If it does.
    """
    for find in (_methods, _base, _names, _lists, _budgets, _remedies, _numbers):
        for is_wrong, complaint in find(config):
            if is_wrong:
                raise InvalidInput(complaint)
    _naming("base", partial(check_training, config.base))
    for name, training in _trainings(config):
        _naming(f"method {name}", partial(check_training, training))


def try_building(config: StudyConfig, data: ImageData) -> None:
    """Build what each method trains with, the chain and each remedy of it, and throw it away.

    Raises:
        InvalidInput: If a method, the chain or a remedy cannot be built.
    """
    trainings = dict(_trainings(config))
    plain = _naming(f"method {PLAIN}", partial(Trainer, trainings.pop(PLAIN), data))
    for name, training in trainings.items():
        _naming(f"method {name}", partial(Trainer, training, data))
    sampler = _naming("base", partial(plain.averaged_sampler, config.num_inference_steps))
    few = data.images[:FEW]
    for name, remedy in config.remedies.items():
        _naming(f"remedy {name}", partial(apply_remedy, sampler, remedy, few, num_data=1))


def _trainings(config: StudyConfig) -> list[tuple[str, TrainConfig]]:
    start = replace(config.base, steps=max(map(config.length, config.protocols)))
    return [(name, with_method(start, method)) for name, method in config.methods.items()]


def _naming(what: str, build: Callable[[], T]) -> T:
    """What is built; a complaint says of which part of the plan it is."""
    try:
        return build()
    except InvalidInput as error:
        raise InvalidInput(f"{what}: {error}") from None


def _methods(config: StudyConfig) -> Complaints:
    plain = config.methods.get(PLAIN)
    yield (
        plain is None or plain.method != "plain",
        f"a study needs the method {PLAIN} of method plain, to compare with",
    )
    for name, method in config.methods.items():
        for option in _unused(method):
            yield True, f"methods.{name}.{option} has no effect with {method.method}: leave it out"


def _base(config: StudyConfig) -> Complaints:
    """Options of the base that the study does not pass on."""
    base, default = config.base, TrainConfig()
    yield (
        base.method != "plain",
        f"base.method is {base.method}: the base is plain; name methods under methods",
    )
    for option in _unused(base):
        yield True, f"base.{option} is no option of a plain base: put it under methods"
    for option, instead in (
        ("seed", "give seeds"),
        ("output", "give --output"),
        ("resume", "a study always goes on with what is there"),
    ):
        is_set = getattr(base, option) != getattr(default, option)
        yield is_set, f"base.{option} is not for a study: {instead}"


def _unused(method: MethodConfig) -> list[str]:
    """Options that are set, though the method has no use for them."""
    default = MethodConfig()
    return [
        f"{section}.{option}"
        for section, used in method.in_use.items()
        for option, value in asdict(getattr(method, section)).items()
        if option not in used and value != getattr(getattr(default, section), option)
    ]


def _names(config: StudyConfig) -> Complaints:
    folders: dict[str, str] = {}
    for name in config.methods:
        yield (
            not NAME.fullmatch(name) or name.startswith(SCRATCH),
            f"methods: {name!r} is no name for a run: use letters, digits, _ . + - and no "
            f"{SCRATCH} in front",
        )
        same = folders.setdefault(name.casefold(), name)
        yield same != name, f"methods {same} and {name} would share a folder: rename one"


def _lists(config: StudyConfig) -> Complaints:
    for key in ("seeds", "protocols", "budgets"):
        values = getattr(config, key)
        is_wrong = not values or len(set(values)) < len(values)
        yield is_wrong, f"{key} {list(values)}: give at least one, each once"
    has_scratch, has_steps = "scratch" in config.protocols, config.scratch_steps is not None
    yield has_scratch and not has_steps, "the protocol scratch needs scratch_steps: say how many"
    yield (
        has_steps and not has_scratch,
        "scratch_steps are given, but protocols has no scratch: add it",
    )


def _budgets(config: StudyConfig) -> Complaints:
    if "compute" in config.budgets or config.reference != StudyConfig.reference:
        yield from _unknown([config.reference], config, "reference")
    if config.compute_methods is None:
        return
    yield from _unknown(config.compute_methods, config, "compute_methods")
    yield (
        "compute" not in config.budgets,
        "compute_methods are given, but budgets has no compute: add it, or leave them out",
    )
    yield (
        PLAIN not in config.compute_methods,
        f"compute_methods has no {PLAIN}, to compare with: add it",
    )


def _remedies(config: StudyConfig) -> Complaints:
    if config.remedy_methods is not None:
        yield from _unknown(config.remedy_methods, config, "remedy_methods")
        yield (
            not config.remedies or not config.remedy_methods,
            "remedies and remedy_methods go together: name both, or drop them",
        )
    for name, remedy in config.remedies.items():
        yield (
            not NAME.fullmatch(name) or name == NO_REMEDY or remedy.remedy == "none",
            f"remedies: {name!r} of remedy {remedy.remedy}: none is always there; give others, "
            "with names of letters, digits, _ . + -",
        )


def _unknown(names: Sequence[str], config: StudyConfig, key: str) -> Complaints:
    for name in names:
        close = get_close_matches(name, config.methods, n=1)
        known = ", ".join(config.methods)
        hint = f"did you mean {close[0]}?" if close else f"choose from {known}"
        yield name not in config.methods, f"{key}: {name!r} is no method of the study: {hint}"


def _numbers(config: StudyConfig) -> Complaints:
    for key, least in LEAST.items():
        value = getattr(config, key)
        yield value is not None and value < least, f"{key} is {value}: give at least {least}"
