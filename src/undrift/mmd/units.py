r"""The units in which features are compared: those of data, fixed once.

A block of features :math:`\varphi` with shape :math:`(B, G, D)` has G groups of D features. Over
the first data that are seen,

.. math:: \tilde\varphi_{gd} = (\varphi_{gd} - \mu_{gd})\, /\, s_g, \qquad
          s_g^2 = \tfrac1D \textstyle\sum_d \operatorname{Var} \varphi_{gd},

so that each group has a mean variance of 1, whatever its scale, and features within a group keep
their proportions. A comparison does not change with the model that is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_SPREAD = 0.01
"""Least unit of a group, relative to that of its block, so that a constant is not amplified."""


@dataclass
class Units:
    """The units of one block of features.

    Arguments:
        mean: Of each feature over data, with shape :math:`(G, D)`.
        spread: Root mean square standard deviation of each group, with shape :math:`(G, 1)`.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Units:
        """The units of features with shape :math:`(M, G, D)`."""
        variance = features.var(0).mean(-1, keepdim=True)
        floor = MIN_SPREAD**2 * float(variance.mean())
        return cls(features.mean(0), variance.clamp(min=floor).sqrt())

    def __call__(self, features: Tensor) -> Tensor:
        """Features in these units as rows, with shape :math:`(B, G D)`; differentiable."""
        return ((features - self.mean) / self.spread).flatten(1)


def side_by_side(units: Sequence[Units], blocks: Sequence[Tensor]) -> Tensor:
    r"""All blocks in their units as rows, each divided by the root of its number of features.

    So every block has the same weight in a distance of rows.

    Arguments:
        units: One for each block.
        blocks: Features, with shapes :math:`(B, G_k, D_k)`.

    Returns:
        Rows, with shape :math:`(B, \sum_k G_k D_k)`.

    Example:
        >>> block = torch.tensor([[[-1.0, -1.0]], [[1.0, 1.0]]])
        >>> (side_by_side([Units.of(block)], [block]).square().sum(1)).tolist()
        [0.5, 0.5]
    """
    rows = [own(block) for own, block in zip(units, blocks, strict=True)]
    return torch.cat([row / row.shape[1] ** 0.5 for row in rows], 1)
