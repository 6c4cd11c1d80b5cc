r"""Images in an array: a file ``.npy``, ``.npz``, ``.pt``, ``.pth``, or a tensor.

The layout is read off the shape: :math:`(N, H, W)`, :math:`(N, H, W, C)` or :math:`(N, C, H, W)`
with C = 1 or 3. The range is read off the values :math:`v`, of all images of the array, by one rule
for every type: the first of

=============  =============================================  ============================
0..1           floats, booleans, masks of 0 and 1             :math:`x = 2 v - 1`
-1..1          floats, integers -1, 0 and 1                   :math:`x = v`
0..255         8 bits, in any type                            :math:`x = v / 127.5 - 1`
0..65535       16 bits, in any integer type                   :math:`x = v / 32767.5 - 1`
=============  =============================================  ============================

that holds all values, where floats may leave it by 1 % (interpolation overshoots) and are clipped.
The last two must also be used: the largest value reaches an eighth of the range and, of floats, a
twentieth of the values that are not 0 lie above 1. Otherwise a single out-of-range pixel would make
images in [0, 1] be read as 0..255, i.e. almost black. The range is recorded (``how["scaling"]``,
"read as 0..255"); values that fit none are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift.data.images import ImageData, check_finite
from undrift.data.options import LABEL_NAMES, LoadOptions
from undrift.exceptions import InvalidInput, reason_of

ARRAY_EXTENSIONS = (".npy", ".npz", ".pt", ".pth")
_RANGES = ((0, 1), (-1, 1), (0, 255), (0, 65535))
_OVERSHOOT = 0.01
_AS_IT_IS = "read as -1..1"
_LEAST_TOP = 1 / 8
_LEAST_ABOVE_1 = 1 / 20

logger = logging.getLogger("undrift")


def load_arrays(path: Path, options: LoadOptions) -> ImageData:
    """Load the images of one array file: see :func:`undrift.data.load.load_data`."""
    arrays = _read(path)
    image_key, label_key = (
        options.find_images(f"{path} holds", arrays),
        options.find(LABEL_NAMES, arrays),
    )
    labels = None if label_key is None else _labels(arrays[label_key])
    if label_key is not None and labels is None:
        logger.info("%s: '%s' is left out: no whole number for each image", path, label_key)
    how = {"source": "array file", "file": str(path), "array": image_key}
    data = images_of(arrays[image_key], str(path), options, how, labels)
    if data.how["scaling"] != _AS_IT_IS:
        logger.info("%s: %d images, %s", path, len(data), data.how["scaling"])
    return data


def images_of(
    stored: Tensor,
    source: str,
    options: LoadOptions,
    how: dict[str, Any],
    labels: Tensor | None = None,
) -> ImageData:
    """The images of one array, in any of the layouts and ranges.

    Arguments:
        stored: The array as it is.
        source: What to call it in messages, and the data.
        options: What to read of it, and what to make of the images.
        how: What is known of its source.
        labels: Class of each image, if there are any.

    Raises:
        InvalidInput: If the kind of numbers, the shape, the range or the labels do not fit.
    """
    if stored.is_complex():
        raise InvalidInput(f"{source} holds complex numbers: give real ones, such as their modulus")
    if stored.layout != torch.strided or stored.is_quantized or stored.is_meta:
        raise InvalidInput(f"{source} holds a sparse, quantized or empty tensor: give a dense one")
    images, layout = _channels_first(stored, source)
    if labels is not None and len(labels) != len(images):
        raise InvalidInput(
            f"{source}: {len(images)} images but {len(labels)} labels: give as many, or none"
        )
    rows = options.rows(len(images))
    images, scaling = _scaled(images, rows, source)
    how = how | {"layout": layout, "scaling": scaling}
    images = options.fit(images, how)
    return ImageData(images, source, options.split, how, None if labels is None else labels[rows])


def native(array: np.ndarray[Any, Any]) -> Tensor:
    """A numpy array in the byte order of this machine, and in a type that torch knows."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    wide = {np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}.get(array.dtype)
    return torch.from_numpy(np.ascontiguousarray(array if wide is None else array.astype(wide)))


