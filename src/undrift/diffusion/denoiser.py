r"""A denoiser: the estimate of the data behind a noisy state.

A network is trained to predict one of three things, each of which gives the two others:

=================  ==========================================  =================================
``epsilon``        :math:`\hat x_0 = (x_t - \sigma_t\hat\epsilon)/\alpha_t`  the noise
``sample``         :math:`\hat\epsilon = (x_t - \alpha_t\hat x_0)/\sigma_t`  the data
``v_prediction``   :math:`\hat x_0 = \alpha_t x_t - \sigma_t\hat v`,         the velocity
                   :math:`\hat\epsilon = \sigma_t x_t + \alpha_t\hat v`
=================  ==========================================  =================================

``flow_prediction``, of flow matching, is :math:`\epsilon - x_0`:
:math:`\hat x_0 = (x_t - \sigma_t\hat v)/(\alpha_t + \sigma_t)`,
:math:`\hat\epsilon = (x_t + \alpha_t\hat v)/(\alpha_t + \sigma_t)`.

A network that is conditioned on the noise level, :math:`D(x, \sigma)`, was trained on
:math:`x_0 + \sigma\epsilon`. It is called with :math:`x_t/\alpha_t` and
:math:`\sigma = \sigma_t/\alpha_t`, which is the same state. The raw network F of EDM gives

.. math:: D(x, \sigma) = c_{skip} x + c_{out} F(c_{in} x, \tfrac14\ln\sigma), \quad
          c_{skip} = \sigma_d^2 c_{in}^2, \quad c_{out} = \sigma\sigma_d c_{in}, \quad
          c_{in} = (\sigma^2 + \sigma_d^2)^{-1/2}.

A network of flow matching was trained on :math:`(1 - s) x_0 + s\epsilon` at timestep
:math:`1000 s`: it is called with :math:`x_t/(\alpha_t + \sigma_t)` and
:math:`s = \sigma_t/(\alpha_t + \sigma_t)`. One with continuous time is called with :math:`x_t` and
:math:`\tfrac14\ln\sigma`.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from undrift.diffusion.call import returned, unwrapped, with_timestep
from undrift.diffusion.condition import in_place_of
from undrift.diffusion.schedule import Schedule, Time
from undrift.exceptions import InvalidInput, check_choice

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
TimeConditioning = Literal["timestep", "sigma", "flow", "log_sigma"]
FLOW_STEPS = 1000
"""The timestep of flow matching at noise alone."""
NO_SIGNAL = (
    "the schedule ends without signal, where the noise does not determine the data: use "
    "v_prediction or sample"
)
SIGMA_NAMES = ("sigma", "sigmas", "sigma_t", "noise_level", "noise_levels")
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Prediction:
    r"""The estimates of a denoiser at :math:`x_t`, each tensor with shape :math:`(B, *)`.

    Arguments:
        x0_hat: Estimate of the data.
        epsilon_hat: Estimate of the noise.
        variance_output: The network's second half of channels where it learns its variance.
    """

    x0_hat: Tensor
    epsilon_hat: Tensor
    variance_output: Tensor | None = None


def estimates(
    output: Tensor,
    x_t: Tensor,
    alpha_t: float | Tensor,
    sigma_t: float | Tensor,
    prediction_type: PredictionType,
) -> Prediction:
    r"""Both estimates from a prediction of one of the three."""
    if prediction_type == "epsilon":
        return Prediction((x_t - sigma_t * output) / alpha_t, output)
    if prediction_type == "sample":
        return Prediction(output, (x_t - alpha_t * output) / sigma_t)
    if prediction_type == "flow_prediction":
        total = alpha_t + sigma_t
        return Prediction((x_t - sigma_t * output) / total, (x_t + alpha_t * output) / total)
    return Prediction(alpha_t * x_t - sigma_t * output, sigma_t * x_t + alpha_t * output)


def call_network(
    network: Callable[..., Any], x_t: Tensor, timestep: Tensor, conditioning: dict[str, Any]
) -> Tensor:
    """The tensor that a network returns, taken out of a tuple or an output of diffusers.

    The input is cast to the precision of the network and the output back to that of the input, so
    that the precision of the chain and of its measurements does not change.

    Arguments:
        network: Returns a tensor, a tuple that starts with one, or an output of diffusers.
        x_t: Its input, with shape :math:`(B, *)`.
        timestep: Of each row, with shape :math:`(B,)`.
        conditioning: More keyword arguments; a tensor with one row serves every row.
    """
    rows = {
        key: value.expand(len(x_t), *value.shape[1:])
        if isinstance(value, Tensor) and value.ndim and len(value) == 1
        else value
        for key, value in conditioning.items()
    }
    precision = _precision(network) or x_t.dtype
    return returned(with_timestep(network)(x_t.to(precision), timestep, **rows)).to(x_t.dtype)


def _precision(network: Callable[..., Any]) -> torch.dtype | None:
    """The floating-point type of a network's weights; None for a network without."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((p.dtype for p in parameters if p.dtype in PRECISIONS), None)


