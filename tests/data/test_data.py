"""Named data, the record of the data, and the batch stream that is exactly resumable."""

import gzip
import importlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undrift.data.images import ImageData
from undrift.data.load import load_data
from undrift.data.named import FASHION_MNIST_VARIABLE, load_fashion_mnist
from undrift.data.options import LoadOptions
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


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "unknown data 'digit': did you mean 'digits'"),
        ("Fashion_MNIST", {}, "did you mean 'fashion-mnist'"),
        ("", {}, "the data have no name"),
        ("x" * 5000, {}, "has no path"),
        ("~no-such-user/x", {}, "has no path"),
        ("/dev/null", {}, "is neither a file nor a folder"),
        ("zzzz", {}, "no file or folder has this name; known are digits, fashion-mnist"),
        ("imgs", {}, "unknown data 'imgs': no file or folder has this name"),
        ("./nowhere", {}, "no such file or folder: ./nowhere"),
        ("nowhere/images/x", {}, "no such file or folder"),
        ("nowhere.npz", {}, "no such file or folder"),
        ("digits", {"split": "test"}, "digits has no split 'test'"),
        ("digits", {"limit": 0}, "limit is 0: choose at least 1"),
        ("digits", {"channels": 2}, "channels must be 1"),
        ("digits", {"image_size": 0}, "image size is 0: choose at least 1"),
        ("fashion-mnist", {"split": "val"}, "choose train or test"),
    ],
)
def test_unusable_names_say_why_in_one_line(name, options, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        load_data(name, **options)
    assert one_line(str(caught.value))


def test_complex_numbers_in_a_file_are_refused(tmp_path):
    torch.save(torch.zeros(3, 4, 4, dtype=torch.complex64), tmp_path / "waves.pt")
    with pytest.raises(InvalidInput, match="waves.pt holds complex numbers: give real ones"):
        load_data(tmp_path / "waves.pt")


def test_a_file_that_is_no_data(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no data")
    with pytest.raises(InvalidInput, match="give a folder of images"):
        load_data(path)


def test_digits_are_scikit_learns():
    source = importlib.import_module("sklearn.datasets").load_digits()
    data = load_data("digits")
    np.testing.assert_array_equal((data.images.numpy()[:, 0] + 1) * 8, source.images)
    np.testing.assert_array_equal(data.labels.numpy(), source.target)
    assert data.images.is_contiguous()
    assert data.images.dtype == torch.float32


def test_digits_resized_keep_their_mean():
    native, larger = load_data("digits").images, load_data("digits", image_size=16).images
    assert larger.shape == (1797, 1, 16, 16)
    assert (native.mean((1, 2, 3)) - larger.mean((1, 2, 3))).abs().max() < 0.1


def _write_idx(path, values):
    shape = np.array(values.shape, dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(bytes([0, 0, 8, values.ndim]) + shape + values.tobytes()))


@pytest.fixture
def idx_folder(tmp_path, rng):
    images = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        _write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
        _write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.arange(5, dtype=np.uint8))
    return tmp_path, images


def test_fashion_mnist_native_padded_and_resized(idx_folder, monkeypatch):
    folder, images = idx_folder
    monkeypatch.setenv(FASHION_MNIST_VARIABLE, str(folder))
    native = load_data("fashion-mnist", image_size=28)
    np.testing.assert_array_equal(eight_bit(native.images)[:, 0], images)
    padded = load_data("fashion-mnist", split="test")
    assert padded.image_shape == (1, 32, 32)
    assert torch.equal(padded.images[:, :, 2:-2, 2:-2], native.images)
    assert padded.images.sum() == native.images.sum() - 5 * (32**2 - 28**2)
    assert padded.labels.tolist() == [0, 1, 2, 3, 4]
    assert load_data("fashion-mnist", image_size=14, channels=3).image_shape == (3, 14, 14)


def test_fashion_mnist_missing_or_damaged(idx_folder, tmp_path, monkeypatch):
    monkeypatch.setenv(FASHION_MNIST_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(InvalidInput, match="apt-get install dataset-fashion-mnist") as caught:
        load_data("fashion-mnist")
    assert one_line(str(caught.value).replace(str(tmp_path), ""))
    folder, _ = idx_folder
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    negative = bytes([0, 0, 8, 3]) + np.array([-1, 28, 28], dtype=">i4").tobytes() + bytes(784)
    flipped = whole[:20] + bytes([whole[20] ^ 255]) + whole[21:]
    zero = bytes([0, 0, 8, 3]) + np.array([9, 0, 28], dtype=">i4").tobytes()
    for content in (whole[:200], flipped, *map(gzip.compress, (negative, zero)), b"no gzip"):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match="damaged"):
            load_fashion_mnist(LoadOptions(), folder)
    path.write_bytes(whole)
    _write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(3, dtype=np.uint8))
    with pytest.raises(InvalidInput, match="5 images but 3 labels"):
        load_fashion_mnist(LoadOptions(), folder)


