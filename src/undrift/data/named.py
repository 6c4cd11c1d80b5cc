r"""Named data sets: scikit-learn's digits and Fashion-MNIST.

Digits: 1797 images of 8x8 with integers 0 to 16, mapped to :math:`x = v/8 - 1`. Fashion-MNIST:
60000 and 10000 images of 28x28 with 8 bits, padded with black (-1) to 32x32 unless another size is
asked for, because networks that halve the size several times need a power of two.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from undrift.data.images import ImageData
from undrift.data.options import LoadOptions
from undrift.exceptions import InvalidInput

FASHION_MNIST_VARIABLE = "UNDRIFT_FASHION_MNIST"
_FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's package puts it
_FASHION_MNIST_FILES = {"train": "train", "test": "t10k"}
_FASHION_MNIST_CLASSES = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]
_PADDED_SIZE = 32


def load_digits(options: LoadOptions) -> ImageData:
    """Load scikit-learn's handwritten digits, all 1797 as split ``train``."""
    from sklearn import datasets

    options.check_split("digits", ["train"])
    source = datasets.load_digits()
    images, labels = torch.from_numpy(source.images), torch.from_numpy(source.target)
    how = {"source": "scikit-learn digits", "classes": [str(digit) for digit in range(10)]}
    return _image_data("digits", images, 16, labels, options, how)


def load_fashion_mnist(options: LoadOptions, folder: str | Path | None = None) -> ImageData:
    """Load Fashion-MNIST from the idx files that Debian's package contains.

    Arguments:
        options: The split is ``"train"`` (60000) or ``"test"`` (10000); the image size 28 gives the
            native images, None or 32 pads them, any other size resizes them.
        folder: Where the files are; by default the environment variable
            ``UNDRIFT_FASHION_MNIST``, else the place of Debian's package.
    """
    options.check_split("fashion-mnist", _FASHION_MNIST_FILES)
    chosen = folder or os.environ.get(FASHION_MNIST_VARIABLE) or _FASHION_MNIST_FOLDER
    prefix = Path(chosen, _FASHION_MNIST_FILES[options.split])
    images = _read_idx(Path(f"{prefix}-images-idx3-ubyte.gz"), 3)
    labels = _read_idx(Path(f"{prefix}-labels-idx1-ubyte.gz"), 1)
    if len(labels) != len(images):
        raise InvalidInput(
            f"{prefix}-*: {len(images)} images but {len(labels)} labels: the files are damaged: "
            "install the package again"
        )
    how: dict[str, Any] = {"source": "Fashion-MNIST", "classes": _FASHION_MNIST_CLASSES}
    margin = (_PADDED_SIZE - images.shape[-1]) // 2
    if options.image_size in (None, _PADDED_SIZE) and margin > 0:
        how["padded"] = f"{images.shape[-1]} to {_PADDED_SIZE} with -1"
        images = F.pad(images, [margin] * 4)
    return _image_data("fashion-mnist", images, 255, labels, options, how)


def _image_data(
    name: str, stored: Tensor, v_max: int, labels: Tensor, options: LoadOptions, how: dict[str, Any]
) -> ImageData:
    """Gray images from values 0 to v_max, with shape (N, H, W), by the options."""
    how["scaling"] = f"0..{v_max} to [-1, 1]"
    rows = options.rows(len(stored))
    images = options.fit(stored[rows].float().unsqueeze(1) / (v_max / 2) - 1, how)
    return ImageData(images, name, options.split, how, labels[rows])


def _read_idx(path: Path, sizes: int) -> Tensor:
    """Read an idx file: two zeros, type 8 (bytes), the number of axes, their sizes, the data."""
    if not path.is_file():
        raise InvalidInput(
            f"fashion-mnist: no file {path}: apt-get install dataset-fashion-mnist, or set "
            f"{FASHION_MNIST_VARIABLE} to the folder with the four .gz files"
        )
    try:
        content = gzip.decompress(path.read_bytes())
        axes = content[3]
        shape = np.frombuffer(content, dtype=">i4", count=axes, offset=4).tolist()
        if axes != sizes or min(shape) < 1:
            raise ValueError
        values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error):
        raise InvalidInput(f"fashion-mnist: {path} is damaged: install the package again") from None
    return torch.from_numpy(values.copy())
