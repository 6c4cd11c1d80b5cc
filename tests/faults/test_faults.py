"""A few of the trials of `make test-faults`: a run that is struck goes on to the same result."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="trials fork, on Linux")
def test_a_run_that_is_struck_goes_on_to_the_same_result():
    trials = Path(__file__).with_name("trials.py")
    argv = [sys.executable, str(trials), "--only=train", "--kills=1", "--terms=1", "--every=80"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = ("SIGKILL", "SIGTERM", "crash", "full")
    assert all(f"'{kind}': " in done.stdout for kind in kinds), done.stdout
