r"""Hugging Face datasets: from the hub, saved with ``save_to_disk``, or a folder of parquet files.

The image column is found by its type: the first column of images, columns with one of the usual
names first (:data:`~undrift.data.options.IMAGE_NAMES`). The label column is likewise the first of
class labels, or of integers under one of the usual names.
Images are fetched as stored bytes and decoded by Pillow like those of a folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from undrift.data.decode import Opener, decode
from undrift.data.images import ImageData
from undrift.data.options import IMAGE_NAMES, LABEL_NAMES, LoadOptions
from undrift.exceptions import InvalidInput, reason_of

if TYPE_CHECKING:
    from PIL import Image


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
    if split != "train" or len(dataset) > 1:
        options.check_split(name, dataset)
    dataset = dataset.get(split) or next(iter(dataset.values()))
    if not isinstance(dataset, library.Dataset):
        raise InvalidInput(
            f"{name} is a streaming dataset: pass a finite part, such as list(dataset.take(1000))"
        )
    column = _image_column(dataset.features, library, name)
    rows = options.rows(len(dataset))
    label_column = _label_column(dataset.features, library)
    labels = None if label_column is None else torch.tensor(dataset[label_column][:])[rows]
    stored = dataset.select(rows).select_columns(column)
    stored = stored.cast_column(column, library.Image(decode=False))
    encoded: dict[str, Opener] = {
        f"{i} of split {split}": partial(_stored, stored, k, column) for k, i in enumerate(rows)
    }
    images, kept, decoded = decode(encoded, name, options)
    how = {"source": "Hugging Face dataset", "dataset": name, "column": column} | decoded
    if classes := getattr(dataset.features.get(label_column), "names", None):
        how["classes"] = list(classes)
    return ImageData(images, name, split, how, None if labels is None else labels[kept])


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
        raise InvalidInput(
            f"{_subject(name)} needs one more package: pip install datasets"
        ) from None


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
        raise InvalidInput(f"{_subject(name)} cannot be loaded ({reason_of(fault)})") from None


def _subject(name: str) -> str:
    return name if Path(name).exists() else f"no folder {name} here; a Hugging Face dataset"


def _image_column(features: Mapping[str, Any], library: Any, name: str) -> str:
    """The column of images, which are of the library's type or plain structs of bytes and path."""

    def is_image(column: str) -> bool:
        kind = features[column]
        return isinstance(kind, library.Image) or (isinstance(kind, Mapping) and "bytes" in kind)

    column = _first(features, is_image, IMAGE_NAMES)
    if column is None:
        columns = ", ".join(f"{c} ({type(kind).__name__})" for c, kind in features.items())
        raise InvalidInput(f"{name} has no column of images, only {columns}")
    return column


def _label_column(features: Mapping[str, Any], library: Any) -> str | None:
    def is_label(column: str) -> bool:
        is_integer = str(getattr(features[column], "dtype", "")).startswith("int")
        is_class = isinstance(features[column], library.ClassLabel)
        return is_class or (column in LABEL_NAMES and is_integer)

    return _first(features, is_label, LABEL_NAMES)


def _first(
    columns: Mapping[str, Any], fits: Callable[[str], bool], names: tuple[str, ...]
) -> str | None:
    """The first column that fits, those with a usual name first."""
    return next(filter(fits, [*(n for n in names if n in columns), *columns]), None)


def _stored(dataset: Any, row: int, column: str) -> Image.Image:
    """One image, from its bytes or from its file."""
    from PIL import Image

    entry = dataset[row][column]
    if entry is None:
        raise ValueError("the entry is empty")
    return Image.open(entry["path"] if entry["bytes"] is None else BytesIO(entry["bytes"]))