def _read(path: Path) -> dict[str, Tensor]:
    """All arrays of a file by name; nothing in it is executed."""
    try:
        if path.suffix.lower() in (".pt", ".pth"):
            content = torch.load(path, map_location="cpu", weights_only=True)
            stored = content if isinstance(content, Mapping) else {"images": content}
            return {str(k): v for k, v in stored.items() if isinstance(v, Tensor)}
        content = np.load(path, allow_pickle=False)
        stored = {"images": content} if isinstance(content, np.ndarray) else dict(content)
        return {k: native(v) for k, v in stored.items() if v.dtype.kind in "biufc"}
    except Exception as fault:  # zipfile, pickle, numpy and torch each have classes of their own
        raise InvalidInput(f"cannot read {path} as an array file ({reason_of(fault)})") from None


def _labels(stored: Tensor) -> Tensor | None:
    """Whole numbers, one per image; None for anything else."""
    stored = stored.squeeze(-1) if stored.ndim == 2 and stored.shape[1] == 1 else stored
    is_whole = not (stored.is_floating_point() or stored.is_complex())
    return stored if stored.ndim == 1 and is_whole else None


def _channels_first(images: Tensor, source: str) -> tuple[Tensor, str]:
    if not images.numel():
        raise InvalidInput(f"{source}: shape {tuple(images.shape)} holds no pixels: give images")
    if images.ndim == 3:
        return images.unsqueeze(1), "N H W"
    first, last = (images.shape[1], images.shape[-1]) if images.ndim == 4 else (0, 0)
    if first in (1, 3) and last not in (1, 3):
        return images, "N C H W"
    if last in (1, 3) and first not in (1, 3):
        return images.movedim(-1, 1), "N H W C"
    raise InvalidInput(
        f"{source}: shape {tuple(images.shape)} is none of (N, H, W), (N, C, H, W) and "
        "(N, H, W, C) with 1 or 3 channels"
    )


def _scaled(stored: Tensor, rows: list[int], source: str) -> tuple[Tensor, str]:
    """Some of the images in [-1, 1], by the range of all of them."""
    if stored.is_floating_point():
        check_finite(stored.to(torch.float32).flatten(1), source)
    low, high = stored_range(stored, source)
    values = stored[rows].to(torch.float32)
    beyond = int(((values < low) | (values > high)).sum())
    scaling = f"read as {low}..{high}" + (f", {beyond} values beyond it clipped" if beyond else "")
    x = values if low < 0 else values / (high / 2) - 1
    return (x.clamp(-1, 1) if beyond else x), scaling


def stored_range(stored: Tensor, source: str) -> tuple[int, int]:
    """The range in which pixels are stored, by the rule of this module.

    Raises:
        InvalidInput: If they fit none.

    Example:
        >>> stored_range(torch.tensor([0, 1, 1]), "a mask"), stored_range(torch.tensor([0, 99]), "")
        ((0, 1), (0, 255))
    """
    is_real = stored.is_floating_point()
    values = stored.to(torch.float32)
    values = values[values.isfinite()]
    low, high = map(float, values.aminmax()) if values.numel() else (0.0, 0.0)
    above = float((values > 1 + _OVERSHOOT).sum() / (values != 0).sum().clamp(min=1))
    for bottom, top in _RANGES[:3] if is_real else _RANGES:
        slack = _OVERSHOOT * min(top, max(high, 0)) if is_real else 0
        is_used = high >= _LEAST_TOP * top and (above > _LEAST_ABOVE_1 or not is_real)
        if low >= bottom - slack and high <= top + slack and (top == 1 or is_used):
            return bottom, top
    raise InvalidInput(
        f"{source}: values from {low:g} to {high:g} ({above:.1%} of those that are not 0 above 1) "
        "fit none of the ranges -1..1, 0..1, 0..255 and (integers) 0..65535: scale them to [-1, 1]"
    )
