"""Data in memory: the values of tensors as they are, pictures scaled, faults named."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from undrift.data.images import ImageData
from undrift.data.load import load_data, load_tensor
from undrift.exceptions import InvalidInput

IMAGES = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
LABELS = torch.arange(7)


class Dicts(Dataset):
    """Seven items under names, as many training scripts have them."""

    def __len__(self):
        return 7

    def __getitem__(self, i):
        return {"labels": i, "pixel_values": IMAGES[i]}


SOURCES = {
    "tensor": IMAGES,
    "array": IMAGES.numpy(),
    "big-endian array": IMAGES.numpy().astype(">f4"),
    "ImageData": ImageData(IMAGES, "made up"),
    "loader of tensors": DataLoader(IMAGES, batch_size=3),
    "loader of tuples": DataLoader(TensorDataset(IMAGES, LABELS), batch_size=3),
    "loader of dicts": DataLoader(Dicts(), batch_size=3),
    "loader without batches": DataLoader(TensorDataset(IMAGES, LABELS), batch_size=None),
    "dataset": TensorDataset(IMAGES, LABELS),
    "list": list(IMAGES),
    "list of arrays": [image.numpy() for image in IMAGES],
    "list of pairs": list(zip(IMAGES, LABELS.tolist(), strict=True)),
    "mapping": {"labels": LABELS, "images": IMAGES},
    "numbers": IMAGES.tolist(),
}


@pytest.mark.parametrize("name", SOURCES)
def test_values_are_taken_as_they_are(name):
    x, how = load_tensor(SOURCES[name])
    assert torch.equal(x, IMAGES)
    assert how["shape"] == [7, 1, 4, 4]
    assert how["fingerprint"] == ImageData(IMAGES, "made up").fingerprint


@pytest.mark.parametrize("name", SOURCES)
def test_images_are_read_by_their_range(name):
    data = load_data(SOURCES[name])
    assert torch.equal(data.images, IMAGES)
    if name != "ImageData":
        assert data.how["scaling"] == "read as -1..1"


def test_data_that_are_no_images_keep_shape_and_range():
    vectors = torch.tensor([[300, -7], [0, 2]])
    x, how = load_tensor(vectors)
    assert torch.equal(x, vectors.float()) and how["shape"] == [2, 2]
    with pytest.raises(InvalidInput, match="is none of"):
        load_data(vectors)


def test_pictures_are_scaled_and_fitted():
    values = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)
    pictures = [Image.fromarray(v) for v in values]
    expected = torch.from_numpy(values).permute(0, 3, 1, 2) / 127.5 - 1
    for source in (pictures, list(zip(pictures, range(3), strict=True))):
        torch.testing.assert_close(load_data(source).images, expected)
        torch.testing.assert_close(load_tensor(source)[0], expected)
    assert load_tensor(pictures, image_size=4, channels=1)[0].shape == (3, 1, 4, 4)
    assert pictures[0].getpixel((0, 0)) == tuple(values[0, 0, 0])  # still open


def test_a_dataset_of_hugging_face():
    hub = pytest.importorskip("datasets")
    values = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)
    expected = torch.from_numpy(values).permute(0, 3, 1, 2) / 127.5 - 1
    content = {"image": [Image.fromarray(v) for v in values], "label": [2, 1, 0]}
    rows = hub.Dataset.from_dict(content, features=hub.Features(
        {"image": hub.Image(), "label": hub.Value("int64")}
    ))  # fmt: skip
    for source in (rows, hub.DatasetDict({"train": rows}), list(rows)):
        torch.testing.assert_close(load_tensor(source)[0], expected)
    assert load_data(rows).labels.tolist() == [2, 1, 0]
    with pytest.raises(InvalidInput, match="no split 'test': choose train"):
        load_data(hub.DatasetDict({"train": rows}), split="test")
    with pytest.raises(InvalidInput, match="is a streaming dataset: give load_data"):
        load_tensor(rows.to_iterable_dataset())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "cannot use a NoneType as data: give a name, a folder"),
        (object(), "cannot use a object as data"),
        (3.5, "cannot use a float as data"),
        (len, "cannot use a builtin_function_or_method as data"),
        ((x for x in IMAGES), "cannot use a generator as data"),
        (torch.tensor(1.0), r"and shape \(\) as data"),
        (torch.zeros(2, 2, dtype=torch.complex64), "complex64"),
        (np.array(["a"]), "cannot use a ndarray as data"),
        (np.array([{}, None]), "cannot use a ndarray as data"),
        ([], "the data are empty"),
        (torch.zeros(0, 2), "the data are empty"),
        ({}, "the data have no images"),
        ([{"text": 1}], "the data have text, but no images"),
        ([IMAGES[0], None], "cannot use a NoneType as data"),
        ([IMAGES[0], IMAGES[0, 0]], r"differ in shape \(\(1, 4, 4\) and \(4, 4\)\)"),
        (["a.png", "b.png"], "cannot use a str as data"),
        ([Image.new("L", (4, 4)), Image.new("L", (5, 5))], "differ in size"),
        ("digitz", "unknown data 'digitz'"),
    ],
)
def test_anything_else_is_refused_in_one_line(source, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        load_tensor(source)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
