r"""The squared MMD of two Gaussians in closed form.

For the kernel :math:`k(x, y) = \mathrm{mean}_m \exp(-\|x - y\|^2 / h_m)` and two Gaussians, with
:math:`B = hI + 2(P + Q)`, the eigenvalues :math:`\delta_i` of
:math:`2 B^{-1/2} (P - Q) B^{-1/2}` (all inside of (−1, 1)) and
:math:`c = \|B^{-1/2}(m_p - m_q)\|^2`,

.. math:: MMD^2 = 2 \det(B/h)^{-1/2} \left[ (e^s - 1) \cosh r + 2 \sinh^2(r/2)
          + (1 - e^{-c}) \right], \quad
          s = -\tfrac14 \sum_i \log(1 - \delta_i^2), \;
          r = \tfrac12 \sum_i \mathrm{artanh}\,\delta_i.

It follows from :math:`E k(X, Y) = \det(I + 2C/h)^{-1/2} \exp(-m^\top (hI + 2C)^{-1} m)` for
:math:`X - Y \sim N(m, C)`: the three covariances are :math:`B` and :math:`B \pm 2(P - Q)`. All
three terms in the bracket are positive, so nearly equal Gaussians keep full precision.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rbf_mmd_sq(
    mean_p: Tensor, cov_p: Tensor, mean_q: Tensor, cov_q: Tensor, widths: Tensor
) -> Tensor:
    r"""Squared MMD of two Gaussians under an average of RBF kernels.

    Arguments:
        mean_p: Mean of the first, with shape :math:`(*, d)`.
        cov_p: Its covariance, with shape :math:`(*, d, d)`.
        mean_q: Mean of the second, with shape :math:`(*, d)`.
        cov_q: Its covariance, with shape :math:`(*, d, d)`.
        widths: :math:`h_m` in :math:`\exp(-\|x-y\|^2/h_m)`, with shape :math:`(*, M)`.

    Returns:
        :math:`MMD^2`, with shape :math:`(*)`; exact to rounding, however close the two are.

    Example:
        >>> one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> point = torch.zeros(1, 1, dtype=torch.float64)
        >>> round(float(rbf_mmd_sq(one, point, zero, point, one)), 6)  # 2 − 2 exp(−1)
        1.264241
    """
    eye = torch.eye(mean_p.shape[-1], dtype=mean_p.dtype)
    pooled = widths[..., None, None] * eye + 2 * (cov_p + cov_q).unsqueeze(-3)
    chol = torch.linalg.cholesky(pooled)
    excess = 2 * (cov_p - cov_q).unsqueeze(-3).expand_as(pooled)
    half = torch.linalg.solve_triangular(chol, excess, upper=False)
    ratio = torch.linalg.solve_triangular(chol, half.mT, upper=False)
    delta = torch.linalg.eigvalsh((ratio + ratio.mT) / 2)
    shift = (mean_p - mean_q)[..., None, :, None].expand(*pooled.shape[:-1], 1)
    distance = (torch.linalg.solve_triangular(chol, shift, upper=False) ** 2).sum((-2, -1))
    log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1) - len(eye) * widths.log()
    s, r = -torch.log1p(-(delta**2)).sum(-1) / 4, torch.atanh(delta).sum(-1) / 2
    bracket = torch.expm1(s) * torch.cosh(r) + 2 * torch.sinh(r / 2) ** 2 - torch.expm1(-distance)
    return (2 * torch.exp(-log_det / 2) * bracket).mean(-1)
