r"""Patches of natural images: crops of the photographs that scikit-image and scikit-learn ship.

Seven photographs, read from the installed packages, nothing downloaded: astronaut, chelsea, coffee,
motorcycle (the left image) and rocket of scikit-image, china and flower of scikit-learn; 300 to 512
rows of 451 to 741 pixels. Crops of :math:`S \times S` pixels start every 16 pixels, once in the
photograph itself and once in its half, the mean of :math:`2 \times 2` pixels: patches of natural
images look alike at all scales, and the half shows more of a scene.

A photograph is divided into tiles of :math:`128 \times 128` pixels; those with

.. math:: (\mathrm{row} + 2 \, \mathrm{column}) \bmod 5 = 0

are for testing, a fifth of them. A crop that lies within one of them is a
test image, a crop that touches none of them a training image, and the others belong to neither. So
no pixel of a photograph is in both; crops of one part overlap each other, at S = 32 by half. The
scene, its light and its camera are the same in both: that a model does well on the test crops says
nothing about other photographs.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from undrift.data.images import ImageData
from undrift.data.options import LoadOptions
from undrift.data.pixels import fit_channels, image_to_tensor
from undrift.exceptions import InvalidInput

PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}
_PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
_SIZE, _STRIDE, _SCALES, _TILE = 32, 16, (1, 2), 128


def load_patches(options: LoadOptions) -> ImageData:
    r"""Load crops of photographs: 6022 for training and 1243 for testing, at the default size.

    Arguments:
        options: The split is ``"train"`` or ``"test"``, from disjoint regions of the photographs.
            The image size is the side length :math:`S` of the crops, up to 64; 32 when None. Pixels
            stay those of the photograph (or of its half): a smaller crop shows less of the scene.

    Returns:
        The crops, photograph by photograph, each labeled with its own.

    Raises:
        InvalidInput: If a photograph is not installed, or the split or the size is not one of them.
    """
    size, split = options.image_size or _SIZE, options.split
    options.check_split("patches", ["train", "test"])
    if size * max(_SCALES) > _TILE:
        raise InvalidInput(
            f"patches of {size} pixels do not fit into the tiles of the photographs: choose an "
            f"image size up to {_TILE // max(_SCALES)}"
        )
    crops = [_crops(_photograph(name), size, split == "test") for name in PHOTOGRAPHS]
    labels = torch.arange(len(crops)).repeat_interleave(torch.tensor([len(c) for c in crops]))
    rows = options.rows(len(labels))
    images = fit_channels(torch.cat(crops)[rows], options.channels)
    how = {
        "source": "photographs of scikit-image and scikit-learn",
        "packages": {package: version(package) for package in (*_PACKAGES.values(), "pillow")},
        "scaling": "0..255 to [-1, 1]",
        "crops": f"{size}x{size}, every {_STRIDE} pixels, at scales 1 and 1/2 (means of 2x2)",
        "regions": f"tiles of {_TILE}x{_TILE}: test where (row + 2 column) mod 5 = 0",
        "classes": list(PHOTOGRAPHS),
        "crops_of_each": dict(zip(PHOTOGRAPHS, map(len, crops), strict=True)),
    }
    return ImageData(images, "patches", split, how, labels[rows])


def _photograph(name: str) -> Tensor:
    """A photograph in [-1, 1], with shape (3, H, W)."""
    from PIL import Image

    package, file = PHOTOGRAPHS[name]
    spec = find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    path = next((Path(folder, file) for folder in folders if Path(folder, file).is_file()), None)
    if path is None:
        missing = "" if spec is None else f" (the version here has no {Path(file).name})"
        raise InvalidInput(
            f"patches are cut from photographs that {_PACKAGES[package]} ships{missing}: "
            "pip install 'undrift[patches]'"
        )
    with Image.open(path) as image:
        return image_to_tensor(image, channels=3)


def _crops(photograph: Tensor, size: int, test: bool) -> Tensor:
    """Crops of one part, at all scales, row by row, with shape (N, 3, S, S)."""
    kept = []
    for scale in _SCALES:
        image = F.avg_pool2d(photograph, scale)
        grid = image.unfold(1, size, _STRIDE).unfold(2, size, _STRIDE).movedim(0, 2)
        rows, columns = (scale * _STRIDE * torch.arange(n) for n in grid.shape[:2])
        kept.append(grid[_belongs(rows, columns, scale * size, test)])
    return torch.cat(kept)


def _belongs(rows: Tensor, columns: Tensor, span: int, test: bool) -> Tensor:
    """Which crops lie within a test tile, or touch none.

    Arguments:
        rows: First rows of the crops in the photograph.
        columns: First columns of the crops.
        span: How many pixels of the photograph a crop covers, no more than a tile has.
        test: Whether to select the test crops.

    Returns:
        A mask with shape (rows, columns).
    """
    tile_rows = torch.stack([rows, rows + span - 1]) // _TILE  # of the first and the last pixel
    tile_columns = torch.stack([columns, columns + span - 1]) // _TILE
    corners = (tile_rows[:, None, :, None] + 2 * tile_columns[None, :, None, :]) % 5 == 0
    if not test:
        return ~corners.flatten(0, 1).any(0)
    whole = (tile_rows[0] == tile_rows[1])[:, None] & (tile_columns[0] == tile_columns[1])
    return whole & corners[0, 0]
