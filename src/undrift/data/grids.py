"""Images of samples, to look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from undrift.exceptions import InvalidInput

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
    """One image as a picture of 8 bits a channel, one pixel a pixel.

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


def image_grid(images: Tensor, columns: int | None = None, gap: int = 1) -> Image:
    """Images side by side, on a nearly square grid.

    Arguments:
        images: Images in [-1, 1], with shape (N, C, H, W), with 1 or 3 channels.
        columns: Number of columns.
        gap: White pixels between images.

    Returns:
        A picture of 8 bits a channel, one pixel a pixel.

    Raises:
        InvalidInput: If there are no images, or they have another number of channels.

    Example:
        >>> import torch
        >>> image_grid(torch.zeros(6, 1, 8, 8), columns=3).size
        (28, 19)
    """
    from PIL import Image

    if images.ndim != 4 or not len(images):
        raise InvalidInput(f"no grid of images of shape {tuple(images.shape)}: give (N, C, H, W)")
    height, width = images.shape[2:]
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    size = (columns * (width + gap) + gap, rows * (height + gap) + gap)
    grid: Image.Image | None = None
    for i, image in enumerate(images):
        tile = picture(image)
        grid = grid or Image.new(tile.mode, size, "white")
        grid.paste(tile, (gap + i % columns * (width + gap), gap + i // columns * (height + gap)))
    assert grid is not None
    return grid
