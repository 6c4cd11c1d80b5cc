"""Several processes share a command: the results of one, written and printed once."""

import json
import os
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch

from commands import write_run
from undrift.api import launch
from undrift.cli import main

OPTIONS = ["--quiet", "--json", "--batch-size", "16"]
MEASURE = ["--num-samples", "51", "--states", "4", "--modular", "--num-modular", "9"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


def commands(run, folder):
    """What each process runs, by name."""
    last = [*OPTIONS, "--output", str(folder)]
    return {
        "measure": ["measure", str(run), *MEASURE, *last[:-1], f"{last[-1]}/profile.json"],
        "evaluate": [
            "evaluate", str(run), "--num-samples", "33", "--features", "pixels",
            *last[:-1], f"{last[-1]}/scores.json",
        ],
        "sample": ["sample", str(run), "--num-images", "3", "--json", *last[-2:-1],
                   f"{last[-1]}/images"],
    }  # fmt: skip


def output(command):
    """The exit code and what is printed."""
    with redirect_stdout(StringIO()) as printed:
        code = main(command)
    return code, printed.getvalue()


def in_each_process(run, folder):
    from accelerate import PartialState
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    launch.leave = lambda: None  # the processes meet only once
    rank = str(PartialState(cpu=True).process_index)
    launched = {"RANK": rank, "WORLD_SIZE": "2"}
    for name, command in commands(run, folder).items():
        os.environ |= launched
        code, printed = output(command)
        (folder / f"{name}-{rank}.json").write_text(json.dumps([code, printed]))


def numbers(value, skipped=("seconds", "command", "saved", "created", "processes", "output")):
    """All numbers of a record, in order, and how many there are."""
    if isinstance(value, dict):
        kept = sorted(key for key in value if key not in skipped)
        return [x for key in kept for x in numbers(value[key])]
    if isinstance(value, list):
        return [x for each in value for x in numbers(each)]
    return [float(value)] if isinstance(value, (int, float)) else []


def test_two_processes_give_the_record_of_one_and_print_it_once(run, tmp_path):
    from accelerate import debug_launcher

    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    debug_launcher(in_each_process, (run, two), num_processes=2)
    for name, command in commands(run, one).items():
        (code, printed), other = (
            json.loads((two / f"{name}-{rank}.json").read_text()) for rank in (0, 1)
        )
        assert code == 0 and other == [0, ""], name
        record, alone = json.loads(printed), json.loads(output(command)[1])
        found, expected = (torch.tensor(numbers(each)) for each in (record, alone))
        assert len(found) > (150 if name == "measure" else 5)
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5)
    assert json.loads((two / "measure-0.json").read_text())[1].count("schema_version") >= 1
    assert sorted(path.name for path in two.iterdir() if path.suffix != ".json") == ["images"]
    profile = json.loads((two / "profile.json").read_text())
    assert profile["how"]["processes"] == 2
