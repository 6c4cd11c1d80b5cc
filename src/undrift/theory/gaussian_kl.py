r"""Divergence of Gaussians, without loss of digits where they are nearly equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_kl(mean_p: Tensor, cov_p: Tensor, mean_q: Tensor, cov_q: Tensor) -> Tensor:
    r"""Kullback–Leibler divergence :math:`KL(N(m_p, P) \,\|\, N(m_q, Q))`.

    .. math:: \tfrac12 \sum_i (\lambda_i - \log(1 + \lambda_i))
              + \tfrac12 \|L^{-1}(m_p - m_q)\|^2, \qquad
              Q = LL^\top,\; \lambda = \mathrm{eig}(L^{-1} P L^{-\top} - I)

    Nearly equal Gaussians lose no digits in this form: every term is positive and of second order.

    Arguments:
        mean_p: Mean of the first, with shape :math:`(*, d)`.
        cov_p: Its covariance, with shape :math:`(*, d, d)`.
        mean_q: Mean of the second, with shape :math:`(*, d)`.
        cov_q: Its covariance, positive definite, with shape :math:`(*, d, d)`.

    Returns:
        Divergence in nats, with shape :math:`(*)`; infinite where the first is singular.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> shifted = torch.tensor([1.0, 1.0], dtype=torch.float64)
        >>> float(gaussian_kl(shifted, eye, 0 * shifted, eye))
        1.0
    """
    chol = torch.linalg.cholesky(cov_q)
    half = torch.linalg.solve_triangular(chol, cov_p, upper=False)
    ratio = torch.linalg.solve_triangular(chol, half.mT, upper=False)
    shift = torch.linalg.solve_triangular(chol, (mean_p - mean_q).unsqueeze(-1), upper=False)
    return whitened_divergence(ratio, (shift**2).sum((-2, -1)))


def whitened_divergence(ratio: Tensor, shift_sq: Tensor) -> Tensor:
    r"""KL of a Gaussian, whitened by the other: ½(tr R − d − log det R + shift²)."""
    dim = ratio.shape[-1]
    ratio = (ratio + ratio.mT) / 2
    excess = torch.linalg.eigvalsh(ratio - torch.eye(dim, dtype=ratio.dtype))
    near = (excess - torch.log1p(excess)).sum(-1)
    # Far from the other Gaussian the factor's diagonal keeps small variances to more digits.
    chol, failed = torch.linalg.cholesky_ex(ratio)
    log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    far = ratio.diagonal(dim1=-2, dim2=-1).sum(-1) - dim - log_det
    spread = torch.where(excess.abs().amax(-1) < 0.5, near, far)
    singular = (failed > 0) | (1 + excess[..., 0] <= 1e-14 * (1 + excess[..., -1]))
    return torch.where(singular, math.inf, (spread + shift_sq) / 2)
