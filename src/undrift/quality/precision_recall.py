r"""Precision and recall: samples inside the data's manifold, data inside the samples'.

The manifold of a sample is the union of balls around its points, each reaching to the point's k-th
nearest neighbor,

.. math:: \mathcal{M}(Y) = \bigcup_j B\big(y_j, \|y_j - \mathrm{NN}_k(y_j)\|\big), \qquad
          \text{precision} = \frac{|X \cap \mathcal{M}(Y)|}{N}, \quad
          \text{recall} = \frac{|Y \cap \mathcal{M}(X)|}{M}

for samples :math:`X` and data :math:`Y`. An outlier's ball is large, and balls shrink as their
number grows: compare values of equal sizes only. Two equal distributions do not give 1.

References:
    | Improved Precision and Recall Metric for Assessing Generative Models
      (Kynkäänniemi et al., 2019)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.exceptions import Limits
from undrift.mmd.distances import squared_distances
from undrift.quality.frechet import checked_pair


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares of samples that look like data, and of data that samples look like.

    The standard errors are those of a share of independent points, with the balls as they are; how
    much the balls themselves vary is not in them.
    """

    precision: float
    recall: float
    precision_se: float
    recall_se: float


def precision_recall(
    x_features: Tensor, y_features: Tensor, *, num_neighbors: int = 3, block_size: int = 512
) -> PrecisionRecall:
    r"""Precision and recall of samples, from balls around the k nearest neighbors.

    Exact, in blocks of rows: memory :math:`O(\text{block} (N + M))`, time :math:`O((N + M)^2 D)`.

    Arguments:
        x_features: Features of samples, with shape :math:`(N, D)`.
        y_features: Features of data, with shape :math:`(M, D)`.
        num_neighbors: :math:`k`.
        block_size: Rows of a block of distances.

    Returns:
        Precision and recall, between 0 and 1.

    Raises:
        InvalidInput: If there are not more samples than neighbors, the shapes do not fit, or a
            feature is not finite.

    Example:
        >>> y = torch.arange(10.0)[:, None]
        >>> found = precision_recall(y[:5], y, num_neighbors=1)
        >>> found.precision, found.recall, round(found.recall_se, 3)
        (1.0, 0.6, 0.155)
    """
    Limits(1).check("num_neighbors", num_neighbors)
    x, y = checked_pair(x_features, y_features, num_neighbors + 1)
    center = y.mean(0)
    x, y = x - center, y - center
    inside_data = _inside(x, y, _radii_sq(y, num_neighbors, block_size), block_size)
    inside_samples = _inside(y, x, _radii_sq(x, num_neighbors, block_size), block_size)
    precision, recall = (float(inside.double().mean()) for inside in (inside_data, inside_samples))
    return PrecisionRecall(
        precision=precision,
        recall=recall,
        precision_se=math.sqrt(precision * (1 - precision) / len(x)),
        recall_se=math.sqrt(recall * (1 - recall) / len(y)),
    )


def _radii_sq(y: Tensor, num_neighbors: int, block_size: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other point."""
    count = num_neighbors + 1  # the point itself is one of them
    return torch.cat(
        [squared_distances(rows, y).kthvalue(count, dim=1).values for rows in y.split(block_size)]
    )


def _inside(x: Tensor, y: Tensor, radii_sq: Tensor, block_size: int) -> Tensor:
    """Whether each x lies in the ball of any y."""
    return torch.cat(
        [(squared_distances(rows, y) <= radii_sq).any(1) for rows in x.split(block_size)]
    )
