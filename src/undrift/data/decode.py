r"""Encoded images decoded in threads into one tensor; unreadable ones named or skipped.

Two passes where the size or the number of channels is to be found out: the headers alone, then the
pixels. The first frame of an animation counts; embedded color profiles are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from undrift.data.images import check_values
from undrift.data.options import LoadOptions
from undrift.data.pixels import RESIZED, image_to_tensor, is_gray, upright_size
from undrift.exceptions import InvalidInput
from undrift.progress import progress_bar

if TYPE_CHECKING:
    from PIL import Image

_BLOCK = 256  # encoded images held at once
_PROGRESS_FROM = 2000  # images from which on a progress bar is worth its lines
_SHOWN = 20  # names of skipped images kept in the record

Result = TypeVar("Result")


@dataclass(frozen=True)
class EncodedImage:
    """An image that is not decoded yet: its name, and how Pillow opens it."""

    name: str
    open: Callable[[], Image.Image]


@dataclass
class Skipped:
    """The unreadable images met so far, and whether to go on after one."""

    source: str
    tolerated: bool
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        """Note an unreadable image.

        Raises:
            InvalidInput: Unless unreadable images are tolerated.
        """
        if not self.tolerated:
            raise InvalidInput(
                f"{self.source}: cannot read image {name} ({reason}): repair or remove it, "
                "or go on without such images with --skip-bad-images (skip_bad_images=True)"
            )
        self.reasons[name] = reason

    def how(self) -> dict[str, Any]:
        """Count and first names, for the record of the data."""
        return {"num_skipped": len(self.reasons), "skipped": list(self.reasons)[:_SHOWN]}


@dataclass(frozen=True)
class _Header:
    size: tuple[int, int]
    gray: bool


def decode(
    encoded: Sequence[EncodedImage],
    source: str,
    options: LoadOptions,
) -> tuple[Tensor, list[int], dict[str, Any]]:
    r"""Decode images into one tensor.

    Arguments:
        encoded: The images.
        source: What to call them in messages.
        options: Without an image size it is that of the images, which must agree and be square;
            without channels there is one where all images are gray.

    Returns:
        The images with shape :math:`(N, C, S, S)`, the index of each among ``encoded``, and what
        was done.

    Raises:
        InvalidInput: If an image is unreadable and that is not tolerated, if none is left, if the
            sizes differ and none was given, or if a value is not a number.
    """
    skipped = Skipped(source, options.skip_bad_images)
    image_size, channels = options.image_size, options.channels
    if image_size is None or channels is None:
        headers = [header for _, header in _in_threads(_read_header, encoded, skipped, "reading")]
        image_size = image_size or _common_size([h.size for h in headers], skipped)
        channels = channels or (1 if all(h.gray for h in headers) else 3)
    todo = [(i, item) for i, item in enumerate(encoded) if item.name not in skipped.reasons]
    task = partial(_read_pixels, channels=channels, image_size=options.image_size)
    images = torch.empty(len(todo), channels, image_size, image_size)
    kept: list[int] = []
    for position, pixels in _in_threads(task, [item for _, item in todo], skipped, "decoding"):
        images[len(kept)] = pixels
        kept.append(todo[position][0])
    if not kept:
        raise _none_left(skipped)
    images = images[: len(kept)]
    check_values(images, source, [encoded[i].name for i in kept])
    how = {
        "resized": "none" if options.image_size is None else f"shorter side, {RESIZED}",
        "transparency": "composited on white",
        **skipped.how(),
    }
    return images, kept, how


def _common_size(sizes: list[tuple[int, int]], skipped: Skipped) -> int:
    if not sizes:
        raise _none_left(skipped)
    smallest, largest = min(sizes), max(sizes)
    if smallest == largest and smallest[0] == smallest[1]:
        return smallest[0]
    if smallest == largest:
        fault = f"the images are {smallest[0]}x{smallest[1]}, not square"
    else:
        fault = "the images differ in size ({}x{} to {}x{})".format(*smallest, *largest)
    raise InvalidInput(f"{skipped.source}: {fault}: give --image-size (image_size=N)")


def _none_left(skipped: Skipped) -> InvalidInput:
    return InvalidInput(
        f"{skipped.source}: none of the {len(skipped.reasons)} images can be read: are they images?"
    )


def _read_header(encoded: EncodedImage) -> _Header:
    with encoded.open() as image:
        return _Header(upright_size(image), is_gray(image))


def _read_pixels(encoded: EncodedImage, channels: int, image_size: int | None) -> Tensor:
    with encoded.open() as image:
        return image_to_tensor(image, channels, image_size)


def _in_threads(
    task: Callable[[EncodedImage], Result],
    encoded: Sequence[EncodedImage],
    skipped: Skipped,
    verb: str,
) -> Iterator[tuple[int, Result]]:
    """Run the task on every image in order, block by block; unreadable images are noted."""
    from PIL import UnidentifiedImageError

    def attempt(item: EncodedImage) -> Result | str:
        try:
            return task(item)
        except MemoryError:
            raise
        except UnidentifiedImageError:
            return "not an image"
        except Exception as fault:  # Pillow's plug-ins raise almost any class on broken files
            return " ".join(str(fault).split()) or type(fault).__name__

    count = len(encoded)
    bar = progress_bar(f"{verb} {count} images", count, show=count > _PROGRESS_FROM)
    with ThreadPoolExecutor() as pool, bar as advance:
        for start in range(0, count, _BLOCK):
            block = encoded[start : start + _BLOCK]
            for offset, result in enumerate(pool.map(attempt, block)):
                if isinstance(result, str):
                    skipped.add(block[offset].name, result)
                else:
                    yield start + offset, result
            advance(len(block))
