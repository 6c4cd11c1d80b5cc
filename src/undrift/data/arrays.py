r"""Images that lie in an array file: ``.npy``, ``.npz``, ``.pt``, ``.pth``.

The layout is read off the shape: :math:`(N, H, W)`, :math:`(N, H, W, C)` or :math:`(N, C, H, W)`
with C = 1 or 3. So is the range off the values: 8-bit and 16-bit integers fill theirs; floats lie
in [-1, 1], in [0, 1] or in [0, 255]. What was found is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift.data.folder import spread
from undrift.data.images import ImageData, check_values
from undrift.data.pixels import fit_channels, fit_square
from undrift.exceptions import InvalidInput

ARRAY_EXTENSIONS = (".npy", ".npz", ".pt", ".pth")
_IMAGE_KEYS = ("images", "{split}_images", "x_{split}", "data", "x", "arr_0")
_LABEL_KEYS = ("labels", "{split}_labels", "y_{split}", "targets", "y", "arr_1")


def load_arrays(
    path: Path,
    *,
    split: str = "train",
    image_size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
) -> ImageData:
    """Load the images of one array file: see :func:`undrift.data.load.load_data`."""
    arrays = _read(path)
    image_key = _find(arrays, _IMAGE_KEYS, split)
    if image_key is None:
        raise InvalidInput(
            f"{path} holds {', '.join(arrays) or 'nothing'} but no images: name the array 'images'"
        )
    raw = arrays[image_key]
    rows = spread(len(raw), limit) if raw.ndim else []
    stored, layout = _channels_first(raw[rows], path)
    images, scaling = _scaled(stored, path)
    check_values(images, str(path), [f"index {row} of the file" for row in rows])
    how: dict[str, Any] = {
        "source": "array file",
        "file": str(path),
        "array": image_key,
        "layout": layout,
        "scaling": scaling,
    }
    if image_size is not None and tuple(images.shape[-2:]) != (image_size, image_size):
        how["resized"] = "shorter side, bicubic, antialiased; center crop"
        images = fit_square(images, image_size)
    label_key = _find(arrays, _LABEL_KEYS, split)
    labels = arrays[label_key] if label_key is not None else None
    if labels is not None and (labels.shape != raw.shape[:1] or labels.is_floating_point()):
        labels = None
    return ImageData(
        fit_channels(images, channels),
        name=str(path),
        split=split,
        how=how,
        labels=None if labels is None else labels[rows],
    )


def _read(path: Path) -> dict[str, Tensor]:
    """All arrays of a file by name; nothing in it is executed."""
    try:
        if path.suffix.lower() in (".pt", ".pth"):
            content = torch.load(path, map_location="cpu", weights_only=True)
            stored = content if isinstance(content, Mapping) else {"images": content}
            return {str(k): v for k, v in stored.items() if isinstance(v, Tensor)}
        content = np.load(path, allow_pickle=False)
        stored = {"images": content} if isinstance(content, np.ndarray) else dict(content)
        return {
            k: torch.from_numpy(_native(v)) for k, v in stored.items() if v.dtype.kind in "biuf"
        }
    except Exception as fault:  # zipfile, pickle, numpy and torch each have classes of their own
        reason = " ".join(str(fault).split())[:200]
        raise InvalidInput(f"cannot read {path} as an array file ({reason})") from None


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Byte order of this machine, and a type that torch knows."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    wide = {np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}.get(array.dtype)
    return np.ascontiguousarray(array if wide is None else array.astype(wide))


def _find(arrays: Mapping[str, Tensor], keys: tuple[str, ...], split: str) -> str | None:
    """The first of the keys that the file has."""
    return next((k for k in (key.format(split=split) for key in keys) if k in arrays), None)


def _channels_first(images: Tensor, path: Path) -> tuple[Tensor, str]:
    if images.ndim == 3:
        return images.unsqueeze(1), "N H W"
    first, last = (images.shape[1], images.shape[-1]) if images.ndim == 4 else (0, 0)
    if first in (1, 3) and last not in (1, 3):
        return images, "N C H W"
    if last in (1, 3) and first not in (1, 3):
        return images.movedim(-1, 1), "N H W C"
    raise InvalidInput(
        f"{path}: shape {tuple(images.shape)} is none of (N, H, W), (N, C, H, W) and (N, H, W, C) "
        "with 1 or 3 channels"
    )


def _scaled(stored: Tensor, path: Path) -> tuple[Tensor, str]:
    """Map the stored range to [-1, 1]."""
    values = stored.to(torch.float32)
    finite = values[values.isfinite()] if stored.is_floating_point() else values
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    if stored.dtype == torch.bool or (stored.is_floating_point() and low >= 0 and high <= 1):
        return values * 2 - 1, "0..1 to [-1, 1]"
    if stored.is_floating_point() and low >= -1 and high <= 1:
        return values, "none"
    if stored.dtype == torch.uint16:
        return values / 32767.5 - 1, "0..65535 to [-1, 1]"
    if low >= 0 and high <= 255:
        return values / 127.5 - 1, "0..255 to [-1, 1]"
    raise InvalidInput(
        f"{path}: values from {low:g} to {high:g} fit none of the ranges [-1, 1], [0, 1], [0, 255]"
    )
