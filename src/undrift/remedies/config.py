r"""Remedies at sampling time: which one and how strong, in plain data, and how it is applied.

A remedy changes the chain of a trained model and nothing else. It is written as text,
``NAME[:STRENGTH][,OPTION=VALUE...]``, and what the strength means depends on the remedy:

=====================  =============================================  ============  ==============
remedy                 strength                                       does nothing  options
=====================  =============================================  ============  ==============
``epsilon_scaling``    :math:`b` of :math:`\lambda_i = k i + b`       1             ``slope``
``time_shift``         width of the window, in steps                  0             ``cutoff``,
                                                                                    ``variance``
``analytic_variance``  factor on the optimal variance                 never         ``tolerance``
``snr_t``              :math:`\lambda` of the low frequencies         0             ``high``,
                                                                                    ``weighting``
=====================  =============================================  ============  ==============

Nothing here imports torch before a remedy is applied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from undrift.exceptions import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from undrift.diffusion.sampler import Sampler

RemedyName = Literal["none", "epsilon_scaling", "time_shift", "analytic_variance", "snr_t"]

PUBLISHED = {
    "epsilon_scaling": 1.005,
    "time_shift": 10.0,
    "analytic_variance": 1.0,
    "snr_t": 0.01,
}
"""The strength of each remedy where none is given: of the order that its paper uses."""

NEUTRAL = {"epsilon_scaling": 1.0, "time_shift": 0.0, "snr_t": 0.0}
"""The strength at which a remedy without further options does nothing at all."""

_OPTIONS = {
    "none": (),
    "epsilon_scaling": ("slope",),
    "time_shift": ("cutoff", "variance"),
    "analytic_variance": ("tolerance",),
    "snr_t": ("high", "weighting"),
}


_CHOICES = {"variance": ("schedule", "data"), "weighting": ("dynamic", "constant")}


@dataclass
class RemedyConfig:
    r"""A remedy at sampling time.

    Arguments:
        remedy: Which one.
        strength: How strong (of the order that its paper uses if null).
        slope: Of epsilon_scaling: k of the scale k·i + b of the i-th module, counted from 0 at the
            last module.
        cutoff: Of time_shift: times at or below it are not shifted (0.3 of the first time of the
            chain if null).
        variance: Of time_shift: the pixel variance that a time stands for, that of its noise alone
            (schedule, as published) or of noisy data (data).
        tolerance: Of analytic_variance: how much of a pixel's 256 levels the noise of the last
            module with noise may change on average; 0 for no bound.
        high: Of snr_t: the strength of the high frequencies.
        weighting: Of snr_t: the strengths fade with the noise level in (low frequencies) and out
            (high ones), or are constant.

    Raises:
        InvalidInput: If there is no such remedy, or a number cannot be used.
    """

    remedy: RemedyName = "none"
    strength: float | None = None
    slope: float = 0.0
    cutoff: float | None = None
    variance: Literal["schedule", "data"] = "schedule"
    tolerance: float = 2.0
    high: float = 0.0
    weighting: Literal["dynamic", "constant"] = "dynamic"

    def __post_init__(self) -> None:
        """Refuse what no remedy can be made of."""
        names = get_args(RemedyName)
        if self.remedy not in names:
            raise InvalidInput(f"unknown remedy {self.remedy!r}: choose from {', '.join(names)}")
        for name in ("strength", "slope", "cutoff", "tolerance", "high"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise InvalidInput(f"{name} of {self.remedy} is {value}: give a finite number")
        for name in sorted(set().union(*_OPTIONS.values()) - set(_OPTIONS[self.remedy])):
            if getattr(self, name) != _DEFAULTS[name]:
                raise InvalidInput(f"{name} means nothing to the remedy {self.remedy}: drop it")
        if self.remedy == "none" and self.strength is not None:
            raise InvalidInput("the remedy none has no strength: leave it out")
        if self.remedy in ("epsilon_scaling", "analytic_variance") and self.value <= 0:
            raise InvalidInput(f"the strength of {self.remedy} is {self.value:g}: above 0")
        if self.remedy == "time_shift" and (self.value < 0 or self.value % 1):
            raise InvalidInput(
                f"the window of time_shift is {self.value:g}: a whole number of steps"
            )
        for name, known in _CHOICES.items():
            _checked(name, getattr(self, name), known)
        if self.tolerance < 0:
            raise InvalidInput(f"tolerance of {self.remedy} is {self.tolerance}: 0 or more")

    @property
    def value(self) -> float:
        """The strength that is applied."""
        return PUBLISHED.get(self.remedy, 0.0) if self.strength is None else self.strength

    @property
    def is_neutral(self) -> bool:
        """Whether it does nothing at all, its options included.

        Example:
            >>> parse("snr_t:0").is_neutral, parse("snr_t:0,high=0.01").is_neutral
            (True, False)
        """
        other = {"epsilon_scaling": self.slope, "snr_t": self.high}.get(self.remedy, 0.0)
        return self.remedy == "none" or (self.value == NEUTRAL.get(self.remedy) and other == 0)

    @property
    def needs_data(self) -> bool:
        """Whether it is estimated from data."""
        by_data = self.remedy == "time_shift" and self.variance == "data"
        return by_data or self.remedy == "analytic_variance"

    @property
    def text(self) -> str:
        """The remedy as it is written on a command line.

        Example:
            >>> RemedyConfig("snr_t", 0.02, high=0.01).text
            'snr_t:0.02,high=0.01'
        """
        head = self.remedy if self.strength is None else f"{self.remedy}:{self.strength:.12g}"
        own = ((name, getattr(self, name)) for name in _OPTIONS[self.remedy])
        return ",".join([head, *(f"{k}={v}" for k, v in own if v != _DEFAULTS[k])])


def parse(text: str) -> RemedyConfig:
    """A remedy from its text form.

    Raises:
        InvalidInput: If it is not of the form ``NAME[:STRENGTH][,OPTION=VALUE...]``.

    Example:
        >>> parse("epsilon_scaling:1.005")
        RemedyConfig(remedy='epsilon_scaling', strength=1.005, slope=0.0, cutoff=None, \
variance='schedule', tolerance=2.0, high=0.0, weighting='dynamic')
        >>> parse("snr_t:0.02,high=0.01,weighting=constant").high
        0.01
    """
    head, *rest = text.split(",")
    name, colon, strength = head.strip().partition(":")
    values: dict[str, Any] = {"strength": _number("strength", strength)} if colon else {}
    if name not in _OPTIONS:
        names = ", ".join(get_args(RemedyName))
        raise InvalidInput(f"unknown remedy {name!r}: choose from {names}")
    for item in rest:
        option, equals, value = item.strip().partition("=")
        if option not in _OPTIONS[name] or not equals:
            known = ", ".join(f"{own}=..." for own in _OPTIONS[name]) or "no options"
            raise InvalidInput(f"remedy {text!r}: {name} takes {known}, not {item.strip()!r}")
        values[option] = _option(option, value)
    return RemedyConfig(remedy=name, **values)  # type: ignore[arg-type]


def apply_remedy(
    sampler: Sampler,
    remedy: RemedyConfig,
    data: Tensor | None = None,
    *,
    seed: int = 0,
    num_data: int = 1000,
) -> Sampler:
    r"""The chain with a remedy: again a sampler, to be measured, judged and sampled as any other.

    Arguments:
        sampler: The chain of a trained model; it is left as it is.
        remedy: Which remedy, and how strong.
        data: Images of the training data, with shape :math:`(N, *)`, on any device, which
            analytic_variance and the variance data of time_shift estimate from; a remedy that needs
            none ignores them.
        seed: Seed of the draws that an estimate needs.
        num_data: Draws at each time of the chain that analytic_variance is estimated from.

    Raises:
        InvalidInput: If the remedy does not serve this sampler, or needs data and has none.

    Example:
        >>> import torch
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser
        >>> denoiser = Denoiser(lambda x_t, t: torch.zeros_like(x_t), CosineSchedule(10), "sample")
        >>> sampler = apply_remedy(AncestralSampler(denoiser), parse("epsilon_scaling:1.01"))
        >>> sampler.describe()["remedies"]
        [{'remedy': 'epsilon_scaling', 'b': 1.01, 'k': 0.0}]
    """
    import torch

    from undrift.diffusion.network import device_of
    from undrift.remedies.analytic_variance import AnalyticVarianceSampler
    from undrift.remedies.epsilon_scaling import EpsilonScaledSampler
    from undrift.remedies.snr_correction import SNRCorrectedSampler
    from undrift.remedies.time_shift import TimeShiftedSampler

    if remedy.remedy == "none":
        return sampler
    if remedy.remedy == "epsilon_scaling":
        return EpsilonScaledSampler(sampler, remedy.value, remedy.slope)
    if remedy.remedy == "time_shift":
        spread = 0.0
        if remedy.variance == "data":
            spread = float(_needed(data, remedy).flatten(1).var(1).mean())
        return TimeShiftedSampler(
            sampler, int(remedy.value), cutoff=remedy.cutoff, data_variance=spread
        )
    if remedy.remedy == "analytic_variance":
        analytic = AnalyticVarianceSampler(
            sampler, factor=remedy.value, tolerance=remedy.tolerance or None
        )
        generator = torch.Generator().manual_seed(seed)
        images = _needed(data, remedy).to(device_of(sampler.network))
        return analytic.fit(images, num_data=num_data, generator=generator)
    return SNRCorrectedSampler(sampler, remedy.value, remedy.high, weighting=remedy.weighting)


def _needed(data: Tensor | None, remedy: RemedyConfig) -> Tensor:
    if data is None or not len(data):
        raise InvalidInput(f"{remedy.remedy} is estimated from data: give the training images")
    return data


def _option(name: str, value: str) -> str | float:
    return _checked(name, value, _CHOICES[name]) if name in _CHOICES else _number(name, value)


def _checked(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InvalidInput(f"{name}={value}: choose {' or '.join(known)}")
    return value


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{name} of a remedy is {text!r}: give a number") from None


_DEFAULTS = {f.name: f.default for f in fields(RemedyConfig)}
assert set(_OPTIONS) == set(get_args(RemedyName))
assert {f.name for f in fields(RemedyConfig)} >= {o for own in _OPTIONS.values() for o in own}
