"""Streams in blocks: every image once an epoch, whoever reads it, and resumed exactly."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from undrift.data.load import load_data
from undrift.exceptions import InvalidInput
from undrift.processes import Processes

datasets = pytest.importorskip("datasets")
COUNT = 13


def rows(values, labels):
    """A dataset of gray images, each of one value."""
    kind = datasets.ClassLabel(names=[str(i) for i in range(256)])
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    pictures = [Image.fromarray(np.full((2, 2), v, dtype=np.uint8)) for v in values]
    return datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two shards of parquet: the i-th of 13 images has label i and value 10 i + 100."""
    datasets.disable_progress_bars()
    found = tmp_path_factory.mktemp("shards")
    for shard, labels in enumerate((range(7), range(7, COUNT))):
        part = rows([10 * i + 100 for i in labels], list(labels))
        part.to_parquet(str(found / f"train-{shard:05}-of-00002.parquet"))
    return found


def batches(data, batch_size, process=(0, 1), seed=0):
    return data.batches(batch_size, torch.Generator().manual_seed(seed), False, Processes(*process))


def value(label):
    """What the pixels of an image with this label are."""
    return (10 * label.float() + 100) / 127.5 - 1


def test_a_data_set_is_known_by_the_first_block_of_its_stream(folder):
    part, whole = load_data(folder, streaming=5), load_data(folder)
    assert torch.equal(part.images, whole.images[:5]) and torch.equal(part.labels, whole.labels[:5])
    assert part.how["streaming"] == 5 and part.how["classes"] == whole.how["classes"]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_processes_see_every_image_once_an_epoch_with_its_label(folder, count, size):
    """Two have a shard each, three every third image; a batch crosses blocks and epochs."""
    data, seen = load_data(folder, streaming=size), []
    for index in range(count):
        stream, own = batches(data, count, (index, count)), []
        shown = [range(7), range(7, COUNT)][index] if count == 2 else range(index, COUNT, count)
        for epoch in range(3):
            for _ in shown:
                x_0 = next(stream)
                torch.testing.assert_close(x_0[:, 0, 0, 0], value(stream.labels))
                own.append(int(stream.labels))
            assert sorted(own[epoch * len(shown) :]) == list(shown)
            assert stream.epoch == epoch
        seen += own[: len(shown)]
        assert size == 1 or own[: len(shown)] != own[len(shown) : 2 * len(shown)]
    assert sorted(seen) == list(range(COUNT))


@pytest.mark.parametrize("process", [(0, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("before", [0, 1, 2, 3, 5, 6, 9])
def test_a_resumed_stream_is_the_uninterrupted_one(folder, tmp_path, process, before):
    data = load_data(folder, streaming=4)
    stream = data.batches(5, torch.Generator().manual_seed(1), True, Processes(*process))
    list(islice(stream, before))
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    expected = list(islice(stream, 6))
    again = data.batches(5, torch.Generator().manual_seed(9), True, Processes(*process))
    list(islice(again, 2))
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(expected, islice(again, 6), strict=True))
    assert again.epoch == stream.epoch and torch.equal(again.labels, stream.labels)


def test_other_images_cannot_be_resumed(folder):
    stream = batches(load_data(folder, streaming=4), 3)
    next(stream)
    values, labels = [10 * i + 100 for i in range(COUNT)], list(range(COUNT))
    for kind, own in (("images", ([3] * COUNT, labels)), ("labels", (values, labels[::-1]))):
        other = load_data(rows(*own).to_iterable_dataset(), streaming=4)
        message = rf"has changed since the run was saved \(other {kind}\)"
        with pytest.raises(InvalidInput, match=message):
            batches(other, 3).load_state_dict(stream.state_dict())


def test_all_blocks_are_scaled_as_the_first():
    """Alone, values of 0 and 1 are those of a mask."""
    stream = rows([255, 0, 1, 0], [0, 1, 2, 3]).to_iterable_dataset()
    seen = torch.cat(list(islice(batches(load_data(stream, streaming=2), 2), 2)))
    expected = torch.tensor([-1, -1, -1 + 2 / 255, 1])
    torch.testing.assert_close(seen[:, 0, 0, 0].sort().values, expected)
    masks = rows([1, 0, 200, 0], [0, 1, 2, 3]).to_iterable_dataset()
    late = batches(load_data(masks, streaming=2), 2)
    next(late)
    with pytest.raises(
        InvalidInput, match=r"up to 200 come after .*as 0\.\.1: give a larger --str"
    ):
        next(late)


def test_what_cannot_be_streamed_is_one_line(folder):
    def broken():
        yield {"image": None}

    late = [Image.new("L", (2, 2)), Image.new("L", (3, 3))]
    shapes = datasets.Dataset.from_dict(
        {"image": late}, features=datasets.Features({"image": datasets.Image()})
    )
    cases = {
        "only Hugging Face datasets are streamed": lambda: load_data("digits", streaming=3),
        "streaming is 0: choose at least 1": lambda: load_data(folder, streaming=0),
        "limit and streaming exclude": lambda: load_data(folder, streaming=3, limit=2),
        "does not say its columns": lambda: load_data(
            datasets.IterableDataset.from_generator(broken), streaming=2
        ),
        "has no image for process 20 of 20: start fewer": lambda: next(
            batches(load_data(folder, streaming=2), 20, (19, 20))
        ),
        r"shape \(1, 3, 3\) after others of \(1, 2, 2\): give --image-size": lambda: list(
            islice(batches(load_data(shapes, streaming=1), 1), 2)
        ),
    }
    for words, work in cases.items():
        with pytest.raises(InvalidInput, match=words) as refused:
            work()
        assert "\n" not in str(refused.value)
