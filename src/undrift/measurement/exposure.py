r"""Two published metrics of exposure bias.

Ning et al.'s variance error: run the chain from :math:`x_T \sim q(x_T | x_0)`, keep
:math:`x_0`, and compare the standard deviation of :math:`\hat x_t - \alpha_t x_0` over all
elements with that of the forward process,

.. math:: \delta_t = \bigl(\mathrm{std}(\hat x_t - \alpha_t x_0) - \sigma_t\bigr)^2.

Where :math:`x_T` is independent of the data, :math:`\delta_t` grows towards t = 0 for a perfect
model too: compare it between models; its value for a perfect model is not 0. For exact forward
draws with n elements in all its mean is :math:`\sigma_t^2 / 2n`. Elements of one chain are
correlated, chains are not: with :math:`v = \mathrm{se}(\mathrm{std})^2` from the mean squares of
chains, :math:`\mathrm{se}(\delta_t)^2 = 4 (\delta_t - v)_+ v + 2 v^2`; for exact forward draws
:math:`\delta_t` has the mean v. Where the difference is less than about four standard errors of
the standard deviation, :math:`\delta_t` is the square of a number near 0: the error bar is its
spread over repetitions, and an interval of 1.96 of them may hold less than 95 %.

The ε-norm gap is :math:`E\|\hat\epsilon(\hat x_t, t)\| - E\|\hat\epsilon(x_t, t)\|`, on the
sampler's states against forward draws; 0 for a chain without exposure bias.

References:
    | Elucidating the Exposure Bias in Diffusion Models (Ning et al., 2024)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler
from undrift.measurement.state import Exposure


def variance_error(x_t: Tensor, x_0: Tensor, alpha_t: float, sigma_t: float) -> tuple[float, float]:
    r""":math:`\delta_t` of states whose chain started from :math:`q(x_T | x_0)`, and its error bar.

    Arguments:
        x_t: States, with shape :math:`(B, *)`.
        x_0: The data that they started from, with the same shape.
        alpha_t: Factor on the data.
        sigma_t: Standard deviation of the forward noise.

    Returns:
        :math:`\delta_t` and its standard error, over chains.

    Example:
        >>> x_0, noise = torch.zeros(2, 2), torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
        >>> variance_error(x_0 + 0.75 * noise, x_0, alpha_t=1.0, sigma_t=0.5)
        (0.0625, 0.0)
    """
    residual = (x_t.double() - alpha_t * x_0.double()).flatten(1)
    deviation = residual - residual.mean()
    squares = deviation.square().mean(1)
    spread = math.sqrt(float(squares.mean()))
    variance = float(squares.var() / len(squares)) / (4 * spread**2) if spread else 0.0
    gap = spread - sigma_t
    clear = max(gap**2 - variance, 0.0)
    return gap**2, math.sqrt(4 * clear * variance + 2 * variance**2)


@torch.no_grad()
def epsilon_norms(
    sampler: Sampler,
    sampled: Tensor,
    forward: Tensor,
    t: float,
    *,
    labels: Tensor | None = None,
    batch_size: int = 250,
) -> Exposure:
    r"""Norms of the noise estimate on sampled states and on forward draws.

    Arguments:
        sampler: The chain.
        sampled: The sampler's states at time t, with shape :math:`(B, *)`.
        forward: Forward draws at time t, with shape :math:`(B', *)`.
        t: Their time, above 0.
        labels: The conditions of both, with shape :math:`(B + B')`, for a conditional model.
        batch_size: Number of states that go through the network at once.
    """
    batches = torch.cat([sampled, forward]).split(batch_size)
    given = [None for _ in batches] if labels is None else list(labels.split(batch_size))
    found = [
        sampler.given(own).epsilon(x, t).flatten(1).norm(dim=1).double()
        for x, own in zip(batches, given, strict=True)
    ]
    norms = torch.cat(found)
    parts = norms.split([len(sampled), len(forward)])
    on_sampled, on_forward = (float(part.mean()) for part in parts)
    variance = sum(float(part.var()) / len(part) for part in parts)
    return Exposure(
        eps_norm_sampled=on_sampled,
        eps_norm_forward=on_forward,
        eps_norm_gap=on_sampled - on_forward,
        eps_norm_gap_se=math.sqrt(variance),
    )
