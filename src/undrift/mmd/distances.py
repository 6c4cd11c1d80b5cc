r"""Squared distances between samples, and their mean or median, from which a bandwidth is taken.

.. math:: \|x_i - y_j\|^2 = \|x_i\|^2 + \|y_j\|^2 - 2 \langle x_i, y_j \rangle

is one matrix product. Cancellation loses precision where the norms are much larger than the
distances.
"""

from __future__ import annotations

import torch
from torch import Tensor

MEDIAN_SUBSAMPLE = 1024


def squared_distances(
    x: Tensor, y: Tensor, x_sq: Tensor | None = None, y_sq: Tensor | None = None
) -> Tensor:
    r"""Squared distances between all rows, from one matrix product.

    Center the samples before: cancellation loses precision where the norms are much larger than the
    distances.

    Arguments:
        x: Samples, with shape :math:`(N, D)`.
        y: Samples, with shape :math:`(M, D)`.
        x_sq: Squared norms of the rows of ``x``, with shape :math:`(N)`, if known.
        y_sq: Squared norms of the rows of ``y``, with shape :math:`(M)`, if known.

    Returns:
        The squared distances, not below zero, with shape :math:`(N, M)`.
    """
    x_sq = x.square().sum(1) if x_sq is None else x_sq
    y_sq = y.square().sum(1) if y_sq is None else y_sq
    return torch.addmm(y_sq, x, y.T, alpha=-2).add_(x_sq[:, None]).clamp_(min=0)


def mean_squared_distance(y: Tensor) -> float:
    r"""Mean squared distance between different samples, exactly, in :math:`O(ND)`.

    .. math::
        \frac{1}{N(N-1)} \sum_{i \ne j} \|y_i - y_j\|^2
        = \frac{2}{N-1} \sum_i \|y_i - \bar y\|^2

    Arguments:
        y: Samples, with shape :math:`(N, D)`.

    Returns:
        The mean, in squared units of ``y``.
    """
    center = y.mean(0)
    about_zero = float(torch.linalg.vector_norm(y, dim=1).square_().sum())
    total = about_zero - len(y) * float(center.square().sum())
    if total < 0.1 * about_zero:  # cancellation has lost too much precision
        total = sum(float((rows - center).square_().sum()) for rows in y.split(1024))
    return 2 * total / (len(y) - 1)


def median_squared_distance(y: Tensor) -> float:
    r"""Median squared distance between different samples, on a bounded subsample.

    Beyond 1024 rows the median is that of a random subset, always the same one for the
    same number of rows, so that a bandwidth is reproducible.

    Arguments:
        y: Samples, with shape :math:`(N, D)`.

    Returns:
        The median, in squared units of ``y``.
    """
    if len(y) > MEDIAN_SUBSAMPLE:
        chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[
            :MEDIAN_SUBSAMPLE
        ]
        y = y[chosen.to(y.device)]
    y = y - y.mean(0)
    rows, columns = torch.triu_indices(len(y), len(y), offset=1, device=y.device)
    return float(squared_distances(y, y)[rows, columns].median())
