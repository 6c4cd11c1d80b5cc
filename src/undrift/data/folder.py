r"""Image folders: all images below a folder, with classes and splits taken from its layout.

A folder is searched through all its subfolders, in sorted order. Where its subfolders are named
after splits (``train``, ``test``, ...) one of them is taken; where every image lies in a subfolder,
the names of these subfolders are the classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from undrift.data.decode import Opener, decode
from undrift.data.images import ImageData
from undrift.data.options import LoadOptions
from undrift.exceptions import InvalidInput

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".webp", ".avif", ".gif", ".tif", ".tiff"),
    *(".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
SPLITS = ("train", "test", "val", "valid", "validation", "dev")


def load_folder(folder: Path, options: LoadOptions) -> ImageData:
    """Load all images below a folder: see :func:`undrift.data.load.load_data`."""
    root = split_folder(folder, options)
    paths = sorted(find_images(root))
    if not paths:
        raise InvalidInput(
            f"folder {root} has no images: put files such as .png or .jpg there "
            "or give another folder"
        )
    paths = [paths[i] for i in options.rows(len(paths))]
    encoded: dict[str, Opener] = {str(p.relative_to(root)): partial(_open, p) for p in paths}
    images, kept, decoded = decode(encoded, str(root), options)
    labels, classes = _classes([paths[i].relative_to(root).parts for i in kept])
    how = {"source": "image folder", "folder": str(root)} | decoded | classes
    return ImageData(images, name=str(folder), split=options.split, how=how, labels=labels)


def find_images(folder: Path) -> Iterator[Path]:
    """Files below a folder that are named like images, in any order, without hidden ones."""
    seen: set[str] = set()  # a link back to a folder above would never end
    for parent, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if name[0] != "."]
        names = (name for name in files if name[0] != ".")
        yield from (Path(parent, name) for name in names if Path(name).suffix.lower() in EXTENSIONS)


def split_folder(folder: Path, options: LoadOptions) -> Path:
    """The subfolder of a split where there are such; else the folder itself, which is ``train``.

    Raises:
        InvalidInput: If the split is not there.
    """
    subfolders = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if subfolders and all(name.lower() in SPLITS for name in subfolders):
        options.check_split(folder, subfolders)
        return folder / options.split
    options.check_split(folder, ["train"])
    return folder


def _refuse(error: OSError) -> NoReturn:
    raise InvalidInput(f"cannot read the folder {error.filename}: {error.strerror}") from None


def _open(path: Path) -> Image.Image:
    from PIL import Image

    if path.exists() and not path.is_file():  # reading from a pipe would never end
        raise ValueError("not a regular file")
    return Image.open(path)


def _classes(paths: list[tuple[str, ...]]) -> tuple[Tensor | None, dict[str, Any]]:
    """Labels from the first folder of each image, if all have one and they differ; their names."""
    classes = sorted({parts[0] for parts in paths if len(parts) > 1})
    if len(classes) < 2 or any(len(parts) == 1 for parts in paths):
        return None, {}
    return torch.tensor([classes.index(parts[0]) for parts in paths]), {"classes": classes}
