r"""Reading data: a name, a file, a folder, a Hugging Face dataset, or data in memory.

:func:`load_data` returns images in :math:`[-1, 1]`. :func:`load_tensor` takes data of any shape and
range and does not change the values of tensors, so that data can be compared with the samples of a
model.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undrift.data.arrays import ARRAY_EXTENSIONS, images_of, load_arrays
from undrift.data.decode import Opener, decode
from undrift.data.folder import find_images, load_folder
from undrift.data.hub import has_tables, is_dataset, is_saved_dataset, load_dataset, read_dataset
from undrift.data.images import ImageData, fingerprint
from undrift.data.memory import collect
from undrift.data.named import load_digits, load_fashion_mnist
from undrift.data.options import LoadOptions
from undrift.data.patches import load_patches
from undrift.exceptions import InvalidInput, reason_of

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
    source: Any,  # noqa: ANN401
    *,
    split: str = "train",
    image_size: int | None = None,
    channels: int | None = None,
    skip_bad_images: bool = False,
    limit: int | None = None,
    streaming: int | None = None,
) -> ImageData:
    r"""Load images :math:`x_0 \in [-1, 1]` from wherever they are.

    Everything is held in memory, :math:`4 N C H W` bytes, unless it is streamed.

    Arguments:
        source: One of

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
              ``"owner/name:config"``;
            - in memory: a tensor or an array, a ``DataLoader`` or a ``Dataset`` of torch, a list of
              tensors, arrays or Pillow images, a Hugging Face dataset. The range is read as that of
              a file (:mod:`undrift.data.arrays`). An :class:`ImageData` is returned as it is.

        split: Which part, ``"train"``, ``"test"``, ...; data without parts is ``"train"``.
        image_size: Side length of the square images. The shorter side is resized with
            antialiasing, the center cropped. Needed where the images differ in size.
        channels: 1 for gray, 3 for RGB; by default what the images have.
        skip_bad_images: Whether to skip images that cannot be read; ``how`` counts them.
        limit: Largest number of images, evenly spread over the data.
        streaming: Images of a Hugging Face dataset that are held at once: the first block of its
            stream, which training goes on from (:mod:`undrift.data.blocks`).

    Returns:
        The data, in a fixed order.

    Raises:
        InvalidInput: In one line, what is wrong with the data and what to do.

    Example:
        >>> data = load_data("digits", limit=100)
        >>> data.images.shape, data.labels[:4].tolist()
        (torch.Size([100, 1, 8, 8]), [0, 7, 5, 8])
    """
    options = LoadOptions(split, image_size, channels, limit, skip_bad_images, streaming)
    found = _loaded(source, options)
    if streaming is not None and getattr(found, "source", None) is None:
        raise InvalidInput(
            f"only Hugging Face datasets are streamed: leave out streaming={streaming}"
        )
    if isinstance(found, ImageData):
        return found
    return images_of(found, "the data", options, {"source": f"{type(source).__name__} in memory"})


def load_tensor(
    source: Any,  # noqa: ANN401
    *,
    image_size: int | None = None,
    channels: int | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Data of any shape as one floating-point tensor, and what they are.

    Arguments:
        source: Whatever :func:`load_data` takes. The values of tensors, arrays and loaders stay as
            they are, with any shape :math:`(N, *)`; images of files, datasets and Pillow are scaled
            to [-1, 1].
        image_size: Side length of the images where they are read.
        channels: Channels of the images where they are read.

    Raises:
        InvalidInput: In one line, what is wrong with the data and what to do.

    Example:
        >>> x, how = load_tensor([torch.zeros(3), torch.ones(3)])
        >>> x.tolist(), how["shape"]
        ([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], [2, 3])
    """
    found = _loaded(source, LoadOptions(image_size=image_size, channels=channels))
    if isinstance(found, ImageData):
        return found.images, dict(found.how) | {"shape": list(found.images.shape)}
    if not len(found):
        raise InvalidInput("the data are empty: give a tensor with one row per datum")
    x = found if found.is_floating_point() else found.float()
    content = x.to("cpu", torch.float32).contiguous()
    return x, {"shape": list(x.shape), "fingerprint": fingerprint(content)}


def _loaded(source: Any, options: LoadOptions) -> ImageData | Tensor:  # noqa: ANN401
    """Images in [-1, 1], or the unchanged values of a tensor, an array or a loader."""
    if isinstance(source, ImageData):
        return source
    if isinstance(source, (str, Path)):
        return _load_named(str(source), options)
    if is_dataset(source):
        return read_dataset(source, "the dataset", options)
    found = collect(source)
    if isinstance(found, Tensor):
        return found
    rows = options.rows(len(found))
    encoded: dict[str, Opener] = {f"image {i}": found[i].copy for i in rows}
    images, _, how = decode(encoded, "the data", options)
    return ImageData(images, "images in memory", options.split, {"source": "Pillow images"} | how)


def _load_named(name: str, options: LoadOptions) -> ImageData:
    """The data behind a name or a path."""
    if name in _NAMED:
        return _NAMED[name](options)
    path = _path(name)
    if path.is_file() and path.suffix.lower() in ARRAY_EXTENSIONS:
        return load_arrays(path, options)
    if path.is_dir() and _is_image_folder(path):
        return load_folder(path, options)
    dataset = str(path) if path.exists() else name.removeprefix(_HUB_PREFIX)
    if path.is_dir() or (path.is_file() and path.suffix == ".parquet") or _on_the_hub(name):
        return load_dataset(dataset, options)
    raise _unknown(name, path)


def _path(name: str) -> Path:
    """A name as a path.

    Raises:
        InvalidInput: If it can be none.
    """
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, no such user
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise InvalidInput(f"data '{name[:100]}' has no path ({reason})") from None
    if not name:
        raise InvalidInput(f"the data have no name: give a path, or {', '.join(_NAMED)}")
    return path


def _is_image_folder(folder: Path) -> bool:
    """Whether to read a folder as images: if it has images, or no tables either."""
    has_images = next(find_images(folder), None) is not None
    return not is_saved_dataset(folder) and (has_images or not has_tables(folder))


def _on_the_hub(name: str) -> bool:
    """Whether a name that is no path here may be that of a dataset on the Hugging Face hub."""
    named = _HUB_NAME.fullmatch(name) is not None and not Path(name).parent.exists()
    is_file = Path(name).suffix.lower() in (*ARRAY_EXTENSIONS, ".parquet")
    return name.startswith(_HUB_PREFIX) or (named and not is_file)


def _unknown(name: str, path: Path) -> InvalidInput:
    """The error for a name that is no data."""
    if path.is_file():
        kinds = ", ".join((*ARRAY_EXTENSIONS, ".parquet"))
        return InvalidInput(
            f"cannot use the file {name} as data: give a folder of images or {kinds}"
        )
    if path.exists():
        return InvalidInput(f"{name} is neither a file nor a folder: give a folder or a file")
    if path.suffix or len(path.parts) > 1 or name.startswith((".", "~", "/")):
        return InvalidInput(f"no such file or folder: {name}: check the path of the data")
    close = difflib.get_close_matches(name.lower().replace("_", "-"), _NAMED, n=1, cutoff=0.7)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return InvalidInput(
        f"unknown data '{name}': {hint}no file or folder has this name; known are "
        f"{', '.join(_NAMED)}, paths, and hf:NAME for a dataset on the Hugging Face hub"
    )
