"""What tests compare with: quadrature in one dimension, a sampler over a Gaussian chain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler
from undrift.diffusion.mixture import ForwardProcess
from undrift.diffusion.schedule import Schedule
from undrift.mmd.gaussian import rbf_mmd_sq
from undrift.mmd.kernels import RBFMixture
from undrift.theory.gaussian_chain import GaussianChain

Function = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Errors:
    """E_mod, E_con and E_cumu of one step, in nats."""

    t: int
    e_mod: float
    e_con: float
    e_cumu: float


def normal_density(at: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    return torch.exp(-((at - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def errors_by_quadrature(
    schedule: Schedule,
    density: Function,
    step_mean: Function,
    variance: Callable[[int], float],
    *,
    half_width: float = 8.0,
    points: int = 1001,
    stop: int = 0,
) -> list[Errors]:
    """The errors of each step t → t − 1, from T down to state `stop`.

    `density(x, t)` is the forward marginal, `step_mean(x, t)` and `variance(t)` the step.
    """
    x = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    weight = float(x[1] - x[0])

    def divergence(p: Tensor, q: Tensor) -> Tensor:
        ratio = torch.where(p > 1e-290, torch.log(p / q.clamp(min=1e-300)), 0.0)
        return (p * ratio).sum(-1) * weight

    found, p_t = [], normal_density(x, 0.0, 1.0)
    for t in range(schedule.num_steps, stop, -1):
        q_t, q_s, beta = density(x, t), density(x, t - 1), float(schedule.betas[t - 1])
        forward = normal_density(x[None, :], math.sqrt(1 - beta) * x[:, None], beta)
        step = normal_density(x[None, :], step_mean(x, t)[:, None], variance(t))
        reverse = forward.mT * q_s[None, :] / q_t.clamp(min=1e-300)[:, None]
        p_s = (p_t[:, None] * step).sum(0) * weight
        back = (p_t[:, None] * step).mT / p_s.clamp(min=1e-300)[:, None]
        seen, made = p_t > 1e-14, p_s > 1e-14
        e_mod = (p_t * divergence(step, reverse))[seen].sum() * weight
        e_con = (p_s * divergence(back, forward))[made].sum() * weight
        found.append(Errors(t, float(e_mod), float(e_con), float(divergence(p_s, q_s))))
        p_t = p_s
    return found


def affine_sampler(chain: GaussianChain, schedule: Schedule) -> AncestralSampler:
    """The sampler whose network is the denoiser of a Gaussian chain."""

    def network(x_t: Tensor, timestep: Tensor) -> Tensor:
        step = int(timestep[0])
        return x_t @ chain.slope[step].mT.to(x_t) + chain.offset[step].to(x_t)

    denoiser = Denoiser(network, schedule, "sample")
    return AncestralSampler(denoiser, clip=None, variance_type="fixed_large")


def reverse_log_prob(process: ForwardProcess, x_s: Tensor, x_t: Tensor, t: int, s: int) -> Tensor:
    """The log-density of the exact reverse conditional in nats, by Bayes' rule, with shape (B,)."""
    marginals = process.log_prob(x_s, s) - process.log_prob(x_t, t)
    return process.forward_log_prob(x_t, x_s, t, s) + marginals


def gaussian_mmd_sq(
    mean_p: Tensor, cov_p: Tensor, mean_q: Tensor, cov_q: Tensor, kernel: RBFMixture
) -> float:
    """MMD² of two Gaussians; a kernel without a bandwidth gets that of the population Q."""
    if isinstance(kernel.bandwidth, str):
        kernel = replace(kernel, bandwidth=2 * float(cov_q.trace()))
    widths = torch.tensor(kernel.scales, dtype=cov_q.dtype)
    return kernel.self_value * float(rbf_mmd_sq(mean_p, cov_p, mean_q, cov_q, widths))