def test_fashion_mnist_of_debian():
    try:
        data = load_data("fashion-mnist", split="test", image_size=28)
    except InvalidInput as fault:
        pytest.skip(str(fault))
    assert data.images.shape == (10000, 1, 28, 28)
    assert torch.bincount(data.labels).tolist() == [1000] * 10


def test_fingerprint_tells_the_content():
    a, b = load_data("digits", limit=50), load_data("digits", limit=50)
    assert a.fingerprint == b.fingerprint
    assert json.loads(json.dumps(a.how)) == a.how
    changed = a.images.clone()
    changed[49, 0, 7, 7] += 1e-3 if changed[49, 0, 7, 7] < 0 else -1e-3
    assert ImageData(changed, "digits").fingerprint != a.fingerprint
    assert ImageData(a.images.flatten(2)[:, :, None], "digits").fingerprint != a.fingerprint


def test_labels_have_a_fingerprint_of_their_own():
    a = load_data("digits", limit=50)
    same, bare = ImageData(a.images, "b", labels=a.labels.clone()), ImageData(a.images, "c")
    other = ImageData(a.images, "d", labels=a.labels.roll(1))
    assert same.identity == a.identity and bare.identity == a.identity | {"labels": None}
    assert other.fingerprint == a.fingerprint and other.identity != a.identity
    found = [x.change_since(a.how) for x in (same, bare, other, ImageData(-a.images, "e"))]
    assert found == [None, None, "labels", "images"]
    assert a.change_since(bare.how) is a.change_since({}) is None  # nothing is known of labels
    assert other.of_classes([3]).how["labels"] != other.how["labels"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.5])
def test_unusable_values_are_found_wherever_they_are(value):
    images = torch.zeros(5000, 1, 2, 2)
    images[4500, 0, 1, 0] = value
    with pytest.raises(InvalidInput, match="image 4500 of 5000"):
        ImageData(images, "made up")


def _numbered(count):
    return ImageData(torch.linspace(-1, 1, count).reshape(count, 1, 1, 1), "numbered")


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 12), batch_size=st.integers(1, 20), draws=st.integers(1, 12))
def test_no_image_is_ever_ahead_by_more_than_one(count, batch_size, draws):
    stream = _numbered(count).batches(batch_size, _seeded(0))
    seen = torch.zeros(count, dtype=torch.int64)
    for _ in range(draws):
        x_0 = next(stream)
        assert x_0.shape == (batch_size, 1, 1, 1)
        assert torch.equal(x_0, stream.data.images[stream.indices])
        seen += torch.bincount(stream.indices, minlength=count)
        assert seen.max() - seen.min() <= 1


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(1, 9),
    batch_size=st.integers(1, 12),
    before=st.integers(0, 5),
    flip=st.booleans(),
)
def test_a_resumed_stream_is_the_uninterrupted_one(count, batch_size, before, flip):
    images = torch.rand(count, 1, 2, 3, generator=_seeded(5)) * 2 - 1
    data = ImageData(images, "random")
    stream = data.batches(batch_size, _seeded(1), horizontal_flip=flip)
    for _ in range(before):
        next(stream)
    state = stream.state_dict()
    expected = [next(stream) for _ in range(5)]
    resumed = data.batches(batch_size, _seeded(99), horizontal_flip=flip)
    resumed.load_state_dict(state)
    assert all(torch.equal(next(resumed), x_0) for x_0 in expected)
    assert resumed.epoch == stream.epoch


def test_the_state_survives_a_file(tmp_path):
    data = _numbered(7)
    stream = data.batches(4, _seeded(2))
    next(stream)
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    resumed = data.batches(4, _seeded(3))
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(next(resumed), next(stream))


def test_other_data_cannot_be_resumed():
    state = _numbered(7).batches(4, _seeded(2)).state_dict()
    with pytest.raises(InvalidInput, match="has changed"):
        _numbered(8).batches(4, _seeded(2)).load_state_dict(state)


def test_epochs_are_reshuffled_and_flips_drawn_anew():
    data = ImageData(torch.tensor([-1.0, 1.0]).repeat(50, 1)[:, None, None], "edges")
    stream = data.batches(50, _seeded(0), horizontal_flip=True)
    orders, flips = [], []
    for _ in range(40):
        flips.append(next(stream)[:, 0, 0, 0].add(1).div(2)[stream.indices.argsort()])
        orders.append(stream.indices)
    assert not torch.equal(orders[0], orders[1])
    mean = torch.stack(flips).mean(0)  # of each image, over the epochs
    assert abs(mean.mean() - 0.5) < 0.04
    assert 0.1 < mean.min() <= mean.max() < 0.9
    still = data.batches(50, _seeded(0))
    assert (next(still)[:, 0, 0, 0] == -1).all()


def test_no_global_random_state():
    before = torch.get_rng_state()
    next(_numbered(5).batches(3, _seeded(0), horizontal_flip=True))
    assert torch.equal(before, torch.get_rng_state())


def test_batch_size_must_be_positive():
    with pytest.raises(InvalidInput, match="batch size"):
        _numbered(3).batches(0, _seeded(0))
