"""Options for reading images, and the names of arrays and columns: the same for every source."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from undrift.data.pixels import RESIZED, fit_channels, fit_square
from undrift.exceptions import InvalidInput, Limits

IMAGE_NAMES = (
    *("images", "pixel_values", "image", "img", "{split}_images", "x_{split}"),
    *("data", "x", "arr_0"),
)
"""Names under which images are looked for, in this order."""
LABEL_NAMES = (
    *("labels", "label", "fine_label", "class", "{split}_labels", "y_{split}"),
    *("targets", "y", "arr_1"),
)
"""Names under which labels are looked for, in this order."""


@dataclass(frozen=True)
class LoadOptions:
    """Options of :func:`undrift.data.load.load_data`, checked.

    ``stored_range`` is the largest stored value that pixels are scaled by; found from all images
    when None.

    Raises:
        InvalidInput: If the size, the limit or the block is not positive, there are not 1 or 3
            channels, or both a limit and a block are given.
    """

    split: str = "train"
    image_size: int | None = None
    channels: int | None = None
    limit: int | None = None
    skip_bad_images: bool = False
    streaming: int | None = None
    stored_range: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.streaming is not None and self.limit is not None:
            raise InvalidInput("limit and streaming exclude each other: a stream has no known end")
        if self.channels not in (None, 1, 3):
            raise InvalidInput(f"channels must be 1 (gray) or 3 (RGB), not {self.channels}")
        sizes = {"image size": self.image_size, "limit": self.limit, "streaming": self.streaming}
        for name, value in sizes.items():
            Limits(1).check(name, value)

    def rows(self, count: int) -> list[int]:
        """Indices of at most ``limit`` of ``count`` items, evenly spread to meet every class.

        Example:
            >>> LoadOptions(limit=4).rows(10)
            [0, 2, 5, 7]
        """
        kept = count if self.limit is None else min(self.limit, count)
        return [i * count // kept for i in range(kept)]

    def find(self, names: Iterable[str], content: Container[str]) -> str | None:
        """The first of some names that is in the content, or None."""
        candidates = (name.format(split=self.split) for name in names)
        return next((name for name in candidates if name in content), None)

    def find_images(self, source: str, content: Collection[str]) -> str:
        """The name of the images in the content.

        Arguments:
            source: The beginning of the message, such as "the data have".
            content: What is there, by name.

        Raises:
            InvalidInput: If there is none that is known.
        """
        name = self.find(IMAGE_NAMES, content)
        if name is None:
            found = f"{', '.join(map(str, content))}, but no images" if content else "no images"
            raise InvalidInput(f"{source} {found}: name the array 'images'")
        return name

    def check_split(self, source: object, known: Iterable[str]) -> None:
        """Check that the split is one of those that a source has.

        Raises:
            InvalidInput: If it is none of them.
        """
        if self.split not in known:
            choice = " or ".join(known)
            raise InvalidInput(f"{source} has no split '{self.split}': choose {choice}")

    def fit(self, images: Tensor, how: dict[str, Any]) -> Tensor:
        """Images in the size and the channels asked for; a resize is noted in ``how``."""
        size = self.image_size
        if size is not None and tuple(images.shape[-2:]) != (size, size):
            how["resized"] = f"shorter side {min(images.shape[-2:])} to {size}, {RESIZED}"
            images = fit_square(images, size)
        return fit_channels(images, self.channels)
