r"""Frequency bands of images: orthonormal Haar wavelets, as projections.

One level of Haar wavelets replaces each block of 2×2 pixels by its sum and three differences, all
divided by 2, which is orthonormal. The low band :math:`P_1 x`, transformed back, has the block's
mean in each of its pixels, so that :math:`P_l x`, the low band of l levels, has the means of blocks
of :math:`2^l \times 2^l` pixels, and no transform is needed:

.. math:: x = \sum_{l=1}^{L} (P_{l-1} - P_l)\, x + P_L\, x, \qquad P_0 = I,

where the bands are orthogonal: the energies :math:`\|(P_{l-1} - P_l) x\|^2` add up to
:math:`\|x\|^2`. The three orientations of a level are one band.

References:
    | A Theory for Multiresolution Signal Decomposition: the Wavelet Representation (Mallat, 1989)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from undrift.exceptions import InvalidInput


def low_band(x: Tensor, level: int = 1) -> Tensor:
    r"""The low band of some levels of Haar wavelets, :math:`P_l x`.

    Arguments:
        x: Images, with shape :math:`(B, C, H, W)`, both sides divisible by :math:`2^l`.
        level: l.

    Returns:
        Means of blocks of :math:`2^l \times 2^l` pixels, with the shape of ``x``.

    Raises:
        InvalidInput: If these are no images, or a side is not divisible.

    Example:
        >>> low_band(torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]]))
        tensor([[[[3., 3.],
                  [3., 3.]]]])
    """
    if level > most_levels(x.shape[1:]):
        raise InvalidInput(
            f"frequency bands need images with even sides, not states of shape "
            f"{tuple(x.shape[1:])}: give both bands the same strength, with constant weighting"
        )
    means = avg_pool2d(x, 2**level)
    return means.repeat_interleave(2**level, dim=2).repeat_interleave(2**level, dim=3)


def most_levels(shape: tuple[int, ...]) -> int:
    """How often both sides of images of a shape (C, H, W) can be halved; 0 for other states.

    Example:
        >>> most_levels((1, 28, 28)), most_levels((3, 32, 16)), most_levels((1, 7, 8))
        (2, 4, 0)
    """
    if len(shape) != 3:
        return 0
    levels = 0
    while all(side % 2 ** (levels + 1) == 0 for side in shape[1:]):
        levels += 1
    return levels


def bands(x: Tensor, levels: int) -> Tensor:
    r"""All bands of some levels of Haar wavelets, from the highest frequencies to the lowest.

    Arguments:
        x: Images, with shape :math:`(B, C, H, W)`; of 0 levels any states.
        levels: L; 0 has one band, ``x`` itself.

    Returns:
        The bands, with shape :math:`(L + 1, B, *)`; their sum is ``x``.
    """
    low = [x, *(low_band(x, level) for level in range(1, levels + 1))]
    details = [fine - coarse for fine, coarse in zip(low[:-1], low[1:], strict=True)]
    return torch.stack([*details, low[-1]])


def band_sizes(shape: tuple[int, ...], levels: int) -> Tensor:
    """The number of dimensions of each band of states of a shape, in float64.

    Example:
        >>> band_sizes((1, 8, 8), 2)
        tensor([48., 12.,  4.], dtype=torch.float64)
    """
    sizes = torch.Size(shape).numel() / 4.0 ** torch.arange(levels + 1, dtype=torch.float64)
    return torch.cat([sizes[:-1] - sizes[1:], sizes[-1:]])
