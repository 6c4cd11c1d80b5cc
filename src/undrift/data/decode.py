r"""Encoded images decoded in threads into one tensor; unreadable ones named or skipped.

If the size or the number of channels is not given, the headers are read first, then the pixels. Of
an animation the first frame is used; embedded color profiles are ignored.

The range is that of the bits, 0..255 or 0..65535, unless no value of any image leaves a smaller one
of 0..1 (masks) and 0..255 (8 bits in a file of 16), which is used then, as for arrays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from undrift.data.options import LoadOptions
from undrift.data.pixels import RESIZED, image_to_tensor, is_gray, top_of, upright_size
from undrift.exceptions import InvalidInput, reason_of
from undrift.progress import progress_bar

if TYPE_CHECKING:
    from PIL.Image import Image

_BLOCK = 256  # encoded images held at once
_PROGRESS_FROM = 2000  # number of images from which a progress bar is shown
_SHOWN = 20  # names of skipped images kept in the record
_RANGES = (1, 255, 65535)
_DARK = 1 / 8

logger = logging.getLogger("undrift")

Opener = Callable[[], "Image"]
"""Opens an image that is not decoded yet, with Pillow."""
Result = TypeVar("Result")


def decode(
    encoded: Mapping[str, Opener], source: str, options: LoadOptions
) -> tuple[Tensor, list[int], dict[str, Any]]:
    r"""Decode images into one tensor.

    Arguments:
        encoded: The images by name.
        source: What to call them in messages.
        options: Without an image size it is that of the images, which must agree and be square;
            without channels there is one where all images are gray.

    Returns:
        The images with shape :math:`(N, C, S, S)`, the index of each among ``encoded``, and how
        they were decoded.

    Raises:
        InvalidInput: If an image is unreadable and that is not tolerated, if none is left, or if
            the sizes differ and none was given.
    """
    size, channels, skipped = options.image_size, options.channels, set[str]()
    results = partial(_readable, encoded, source, options.skip_bad_images, skipped)
    if size is None or channels is None:
        headers = [header for _, header in results("reading", _header)]
        size = size or _common_size([upright for upright, _ in headers], source)
        channels = channels or (1 if all(gray for _, gray in headers) else 3)
    images = torch.empty(len(encoded) - len(skipped), channels, size, size)
    index = {name: i for i, name in enumerate(encoded)}
    kept: list[int] = []
    tops: set[int] = set()
    task = partial(_decoded, channels=channels, image_size=options.image_size)
    for name, (pixels, top) in results("decoding", task):
        images[len(kept)] = pixels
        kept.append(index[name])
        tops.add(top)
    images = images[: len(kept)]
    highest = round((float(images.max()) + 1) / 2 * max(tops)) if len(tops) == 1 else max(tops)
    used = _stored_range(highest, tops, source, options)
    scaling = _rescale(images, tops, used, is_whole=options.image_size is None)
    if options.stored_range is None:
        logger.info("%s: %d images, %s", source, len(images), scaling)
        if 0 < highest < _DARK * used:
            logger.warning("%s: all images are dark: their largest value is %d", source, highest)
    how = {
        "scaling": scaling,
        "stored_range": used,
        "resized": "none" if options.image_size is None else f"shorter side, {RESIZED}",
        "transparency": "composited on white",
        "num_skipped": len(skipped),
        "skipped": [name for name in encoded if name in skipped][:_SHOWN],
    }
    return images, kept, how


def _decoded(image: Image, channels: int, image_size: int | None) -> tuple[Tensor, int]:
    """The pixels of an image in [-1, 1], and the largest value that it can store."""
    return image_to_tensor(image, channels, image_size), top_of(image)


def _stored_range(highest: int, tops: set[int], source: str, options: LoadOptions) -> int:
    """The largest value that images are scaled by: of their bits, or of the range that they use.

    Arguments:
        highest: Their largest value; of several kinds the largest that they can store.
        tops: The largest values that they can store.
        source: What to call them in messages.
        options: The range of images before them, if there were some, is kept.

    Raises:
        InvalidInput: If the images leave the range of those before them.
    """
    top, known = max(tops), options.stored_range
    if known is None:
        return next(high for high in _RANGES if highest <= high) if highest else top
    if known < min(top, highest):
        raise InvalidInput(
            f"{source}: values up to {highest} come after images that were read as 0..{known}: "
            "give a larger --streaming"
        )
    return min(known, top)


def _rescale(images: Tensor, tops: set[int], used: int, *, is_whole: bool) -> str:
    """Scale images that use a smaller range than their bits have, and say which they are read as.

    Arguments:
        images: All images, scaled as if they used all their bits; changed in place.
        tops: The largest values that they can store. Of several kinds none is changed.
        used: The largest value that they are scaled by.
        is_whole: Whether the values were whole numbers, as those are that were not resized.
    """
    top = max(tops)
    if used < top:
        stored = images.add_(1).mul_(top / 2)
        stored = stored.round_() if is_whole else stored
        stored.div_(used / 2).sub_(1).clamp_(-1, 1)
    return "read as " + " and ".join(f"0..{end}" for end in sorted(tops - {top} | {used}))


def _readable(
    encoded: Mapping[str, Opener],
    source: str,
    skip_bad_images: bool,
    skipped: set[str],
    verb: str,
    task: Callable[[Image], Result],
) -> Iterator[tuple[str, Result]]:
    """Name and result of the task on every readable image, in order; others become skipped."""
    names = [name for name in encoded if name not in skipped]
    attempt, count = partial(_attempt, task), len(names)
    bar = progress_bar(f"{verb} {count} images", count, show=count > _PROGRESS_FROM)
    with ThreadPoolExecutor() as pool, bar as advance:
        for start in range(0, count, _BLOCK):
            block = names[start : start + _BLOCK]
            outcomes = pool.map(attempt, (encoded[name] for name in block))
            for name, (result, fault) in zip(block, outcomes, strict=True):
                if not fault:
                    yield name, result  # type: ignore[misc]
                elif skip_bad_images:
                    skipped.add(name)
                else:
                    raise InvalidInput(
                        f"{source}: cannot read image {name} ({fault}): repair or remove it, or "
                        "skip such images with --skip-bad-images (skip_bad_images=True)"
                    )
            advance(len(block))
    if len(skipped) == len(encoded):
        raise InvalidInput(
            f"{source}: none of the {len(encoded)} images can be read: are they images?"
        )


def _attempt(task: Callable[[Image], Result], opened: Opener) -> tuple[Result | None, str]:
    """Result of the task on an image and "", or None and why the image cannot be read."""
    from PIL import UnidentifiedImageError

    try:
        with opened() as image:
            return task(image), ""
    except MemoryError:
        raise InvalidInput("the images need more memory: give a smaller --image-size") from None
    except UnidentifiedImageError:
        return None, "not an image"
    except Exception as fault:  # Pillow's plug-ins raise almost any class on broken files
        return None, reason_of(fault)


def _header(image: Image) -> tuple[tuple[int, int], bool]:
    return upright_size(image), is_gray(image)


def _common_size(sizes: list[tuple[int, int]], source: str) -> int:
    smallest, largest = min(sizes), max(sizes)
    if smallest == largest and smallest[0] == smallest[1]:
        return smallest[0]
    if smallest == largest:
        fault = f"the images are {smallest[0]}x{smallest[1]}, not square"
    else:
        fault = "the images differ in size ({}x{} to {}x{})".format(*smallest, *largest)
    raise InvalidInput(f"{source}: {fault}: give --image-size (image_size=N)")
