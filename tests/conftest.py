"""What every test may rely on: one thread, no window, no network, the same initial weights."""

import os
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")


@pytest.fixture(autouse=True)
def same_initial_weights():
    """torch initializes networks from its global generator: no test depends on the one before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a run in it, and a cache of its own."""
    from commands import write_run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDRIFT_CACHE", str(tmp_path / "cache"))
    write_run(tmp_path / "run")
    return tmp_path
