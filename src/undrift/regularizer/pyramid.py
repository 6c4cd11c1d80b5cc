r"""Means of blocks of an image, from single pixels up to the whole: a feature map for kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Pyramid:
    r"""Block means of an image at all sizes of block, each of the same noise.

    .. math:: \varphi(x) = \big(2^l\, \bar x_B : |B| = 2^l \times 2^l,\; l = 0, 1, \dots\big)

    where :math:`\bar x_B` is the mean over a block B. White noise of variance 1 has variance 1 in
    every feature, but what neighboring pixels have in common grows with the block: a kernel on
    these features sees a wrong brightness or a wrong coarse shape before a wrong texture. Levels
    end where a block would be larger than the image; rows and columns that are left over at a level
    belong to none of its blocks.

    Example:
        >>> Pyramid()(torch.ones(1, 1, 2, 2))
        tensor([[1., 1., 1., 1., 2.]])
    """

    def __call__(self, x: Tensor) -> Tensor:
        """Features of images.

        Arguments:
            x: Images or states, with shape :math:`(B, C, H, W)`.

        Returns:
            The features, with shape :math:`(B, D)`, differentiable.
        """
        level, levels = x, [x.flatten(1)]
        while min(level.shape[-2:]) > 1:
            level = 2 * F.avg_pool2d(level, 2)
            levels.append(level.flatten(1))
        return torch.cat(levels, dim=1)
