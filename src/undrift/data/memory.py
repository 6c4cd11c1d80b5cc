"""Data in memory: tensors, arrays, loaders, lists of images.

Values are taken as they are. A batch or an item may be a tensor, a tuple that starts with the
images (the labels behind it are left out), or a mapping with the images under one of a few names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from undrift.data.arrays import native
from undrift.data.options import LoadOptions
from undrift.exceptions import InvalidInput

ACCEPTED = (
    "a name, a folder, a file, a tensor, an array, a DataLoader, a list of tensors or images, or a "
    "Hugging Face dataset"
)


def collect(source: Any) -> Tensor | list[Any]:  # noqa: ANN401
    """All data of an object as one tensor, with shape (N, *), or as a list of Pillow images.

    Raises:
        InvalidInput: If it is no data, or its parts do not fit together.

    Example:
        >>> collect([(torch.zeros(1, 2, 2), 7), (torch.ones(1, 2, 2), 3)]).shape
        torch.Size([2, 1, 2, 2])
    """
    source = _images_in(source) if isinstance(source, Mapping) else source
    if isinstance(source, (Tensor, np.ndarray)):
        return _tensor(source)
    parts = [_images_in(item) for item in _items(source)]
    if not parts:
        raise InvalidInput("the data are empty: give at least one image")
    if all(map(_is_picture, parts)):
        return parts
    tensors = list(map(_tensor, parts))
    is_batched = isinstance(source, DataLoader) and source.batch_sampler is not None
    shapes = [tuple(x.shape[int(is_batched) :]) for x in tensors]
    if odd := next((shape for shape in shapes if shape != shapes[0]), None):
        raise InvalidInput(f"the data differ in shape ({shapes[0]} and {odd}): give one shape")
    return torch.cat(tensors) if is_batched else torch.stack(tensors)


def _items(source: Any) -> Iterable[Any]:  # noqa: ANN401
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        return (source[i] for i in range(len(source)))  # type: ignore[arg-type]
    if isinstance(source, (list, tuple, DataLoader)):
        return source
    raise InvalidInput(f"cannot use a {type(source).__name__} as data: give {ACCEPTED}")


def _images_in(item: Any) -> Any:  # noqa: ANN401
    """The images of a batch or an item, without labels and other entries."""
    if isinstance(item, Mapping):
        return item[LoadOptions().find_images("the data have", item)]
    first = item[0] if isinstance(item, (tuple, list)) and item else None
    return first if isinstance(first, (Tensor, np.ndarray)) or _is_picture(first) else item


def _is_picture(item: Any) -> bool:  # noqa: ANN401
    from PIL import Image

    return isinstance(item, Image.Image)


def _tensor(values: Any) -> Tensor:  # noqa: ANN401
    """Numbers of any kind as a tensor."""
    kind = type(values).__name__
    try:
        x = native(values) if isinstance(values, np.ndarray) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(f"cannot use a {kind} as data: give {ACCEPTED}") from None
    if x.is_complex() or not x.ndim:
        raise InvalidInput(f"cannot use a {kind} of {x.dtype} and shape {tuple(x.shape)} as data")
    return x.detach()
