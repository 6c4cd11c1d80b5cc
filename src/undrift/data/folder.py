r"""Image folders: all images below a folder, with classes and splits where its layout tells them.

A folder is searched through all its subfolders, in sorted order. Where its subfolders are named
after splits (``train``, ``test``, ...) one of them is taken; where every image lies in a subfolder,
the names of these subfolders are the classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from undrift.data.decode import EncodedImage, decode
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
    root = split_folder(folder, options.split)
    paths = find_images(root)
    if not paths:
        raise InvalidInput(
            f"folder {root} holds no images: put files such as .png or .jpg there "
            "or give another folder"
        )
    paths = [paths[i] for i in options.rows(len(paths))]
    names = [str(path.relative_to(root)) for path in paths]
    encoded = [
        EncodedImage(name, partial(_open, path)) for name, path in zip(names, paths, strict=True)
    ]
    images, kept, how = decode(encoded, str(root), options)
    labels, classes = _classes([names[i] for i in kept])
    how = {"source": "image folder", "folder": str(root), **how}
    if classes:
        how["classes"] = classes
    return ImageData(images, name=str(folder), split=options.split, how=how, labels=labels)


def find_images(folder: Path) -> list[Path]:
    """All files below the folder that are named like images, hidden ones left out, sorted."""
    return sorted(_walk(folder))


def has_images(folder: Path) -> bool:
    """Whether :func:`find_images` would find any."""
    return next(_walk(folder), None) is not None


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()  # a link back to a folder above would never end
    for parent, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if name[0] != "."]
        names = (name for name in files if name[0] != ".")
        yield from (Path(parent, name) for name in names if Path(name).suffix.lower() in EXTENSIONS)


def split_folder(folder: Path, split: str) -> Path:
    """The subfolder of a split where there are such; else the folder itself, which is ``train``.

    Raises:
        InvalidInput: If the split is not there.
    """
    subfolders = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if subfolders and all(name.lower() in SPLITS for name in subfolders):
        if split in subfolders:
            return folder / split
        raise InvalidInput(f"{folder} has no split '{split}': choose {' or '.join(subfolders)}")
    if split != "train":
        raise InvalidInput(f"{folder} has no split '{split}': it has no subfolder of that name")
    return folder


def _open(path: Path) -> Image.Image:
    from PIL import Image

    if path.exists() and not path.is_file():  # reading from a pipe would never end
        raise ValueError("not a regular file")
    return Image.open(path)


def _classes(names: list[str]) -> tuple[Tensor | None, list[str]]:
    """Labels from the first folder in each image's name, if all have one and they differ."""
    parts = [Path(name).parts for name in names]
    classes = sorted({part[0] for part in parts if len(part) > 1})
    if len(classes) < 2 or any(len(part) == 1 for part in parts):
        return None, []
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[part[0]] for part in parts]), classes
