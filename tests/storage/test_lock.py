"""One writer for each place: a second one is refused, a dead one holds nothing."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from undrift.exceptions import InvalidInput
from undrift.storage.lock import locked
from undrift.storage.writing import written

HOLD = """
import sys, time
from undrift.storage.lock import locked
with locked(sys.argv[1], inside=sys.argv[2] == "inside"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of a path until it is killed."""
    running = []

    def hold(path, where):
        command = [sys.executable, "-c", HOLD, str(path), where]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout.readline() == "held\n"
        return running[-1]

    yield hold
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_a_second_process_is_refused_until_the_first_is_dead(where, tmp_path, holder):
    inside = where == "inside"
    path = tmp_path / ("x" * 255 if not inside else "folder")
    if inside:
        path.mkdir()
    first = holder(path, where)
    refused = pytest.raises(InvalidInput, match="another process of undrift is writing")
    with refused, locked(path, inside=inside):
        pass
    with locked(tmp_path / "other"):  # another place is free
        pass
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with locked(path, inside=inside):
        pass
    assert os.listdir(tmp_path) == (["folder"] if inside else [])
    assert not inside or not os.listdir(path)


def test_who_holds_a_file_deletes_what_the_killed_have_left_of_it_and_of_no_other(tmp_path):
    left = {}
    for name in ("mine.json", "other.json"):
        with written(tmp_path / name) as part:
            left[name] = part.name
            part.touch()
        (tmp_path / name).rename(tmp_path / part.name)  # as if killed before the rename
    with locked(tmp_path / "mine.json"):
        assert sorted(path.name for path in tmp_path.glob("*.part")) == [left["other.json"]]


def test_a_holder_refuses_itself_and_releases_after_an_error(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "file"):
        with pytest.raises(InvalidInput), locked(tmp_path / "file"):
            pass
        raise KeyError
    with locked(tmp_path / "file"):
        pass


def test_those_who_wait_come_one_after_the_other(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(20):
            with locked(tmp_path / "file", wait=True):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80 and not os.listdir(tmp_path)
