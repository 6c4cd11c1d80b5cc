"""Array files and Hugging Face datasets: every pixel kept, every fault named."""

import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from undrift.data.load import load_data
from undrift.exceptions import InvalidInput


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def eight_bit(x):
    """The 8-bit values that images in [-1, 1] came from, exactly."""
    values = (x + 1) * 127.5
    assert torch.allclose(values, values.round(), atol=1e-4)
    return values.round().to(torch.uint8).numpy()


def one_line(message):
    return "\n" not in message and len(message) < 300


@pytest.mark.parametrize("layout", ["NHW", "NCHW1", "NCHW3", "NHWC3"])
@pytest.mark.parametrize("extension", ["npy", "npz", "pt"])
def test_array_layouts_keep_their_values(tmp_path, rng, layout, extension):
    tails = {"NHW": (5, 5), "NCHW1": (1, 5, 5), "NCHW3": (3, 5, 5), "NHWC3": (5, 5, 3)}
    shape = (6, *tails[layout])
    values = rng.integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / f"a.{extension}"
    if extension == "npy":
        np.save(path, values)
    elif extension == "npz":
        np.savez(path, values)
    else:
        torch.save(torch.from_numpy(values), path)
    expected = values.transpose(0, 3, 1, 2) if layout == "NHWC3" else values
    loaded = eight_bit(load_data(path).images)
    np.testing.assert_array_equal(loaded, expected.reshape(loaded.shape))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([-1.0, 0.5]), [-1, 0.5]),
        (np.array([0.0, 0.75]), [-1, 0.5]),
        (np.array([0.0, 255.0]), [-1, 1]),
        (np.array([0, 255], dtype=np.int64), [-1, 1]),
        (np.array([0, 65535], dtype=np.uint16), [-1, 1]),
        (np.array([False, True]), [-1, 1]),
        (np.array([0.0, 0.75], dtype=np.float16), [-1, 0.5]),
        (np.array([0, 255], dtype=">i4"), [-1, 1]),
        (np.array([0, 255], dtype=np.uint16), [-1, 1]),
        (np.array([0, 65535]), [-1, 1]),
        (np.array([0, 1], dtype=np.uint8), [-1, 1]),
        (np.array([0, 1]), [-1, 1]),
        (np.array([-1, 1]), [-1, 1]),
        (np.array([0.0, 1.001]), [-1, 1]),
        (np.array([-0.004, 0.75]), [-1, 0.5]),
        (np.array([-1.004, 0.5]), [-1, 0.5]),
        (np.array([0.0, 255.5]), [-1, 1]),
    ],
)
def test_array_ranges(tmp_path, values, expected):
    np.save(tmp_path / "a.npy", values.reshape(2, 1, 1))
    assert load_data(tmp_path / "a.npy").images.flatten().tolist() == expected


def test_one_pixel_beyond_the_range_does_not_turn_the_others_black(tmp_path, rng, caplog):
    caplog.set_level("INFO", "undrift")
    pixels = rng.random((50, 8, 8))
    pixels[0, 0, 0] = 1.001
    np.save(tmp_path / "a.npy", pixels)
    data = load_data(tmp_path / "a.npy")
    expected = torch.from_numpy(pixels).float().clamp(max=1) * 2 - 1
    torch.testing.assert_close(data.images[:, 0], expected)
    assert data.how["scaling"] == "read as 0..1, 1 values beyond it clipped"
    assert caplog.messages == [f"{tmp_path / 'a.npy'}: 50 images, {data.how['scaling']}"]


def test_the_range_is_that_of_all_images_whatever_is_taken_of_them(tmp_path):
    np.save(tmp_path / "a.npy", np.array([0, 1, 0, 255]).reshape(4, 1, 1))
    assert (load_data(tmp_path / "a.npy", limit=1).images == -1).all()
    few = load_data(tmp_path / "a.npy", limit=2)
    assert few.how["scaling"] == "read as 0..255" and (few.images == -1).all()


def test_array_labels_splits_and_limit(tmp_path, rng):
    x, y = rng.uniform(-1, 1, (4, 5, 5)), np.arange(4)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    assert load_data(tmp_path / "a.npz", limit=2).labels.tolist() == [0, 2]
    assert len(load_data(tmp_path / "a.npz", split="test")) == 2
    torch.save(
        {"images": torch.zeros(2, 3, 4, 4), "labels": torch.tensor([3, 4])}, tmp_path / "a.pt"
    )
    assert load_data(tmp_path / "a.pt").labels.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(np.arange(4) == 2, np.nan, 0.5).reshape(4, 1, 1), r"a\.npy: image 2 of 4 .*NaN"),
        (np.zeros((2, 3, 3), np.complex64), "holds complex numbers"),
        (np.full((2, 3, 3), np.inf), r"a\.npy: image 0 of 2 .*infinite"),
        (np.zeros((2, 0, 3)), "holds no pixels"),
        (np.full((2, 3, 3), 900.0), "fit none of the ranges"),
        (np.full((2, 3, 3), 1.5), "fit none of the ranges"),
        (np.arange(17).repeat(4).reshape(17, 2, 2), "values from 0 to 16.* fit none"),
        (np.arange(4096).reshape(16, 16, 16), "values from 0 to 4095.* fit none"),
        (np.where(np.arange(98) == 7, 200, 0.5).reshape(2, 7, 7), r"0.5 to 200 \(1.0% of .*none"),
        (np.full((2, 4, 3, 5), 0.5), "is none of"),
        (np.full((2, 3, 3, 3), 0.5), "is none of"),
        (np.array(["text"]), "no images"),
    ],
)
def test_unusable_arrays(tmp_path, values, message):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InvalidInput, match=message) as caught:
        load_data(tmp_path / "a.npy")
    assert one_line(str(caught.value).replace(str(tmp_path), ""))


