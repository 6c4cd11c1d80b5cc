"""Files appear complete or not at all: closed forms of what is on the disk after each failure."""

import errno
import os
import resource

import pytest
import torch
from safetensors.torch import save_file

from undrift.data.grids import image_grid, write_png
from undrift.measurement.reading import write_json
from undrift.reporting.page import write_page
from undrift.storage import writing
from undrift.storage.writing import appearing, sweep, written

CONTENTS = {name: torch.randn(10_000) for name in ("first", "second")}
WRITERS = {
    "bytes": lambda part: part.write_bytes(bytes(80_000)),
    "torch": lambda part: torch.save(CONTENTS, part.open("wb")),
    "safetensors": lambda part: save_file(CONTENTS, part),
}


@pytest.fixture
def small_disk():
    """No file may grow beyond 20,000 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("old", [None, "mine"])
def test_a_full_disk_leaves_what_was_there(write, old, tmp_path, small_disk):
    path = tmp_path / "file"
    if old:
        path.write_text(old)
    with pytest.raises(OSError) as failed, written(path) as part:
        write(part)
    assert (failed.value.errno, failed.value.filename) == (errno.EFBIG, str(path))
    assert (path.read_text() if old else None) == old
    assert [p.name for p in tmp_path.iterdir()] == (["file"] if old else [])


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_the_folder_that_was_there(write, tmp_path, small_disk):
    path = tmp_path / "folder"
    with appearing(path) as part:
        (part / "old").write_text("mine")
    with pytest.raises(OSError) as failed, appearing(path) as part:
        (part / "new").write_text("first")
        write(part / "large")
    assert (failed.value.errno, failed.value.filename) == (errno.EFBIG, str(path))
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["folder", "folder/old"]


@pytest.fixture
def operations(monkeypatch):
    """What is brought to the disk, and each rename that succeeds, in order."""
    done, rename = [], writing.Path.replace

    def replace(source, target):
        rename(source, target)
        done.append("rename")

    def fsync(handle):
        done.append(os.readlink(f"/proc/self/fd/{handle}"))

    monkeypatch.setattr(writing.os, "fsync", fsync)
    monkeypatch.setattr(writing.Path, "replace", replace)
    return done


def test_the_content_is_on_the_disk_before_the_name(tmp_path, operations):
    with written(tmp_path / "file") as part:
        part.write_text("new")
    assert operations == [str(part), "rename", str(tmp_path)]
    operations.clear()
    with appearing(tmp_path / "folder") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("new")
    contents = {str(part), str(part / "inner"), str(part / "inner" / "file")}
    assert set(operations[:3]) == contents and operations[3:] == ["rename", str(tmp_path)]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "it.json"])
def test_every_name_that_the_system_takes_can_be_written(name, tmp_path):
    write_json(tmp_path / name, {"a": 1})
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path, {}),
        lambda path: write_page(path, "page"),
        lambda path: write_png(image_grid(torch.zeros(1, 1, 8, 8)), path),
    ],
)
def test_a_name_that_is_too_long_is_an_error_that_names_it(write, tmp_path):
    path = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="File name too long") as failed:
        write(path)
    assert failed.value.filename == str(path) and not os.listdir(tmp_path)


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (KeyError("x"), ValueError("x"), RuntimeError("x")):
        with pytest.raises(type(error)) as raised, written(tmp_path / "file") as part:
            part.write_text("begun")
            raise error
        assert raised.value is error and not os.listdir(tmp_path)


def test_what_killed_processes_leave_is_swept(tmp_path):
    (tmp_path / ".12-ab.part").write_text("torn")
    (tmp_path / ".step-1.new.part").mkdir()
    (tmp_path / ".step-1.new.part" / "torn").write_text("torn")
    (tmp_path / "mine.part").write_text("mine")
    sweep(tmp_path, tmp_path / "nowhere")
    assert os.listdir(tmp_path) == ["mine.part"]
