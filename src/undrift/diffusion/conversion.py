r"""A scheduler of diffusers for the network of another one, if it has the same forward process.

A network knows its forward process by the timesteps that it is called with: at each of them it was
trained on states of one noise level :math:`\sigma/\alpha`. Another scheduler serves it if it calls
it on states of that level, whatever their scaling. Schedulers round timesteps, by up to one of
those that the network knows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput, reason_of

FITTING = {
    "FlowMatch": "FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler",
    "EDM": "EDMEulerScheduler, EDMDPMSolverMultistepScheduler",
}
Levels = npt.NDArray[np.float64]


def converted(scheduler: Any, scheduler_class: Any) -> Any:  # noqa: ANN401
    """A scheduler of another class with all options of the first that it knows.

    These include what the first has by default, which another class has another default of. One
    without an option to clip does not clip.

    Raises:
        InvalidInput: If the class does not take them.
    """
    options = {"clip_sample": False, **scheduler.config}
    options.pop("_use_default_values", None)  # with it diffusers drops what is left at its default
    try:
        return scheduler_class.from_config(options)
    except Exception as error:  # whatever a class of diffusers raises: one line of it
        reason = f"it does not take the model's options ({reason_of(error)})"
        raise refusal(scheduler_class.__name__, scheduler, reason) from error


def has_table(scheduler: Any) -> bool:  # noqa: ANN401
    r"""Whether its network is called with the rows of a table of :math:`\bar\alpha`."""
    config = scheduler.config
    is_other = config.get("use_flow_sigmas") or config.get("timestep_type") == "continuous"
    return hasattr(scheduler, "alphas_cumprod") and not is_other


def refusal(name: str, scheduler: Any, reason: str) -> InvalidInput:  # noqa: ANN401
    """The error that another sampler does not serve the network of a scheduler."""
    own = type(scheduler).__name__
    fits = [others for start, others in FITTING.items() if own.startswith(start)]
    if has_table(scheduler):
        fits = ["ancestral, ddim, dpm-solver++, heun, euler, unipc"]
    choice = ", ".join([f"the model's own {own} (no --sampler)", *fits])
    return InvalidInput(f"{name} does not serve this model: {reason}; choose {choice}")


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
    predicts = DiffusersSampler.predicted_under(scheduler)
    if sampler.prediction_type != predicts:
        raise refusal(name, scheduler, f"its network predicts {predicts}")
    known, levels = _known_levels(sampler, scheduler)
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


def _known_levels(sampler: DiffusersSampler, scheduler: Any) -> tuple[Levels, Levels]:  # noqa: ANN401
    """The timesteps that a network was trained on, ascending, and the noise level at each."""
    if has_table(scheduler):
        table = scheduler.alphas_cumprod.double().cpu().numpy()
        with np.errstate(divide="ignore"):  # no signal at the last
            return np.arange(len(table), dtype=np.float64), np.sqrt(1 / table - 1)
    every = DiffusersSampler(sampler.network, scheduler, scheduler.config.num_train_timesteps)
    return np.array(every.timesteps)[::-1], _levels_of(every)[::-1]


def _levels_of(sampler: DiffusersSampler) -> Levels:
    """The noise level at each step of a chain."""
    alphas, sigmas = np.array([sampler.scale(t) for t in sampler.grid[:-1]]).T
    with np.errstate(divide="ignore"):
        return np.asarray(sigmas / alphas, np.float64)
