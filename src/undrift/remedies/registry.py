"""All remedies: read from ``NAME[:STRENGTH][,OPTION=VALUE...]``, and applied to a chain."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from undrift.exceptions import InvalidInput, check_choice
from undrift.remedies.analytic_variance import AnalyticVariance
from undrift.remedies.band_energy import BandEnergy
from undrift.remedies.epsilon_scaling import EpsilonScaling
from undrift.remedies.moments import Moments
from undrift.remedies.remedy import Remedy, choices_of
from undrift.remedies.restart import Restart
from undrift.remedies.snr_correction import SNRCorrection
from undrift.remedies.tail_correction import TailCorrection
from undrift.remedies.time_shift import TimeShift

if TYPE_CHECKING:
    from torch import Tensor

    from undrift.diffusion.sampler import Sampler

REMEDIES: dict[str, type[Remedy]] = {
    kind.remedy: kind
    for kind in (
        EpsilonScaling,
        TimeShift,
        AnalyticVariance,
        SNRCorrection,
        Moments,
        BandEnergy,
        TailCorrection,
        Restart,
    )
}
"""Each remedy by its name."""


def remedy_named(name: str) -> type[Remedy]:
    """The remedy of a name.

    Raises:
        InvalidInput: If there is none.
    """
    check_choice("remedy", name, REMEDIES)
    return REMEDIES[name]


def parse(text: str) -> Remedy | None:
    """A remedy from its text form; None for ``none``.

    Raises:
        InvalidInput: If it is not of the form ``NAME[:STRENGTH][,OPTION=VALUE...]``.

    Example:
        >>> parse("epsilon_scaling:1.005")
        EpsilonScaling(remedy='epsilon_scaling', strength=1.005, slope=0.0)
        >>> parse("snr_t:0.02,high=0.01,weighting=constant").high
        0.01
    """
    head, *items = (part.strip() for part in text.split(","))
    name, colon, strength = head.partition(":")
    if name == "none":
        if colon or items:
            raise InvalidInput(f"remedy {text!r}: none has no strength and no options")
        return None
    try:
        return remedy_named(name).parse([f"strength={strength}", *items] if colon else items)
    except InvalidInput as error:
        raise InvalidInput(f"remedy {text!r}: {error}") from None


def help_text() -> str:
    """The remedies with their strengths and options, in one line."""
    return "; ".join(
        f"{name} (the strength is {kind.strengths.meaning}; options: {options_text(kind)})"
        for name, kind in REMEDIES.items()
    )


def options_text(kind: type[Remedy]) -> str:
    """The options of a remedy besides its strength, each with its choices.

    Example:
        >>> options_text(REMEDIES["snr_t"])
        'high, weighting=dynamic or constant'
    """
    own = {name: choices_of(hint) for name, hint in kind.options().items() if name != "strength"}
    return ", ".join(f"{k}={' or '.join(v)}" if v else k for k, v in own.items()) or "none"


def apply_remedy(
    sampler: Sampler,
    remedy: Remedy | str | None,
    data: Tensor | None = None,
    *,
    seed: int = 0,
    num_data: int = 1000,
    estimate: str | os.PathLike[str] | None = None,
    check_range: bool = True,
) -> Sampler:
    r"""The chain with a remedy: again a sampler, to be measured, scored and sampled as any other.

    Arguments:
        sampler: The chain of a trained model; it is left as it is.
        remedy: Which remedy, and how strong; its text form, or None for no remedy.
        data: Images of the training data, with shape :math:`(N, *)`, on any device, for a remedy
            that is estimated from data; the others ignore them.
        seed: Seed of the draws that an estimate needs.
        num_data: Draws at each time of the chain from which it is estimated.
        estimate: A file of :func:`~undrift.remedies.estimates.save_estimate`, instead of data.
        check_range: Whether to refuse data that are scaled in another way than the model's samples.

    Raises:
        InvalidInput: If the remedy cannot be applied to this sampler, or needs data, or the file is
            of another remedy, chain or network.

    Example:
        >>> import torch
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser
        >>> denoiser = Denoiser(lambda x_t, t: torch.zeros_like(x_t), CosineSchedule(10), "sample")
        >>> sampler = apply_remedy(AncestralSampler(denoiser), "epsilon_scaling:1.01")
        >>> sampler.describe()["remedies"]
        [{'remedy': 'epsilon_scaling', 'strength': 1.01, 'slope': 0.0}]
    """
    from undrift.remedies.sampler import RemediedSampler

    remedy = parse(remedy) if isinstance(remedy, str) else remedy
    if remedy is None:
        return sampler
    remedied = RemediedSampler(sampler, remedy)
    if not remedy.needs_data:
        return remedied
    if estimate is None:
        return remedied.estimated(data, seed, num_data, check_range=check_range)
    if data is not None:
        raise InvalidInput("an estimate is given, and data too: give one of them")

    from undrift.remedies.estimates import load_estimate

    return load_estimate(remedied, estimate)
