r"""A scheduler of diffusers for the network of another one.

A network knows its forward process by the timesteps that it is called with: at each of them it was
trained on states of one noise level :math:`\sigma/\alpha`. Another scheduler serves it if it calls
it on states of that level, whatever their scaling. Schedulers round timesteps, by up to one of
those that the network knows.

Where another scheduler has another forward process, it runs on the noise levels that the network
knows, and calls it in its own terms (:mod:`undrift.diffusion.translation`): one with a table of
betas gets a table of these levels, one of EDM or of flow matching their range. A distilled network
jumps to the data, and its schedulers jump there and back: they serve each other alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np

from undrift.diffusion.scheduler import DiffusersSampler
from undrift.diffusion.timesteps import is_continuous
from undrift.diffusion.training_view import DISTILLED, trained_view
from undrift.diffusion.translation import Levels, Translation, noise_levels
from undrift.exceptions import InvalidInput, reason_of

Options = Mapping[str, Any]
MOST_LEVELS = 1000
TRANSLATED = (
    *("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
)
"""Classes without betas that run on any noise levels."""


def converted(scheduler: Any, scheduler_class: Any, solver: Options | None = None) -> Any:  # noqa: ANN401
    """A scheduler of another class with all options of the first that it knows.

    These include what the first has by default, which another class has another default of. One
    without an option to clip does not clip.

    Arguments:
        scheduler: The first.
        scheduler_class: The other class.
        solver: Options of the other that are not taken from the first.

    Raises:
        InvalidInput: If the class does not take them.
    """
    options = {"clip_sample": False, **scheduler.config}
    options.pop("_use_default_values", None)  # with it diffusers drops what is left at its default
    if is_flow(scheduler) and "use_flow_sigmas" in signature(scheduler_class).parameters:
        shift = scheduler.config.get("flow_shift") or scheduler.config.get("shift") or 1.0
        options |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        options |= {"flow_shift": shift, "shift": shift}
    return _built(scheduler, scheduler_class, options | dict(solver or {}))


def _built(scheduler: Any, scheduler_class: Any, options: dict[str, Any]) -> Any:  # noqa: ANN401
    """A scheduler of another class, from options of which it takes those that it knows."""
    try:
        known = signature(scheduler_class).parameters  # others would stay in its configuration
        made = scheduler_class.from_config({k: v for k, v in options.items() if k in known})
        made.config  # noqa: B018 - classes that diffusers has given up build nothing
    except Exception as error:  # whatever a class of diffusers raises: one line of it
        reason = f"it does not take the model's options ({reason_of(error)})"
        raise refusal(scheduler_class.__name__, scheduler, reason) from error
    return made


def is_flow(scheduler: Any) -> bool:  # noqa: ANN401
    """Whether its network is called with timesteps of flow matching."""
    predicted = DiffusersSampler.predicted_under(scheduler)
    return bool(predicted == "flow_prediction" or scheduler.config.get("use_flow_sigmas"))


def has_table(scheduler: Any) -> bool:  # noqa: ANN401
    r"""Whether its network is called with the rows of a table of :math:`\bar\alpha`."""
    is_other = scheduler.config.get("use_flow_sigmas") or is_continuous(scheduler)
    return hasattr(scheduler, "alphas_cumprod") and not is_other


def refusal(name: str, scheduler: Any, reason: str) -> InvalidInput:  # noqa: ANN401
    """The error that another sampler does not serve the network of a scheduler."""
    own = type(scheduler).__name__
    choice = f"the model's own {own} (no --sampler)"
    if own not in DISTILLED:
        choice += ", ancestral, ddim, dpm-solver++, heun, euler, unipc"
    return InvalidInput(f"{name} does not serve this model: {reason}; choose {choice}")


def other_chain(
    name: str,
    network: Any,  # noqa: ANN401
    scheduler: Any,  # noqa: ANN401
    scheduler_class: Any,  # noqa: ANN401
    num_inference_steps: int | None,
    solver: Options | None = None,
    **options: Any,  # noqa: ANN401
) -> DiffusersSampler:
    """The chain of another scheduler over a network.

    Arguments:
        name: What it was chosen by.
        network: The network.
        scheduler: The scheduler that it was trained with.
        scheduler_class: The class of the other.
        num_inference_steps: Number of denoising steps.
        solver: Options of the other that are not taken from the first.
        options: More options of :class:`~undrift.diffusion.scheduler.DiffusersSampler`.

    Raises:
        InvalidInput: If it does not serve the network.
    """
    kind = scheduler_class.__name__
    if (type(scheduler).__name__ in DISTILLED) != (kind in DISTILLED):
        raise refusal(name, scheduler, "one is for distilled networks, the other is not")
    try:
        other = converted(scheduler, scheduler_class, solver)
        sampler = DiffusersSampler(network, other, num_inference_steps, **options)
        check_same_process(name, sampler, scheduler)
        return sampler
    except InvalidInput as refused:
        if kind in DISTILLED or not (kind in TRANSLATED or _takes_betas(scheduler_class)):
            raise
        reason = refused
    try:
        translation = _translation(network, scheduler)
        other = _on_levels(scheduler, scheduler_class, translation.levels, solver)
        return DiffusersSampler(
            network, other, num_inference_steps, translation=translation, **options
        )
    except InvalidInput as error:
        raise (reason if scheduler_class is type(scheduler) else error) from None


def _takes_betas(scheduler_class: Any) -> bool:  # noqa: ANN401
    """Whether a class runs on any table of betas."""
    return {"trained_betas", "prediction_type"} <= signature(scheduler_class).parameters.keys()


def _translation(network: Any, scheduler: Any) -> Translation:  # noqa: ANN401
    """How a network is called by the schedulers of other families."""
    denoiser = trained_view(network, scheduler, DiffusersSampler.predicted_under(scheduler))
    timesteps, levels = _known_levels(network, scheduler)
    is_known = np.isfinite(levels) & (levels > 0)
    return Translation(denoiser, timesteps[is_known], levels[is_known])


def _on_levels(scheduler: Any, scheduler_class: Any, levels: Levels, solver: Options | None) -> Any:  # noqa: ANN401
    """A scheduler of a class that runs on the noise levels of a network, ascending.

    Raises:
        InvalidInput: If the class takes none.
    """
    low, high = float(levels[0]), float(levels[-1])
    plain: dict[str, Any] = {"clip_sample": False, "timestep_spacing": "trailing", **(solver or {})}
    plain["num_train_timesteps"] = 1000
    if hasattr(scheduler_class, "precondition_outputs"):
        return _built(scheduler, scheduler_class, plain | {"sigma_min": low, "sigma_max": high})
    if scheduler_class.__name__.startswith("FlowMatch"):
        made = _built(scheduler, scheduler_class, plain)
        made.sigma_min, made.sigma_max = low / (1 + low), high / (1 + high)
        return made
    table = 1 / (1 + levels[:: -(-len(levels) // MOST_LEVELS)] ** 2)
    betas = 1 - table / np.concatenate([[1.0], table[:-1]])
    options = {"trained_betas": betas, "num_train_timesteps": len(betas)}
    made = _built(scheduler, scheduler_class, plain | options | {"prediction_type": "v_prediction"})
    if not np.allclose(made.alphas_cumprod.double().cpu(), table, rtol=1e-3, atol=1e-9):
        name = scheduler_class.__name__
        raise refusal(name, scheduler, "its forward process is another, and it takes no betas")
    return made


def check_same_process(name: str, sampler: DiffusersSampler, scheduler: Any) -> None:  # noqa: ANN401
    """Check that a chain calls its network on states that the network knows.

    Arguments:
        name: What the chain was chosen by.
        sampler: The chain.
        scheduler: The scheduler that the network was trained with.

    Raises:
        InvalidInput: If the network predicts something else, or names a timestep at which the noise
            level is another.
    """
    if families := _families(sampler.scheduler, scheduler):
        raise refusal(name, scheduler, families)
    known, levels = _known_levels(sampler.network, scheduler)
    timesteps, found = np.array(sampler.timesteps), _levels_of(sampler)
    reach = 1e-5 * np.ptp(known)
    inside = (known[0] - reach <= timesteps) & (timesteps <= known[-1] + reach)
    at, padded = np.searchsorted(known, timesteps), np.pad(levels, 2, constant_values=(0, np.inf))
    fits = inside & (padded[at] * 0.999 <= found) & (found <= padded[at + 3] * 1.001)
    for timestep, level in zip(timesteps[~fits], found[~fits], strict=True):
        raise refusal(
            name,
            scheduler,
            f"at timestep {timestep:.4g} it has noise of sigma/alpha = {level:.3g}, where the "
            f"network was trained on {np.interp(timestep, known, levels):.3g}",
        )


def _families(other: Any, scheduler: Any) -> str | None:  # noqa: ANN401
    """Why a scheduler is of another family than that of a network; None if it is not."""
    predicts = DiffusersSampler.predicted_under(scheduler)
    if DiffusersSampler.predicted_under(other) != predicts:
        return f"its network predicts {predicts}"
    kinds = [
        (has_table(s), is_flow(s), hasattr(s, "precondition_outputs")) for s in (scheduler, other)
    ]
    return None if kinds[0] == kinds[1] else "its network gets timesteps of another kind"


def _known_levels(network: Any, scheduler: Any) -> tuple[Levels, Levels]:  # noqa: ANN401
    """The timesteps that a network was trained on, ascending, and the noise level at each."""
    if has_table(scheduler):
        timesteps = np.arange(len(scheduler.alphas_cumprod), dtype=np.float64)
        return timesteps, noise_levels(scheduler, timesteps)
    every = DiffusersSampler(network, scheduler, scheduler.config.num_train_timesteps)
    timesteps = np.array(every.timesteps)[::-1]
    is_known = type(scheduler).__name__ not in DISTILLED
    return timesteps, noise_levels(scheduler, timesteps) if is_known else _levels_of(every)[::-1]


def _levels_of(sampler: DiffusersSampler) -> Levels:
    """The noise level at each step of a chain."""
    alphas, sigmas = np.array([sampler.scale(t) for t in sampler.grid[:-1]]).T
    with np.errstate(divide="ignore"):
        return np.asarray(sigmas / alphas, np.float64)
