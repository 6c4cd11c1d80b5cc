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
from typing import TYPE_CHECKING, Any

import torch

from undrift.data.decode import EncodedImage, decode
from undrift.data.images import ImageData
from undrift.data.options import LoadOptions
from undrift.exceptions import InvalidInput

if TYPE_CHECKING:
    from PIL import Image

_IMAGE_NAMES = ("image", "img", "images")
_LABEL_NAMES = ("label", "labels", "fine_label", "class")


def load_dataset(name: str, options: LoadOptions) -> ImageData:
    """Load a dataset: its name on the hub, ``owner/name`` or ``owner/name:config``, or its path.

    See :func:`undrift.data.load.load_data`.
    """
    return read_dataset(_open(_library(name), name), name, options)


def is_dataset(source: Any) -> bool:  # noqa: ANN401
    """Whether an object is a dataset of Hugging Face, or a dict of its splits."""
    return type(source).__module__.partition(".")[0] == "datasets"


def read_dataset(dataset: Any, name: str, options: LoadOptions) -> ImageData:  # noqa: ANN401
    """The images of a dataset in memory, or of one of its splits.

    Raises:
        InvalidInput: If the split or a column of images is not there, or it is a stream.
    """
    library, split = _library(name), options.split
    dataset = dataset if isinstance(dataset, Mapping) else {str(dataset.split or "train"): dataset}
    if split not in dataset and not (split == "train" and len(dataset) == 1):
        raise InvalidInput(f"{name} has no split '{split}': choose {' or '.join(dataset)}")
    dataset = dataset.get(split) or next(iter(dataset.values()))
    if not isinstance(dataset, library.Dataset):
        raise InvalidInput(f"{name} is a stream: take a part of it, list(dataset.take(1000))")
    column = _image_column(dataset.features, library, name)
    rows = options.rows(len(dataset))
    label_column = _label_column(dataset.features, library)
    labels = None if label_column is None else torch.tensor(dataset[label_column][:])[rows]
    stored = dataset.select(rows).select_columns(column)
    stored = stored.cast_column(column, library.Image(decode=False))
    encoded = [
        EncodedImage(f"{i} of split {split}", partial(_stored, stored, k, column))
        for k, i in enumerate(rows)
    ]
    images, kept, how = decode(encoded, name, options)
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


def _open(library: Any, name: str) -> Any:
    """All its splits, or one."""
    try:
        if is_saved_dataset(Path(name)):
            return library.load_from_disk(name)
        if Path(name).is_file():
            return library.load_dataset("parquet", data_files=name)
        path, _, config = name.partition(":")
        return library.load_dataset(path, config or None)
    except Exception as fault:  # network, cache, format: the library's classes vary with all three
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        subject = name if Path(name).exists() else f"no folder {name} here; a Hugging Face dataset"
        raise InvalidInput(f"{subject} cannot be loaded ({reason})") from None


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


def _stored(dataset: Any, row: int, column: str) -> Image.Image:
    """One image, from its bytes or from its file."""
    from PIL import Image

    entry = dataset[row][column]
    if entry is None:
        raise ValueError("the entry is empty")
    return Image.open(entry["path"] if entry["bytes"] is None else BytesIO(entry["bytes"]))
