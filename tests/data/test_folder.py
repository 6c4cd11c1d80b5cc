"""Folders of images of any kind: every pixel kept, every fault named."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from undrift.data.load import load_data
from undrift.data.pixels import fit_channels, fit_square, image_to_tensor
from undrift.exceptions import InvalidInput


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def eight_bit(x):
    """The 8-bit values that images in [-1, 1] came from, exactly."""
    values = (x + 1) * 127.5
    assert torch.allclose(values, values.round(), atol=1e-4)
    return values.round().to(torch.uint8).numpy()


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path)
    return path


def one_line(message):
    return "\n" not in message and len(message) < 300


def _palette(values, transparent=None):
    image = Image.new("P", values.shape[::-1])
    image.putdata((values % 4).flatten().tolist())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


def _mode_cases():
    rng = np.random.default_rng(7)
    gray = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    rgb = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    alpha = rng.integers(0, 2, (8, 8), dtype=np.uint8) * 255
    on_white = np.where(alpha[..., None] == 255, rgb, 255)
    table = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], dtype=np.uint8)
    colors = table[gray % 4]
    holes = np.where((gray % 4 == 2)[..., None], 255, colors)
    cmyk = np.zeros((8, 8, 4), dtype=np.uint8)
    cmyk[..., 0] = 255 - gray  # cyan takes red away, exactly when black is 0
    return {
        "1": ("png", Image.fromarray(gray > 127), (gray > 127) * 255),
        "L": ("png", Image.fromarray(gray), gray),
        "LA": ("png", Image.fromarray(np.dstack([gray, alpha])), np.where(alpha == 255, gray, 255)),
        "RGB": ("png", Image.fromarray(rgb), rgb),
        "RGB.bmp": ("bmp", Image.fromarray(rgb), rgb),
        "RGB.webp": ("webp", Image.fromarray(rgb), rgb),
        "RGBA": ("png", Image.fromarray(np.dstack([rgb, alpha])), on_white),
        "P": ("png", _palette(gray), colors),
        "P.gif": ("gif", _palette(gray), colors),
        "P.transparent": ("png", _palette(gray, transparent=2), holes),
        "CMYK": ("tif", Image.fromarray(cmyk, mode="CMYK"), _cyan(gray)),
        "I;16": ("png", Image.fromarray(gray.astype(np.uint16) * 257), gray),
        "F": ("tif", Image.fromarray(gray.astype(np.float32) / 255), gray),
    }


def _cyan(gray):
    return np.dstack([gray, np.full_like(gray, 255), np.full_like(gray, 255)])


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
@pytest.mark.parametrize("mode", list(_mode_cases()))
def test_every_mode_keeps_its_exact_values(tmp_path, mode):
    extension, image, expected = _mode_cases()[mode]
    options = {"lossless": True} if extension == "webp" else {}
    image.save(tmp_path / f"a.{extension}", **options)
    data = load_data(tmp_path)
    assert data.image_shape == ((1, 8, 8) if expected.ndim == 2 else (3, 8, 8))
    loaded = eight_bit(data.images[0])
    np.testing.assert_array_equal(
        loaded.squeeze(0) if expected.ndim == 2 else loaded.transpose(1, 2, 0), expected
    )


def test_sixteen_bits_are_not_cut_to_eight():
    values = np.array([[0, 1, 257, 65535]], dtype=np.uint16)
    x = image_to_tensor(Image.fromarray(values), channels=1)
    torch.testing.assert_close(
        x.flatten(), torch.tensor(values.astype(np.float32)[0]) / 32767.5 - 1
    )
    assert x[0, 0, 1] > x[0, 0, 0]


def test_half_transparent_black_on_white_is_gray():
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    x = image_to_tensor(image, channels=1)
    torch.testing.assert_close(x, torch.full((1, 2, 2), 127 / 127.5 - 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(tmp_path, rng, orientation):
    upright = rng.integers(0, 256, (6, 6), dtype=np.uint8)
    # How a camera stores an upright picture under each orientation (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright.T, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(eight_bit(load_data(tmp_path).images)[0, 0], upright)


def test_turned_images_of_one_upright_size_agree(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (4, 8)).save(tmp_path / "a.png")
    Image.new("L", (8, 4)).save(tmp_path / "b.png", exif=exif)
    with pytest.raises(InvalidInput, match="4x8, not square"):
        load_data(tmp_path)


def test_resize_is_antialiased_and_the_crop_centered(tmp_path):
    checkerboard = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    save(tmp_path / "board" / "a.png", checkerboard)
    x = load_data(tmp_path / "board", image_size=8).images
    assert x.abs().max() < 0.02  # without antialiasing it would be black or white
    wide = np.zeros((16, 48), dtype=np.uint8)
    wide[:, 16:32] = 255
    save(tmp_path / "wide" / "a.png", wide)
    assert (load_data(tmp_path / "wide", image_size=16).images == 1).all()


def test_arrays_and_files_are_resized_alike(rng):
    smooth = np.outer(np.linspace(0, 1, 20), np.linspace(0, 1, 30)) * 200 + rng.uniform(
        0, 50, (20, 30)
    )
    image = Image.fromarray(smooth.astype(np.uint8))
    for size in (5, 12, 40):
        by_pillow = image_to_tensor(image, 1, size)
        by_torch = fit_square(image_to_tensor(image, 1)[None], size)[0]
        assert (by_pillow - by_torch).abs().max() < 2.5 / 127.5  # Pillow rounds after each axis


def test_gray_of_a_gray_color_is_itself():
    gray = torch.linspace(-1, 1, 9).reshape(1, 1, 3, 3)
    rgb = fit_channels(gray, 3)
    assert rgb.shape == (1, 3, 3, 3)
    torch.testing.assert_close(fit_channels(rgb, 1), gray)
    red = torch.tensor([1.0, -1, -1]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(fit_channels(red, 1).item(), 2 * 0.299 - 1)


def test_folder_is_recursive_sorted_and_blind_to_case(tmp_path):
    for i, name in enumerate(
        ["b.PNG", "a.Jpeg", "deep/er/c.png", ".hidden.png", ".git/d.png", "note.txt"]
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.new("L", (4, 4), 10 * i).save(path)
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    x = load_data(tmp_path).images
    assert eight_bit(x)[:, 0, 0, 0].tolist() == [10, 0, 20]


def test_one_color_image_makes_all_rgb_unless_told(tmp_path):
    save(tmp_path / "a.png", Image.new("L", (4, 4), 7))
    save(tmp_path / "b.png", Image.new("RGB", (4, 4), "red"))
    assert load_data(tmp_path).image_shape == (3, 4, 4)
    assert eight_bit(load_data(tmp_path, channels=1).images)[:, 0, 0, 0].tolist() == [7, 76]
    assert load_data(tmp_path, channels=3, image_size=2).image_shape == (3, 2, 2)


def test_subfolders_are_classes(tmp_path):
    for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
        save(tmp_path / name, Image.new("L", (4, 4)))
    data = load_data(tmp_path)
    assert data.labels.tolist() == [0, 1, 1]
    assert data.how["classes"] == ["cat", "dog"]
    save(tmp_path / "stray.png", Image.new("L", (4, 4)))
    assert load_data(tmp_path).labels is None


def test_split_folders(tmp_path):
    save(tmp_path / "train/a/1.png", Image.new("L", (4, 4), 1))
    save(tmp_path / "train/b/1.png", Image.new("L", (4, 4), 2))
    save(tmp_path / "test/1.png", Image.new("L", (4, 4), 3))
    assert load_data(tmp_path).labels.tolist() == [0, 1]
    assert eight_bit(load_data(tmp_path, split="test").images)[0, 0, 0, 0] == 3
    with pytest.raises(InvalidInput, match="no split 'val': choose test or train"):
        load_data(tmp_path, split="val")
    with pytest.raises(InvalidInput, match="no split 'test'"):
        load_data(tmp_path / "train", split="test")


def test_limit_meets_every_class(tmp_path):
    for i in range(6):
        save(tmp_path / "ab"[i // 3] / f"{i}.png", Image.new("L", (4, 4), i))
    data = load_data(tmp_path, limit=2)
    assert data.labels.tolist() == [0, 1]
    assert len(load_data(tmp_path, limit=99)) == 6


def test_bad_image_is_named_or_skipped_and_counted(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", Image.new("L", (8, 8), 50 * i))
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "3.png")
    (tmp_path / "3.png").write_bytes(
        (tmp_path / "3.png").read_bytes()[:100]
    )  # good header, cut off
    (tmp_path / "1.png").write_bytes(b"not a picture")
    with pytest.raises(InvalidInput, match=r"1\.png \(not an image\).*--skip-bad-images") as caught:
        load_data(tmp_path, channels=1)
    assert one_line(str(caught.value))
    data = load_data(tmp_path, skip_bad_images=True)
    assert eight_bit(data.images)[:, 0, 0, 0].tolist() == [0, 100]
    assert data.how["num_skipped"] == 2
    assert data.how["skipped"] == ["1.png", "3.png"]
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "2.png").write_bytes(b"")
    for options in ({}, {"image_size": 8, "channels": 1}):
        with pytest.raises(InvalidInput, match="none of the 4 images can be read"):
            load_data(tmp_path, skip_bad_images=True, **options)


def test_progress_goes_to_stderr(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("undrift.data.decode._PROGRESS_FROM", 2)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    for i in range(3):
        save(tmp_path / f"{i}.png", Image.new("L", (4, 4), i))
    assert len(load_data(tmp_path)) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "3 images" in err


@pytest.mark.parametrize(
    ("values", "kind", "read_as"),
    [
        ([0, 1, 1, 0], np.uint8, "0..1"),
        ([0, 1, 1, 0], np.uint16, "0..1"),
        ([0, 51, 255, 102], np.uint8, "0..255"),
        ([0, 51, 255, 102], np.uint16, "0..255"),
        ([0, 13107, 65535, 26214], np.uint16, "0..65535"),
        ([0, 0, 0, 0], np.uint8, "0..255"),
    ],
)
def test_the_range_of_pictures_is_that_of_the_same_values_in_an_array(
    tmp_path, caplog, values, kind, read_as
):
    caplog.set_level("INFO", "undrift")
    pixels = np.array(values, dtype=kind).reshape(2, 2)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = load_data(tmp_path)
    expected = 2 * pixels.astype(float) / int(read_as.split("..")[1]) - 1
    np.testing.assert_allclose(data.images[0, 0].numpy(), expected, atol=1e-6)
    assert data.how["scaling"] == f"read as {read_as}"
    assert f"{tmp_path}: 1 images, read as {read_as}" in caplog.text
    if any(values):
        np.save(tmp_path / "a.npy", pixels[None])
        assert torch.allclose(load_data(tmp_path / "a.npy").images, data.images, atol=1e-6)


def test_dark_pictures_are_taken_as_they_are_with_a_warning(tmp_path, caplog):
    Image.fromarray(np.full((2, 2), 20, np.uint8)).save(tmp_path / "a.png")
    assert torch.allclose(load_data(tmp_path).images, torch.tensor(20 / 127.5 - 1))
    assert "all images are dark: their largest value is 20" in caplog.text


def test_a_folder_below_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "b").mkdir()
    scandir = os.scandir

    def refused(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InvalidInput, match="cannot read the folder .*/b: Permission denied"):
        load_data(tmp_path)


def test_a_pipe_that_is_called_like_an_image_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match=r"a\.png \(not a regular file\)"):
        load_data(tmp_path)


def _empty(folder):
    (folder / "sub").mkdir()
    (folder / "readme.txt").write_text("nothing here")


def _different(folder):
    Image.new("L", (4, 4)).save(folder / "a.png")
    Image.new("L", (6, 5)).save(folder / "b.png")


def _oblong(folder):
    Image.new("L", (6, 5)).save(folder / "a.png")


def _not_a_number(folder):
    for i, value in enumerate((0.5, np.nan)):
        Image.fromarray(np.full((4, 4), value, dtype=np.float32)).save(folder / f"{i}.tif")


def _beyond(folder):
    Image.fromarray(np.full((4, 4), 3.0, dtype=np.float32)).save(folder / "a.tif")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_empty, "has no images"),
        (_different, r"differ in size \(4x4 to 6x5\): give --image-size"),
        (_oblong, "6x5, not square: give --image-size"),
        (_not_a_number, r"cannot read image 1\.tif \(NaN or infinite values\)"),
        (_beyond, "between 0 and 1"),
    ],
)
def test_unusable_folders_say_why_in_one_line(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(InvalidInput, match=message) as caught:
        load_data(tmp_path)
    assert one_line(str(caught.value).replace(str(tmp_path), ""))
