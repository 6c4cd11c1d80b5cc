r"""Hugging Face datasets: from the hub, saved with ``save_to_disk``, or a folder of parquet files.

The image column is found by its type: the first column of images, columns with one of the usual
names first (:data:`~undrift.data.options.IMAGE_NAMES`). The label column is likewise the first of
class labels, or of integers under one of the usual names.
Images are fetched as stored bytes and decoded by Pillow like those of a folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from undrift.data.blocks import Blocks, Row
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
    return read_dataset(_open(_library(name), name, options), name, options)


def is_dataset(source: Any) -> bool:  # noqa: ANN401
    """Whether an object is a dataset of Hugging Face, or a dict of its splits."""
    return type(source).__module__.partition(".")[0] == "datasets"


def read_dataset(dataset: Any, name: str, options: LoadOptions) -> ImageData:  # noqa: ANN401
    """The images of a dataset in memory, or of one of its splits; or the first block of a stream.

    Raises:
        InvalidInput: If the split or a column of images is not there, or it is a stream, and the
            size of a block is not given.
    """
    library, split = _library(name), options.split
    dataset = dataset if isinstance(dataset, Mapping) else {str(dataset.split or "train"): dataset}
    if split != "train" or len(dataset) > 1:
        options.check_split(name, dataset)
    dataset = dataset.get(split) or next(iter(dataset.values()))
    if options.streaming is not None:
        return _first_block(dataset, name, options)
    if not isinstance(dataset, library.Dataset):
        raise InvalidInput(
            f"{name} is a streaming dataset: give load_data(..., streaming=N), the number of "
            "images that are held at once"
        )
    columns, rows = _columns(dataset.features, library, name), options.rows(len(dataset))
    labels = None if columns[1] is None else dataset[columns[1]][:]
    stored = dataset.select(rows).select_columns(columns[0])
    stored = stored.cast_column(columns[0], library.Image(decode=False))
    kept = None if labels is None else [labels[row] for row in rows]
    return _images(stored, rows, kept, columns[0], dataset.features.get(columns[1]), name, options)


def _first_block(dataset: Any, name: str, options: LoadOptions) -> ImageData:  # noqa: ANN401
    """The first images of a stream, which lead to the others.

    Raises:
        InvalidInput: If it has no columns that are known, or no images.
    """
    library = _library(name)
    if isinstance(dataset, library.Dataset):
        dataset = dataset.to_iterable_dataset()
    if dataset.features is None:
        raise InvalidInput(f"{name} does not say its columns: give the stream its features")
    column, label_column = _columns(dataset.features, library, name)
    stream = dataset.select_columns([c for c in (column, label_column) if c is not None])
    stream = stream.cast_column(column, library.Image(decode=False))
    kind = dataset.features.get(label_column)

    def read(options: LoadOptions, rows: list[Row]) -> ImageData:
        labels = None if label_column is None else [row[label_column] for row in rows]
        return _images(rows, range(len(rows)), labels, column, kind, name, options)

    blocks = Blocks(stream, options.streaming or 1, partial(read, options), name)
    source = iter(stream)
    rows = blocks.rows(source)
    source.close()
    if not rows:
        raise InvalidInput(f"{name} is an empty stream: give one with images")
    first = blocks.read(rows)
    known = {"channels": first.image_shape[0], "stored_range": first.how["stored_range"]}
    blocks = replace(blocks, read=partial(read, replace(options, **known)))
    return replace(first, how=dict(first.how) | {"streaming": blocks.size}, source=blocks)


def _images(
    stored: Any,  # noqa: ANN401
    rows: Sequence[int],
    labels: list[int] | None,
    column: str,
    kind: Any,  # noqa: ANN401
    name: str,
    options: LoadOptions,
) -> ImageData:
    """The images of some entries.

    Arguments:
        stored: The entries, which hold encoded images.
        rows: The number of each, for messages.
        labels: The label of each.
        column: Where in an entry the image is.
        kind: The type of the labels.
        name: Name of the dataset.
        options: How images are read.
    """
    encoded: dict[str, Opener] = {
        f"{i} of split {options.split}": partial(_stored, stored, k, column)
        for k, i in enumerate(rows)
    }
    images, kept, decoded = decode(encoded, name, options)
    how = {"source": "Hugging Face dataset", "dataset": name, "column": column} | decoded
    if classes := getattr(kind, "names", None):
        how["classes"] = list(classes)
    own = None if labels is None else torch.tensor(labels)[kept]
    return ImageData(images, name, options.split, how, own)


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


def _open(library: Any, name: str, options: LoadOptions) -> Any:
    """All its splits, or one."""
    as_stream = {} if options.streaming is None else {"streaming": True}
    try:
        if is_saved_dataset(Path(name)):
            return library.load_from_disk(name)
        if Path(name).is_file():
            return library.load_dataset("parquet", data_files=name, **as_stream)
        path, _, config = name.partition(":")
        return library.load_dataset(path, config or None, **as_stream)
    except Exception as fault:  # network, cache, format: the library's classes vary with all three
        raise InvalidInput(f"{_subject(name)} cannot be loaded ({reason_of(fault)})") from None


def _subject(name: str) -> str:
    return name if Path(name).exists() else f"no folder {name} here; a Hugging Face dataset"


def _columns(features: Mapping[str, Any], library: Any, name: str) -> tuple[str, str | None]:
    """The column of images and that of labels, if there is one.

    Raises:
        InvalidInput: If there is no column of images.
    """
    return _image_column(features, library, name), _label_column(features, library)


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
