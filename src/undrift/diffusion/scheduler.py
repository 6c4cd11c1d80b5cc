r"""Every scheduler of diffusers as a chain: each step of its grid is one denoising step.

The states keep the scaling of the scheduler, :math:`x_t = \alpha_t x_0 + \sigma_t\epsilon` with the
:math:`(\alpha_t, \sigma_t)` of its own ``add_noise``:

====================================  =====================================  ====================
schedulers                            :math:`(\alpha_t, \sigma_t)`           time
====================================  =====================================  ====================
DDPM, DDIM, PNDM, DPM-Solver, DEIS,   :math:`\alpha_t^2 + \sigma_t^2 = 1`    timestep + 1
UniPC, SA-Solver, LCM, TCD
Euler, Heun, KDPM2, LMS               :math:`(1, \sigma)`                    timestep + 1
EDM, Euler with continuous times      :math:`(1, \sigma)`                    :math:`\sigma`
flow matching                         :math:`(1 - \sigma, \sigma)`           :math:`\sigma`
====================================  =====================================  ====================

The two network calls per step of Heun and KDPM2 count as one denoising step, and so do the four of
a Runge-Kutta step of PNDM and steps that diffusers rounds to the same timestep. The history of a
multistep solver is what its ``step`` changes in a scheduler. It is kept in the state
(:class:`~undrift.diffusion.sampler.State`); a trajectory that starts in the middle starts without
history, with steps of lower order.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from undrift.diffusion.condition import in_place_of
from undrift.diffusion.denoiser import (
    NO_SIGNAL,
    Denoiser,
    Prediction,
    call_network,
    check_takes_timesteps,
    estimates,
    split_variance,
)
from undrift.diffusion.sampler import RandomSource, Sampler, State
from undrift.diffusion.timesteps import (
    is_continuous,
    learns_variance,
    prepared,
    runge_kutta,
    starts_without_signal,
    time_of,
)
from undrift.diffusion.training_view import trained_view
from undrift.diffusion.translation import Translation, asked_for
from undrift.exceptions import InvalidInput


class DiffusersSampler(Sampler):
    r"""Any scheduler of diffusers as a chain.

    Arguments:
        network: The model, called as diffusers' pipelines do.
        scheduler: A scheduler of diffusers; it is copied, never changed.
        num_inference_steps: Number of denoising steps; all training steps when None, or as many as
            diffusers' pipelines take (50) where the scheduler cannot take all of them.
        translation: How the network of another family is called
            (:mod:`undrift.diffusion.translation`); None where it is one of this scheduler's.
        conditioning: More keyword arguments of every call of the network; a tensor with one row
            serves every row of a batch.
        step_options: More keyword arguments of the scheduler's ``step`` (``eta``).
        timestep_options: More keyword arguments of its ``set_timesteps`` (``mu``, ``timesteps``).

    Raises:
        InvalidInput: If the scheduler cannot be run as a chain, or not with this number of steps,
            or the network predicts the noise of states without signal.

    Example:
        >>> from diffusers import DPMSolverMultistepScheduler
        >>> sampler = DiffusersSampler(
        ...     lambda x, timestep: torch.zeros_like(x), DPMSolverMultistepScheduler(), 4
        ... )
        >>> sampler.grid
        (1000, 750, 501, 251, 0)
    """

    translation: Translation | None = None

    def __init__(
        self,
        network: Callable[..., Any],
        scheduler: Any,  # noqa: ANN401
        num_inference_steps: int | None = None,
        *,
        translation: Translation | None = None,
        conditioning: dict[str, Any] | None = None,
        step_options: dict[str, Any] | None = None,
        timestep_options: dict[str, Any] | None = None,
    ) -> None:
        check_takes_timesteps(network)
        self.network = network
        self.translation = translation
        self.conditioning = conditioning or {}
        self.step_options = step_options or {}
        self.timestep_options = timestep_options or {}
        self._set_steps(scheduler, num_inference_steps)

    @staticmethod
    def predicted_under(scheduler: Any) -> Any:  # noqa: ANN401
        """What a network of a scheduler predicts, or None if not known."""
        is_flow = type(scheduler).__name__.startswith("FlowMatch")
        return scheduler.config.get("prediction_type", "flow_prediction" if is_flow else None)

    def _set_steps(self, scheduler: Any, num_inference_steps: int | None) -> None:  # noqa: ANN401
        """Set the grid, and the calls of the network in the step from each of its times."""
        self.scheduler = prepared(scheduler, num_inference_steps, self.timestep_options)
        self._timesteps: Tensor = self.scheduler.timesteps
        self._calls: dict[float, list[int]] = {}
        first_calls = map(self._begin, range(len(self._timesteps)))
        times = [time_of(self.scheduler, call) for call in first_calls]
        for call, t in enumerate(times):
            self._calls.setdefault(t, []).append(call)
        if times[-1] <= 0 or times != sorted(times, reverse=True):
            kind = type(scheduler).__name__
            raise InvalidInput(f"{kind} does not run from noise to data: choose one that samples")
        super().__init__((*self._calls, 0))
        self.prediction_type = self.predicted_under(self.scheduler)
        if self.translation is not None:
            self.translation.check(self.scheduler)
            self.prediction_type = self.translation.denoiser.prediction_type
        elif self.prediction_type == "epsilon" and starts_without_signal(self.scheduler):
            raise InvalidInput(NO_SIGNAL)

    def _begin(self, call: int) -> int:
        """The first of the calls of the step that a call belongs to."""
        order = getattr(self.scheduler, "order", 1)
        if call < len(runge_kutta(self.scheduler)):
            order = 4
        return call - call % order

    def prior(self, shape: tuple[int, ...], **options: Any) -> Tensor:  # noqa: ANN401
        """Noise with the standard deviation that the scheduler starts from."""
        scale = float(getattr(self.scheduler, "init_noise_sigma", 1.0))
        return super().prior(shape, **options) * scale

    def scale(self, t: float) -> tuple[float, float]:
        r""":math:`(\alpha_t, \sigma_t)` of the forward process, from the scheduler's own."""
        if t == 0:
            return 1.0, 0.0
        call = self._first_call(t)
        scheduler, timestep = self._scheduler_at(call), self._timesteps[call].expand(2)
        signal, noise = torch.eye(2, dtype=torch.float64)
        if hasattr(scheduler, "add_noise"):
            noisy = scheduler.add_noise(signal, noise, timestep)
        else:
            noisy = scheduler.scale_noise(signal, timestep, noise)
        alpha_t, sigma_t = noisy.tolist()
        return alpha_t, sigma_t

    def with_network(self, network: Callable[..., Any]) -> Self:
        """The same chain over another network, under the same conditions if it takes them."""
        other = copy.copy(self)
        other.network = in_place_of(self.network, network)
        return other

    def with_steps(self, num_inference_steps: int) -> Self:
        """The same scheduler with another number of steps.

        Raises:
            InvalidInput: If it cannot be run with so many.
        """
        other = copy.copy(self)
        other._set_steps(self.scheduler, num_inference_steps)
        return other

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser that its network was trained as, to train it on.

        Raises:
            InvalidInput: If it was not trained by denoising.
        """
        if self.translation is not None:
            return self.translation.denoiser.with_network(self.network)
        return trained_view(self.network, self.scheduler, self.prediction_type)

    @property
    def alphas_cumprod(self) -> Tensor | None:
        r""":math:`\bar\alpha` of the timesteps 0 to T − 1 that the network knows, if it does."""
        table: Tensor | None = getattr(self.scheduler, "alphas_cumprod", None)
        if table is None or self.translation or is_continuous(self.scheduler):
            return None
        return table.double().cpu()

    @property
    def timesteps(self) -> list[float]:
        """The timesteps passed to the network, one per step, in the order of the chain."""
        first_calls = [calls[0] for calls in self._calls.values()]
        return self._timesteps[first_calls].double().tolist()

    def predict(self, x_t: Tensor, t: float) -> Prediction:
        r"""The model's :math:`\hat x_0` and :math:`\hat\epsilon` at a state, neither clipped.

        Raises:
            InvalidInput: If what the model predicts is not known, or the time is 0.
        """
        call = self._first_call(t)
        scheduler = self._scheduler_at(call)
        if self.translation is not None:
            return self.translation.predict(self.network, scheduler, x_t, self._timesteps[call])
        x_in, output = self._evaluate(scheduler, x_t, self._timesteps[call])
        output, _ = split_variance(output, x_t)
        alpha_t, sigma_t = self.scale(t)
        if hasattr(scheduler, "precondition_outputs"):
            x0_hat = scheduler.precondition_outputs(x_t, output, sigma_t)
            return Prediction(x0_hat, (x_t - alpha_t * x0_hat) / sigma_t)
        kind = self.prediction_type
        if kind == "flow_prediction":  # the velocity: epsilon - x_0
            total = alpha_t + sigma_t
            return Prediction((x_t - sigma_t * output) / total, (x_t + alpha_t * output) / total)
        if kind not in ("epsilon", "sample", "v_prediction"):
            raise InvalidInput(f"{type(scheduler).__name__} has no known prediction type")
        # a network sees states of unit variance, whatever the scaling of the chain
        norm = (alpha_t**2 + sigma_t**2) ** 0.5
        return estimates(output, x_in, alpha_t / norm, sigma_t / norm, kind)

    def x0_hat(self, x_t: Tensor, t: float) -> Tensor:
        r""":math:`\hat x_0` at a state, clipped where the scheduler clips it by a fixed bound."""
        x0_hat = self.predict(x_t, t).x0_hat
        config = self.scheduler.config
        if not config.get("clip_sample") or config.get("thresholding"):
            return x0_hat
        bound = float(config.get("clip_sample_range", 1.0))
        return x0_hat.clamp(-bound, bound)

    def step(
        self, x_t: Tensor, t: float, s: float, *, generator: RandomSource | None = None
    ) -> Tensor:
        """All steps of the grid from t to s, started without history; differentiable."""
        return self.advance(State(t, x_t), s, generator=generator).x

    def advance(self, state: State, s: float, *, generator: RandomSource | None = None) -> State:
        """All steps of the grid from a state to the time s, with its history; differentiable."""
        times = self.times(state.t, s)
        if len(times) == 1:
            return state
        x, scheduler = state.x, self._scheduler_at(self._first_call(state.t), state.history)
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        options = ({"generator": generator} if takes_generator else {}) | self.step_options
        for t in times[:-1]:
            if hasattr(scheduler, "get_lms_coefficient"):  # takes its order from the index
                highest = self.step_options.get("order", 4)
                options["order"] = min(len(scheduler.derivatives) + 1, highest)
            calls = self._calls[t]
            is_plain = len(runge_kutta(scheduler)) == 0
            if hasattr(scheduler, "plms_timesteps") and is_plain:
                calls = calls[:1] * (2 if scheduler.counter == 1 else 1)  # corrects its first step
            for timestep in self._timesteps[calls]:
                _, output = self._evaluate(scheduler, x, timestep)
                x = scheduler.step(output, timestep, x, **options).prev_sample
        unchanged = vars(self.scheduler)
        history = {
            name: value
            for name, value in vars(scheduler).items()
            if value is not unchanged.get(name) and name != "_internal_dict"
        }
        return State(s, x, history)

    def describe(self) -> dict[str, Any]:
        """The options of this chain, as plain data."""
        config = {k: v for k, v in self.scheduler.config.items() if not k.startswith("_")}
        if config.get("trained_betas") is not None:
            config["trained_betas"] = f"{len(config['trained_betas'])} numbers"
        return {
            "sampler": type(self.scheduler).__name__,
            "num_inference_steps": len(self.grid) - 1,
            "num_steps": self.scheduler.config.get("num_train_timesteps"),
            "prediction_type": self.prediction_type,
            **({"translated": True} if self.translation else {}),
            "step_options": {key: str(value) for key, value in self.step_options.items()},
            "scheduler": config,
        }

    def _first_call(self, t: float) -> int:
        """Index of the first call of the network in the step from a time."""
        if t not in self._calls:
            raise InvalidInput(f"no denoising step of the sampler starts from time {t:g}")
        return self._calls[t][0]

    def _evaluate(self, scheduler: Any, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """What the network sees, and its output in the channels that the scheduler expects."""
        if self.translation is not None:
            found = self.translation.predict(self.network, scheduler, x, timestep)
            return x, asked_for(scheduler, x, timestep, found)
        scaled = getattr(scheduler, "scale_model_input", None)
        x_in = x if scaled is None else scaled(x, timestep)
        batch = timestep.expand(len(x)).to(x.device)
        output = call_network(self.network, x_in, batch, self.conditioning)
        if not learns_variance(scheduler):
            output, _ = split_variance(output, x)
        return x_in, output

    def _scheduler_at(self, call: int, history: dict[str, Any] | None = None) -> Any:  # noqa: ANN401
        """A copy of the scheduler that continues from a history, or starts at a call without.

        Tables are shared; lists are copied, since a step changes them in place.
        """
        scheduler = copy.copy(self.scheduler)
        for name, value in (vars(scheduler) | (history or {})).items():
            vars(scheduler)[name] = list(value) if isinstance(value, list) else value
        if history is None and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(call)
        if history is None and call > 0 and len(runge_kutta(scheduler)):
            scheduler.prk_timesteps = []  # in the middle of a chain it starts without
        if isinstance(getattr(scheduler, "prk_timesteps", None), list):
            scheduler.register_to_config(skip_prk_steps=True)
        return scheduler
