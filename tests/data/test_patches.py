"""Crops of photographs: which pixels they hold, and that no pixel is in both parts."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from undrift.data import patches
from undrift.data.load import load_data
from undrift.exceptions import InvalidInput


def stored(name):
    """A photograph as Pillow reads it, with shape (H, W, 3)."""
    package, file = patches.PHOTOGRAPHS[name]
    folder = Path(find_spec(package).origin).parent
    return np.asarray(Image.open(folder / file).convert("RGB"), dtype=np.float64)


def plan(height, width):
    """An image whose channels say where a pixel lies, and whether its tile is for testing."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x, (y // 128 + 2 * (x // 128)) % 5 == 0]).to(torch.float64)


@pytest.mark.parametrize("size", [8, 32, 64])
@pytest.mark.parametrize("shape", [(300, 451), (512, 512)])
def test_no_pixel_of_a_photograph_is_in_both_parts(size, shape):
    train, test = (patches._crops(plan(*shape), size, part) for part in (False, True))
    assert (train[:, 2] == 0).all() and (test[:, 2] == 1).all()
    assert min(len(train), len(test)) > 10


def test_crops_lie_on_the_grid_and_none_is_missing():
    height, width, size = 300, 451, 32
    image = plan(height, width)
    expected = {"train": [], "test": []}
    for scale in (1, 2):
        span, stride = scale * size, scale * 16
        for y in range(0, height - span + 1, stride):
            for x in range(0, width - span + 1, stride):
                flags = image[2, y : y + span, x : x + span]
                tiles = {(v // 128, u // 128) for v in (y, y + span - 1) for u in (x, x + span - 1)}
                if not flags.any():
                    expected["train"].append((scale, y, x))
                elif len(tiles) == 1:
                    expected["test"].append((scale, y, x))
    for part, places in expected.items():
        crops = patches._crops(image, size, part == "test")
        scales = (crops[:, 0, 1, 0] - crops[:, 0, 0, 0]).long()
        first = (crops[:, :2, 0, 0] - (scales[:, None] - 1) / 2).long()
        found = [(s, *place) for s, place in zip(scales.tolist(), first.tolist(), strict=True)]
        assert found == places


def test_pixels_are_those_of_the_photographs():
    data = load_data("patches")
    assert data.image_shape == (3, 32, 32) and len(data) == 6022
    names = data.how["classes"]
    for label in (1, 6):  # one photograph of each package
        name, crops = names[label], data.images[data.labels == label]
        photograph = stored(name) / 127.5 - 1
        half = photograph[: len(photograph) // 2 * 2, : photograph.shape[1] // 2 * 2]
        half = half.reshape(len(half) // 2, 2, -1, 2, 3).mean((1, 3))
        for crop, source in ((crops[0], photograph), (crops[-1], half)):
            windows = np.lib.stride_tricks.sliding_window_view(source, (32, 32), (0, 1))[::16, ::16]
            gap = np.abs(windows - crop.numpy()).max((2, 3, 4))
            assert gap.min() < 1e-6
    assert data.how["crops_of_each"] == {
        name: int((data.labels == label).sum()) for label, name in enumerate(names)
    }


def test_split_size_channels_and_limit():
    data = load_data("patches", split="test", image_size=16, channels=1, limit=70)
    assert data.images.shape == (70, 1, 16, 16) and data.split == "test"
    assert set(data.labels.tolist()) == set(range(7))
    again = load_data("patches", split="test", image_size=16, channels=1, limit=70)
    assert data.fingerprint == again.fingerprint
    for options, message in (
        ({"split": "val"}, "patches has no split 'val': choose train or test"),
        ({"image_size": 65}, "choose an image size up to 64"),
        ({"channels": 2}, "channels must be 1"),
    ):
        with pytest.raises(InvalidInput, match=message):
            load_data("patches", **options)


@pytest.mark.parametrize("installed", [False, True], ids=["no package", "no photograph"])
def test_a_missing_photograph_says_what_to_install(monkeypatch, tmp_path, installed):
    class Spec:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(patches, "find_spec", lambda name: Spec if installed else None)
    with pytest.raises(InvalidInput, match=r"pip install 'undrift\[patches\]'") as caught:
        load_data("patches")
    assert "\n" not in str(caught.value)