@pytest.mark.parametrize("kind", ["sparse", "quantized", "meta"])
def test_tensors_without_plain_values_are_refused(tmp_path, kind):
    dense = torch.zeros(2, 3, 3)
    with warnings.catch_warnings(action="ignore"):
        made = {
            "sparse": dense.to_sparse(),
            "quantized": torch.quantize_per_tensor(dense, 0.1, 0, torch.quint8),
            "meta": dense.to("meta"),
        }
        torch.save(made[kind], tmp_path / "a.pt")
        with pytest.raises(InvalidInput, match="holds a sparse, quantized or empty tensor"):
            load_data(tmp_path / "a.pt")


def test_labels_that_are_no_classes_are_left_out_and_said_to_be(tmp_path, caplog):
    caplog.set_level("INFO", "undrift")
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 4, 4)), labels=np.array([0.5, 1, 2]))
    assert load_data(tmp_path / "a.npz").labels is None
    assert "'labels' is left out: no whole number for each image" in caplog.text


def test_labels_are_as_many_as_the_images(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 4, 4)), labels=np.arange(2))
    with pytest.raises(InvalidInput, match="3 images but 2 labels"):
        load_data(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 4, 4)), labels=np.arange(3)[:, None])
    assert load_data(tmp_path / "a.npz").labels.tolist() == [0, 1, 2]


def test_arrays_are_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "a.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for name in ("a.npy", "a.pt"):
        with pytest.raises(InvalidInput, match="cannot read"):
            load_data(tmp_path / name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def _dataset(hub, values, **columns):
    features = {"image": hub.Image(), **{name: kind for name, (kind, _) in columns.items()}}
    content = {"image": [Image.fromarray(v) for v in values]}
    content |= {name: entries for name, (_, entries) in columns.items()}
    return hub.Dataset.from_dict(content, features=hub.Features(features))


def test_saved_datasets_keep_values_and_labels(tmp_path, rng, hub):
    values = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    kind = hub.ClassLabel(names=["cat", "dog"])
    rows = _dataset(hub, values, species=(kind, [0, 1, 0, 1, 0, 1]))
    rows.save_to_disk(str(tmp_path / "plain"))
    data = load_data(tmp_path / "plain")
    np.testing.assert_array_equal(eight_bit(data.images), values.transpose(0, 3, 1, 2))
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.how["classes"] == ["cat", "dog"]
    parts = hub.DatasetDict({"train": rows.select([0, 1]), "test": rows.select([2])})
    parts.save_to_disk(str(tmp_path / "parts"))
    assert len(load_data(tmp_path / "parts")) == 2
    test = load_data(tmp_path / "parts", split="test")
    np.testing.assert_array_equal(eight_bit(test.images)[0], values[2].transpose(2, 0, 1))
    with pytest.raises(InvalidInput, match="no split 'val': choose train or test"):
        load_data(tmp_path / "parts", split="val")


def test_parquet_files_and_folders(tmp_path, rng, hub):
    values = rng.integers(0, 256, (4, 8, 8), dtype=np.uint8)
    rows = _dataset(hub, values, label=(hub.Value("int64"), [3, 2, 1, 0]))
    (tmp_path / "set" / "data").mkdir(parents=True)
    rows.to_parquet(str(tmp_path / "set" / "data" / "train-00000-of-00001.parquet"))
    for source in (tmp_path / "set", tmp_path / "set" / "data" / "train-00000-of-00001.parquet"):
        data = load_data(source, limit=2)
        np.testing.assert_array_equal(eight_bit(data.images)[:, 0], values[[0, 2]])
        assert data.labels.tolist() == [3, 1]


def test_names_on_the_hub(rng, hub, monkeypatch):
    values = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    asked = []

    def fake(path, config=None, **options):
        asked.append((path, config))
        return hub.DatasetDict({"train": _dataset(hub, values)})

    monkeypatch.setattr(hub, "load_dataset", fake)
    for name in ("someone/pictures", "hf:pictures", "someone/pictures:small"):
        np.testing.assert_array_equal(eight_bit(load_data(name).images)[:, 0], values)
    pictures = "someone/pictures"
    assert asked == [(pictures, None), ("pictures", None), (pictures, "small")]


def test_unusable_datasets(tmp_path, rng, hub, monkeypatch):
    hub.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(InvalidInput, match=r"no column of images, only text"):
        load_data(tmp_path / "text")
    rows = _dataset(hub, rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)).cast_column(
        "image", hub.Image(decode=False)
    )
    broken = [row["image"] for row in rows]
    broken[1] = {"bytes": b"broken", "path": None}
    features = hub.Features({"image": hub.Image()})
    hub.Dataset.from_dict({"image": broken}, features=features).save_to_disk(
        str(tmp_path / "broken")
    )
    with pytest.raises(InvalidInput, match=r"1 of split train \(not an image\).*--skip-bad-images"):
        load_data(tmp_path / "broken")
    assert load_data(tmp_path / "broken", skip_bad_images=True).how["num_skipped"] == 1

    def unreachable(*arguments):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(hub, "load_dataset", unreachable)
    with pytest.raises(InvalidInput, match=r"no folder someone/pictures here.*\(no network\)"):
        load_data("someone/pictures")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("someone/pictures", str(tmp_path / "text")):
        with pytest.raises(InvalidInput, match="pip install datasets"):
            load_data(name)
