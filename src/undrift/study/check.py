"""What is wrong with a plan, told in one line before any training starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from functools import partial
from typing import TypeVar

from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput
from undrift.remedies.config import apply_remedy
from undrift.study.config import PLAIN, StudyConfig
from undrift.study.jobs import with_method
from undrift.study.remedied import NONE
from undrift.training.check import check as check_training
from undrift.training.config import MethodConfig, TrainConfig
from undrift.training.trainer import Trainer

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
SCRATCH = "scratch-"
FEW = 64
T = TypeVar("T")


def check(config: StudyConfig) -> None:
    """Stop before any training if the plan contradicts itself.

    Raises:
        InvalidInput: If it does.
    """
    _check_methods(config)
    _check_lists(config)
    _check_budgets(config)
    _check_remedies(config)
    _check_numbers(config)
    _told_of("base", partial(check_training, config.base))
    for name, training in _trainings(config):
        _told_of(f"method {name}", partial(check_training, training))


def rehearse(config: StudyConfig, data: ImageData) -> None:
    """Build what each method trains with, the chain and each remedy of it, and throw it away.

    Raises:
        InvalidInput: If a method, the chain or a remedy cannot be built.
    """
    trainings = dict(_trainings(config))
    plain = _told_of(f"method {PLAIN}", partial(Trainer, trainings.pop(PLAIN), data))
    for name, training in trainings.items():
        _told_of(f"method {name}", partial(Trainer, training, data))
    sampler = _told_of("base", partial(plain.averaged_sampler, config.num_inference_steps))
    few = data.images[:FEW]
    for name, remedy in config.remedies.items():
        _told_of(f"remedy {name}", partial(apply_remedy, sampler, remedy, few, num_data=1))


def _trainings(config: StudyConfig) -> list[tuple[str, TrainConfig]]:
    length = max(config.length(protocol) for protocol in config.protocols)
    start = replace(config.base, steps=length)
    return [(name, with_method(start, method)) for name, method in config.methods.items()]


def _told_of(what: str, build: Callable[[], T]) -> T:
    """What is built; a complaint says of which part of the plan it is."""
    try:
        return build()
    except InvalidInput as error:
        raise InvalidInput(f"{what}: {error}") from None


def _check_methods(config: StudyConfig) -> None:
    if PLAIN not in config.methods or config.methods[PLAIN].method != "plain":
        raise InvalidInput(f"a study needs the method {PLAIN} of method plain, to compare with")
    if config.base.method != "plain":
        raise InvalidInput(
            f"base.method is {config.base.method}: the base is plain; name methods under methods"
        )
    _check_base(config)
    for name, method in config.methods.items():
        for option in _idle(method):
            raise InvalidInput(
                f"methods.{name}.{option} means nothing to {method.method}: leave it out"
            )
    folders: dict[str, str] = {}
    for name in config.methods:
        if not NAME.fullmatch(name) or name.startswith(SCRATCH):
            raise InvalidInput(
                f"methods: {name!r} is no name for a run: use letters, digits, _ . + - and no "
                f"{SCRATCH} in front"
            )
        same = folders.setdefault(name.casefold(), name)
        if same != name:
            raise InvalidInput(f"methods {same} and {name} would share a folder: rename one")


def _check_base(config: StudyConfig) -> None:
    """Stop at options of the base that the study does not pass on."""
    for option in _idle(config.base):
        raise InvalidInput(f"base.{option} is no option of a plain base: put it under methods")
    own, plain = config.base, TrainConfig()
    for option, instead in (
        ("seed", "give seeds"),
        ("output", "give --output"),
        ("resume", "a study always goes on with what is there"),
    ):
        if getattr(own, option) != getattr(plain, option):
            raise InvalidInput(f"base.{option} is not for a study: {instead}")


def _idle(method: MethodConfig) -> list[str]:
    """Options that are set, though the method has no use for them."""
    default = MethodConfig()
    return [
        f"{section}.{option}"
        for section, used in method.in_use.items()
        for option, value in asdict(getattr(method, section)).items()
        if option not in used and value != getattr(getattr(default, section), option)
    ]


def _check_lists(config: StudyConfig) -> None:
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise InvalidInput(f"seeds {config.seeds}: give at least one, each once")
    for key, values in (("protocols", config.protocols), ("budgets", config.budgets)):
        if not values or len(set(values)) < len(values):
            raise InvalidInput(f"{key} {list(values)}: give at least one, each once")
    if "scratch" in config.protocols and config.scratch_steps is None:
        raise InvalidInput("the protocol scratch needs scratch_steps: say how many")
    if "scratch" not in config.protocols and config.scratch_steps is not None:
        raise InvalidInput("scratch_steps are given, but protocols has no scratch: add it")


def _check_budgets(config: StudyConfig) -> None:
    if "compute" in config.budgets or config.reference != StudyConfig.reference:
        _known([config.reference], config, "reference")
    if config.compute_methods is None:
        return
    _known(config.compute_methods, config, "compute_methods")
    if "compute" not in config.budgets:
        raise InvalidInput(
            "compute_methods are given, but budgets has no compute: add it, or leave them out"
        )
    if PLAIN not in config.compute_methods:
        raise InvalidInput(f"compute_methods has no {PLAIN}, to compare with: add it")


def _check_remedies(config: StudyConfig) -> None:
    if config.remedy_methods is not None:
        _known(config.remedy_methods, config, "remedy_methods")
        if not config.remedies or not config.remedy_methods:
            raise InvalidInput("remedies and remedy_methods go together: name both, or drop them")
    for name, remedy in config.remedies.items():
        if not NAME.fullmatch(name) or name == NONE or remedy.remedy == "none":
            raise InvalidInput(
                f"remedies: {name!r} of remedy {remedy.remedy}: none is always there; give others, "
                "with names of letters, digits, _ . + -"
            )


def _known(names: Sequence[str], config: StudyConfig, key: str) -> None:
    for name in names:
        if name not in config.methods:
            close = get_close_matches(name, config.methods, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {_list(config)}"
            raise InvalidInput(f"{key}: {name!r} is no method of the study: {hint}")


def _list(config: StudyConfig) -> str:
    return ", ".join(config.methods)


def _check_numbers(config: StudyConfig) -> None:
    least = {
        "steps": (config.steps, 1),
        "scratch_steps": (config.scratch_steps, 1),
        "num_samples": (config.num_samples, 4),
        "num_inference_steps": (config.num_inference_steps, 1),
        "num_reference": (config.num_reference, 4),
        "judge_every": (config.judge_every, 1),
        "workers": (config.workers, 1),
    }
    for key, (value, low) in least.items():
        if value is not None and value < low:
            raise InvalidInput(f"{key} is {value}: give at least {low}")
