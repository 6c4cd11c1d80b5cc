"""A study that was killed loses no more than a checkpoint interval, and its workers end with it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from undrift.cli import main
from undrift.study.jobs import Job
from undrift.study.progress import StudyProgress, last_row

PLAN = {
    "base": {
        "steps": 120,
        "batch_size": 8,
        "checkpoint_every": 4,
        "sample_every": 0,
        "log_every": 1,
        "chain": {"num_steps": 6},
        "model": {"block_out_channels": [8]},
    },
    "methods": {"plain": {"method": "plain"}},
    "steps": 4,
    "num_samples": 8,
    "workers": 2,
}


def processes_of(parent):
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            children.append(int(stat.parent.name))
    return children


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes from /proc")
def test_a_killed_study_resumes_from_its_last_checkpoint(tmp_path):
    plan, folder = tmp_path / "plan.yaml", tmp_path / "study"
    plan.write_text(yaml.safe_dump(PLAN))
    command = [sys.executable, "-m", "undrift", "compare", str(plan), "--output", str(folder)]
    base = folder / "seed-0" / "base"
    study = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not list(base.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        assert study.poll() is None
        time.sleep(0.05)
    workers = processes_of(study.pid)
    os.kill(study.pid, signal.SIGKILL)
    study.wait()
    assert workers
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, workers))

    logged = last_row(base)["step"]
    kept = max(int(path.name.split("-")[1]) for path in base.glob("checkpoints/step-*"))
    assert 0 < logged - 4 <= kept < 120
    times = [json.loads(line)["step"] for line in (base / "log.jsonl").read_text().splitlines()]
    first = (base / "versions.json").stat().st_mtime_ns

    assert main(["compare", str(plan), "--output", str(folder), "--workers", "1", "--quiet"]) == 0
    assert (base / "versions.json").stat().st_mtime_ns == first  # the same run, not a new one
    assert not list(folder.glob("seed-0/*.stopped-*"))
    again = [json.loads(line)["step"] for line in (base / "log.jsonl").read_text().splitlines()]
    assert again == list(range(1, 121)) and times[:kept] == again[:kept]
    found = json.loads((folder / "study.json").read_text())
    assert found["is_complete"] and len(found["rows"]) == 1
    assert (folder / "report.html").is_file()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes from /proc")
@pytest.mark.parametrize("struck", ["study", "worker", "killed worker"])
def test_workers_that_are_asked_to_stop_save_their_runs(struck, tmp_path):
    plan, folder = tmp_path / "plan.yaml", tmp_path / "study"
    plan.write_text(yaml.safe_dump(PLAN))
    command = [sys.executable, "-m", "undrift", "compare", str(plan), "--output", str(folder)]
    base = folder / "seed-0" / "base"
    study = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(base.glob("checkpoints/step-*")):
        assert study.poll() is None
        time.sleep(0.05)
    writes = Path("/proc/locks").read_text()
    inode = str((base / ".lock").stat().st_ino)
    (line,) = [line.split() for line in writes.splitlines() if f":{inode} " in line]
    worker = int(line[4])
    assert worker != study.pid
    number = signal.SIGKILL if struck == "killed worker" else signal.SIGTERM
    os.kill(study.pid if struck == "study" else worker, number)
    told = study.communicate(timeout=600)[1]
    assert "Traceback" not in told
    if struck == "killed worker":
        assert study.returncode == 2 and "a worker process was killed" in told
    else:
        assert study.returncode == 143 and "go on with: undrift compare" in told
        kept = max(int(path.name.split("-")[1]) for path in base.glob("checkpoints/step-*"))
        assert kept == last_row(base)["step"] < 120
    assert main(["compare", str(plan), "--output", str(folder), "--workers", "1", "--quiet"]) == 0
    rows = [json.loads(line)["step"] for line in (base / "log.jsonl").read_text().splitlines()]
    assert rows == list(range(1, 121))


def test_no_second_study_works_in_the_same_folder(tmp_path, capsys):
    fcntl = pytest.importorskip("fcntl")
    plan, folder = tmp_path / "plan.yaml", tmp_path / "study"
    plan.write_text(yaml.safe_dump(PLAN | {"workers": 1}))
    folder.mkdir()
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(["compare", str(plan), "--output", str(folder), "--quiet"]) == 2
    assert "another process of undrift is writing" in capsys.readouterr().err
    assert not (folder / "seed-0").exists()


def test_the_progress_counts_the_steps_that_runs_have_logged(tmp_path):
    from undrift.study.config import StudyConfig
    from undrift.training.config import MethodConfig, TrainConfig

    methods = {"plain": MethodConfig(), "dream": MethodConfig("dream")}
    config = StudyConfig(TrainConfig(steps=300), methods, steps=100)
    with StudyProgress(config, tmp_path, show=False) as progress:
        moved, details = [], []

        def tick(amount, detail=""):
            moved.append(amount)
            details.append(detail)

        progress._tick = tick
        assert sum(progress.planned.values()) == 500
        run = tmp_path / "seed-0" / "base"
        run.mkdir(parents=True)
        base = Job(0, "branched", None)
        progress.start(base, 300)
        (run / "log.jsonl").write_text('{"step": 10}\n{"step": 150, "loss": 0.25}\n{"st')
        progress.refresh()
        assert sum(moved) == pytest.approx(150)
        assert details[-1] == "base, seed 0 at step 150, loss 0.25"
        progress.finish(base)
        assert sum(moved) == pytest.approx(300)
