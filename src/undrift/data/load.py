r"""One door to all data: a name, a file, a folder or a Hugging Face dataset."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from undrift.data.arrays import ARRAY_EXTENSIONS, load_arrays
from undrift.data.folder import has_images, load_folder
from undrift.data.hub import has_tables, is_saved_dataset, load_dataset
from undrift.data.images import ImageData
from undrift.data.named import load_digits, load_fashion_mnist
from undrift.data.patches import load_patches
from undrift.data.pixels import check_channels, check_image_size
from undrift.exceptions import InvalidInput


class _Fit(TypedDict):
    """What every loader is told."""

    split: str
    image_size: int | None
    channels: int | None
    limit: int | None


_NAMED: dict[str, Callable[..., ImageData]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "patches": load_patches,
}
DATA_NAMES = tuple(_NAMED)
"""Names that :func:`load_data` knows by itself."""
_HUB_PREFIX = "hf:"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def load_data(
    name: str | Path,
    *,
    split: str = "train",
    image_size: int | None = None,
    channels: int | None = None,
    skip_bad_images: bool = False,
    limit: int | None = None,
) -> ImageData:
    r"""Load images :math:`x_0 \in [-1, 1]` from wherever they are.

    Everything is held in memory: :math:`4 N C H W` bytes.

    Arguments:
        name: One of

            - ``"digits"``: scikit-learn's 1797 digits, 8x8;
            - ``"fashion-mnist"``: 60000 and 10000 images, 28x28 padded to 32x32 (``image_size=28``
              for the native ones), from Debian's package dataset-fashion-mnist or from the folder
              in the environment variable ``UNDRIFT_FASHION_MNIST``;
            - ``"patches"``: 6022 and 1243 RGB crops of photographs, 32x32 (``image_size`` up to 64
              for crops of another size), from the packages scikit-image and scikit-learn;
            - a folder of images, searched through all its subfolders;
            - a file ``.npy``, ``.npz``, ``.pt`` or ``.parquet``;
            - a folder written by ``datasets.Dataset.save_to_disk`` or holding parquet files;
            - a dataset on the Hugging Face hub: ``"owner/name"``, ``"hf:name"``, and
              ``"owner/name:config"``.

        split: Which part, ``"train"``, ``"test"``, ...; data without parts is ``"train"``.
        image_size: Side length of the square images. The shorter side is resized with
            antialiasing, the center cropped. Needed where the images differ in size.
        channels: 1 for gray, 3 for RGB; by default what the images have.
        skip_bad_images: Whether to go on where an image cannot be read; ``how`` counts them.
        limit: Largest number of images, evenly spread over the data.

    Returns:
        The data, in a fixed order.

    Raises:
        InvalidInput: In one line, what is wrong with the data and what to do.

    Example:
        >>> data = load_data("digits", limit=100)
        >>> data.images.shape, data.labels[:4].tolist()
        (torch.Size([100, 1, 8, 8]), [0, 7, 5, 8])
    """
    check_channels(channels)
    check_image_size(image_size)
    name = str(name)
    path = Path(name).expanduser()
    fit: _Fit = {
        "split": split,
        "image_size": image_size,
        "channels": channels,
        "limit": limit,
    }
    if name in _NAMED:
        return _NAMED[name](**fit)
    if path.is_file() and path.suffix.lower() in ARRAY_EXTENSIONS:
        return load_arrays(path, **fit)
    if path.is_dir() and _is_image_folder(path):
        return load_folder(path, skip_bad_images=skip_bad_images, **fit)
    dataset = str(path) if path.exists() else name.removeprefix(_HUB_PREFIX)
    if path.is_dir() or (path.is_file() and path.suffix == ".parquet") or _on_the_hub(name):
        return load_dataset(dataset, skip_bad_images=skip_bad_images, **fit)
    raise _unknown(name, path)


def _is_image_folder(folder: Path) -> bool:
    """Whether to read a folder as images: the default where it holds nothing else either."""
    return not is_saved_dataset(folder) and (has_images(folder) or not has_tables(folder))


def _on_the_hub(name: str) -> bool:
    """Whether a name that is no path here may be that of a dataset on the Hugging Face hub."""
    named = _HUB_NAME.fullmatch(name) is not None and not Path(name).parent.exists()
    is_file = Path(name).suffix.lower() in (*ARRAY_EXTENSIONS, ".parquet")
    return name.startswith(_HUB_PREFIX) or (named and not is_file)


def _unknown(name: str, path: Path) -> InvalidInput:
    """What to answer to a name that means nothing."""
    if path.is_file():
        kinds = ", ".join((*ARRAY_EXTENSIONS, ".parquet"))
        return InvalidInput(
            f"cannot use the file {name} as data: give a folder of images or {kinds}"
        )
    if path.suffix or len(path.parts) > 1 or name.startswith((".", "~", "/")):
        return InvalidInput(f"no such file or folder: {name}: check the path of the data")
    close = difflib.get_close_matches(name.lower().replace("_", "-"), _NAMED, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return InvalidInput(
        f"unknown data '{name}': {hint}known are {', '.join(_NAMED)}, the path of a folder of "
        "images, and hf:NAME for a dataset on the Hugging Face hub"
    )
