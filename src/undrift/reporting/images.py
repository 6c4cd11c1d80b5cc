"""Sample grids as inline images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from undrift.exceptions import InvalidInput
from undrift.reporting.content import SampleGrid

LONGEST_SIDE = 1024
PIXELATED_BELOW = 480


@dataclass(frozen=True)
class InlineImage:
    """An image inside the page: a data URI, its size, and whether its pixels should show."""

    label: str
    caption: str
    uri: str
    width: int
    height: int
    is_pixelated: bool


def inline_images(grids: Sequence[SampleGrid]) -> list[InlineImage]:
    """Return sample grids as data URIs; large ones are reduced.

    Raises:
        InvalidInput: If an image cannot be read.
    """
    return [_inline(grid[0], grid[1], grid[2] if len(grid) > 2 else None) for grid in grids]


def enlarged(grid: SampleGrid, side: int = PIXELATED_BELOW // 2) -> bytes:
    """A sample grid as PNG, its pixels multiplied until it is as large as that.

    Arguments:
        grid: Its label and the image.
        side: The shorter side at least, in pixels.

    Raises:
        InvalidInput: If the image cannot be read.
    """
    image = _plain(_read(grid[0], grid[1]))
    factor = -(-side // min(image.size))
    size = image.width * factor, image.height * factor
    return _png(image.resize(size, Image.Resampling.NEAREST))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _plain(image: Image.Image) -> Image.Image:
    """An image in a mode that PNG has."""
    known = ("1", "L", "LA", "P", "RGB", "RGBA")
    return image if image.mode in known else image.convert("RGB")


def _inline(label: str, source: Image.Image | bytes, caption: str | None) -> InlineImage:
    image = _plain(_read(label, source))
    if max(image.size) > LONGEST_SIDE:
        image = image.copy()
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    uri = "data:image/png;base64," + base64.b64encode(_png(image)).decode("ascii")
    is_pixelated = image.width < PIXELATED_BELOW
    return InlineImage(label, caption or "", uri, image.width, image.height, is_pixelated)


def _read(label: str, source: Image.Image | bytes) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    try:
        image = Image.open(io.BytesIO(source))
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        message = f"The sample grid {label!r} is no readable image: give a PNG or a PIL image."
        raise InvalidInput(message) from error
    return image
