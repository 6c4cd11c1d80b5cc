"""Grids of sample images."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.storage.writing import written

if TYPE_CHECKING:
    from PIL.Image import Image


def as_bytes(images: Tensor) -> Tensor:
    """Images as 8-bit numbers on the CPU; what is not finite becomes gray.

    Arguments:
        images: Images in [-1, 1], with any shape.

    Example:
        >>> import torch
        >>> as_bytes(torch.tensor([-1.0, 0.0, 1.0, 7.0, float("nan")])).tolist()
        [0, 128, 255, 255, 128]
    """
    unit = images.detach().float().cpu().nan_to_num(nan=0.0).clamp(-1, 1)
    return ((unit + 1) * 127.5).round().byte()


def picture(image: Tensor) -> Image:
    """One image as an 8-bit picture, without scaling.

    Arguments:
        image: An image in [-1, 1], with shape (C, H, W), with 1 or 3 channels.

    Raises:
        InvalidInput: If it has another number of channels.
    """
    from PIL.Image import fromarray

    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise InvalidInput(f"no picture of shape {tuple(image.shape)}: it needs 1 or 3 channels")
    pixels = as_bytes(image)
    return fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())


def write_png(image: Image, path: str | os.PathLike[str]) -> None:
    """Write a picture as a PNG file, completely or not at all; its folder is made."""
    with written(path) as part:
        image.save(part, "PNG")


def image_grid(images: Tensor, columns: int | None = None, gap: int = 1) -> Image:
    """Images side by side, on a nearly square grid.

    Arguments:
        images: Images in [-1, 1], with shape (N, C, H, W), with 1 or 3 channels.
        columns: Number of columns.
        gap: White pixels between images.

    Returns:
        An 8-bit picture, without scaling.

    Raises:
        InvalidInput: If there are no images, or they have another number of channels.

    Example:
        >>> import torch
        >>> image_grid(torch.zeros(6, 1, 8, 8), columns=3).size
        (28, 19)
    """
    if images.ndim != 4 or not len(images):
        raise InvalidInput(f"no grid of images of shape {tuple(images.shape)}: give (N, C, H, W)")
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    tiles = F.pad(images.detach().float(), (gap, 0, gap, 0), value=1.0)  # above and to the left
    tiles = F.pad(tiles, (0, 0, 0, 0, 0, 0, 0, rows * columns - len(images)), value=1.0)
    grid = tiles.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    return picture(F.pad(grid, (0, gap, 0, gap), value=1.0))
