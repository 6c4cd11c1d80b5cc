r"""From pixels of any kind to squares in [-1, 1].

Stored values are mapped affinely, :math:`x = 2 v / v_{\max} - 1`, with :math:`v_{\max}` = 255 for 8
bits and 65535 for 16. Transparency is composited on white, :math:`a v + (1 - a) v_{\max}`. An image
becomes a square by an antialiased bicubic resize of its shorter side and a center crop. Gray is
ITU-R 601 luma, :math:`0.299 R + 0.587 G + 0.114 B`. Where nothing has to be resized or converted
the stored values are kept exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

_GRAY_MODES = {"1", "L", "LA", "La", "F", "I"}
_WIDE_MODES = {"I", "F"}  # and I;16, I;16B, ...: more than 8 bits, single channel
_LUMA = (0.299, 0.587, 0.114)
_RESIZE_BLOCK = 1024
RESIZED = "bicubic, antialiased; center crop"
"""What :func:`fit_square` and :func:`image_to_tensor` do to the size, for the record."""


def is_gray(image: Image.Image) -> bool:
    """Whether the image stores a single channel besides transparency."""
    return image.mode in _GRAY_MODES or image.mode.startswith("I;16")


def top_of(image: Image.Image) -> int:
    """The largest value that the image can store: 255, 65535, or 1 for floats."""
    if image.mode == "F":
        return 1
    return 65535 if image.mode in _WIDE_MODES or image.mode.startswith("I;16") else 255


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the EXIF orientation is respected, read from the header alone."""
    width, height = image.size
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def image_to_tensor(image: Image.Image, channels: int, image_size: int | None = None) -> Tensor:
    r"""The pixels of a Pillow image, upright, opaque, square and in :math:`[-1, 1]`.

    Arguments:
        image: An image of any mode; of an animation, its current frame.
        channels: 1 for gray, 3 for RGB.
        image_size: Side length of the square; None keeps the image as it is.

    Returns:
        The image, float32, with shape :math:`(C, H, W)`.

    Raises:
        ValueError: If the mode cannot be converted or the pixel values have no known range.

    Example:
        >>> from PIL import Image
        >>> image_to_tensor(Image.new("RGB", (2, 1), "red"), channels=3).flatten().tolist()
        [1.0, 1.0, -1.0, -1.0, -1.0, -1.0]
    """
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    is_wide = image.mode in _WIDE_MODES or image.mode.startswith("I;16")
    image, v_max = (_wide(image), 1.0) if is_wide else (_opaque(image, channels), 255.0)
    if image_size is not None:
        image = _square(image, image_size)
    values = torch.from_numpy(np.array(image, dtype=np.float32))
    values = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
    return (values / (v_max / 2) - 1).clamp(-1, 1).expand(channels, -1, -1)


def _opaque(image: Image.Image, channels: int) -> Image.Image:
    """Eight bits per channel, gray or RGB, composited on white."""
    from PIL import Image

    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _wide(image: Image.Image) -> Image.Image:
    """One channel of 16-bit integers or of numbers in [0, 1], as floats in [0, 1]."""
    from PIL import Image

    values = np.array(image, dtype=np.float32)
    top = 1 if image.mode == "F" else 65535
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinite values")
    if values.min() < 0 or values.max() > top:
        raise ValueError(f"pixels of mode {image.mode} must lie between 0 and {top}")
    return Image.fromarray(values / np.float32(top))


def _square(image: Image.Image, image_size: int) -> Image.Image:
    """Resize the shorter side with antialiasing, then crop the center."""
    from PIL import Image

    *size, left, top = _cover(*image.size, image_size)
    resized = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + image_size, top + image_size))


def _cover(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """Size of the image whose shorter side is the square's, and where the square starts in it."""
    scale = side / min(width, height)
    wide, high = max(side, round(width * scale)), max(side, round(height * scale))
    return wide, high, (wide - side) // 2, (high - side) // 2


def fit_square(images: Tensor, image_size: int) -> Tensor:
    r"""Resize the shorter side of images with antialiasing and crop the center.

    Arguments:
        images: Images in :math:`[-1, 1]`, with shape :math:`(N, C, H, W)`.
        image_size: Side length :math:`S` of the result.

    Returns:
        Images in :math:`[-1, 1]`, with shape :math:`(N, C, S, S)`.
    """
    height, width = images.shape[-2:]
    wide, high, left, top = _cover(width, height, image_size)
    parts = []
    for part in images.split(_RESIZE_BLOCK):
        if (high, wide) != (height, width):
            part = F.interpolate(part, (high, wide), mode="bicubic", antialias=True)
        parts.append(part[..., top : top + image_size, left : left + image_size].clamp(-1, 1))
    return torch.cat(parts)


def fit_channels(images: Tensor, channels: int | None) -> Tensor:
    r"""Turn RGB into gray or gray into RGB.

    Arguments:
        images: Images with shape :math:`(N, C, H, W)`, C = 1 or 3.
        channels: 1, 3, or None to leave the images alone.

    Returns:
        Images with shape :math:`(N, channels, H, W)`.
    """
    if channels is None or images.shape[1] == channels:
        return images
    if channels == 3:
        return images.repeat(1, 3, 1, 1)
    luma = torch.tensor(_LUMA, dtype=images.dtype)
    return torch.einsum("nchw,c->nhw", images, luma).unsqueeze(1).clamp_(-1, 1)