def check_takes_timesteps(network: Callable[..., Any]) -> None:
    """Check that a network does not name its second argument after the noise level.

    Raises:
        InvalidInput: If it does.
    """
    network = getattr(network, "_orig_mod", network)  # under torch.compile
    called = network.forward if isinstance(network, nn.Module) else network
    try:
        names = list(inspect.signature(called).parameters)
    except (TypeError, ValueError):  # a callable that does not say what it takes
        return
    if len(names) > 1 and names[1] in SIGMA_NAMES:
        raise InvalidInput(
            f"the network takes {names[1]}, but would get timesteps: build undrift.Denoiser(..., "
            "time_conditioning='sigma'), or wrap it in a function of (x_t, timestep)"
        )


def split_variance(output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
    """The prediction, and the learned variance where there are twice the channels of the state.

    Raises:
        InvalidInput: If the shape fits neither.
    """
    if output.shape == x_t.shape:
        return output, None
    if x_t.ndim > 1 and output.shape == (len(x_t), 2 * x_t.shape[1], *x_t.shape[2:]):
        prediction, variance = output.chunk(2, dim=1)
        return prediction, variance
    got, wanted = tuple(output.shape), tuple(x_t.shape)
    raise InvalidInput(f"the network returned shape {got} for states of shape {wanted}")


class Denoiser(nn.Module):
    r"""Turns the output of any network into :math:`\hat x_0` and :math:`\hat\epsilon`.

    Arguments:
        network: Called as ``network(x_t, timestep, **conditioning)`` with the timestep
            :math:`t - 1` of diffusers, a tensor with shape :math:`(B,)`; or as
            ``network(x, sigma, **conditioning)`` (``time_conditioning``). It returns a tensor, a
            tuple that starts with one, or an output of diffusers (with ``.sample``). If it
            returns twice the channels of :math:`x_t`, the second half is the learned variance.
        schedule: The noise schedule that it was trained with.
        prediction_type: What it predicts, by diffusers' names.
        conditioning: More keyword arguments of every call (``class_labels`` of a DiT); a tensor
            with one row serves every row of a batch.
        time_conditioning: ``"sigma"`` for a network that takes the noise level,
            :math:`D(x, \sigma)` with :math:`x = x_t/\alpha_t`, :math:`\sigma = \sigma_t/\alpha_t`;
            ``"flow"`` for one of flow matching; ``"log_sigma"`` for continuous times
            :math:`\tfrac14\ln\sigma`.
        sigma_data: :math:`\sigma_d` where the network is EDM's raw :math:`F`; None where it is D.

    Raises:
        InvalidInput: If the prediction type is unknown, or is the noise where the schedule ends
            without signal, or the network is a denoiser, or is conditioned on something else.

    Example:
        >>> from undrift.diffusion.schedule import CosineSchedule
        >>> schedule = CosineSchedule(10)
        >>> denoiser = Denoiser(lambda x_t, timestep: torch.zeros_like(x_t), schedule)
        >>> x_t = torch.ones(2, 1, 4, 4)
        >>> bool((denoiser(x_t, 5) * schedule.alpha(5)).allclose(x_t))
        True
    """

    def __init__(
        self,
        network: Callable[..., Any],
        schedule: Schedule,
        prediction_type: PredictionType = "epsilon",
        conditioning: dict[str, Any] | None = None,
        *,
        time_conditioning: TimeConditioning = "timestep",
        sigma_data: float | None = None,
    ) -> None:
        super().__init__()
        check_choice("prediction type", prediction_type, get_args(PredictionType))
        check_choice("time conditioning", time_conditioning, get_args(TimeConditioning))
        by_sigma = time_conditioning == "sigma"
        if schedule.alpha_bar(schedule.num_steps) == 0 and (
            time_conditioning in ("sigma", "log_sigma") or prediction_type == "epsilon"
        ):
            raise InvalidInput(NO_SIGNAL)
        if sigma_data is not None and not (by_sigma and prediction_type == "sample"):
            raise InvalidInput(
                "sigma_data belongs to a network that is preconditioned to predict the data: give "
                "time_conditioning='sigma' and prediction_type='sample' too"
            )
        if not by_sigma:
            check_takes_timesteps(network)
        if isinstance(unwrapped(network), Denoiser):
            raise InvalidInput(
                "the network is a denoiser, wrapped: compile or distribute the network inside it"
            )
        self.network = network
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.conditioning = conditioning or {}
        self.time_conditioning: TimeConditioning = time_conditioning
        self.sigma_data = sigma_data

    def with_network(self, network: Callable[..., Any]) -> Denoiser:
        """The same denoiser over another network (a wrapped or an averaged one).

        It has the same conditions if it takes them and has none of its own.
        """
        return Denoiser(
            in_place_of(self.network, network),
            self.schedule,
            self.prediction_type,
            self.conditioning,
            time_conditioning=self.time_conditioning,
            sigma_data=self.sigma_data,
        )

    def output(self, x_t: Tensor, t: Time) -> Tensor:
        """The output of the network; of a preconditioned one its estimate of the data."""
        if isinstance(t, Tensor):
            timestep = t.to(x_t.device) - 1
        else:
            timestep = torch.full((len(x_t),), self.schedule.step(t) - 1, device=x_t.device)
        return self.output_at(x_t, timestep, *self.schedule.alpha_sigma(t, x_t))

    def output_at(
        self, x_t: Tensor, timestep: Tensor, alpha_t: float | Tensor, sigma_t: float | Tensor
    ) -> Tensor:
        r"""The same at any time, given its timestep and its :math:`\alpha_t, \sigma_t`."""
        if self.time_conditioning == "timestep":
            return call_network(self.network, x_t, timestep, self.conditioning)
        if self.time_conditioning == "flow":
            total = alpha_t + sigma_t
            times = self._rows(FLOW_STEPS * sigma_t / total, x_t)
            return call_network(self.network, x_t / total, times, self.conditioning)
        if self.time_conditioning == "log_sigma":
            times = self._rows(sigma_t / alpha_t, x_t).log() / 4
            return call_network(self.network, x_t, times, self.conditioning)
        sigma = torch.as_tensor(sigma_t / alpha_t, dtype=x_t.dtype, device=x_t.device)
        level = self._rows(sigma, x_t)
        x, data = x_t / alpha_t, self.sigma_data
        if data is None:
            return call_network(self.network, x, level, self.conditioning)
        c_in = (sigma**2 + data**2).rsqrt()
        raw = call_network(self.network, c_in * x, level.log() / 4, self.conditioning)
        return (data * c_in) ** 2 * x + sigma * data * c_in * split_variance(raw, x)[0]

    def _rows(self, values: float | Tensor, x_t: Tensor) -> Tensor:
        """One number for each row, in the precision of the network, with shape (B,)."""
        found = torch.as_tensor(values, dtype=x_t.dtype, device=x_t.device)
        return found.reshape(-1).expand(len(x_t)).to(_precision(self.network) or x_t.dtype)

    def predict(self, x_t: Tensor, t: Time) -> Prediction:
        r"""Both estimates at once.

        Arguments:
            x_t: Noisy states, with shape :math:`(B, *)`.
            t: Their step, or one step for each row, with shape :math:`(B,)`; from 1 to T.

        Raises:
            InvalidInput: If the output of the network does not fit the states, or the step is not
                one of the schedule.
        """
        out, variance = split_variance(self.output(x_t, t), x_t)
        alpha_t, sigma_t = self.schedule.alpha_sigma(t, x_t)
        prediction = estimates(out, x_t, alpha_t, sigma_t, self.prediction_type)
        return replace(prediction, variance_output=variance)

    def forward(self, x_t: Tensor, t: Time) -> Tensor:
        r""":math:`\hat x_0`, with the shape of :math:`x_t`."""
        return self.predict(x_t, t).x0_hat

    def target(self, x_0: Tensor, noise: Tensor, t: Time) -> Tensor:
        """The target of the network's training loss."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x_0
        if self.prediction_type == "flow_prediction":
            return noise - x_0
        alpha_t, sigma_t = self.schedule.alpha_sigma(t, x_0)
        return alpha_t * noise - sigma_t * x_0

    def weight(self, t: Time, like: Tensor) -> float | Tensor:
        r"""Weight of the squared error in the training loss: 1, or :math:`1/c_{out}^2` of EDM."""
        if self.sigma_data is None:
            return 1.0
        alpha_t, sigma_t = self.schedule.alpha_sigma(t, like)
        sigma, data = sigma_t / alpha_t, self.sigma_data
        return (sigma**2 + data**2) / (sigma * data) ** 2
