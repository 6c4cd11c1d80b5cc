r"""Hugging Face datasets: from the hub, saved with ``save_to_disk``, or a folder of parquet files.

The image column is found by its type: the first column of images, a column named ``image`` or
``img`` first. The label column is the first of class labels, or an integer column named ``label``.
Images are fetched as stored bytes and decoded by Pillow like those of a folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from undrift.data.decode import EncodedImage, Skipped, decode
from undrift.data.folder import spread
from undrift.data.images import ImageData
from undrift.exceptions import InvalidInput

_IMAGE_NAMES = ("image", "img", "images")
_LABEL_NAMES = ("label", "labels", "fine_label", "class")


def load_dataset(
    name: str,
    *,
    split: str = "train",
    image_size: int | None = None,
    channels: int | None = None,
    skip_bad_images: bool = False,
    limit: int | None = None,
) -> ImageData:
    """Load a dataset: its name on the hub, ``owner/name`` or ``owner/name:config``, or its path.

    See :func:`undrift.data.load.load_data`.
    """
    library = _library(name)
    dataset = _open(library, name, split)
    column = _image_column(dataset.features, library, name)
    rows = spread(len(dataset), limit)
    label_column = _label_column(dataset.features, library)
    labels = None if label_column is None else torch.tensor(dataset[label_column][:])[rows]
    stored = dataset.select(rows).select_columns(column)
    stored = stored.cast_column(column, library.Image(decode=False))
    encoded = [
        EncodedImage(f"{i} of split {split}", partial(_stored, stored, k, column))
        for k, i in enumerate(rows)
    ]
    skipped = Skipped(name, skip_bad_images)
    images, kept, how = decode(encoded, skipped, image_size=image_size, channels=channels)
    how = {"source": "Hugging Face dataset", "dataset": name, "column": column, **how}
    if label_column is not None and hasattr(dataset.features[label_column], "names"):
        how["classes"] = list(dataset.features[label_column].names)
    return ImageData(
        images,
        name=name,
        split=split,
        how=how,
        labels=None if labels is None else labels[kept],
    )


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def has_tables(folder: Path) -> bool:
    """Whether a folder holds parquet or arrow files, at any depth."""
    return any(next(folder.rglob(f"*{suffix}"), None) for suffix in (".parquet", ".arrow"))


def _library(name: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError:
        subject = name if Path(name).exists() else f"no folder {name} here; a Hugging Face dataset"
        raise InvalidInput(f"{subject} needs one more package: pip install datasets") from None


def _open(library: Any, name: str, split: str) -> Any:
    """The rows of one split."""
    try:
        if is_saved_dataset(Path(name)):
            found = library.load_from_disk(name)
        elif Path(name).is_file():
            found = library.load_dataset("parquet", data_files=name)
        else:
            path, _, config = name.partition(":")
            found = library.load_dataset(path, config or None)
    except Exception as fault:  # network, cache, format: the library's classes vary with all three
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        subject = name if Path(name).exists() else f"no folder {name} here; a Hugging Face dataset"
        raise InvalidInput(f"{subject} cannot be loaded ({reason})") from None
    if not isinstance(found, Mapping):
        found = {"train": found}
    if split not in found:
        raise InvalidInput(f"{name} has no split '{split}': choose {' or '.join(found)}")
    return found[split]


def _image_column(features: Mapping[str, Any], library: Any, name: str) -> str:
    """The column of images, which are of the library's type or plain structs of bytes and path."""
    found = [
        column
        for column, kind in features.items()
        if isinstance(kind, library.Image) or (isinstance(kind, Mapping) and "bytes" in kind)
    ]
    if not found:
        columns = ", ".join(
            f"{column} ({type(kind).__name__})" for column, kind in features.items()
        )
        raise InvalidInput(f"{name} has no column of images, only {columns}")
    return min(found, key=lambda column: _rank(column, _IMAGE_NAMES))


def _label_column(features: Mapping[str, Any], library: Any) -> str | None:
    found = [
        column
        for column, kind in features.items()
        if isinstance(kind, library.ClassLabel)
        or (column in _LABEL_NAMES and str(getattr(kind, "dtype", "")).startswith("int"))
    ]
    return min(found, key=lambda column: _rank(column, _LABEL_NAMES), default=None)


def _rank(column: str, names: Sequence[str]) -> int:
    return names.index(column) if column in names else len(names)


def _stored(dataset: Any, row: int, column: str) -> BytesIO | str:
    """The bytes of one image, or the path of its file."""
    entry = dataset[row][column]
    if entry is None:
        raise ValueError("the entry is empty")
    return BytesIO(entry["bytes"]) if entry["bytes"] is not None else str(entry["path"])
