r"""A denoiser: the estimate of the data behind a noisy state.

A network is trained to predict one of three things, each of which gives the two others:

=================  ==========================================  =================================
``epsilon``        :math:`\hat x_0 = (x_t - \sigma_t\hat\epsilon)/\alpha_t`  the noise
``sample``         :math:`\hat\epsilon = (x_t - \alpha_t\hat x_0)/\sigma_t`  the data
``v_prediction``   :math:`\hat x_0 = \alpha_t x_t - \sigma_t\hat v`,         the velocity
                   :math:`\hat\epsilon = \sigma_t x_t + \alpha_t\hat v`
=================  ==========================================  =================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from undrift.diffusion.schedule import Schedule, Time
from undrift.exceptions import InvalidInput, check_choice

PredictionType = Literal["epsilon", "sample", "v_prediction"]
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
    out = network(x_t.to(precision), timestep, **rows)
    out = getattr(out, "sample", out)
    out = out[0] if isinstance(out, tuple) else out
    return out.to(x_t.dtype)  # type: ignore[no-any-return]


def _precision(network: Callable[..., Any]) -> torch.dtype | None:
    """The floating-point type of a network's weights; None for a network without."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((p.dtype for p in parameters if p.dtype in PRECISIONS), None)


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
            :math:`t - 1` of diffusers, a tensor with shape :math:`(B,)`. It returns a tensor, a
            tuple that starts with one, or an output of diffusers (with ``.sample``). If it
            returns twice the channels of :math:`x_t`, the second half is the learned variance.
        schedule: The noise schedule that it was trained with.
        prediction_type: What it predicts, by diffusers' names.
        conditioning: More keyword arguments of every call (``class_labels`` of a DiT); a tensor
            with one row serves every row of a batch.

    Raises:
        InvalidInput: If the prediction type is unknown, or is the noise where the schedule ends
            without signal, or the network is a denoiser.

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
    ) -> None:
        super().__init__()
        check_choice("prediction type", prediction_type, get_args(PredictionType))
        if prediction_type == "epsilon" and schedule.alpha_bar(schedule.num_steps) == 0:
            raise InvalidInput(
                "the schedule ends without signal, where the noise does not determine the data: "
                "use v_prediction or sample"
            )
        inner: Any = network  # under torch.compile, DistributedDataParallel and the like
        while isinstance(inner, nn.Module) and not isinstance(inner, Denoiser):
            inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
        if isinstance(inner, Denoiser):
            raise InvalidInput(
                "the network is a denoiser, wrapped: compile or distribute the network inside it"
            )
        self.network = network
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.conditioning = conditioning or {}

    def with_network(self, network: Callable[..., Any]) -> Denoiser:
        """The same denoiser over another network (a wrapped or an averaged one)."""
        return Denoiser(network, self.schedule, self.prediction_type, self.conditioning)

    def output(self, x_t: Tensor, t: Time) -> Tensor:
        """The raw output of the network."""
        if isinstance(t, Tensor):
            timestep = t.to(x_t.device) - 1
        else:
            timestep = torch.full((len(x_t),), self.schedule.step(t) - 1, device=x_t.device)
        return call_network(self.network, x_t, timestep, self.conditioning)

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
        alpha_t, sigma_t = self.schedule.alpha_sigma(t, x_0)
        return alpha_t * noise - sigma_t * x_0
