r"""The cumulative error during training: :math:`D_0^2` as a curve over the training steps.

A :class:`MeasurementCallback` is called once a training step and measures the chain of the network
now and then. Every measurement uses the same seed, so all points of the curve share their noise
and their forward draws, and the difference of two points has less noise than each of them.

Measuring does not change the training: the weights of a run are the same bit by bit with and
without it. The modes of the network, the global random streams and, where averaged weights are
measured, the weights themselves are put back.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from undrift.diffusion.condition import bare
from undrift.diffusion.pipelines import as_sampler
from undrift.exceptions import InvalidInput, Limits
from undrift.measurement.data import data_for
from undrift.measurement.measure import measure
from undrift.measurement.profile import ErrorProfile

FEW_CHAINS: dict[str, Any] = {
    "num_samples": 250,
    "states": 4,
    "budget": False,
    "exposure": False,
    "progress": False,
}
"""What :func:`~undrift.measure` is called with, where nothing else is chosen."""


class MeasurementCallback:
    r"""Measures the chain of a network that is being trained, every so many steps.

    In a loop of several processes call it in each of them, at the same steps.

    Arguments:
        model: The network in training, as :func:`~undrift.measure` takes it: a sampler or a
            denoiser over it, a pipeline of diffusers, or the network itself with its ``schedule``.
        data: Data, as :func:`~undrift.measure` takes them; they are read once.
        every: Number of training steps between measurements.
        log: Called as ``log(values, step=step)`` after each measurement: ``accelerator.log``,
            ``wandb.log``, or any function of the kind. The values are ``"undrift/mmd_sq"``
            (:math:`D_0^2`), ``"undrift/mmd_sq_se"`` and ``"undrift/p_value"``.
        ema: An ``EMAModel`` of diffusers, whose averaged weights are measured instead.
        options: Those of :func:`~undrift.measure`. By default 250 chains are compared at 4 states,
            without the budget and exposure bias.

    Attributes:
        profiles: The :class:`~undrift.ErrorProfile` of each measured step.

    Raises:
        InvalidInput: If the model or the data cannot be used.
        TypeError: If :func:`~undrift.measure` has no such option.

    Example:
        >>> from undrift import CosineSchedule, Denoiser
        >>> data = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> class Scale(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.zeros(()))
        ...     def forward(self, x_t, timestep):
        ...         return self.weight * x_t
        >>> denoiser = Denoiser(Scale(), CosineSchedule(5), "sample")
        >>> callback = MeasurementCallback(denoiser, data, every=50, check_range=False)
        >>> measured = [step for step in range(101) if callback(step)]
        >>> measured, callback.curve[0]["mmd_sq"] > 0.1
        ([0, 50, 100], True)
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        data: Any,  # noqa: ANN401
        *,
        every: int = 1000,
        log: Callable[..., Any] | None = None,
        ema: Any = None,  # noqa: ANN401
        **options: Any,
    ) -> None:
        inspect.signature(measure).bind(model, data, **options)
        Limits(1).check("every of the measurement callback", every)
        if isinstance(model, (str, os.PathLike)):
            raise InvalidInput(
                f"{model} on disk does not change during training: give the network that is trained"
            )
        self.options = FEW_CHAINS | options
        chain = (self.options.pop(name, None) for name in ("num_inference_steps", "schedule"))
        self.sampler = as_sampler(model, *chain)
        if ema is not None and not isinstance(bare(self.sampler.network), nn.Module):
            raise InvalidInput("averaged weights need a torch.nn.Module that they fit: leave ema")
        with _streams_kept():
            device = self.options.get("device")
            self.data, labels, self._data_how = data_for(self.sampler, data, device)
        self.options.setdefault("labels", labels)
        self.every, self.log, self.ema = every, log, ema
        self.profiles: dict[int, ErrorProfile] = {}

    def __call__(self, step: int) -> ErrorProfile | None:
        """Measure if it is time to.

        Arguments:
            step: Number of finished training steps; 0 measures the model before training.

        Returns:
            The profile; None in a step without a measurement.

        Raises:
            InvalidInput: If an option of the measurement is out of its range, or the chain or the
                weights hold values that are not finite.
        """
        return None if step % self.every else self.measure(step)

    def measure(self, step: int) -> ErrorProfile:
        """Measure at this step, whatever :attr:`every` is: the end of a training, for instance.

        Arguments:
            step: Number of finished training steps.

        Returns:
            The profile, which :attr:`profiles` keeps, with ``"step N"`` as its label.
        """
        options = {"label": f"step {step}"} | self.options
        with _streams_kept(), self._averaged():
            found = measure(self.sampler, self.data, **options)
        profile = replace(found, how={**found.how, "data": self._data_how, "step": step})
        self.profiles[step] = profile
        if self.log is not None:
            row = _row(step, profile)
            names = ("mmd_sq", "mmd_sq_se", "p_value")
            values = {f"undrift/{k}": row[k] for k in names if row[k] is not None}
            self.log(values, step=step)
        return profile

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The final cumulative error of each measured step, in ascending order.

        Each row has ``step``, ``mmd_sq``, ``mmd_sq_se``, ``low`` and ``high`` (the ends of the 95 %
        interval) and ``p_value``.
        """
        return [_row(step, self.profiles[step]) for step in sorted(self.profiles)]

    def state_dict(self) -> dict[str, Any]:
        """The profiles as plain data, for ``accelerator.register_for_checkpointing``."""
        return {str(step): profile.to_dict() for step, profile in self.profiles.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore saved profiles, so that a resumed run continues its curve."""
        self.profiles = {int(k): ErrorProfile.from_dict(v) for k, v in state.items()}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Averaged weights in the network for the time of a measurement, if there are any."""
        if self.ema is None:
            yield
            return
        parameters = list(bare(self.sampler.network).parameters())
        self.ema.store(parameters)
        try:
            self.ema.copy_to(parameters)
            yield
        finally:
            self.ema.restore(parameters)


def _row(step: int, profile: ErrorProfile) -> dict[str, Any]:
    """A row of the curve."""
    error = profile.final.error
    low, high = error.interval
    own = {"mmd_sq": error.mmd_sq, "mmd_sq_se": error.mmd_sq_se, "low": low, "high": high}
    return {"step": step} | own | {"p_value": error.p_value}


@contextmanager
def _streams_kept() -> Iterator[None]:
    """The global random streams of torch as they were, and no cast weights from before or after.

    Autocast keeps cast weights until it ends, in which an optimizer may have changed the weights;
    those that are cast here have no gradient.
    """
    torch.clear_autocast_cache()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.clear_autocast_cache()
