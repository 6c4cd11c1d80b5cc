"""What commands write: one writer for each place, never over what is not theirs, or nothing."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from commands import FEW, complaint, files, result
from undrift import cli
from undrift.api.tune import tune
from undrift.diffusion.pipelines import load_pipeline, sampler_by_name
from undrift.remedies.registry import apply_remedy, parse
from undrift.reporting.page import is_page
from undrift.storage.lock import locked

RUN = [sys.executable, "-m", "undrift"]
NOTES = "my notes on undrift.report"


@pytest.fixture
def profile(place):
    assert cli.main(["measure", "run", *FEW, "--output", "profile.json"]) == 0
    return place / "profile.json"


def test_the_next_command_of_a_search_is_for_its_chain_and_data(place, capsys, monkeypatch):
    remedy = parse("epsilon_scaling:1.01")
    monkeypatch.setattr("undrift.remedies.search.Tuning.helps", True)
    monkeypatch.setattr(
        "undrift.api.tune.tune", lambda *a, **options: replace(tune(*a, **options), remedy=remedy)
    )
    chain = ["--sampler", "ddim", "--num-inference-steps", "3", "--eta=0.5"]
    search = ["--values", "1.01", "--refine", "0", "--num-samples", "40", "--features", "pixels"]
    argv = ["tune", "run", "--remedy", "epsilon_scaling", *chain, "--data", "digits", *search]
    assert cli.main(argv) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("next "))
    words = shlex.split(line)[1:]
    found = result(capsys, *words[1:], "--num-samples", "24", "--features", "pixels", "--quiet")
    expected = apply_remedy(sampler_by_name(load_pipeline("run"), "ddim", 3, 0.5), remedy)
    assert words[:3] == ["undrift", "evaluate", "run"] and "digits" in words
    assert found["how"]["sampler"] == expected.describe()


@pytest.mark.parametrize("path", ["it.json", "a/b/it.json"])
@pytest.mark.parametrize("command", ["measure run", "evaluate run", "sample run", "tune run"])
def test_a_place_that_another_process_writes_is_refused(command, path, place, capfd):
    argv = [*command.split(), *(["--remedy", "epsilon-scaling"] if "tune" in command else [])]
    (place / path).parent.mkdir(parents=True, exist_ok=True)
    with locked(place / path):
        err = complaint(capfd, place, *argv, "--output", path)
    assert "another process of undrift is writing" in err


def test_a_page_that_another_process_writes_is_refused(profile, place, capfd):
    with locked(place / "page.html"):
        err = complaint(capfd, place, "report", profile, "--output", "page.html")
    assert "another process of undrift is writing" in err


@pytest.mark.parametrize("name", ["notes.html", "notes.md", "page.html"])
@pytest.mark.parametrize(
    "content",
    [
        NOTES,
        f"<!DOCTYPE html><html><head><title>{NOTES}</title></head></html>",
        "<!DOCTYPE html>" + " " * 2000 + '<meta name="generator" content="undrift.report">',
        'about <meta name="generator" content="undrift.report">',
    ],
)
def test_a_file_that_only_speaks_of_reports_is_kept(name, content, profile, place, capfd):
    (place / name).write_text(content)
    assert "is no report" in complaint(capfd, place, "report", profile, "--output", name)
    assert "is no report" in complaint(capfd, place, "theory", "--output", name)


def test_every_page_says_what_it_is_and_is_replaced(profile, place):
    for command in (["report", str(profile)], ["theory", "--num-chains", "3"]):
        for _ in range(2):
            assert cli.main([*command, "--output", "page.html", "--quiet"]) == 0
            assert is_page(place / "page.html")


def test_a_failed_command_leaves_no_folders(place, capfd):
    argv = ["measure", "run", "--num-samples", "0", "--output", "a/b/it.json"]
    assert "num-samples" in complaint(capfd, place, *argv)
    assert not (place / "a").exists()


@pytest.mark.parametrize("command", ["measure run", "sample run", "report profile.json"])
def test_a_name_that_is_too_long_is_refused_before_the_work(command, profile, place, capfd):
    err = complaint(capfd, place, *command.split(), "--output", "x" * 300)
    assert "File name too long" in err


def test_a_long_label_is_cut_in_the_name_of_the_file(place):
    assert cli.main(["measure", "run", *FEW, "--label", "é" * 300]) == 0
    assert [len(os.fsencode(p.name)) for p in (place / "run" / "profiles").iterdir()] == [109]


def test_a_closed_stdout_is_refused_before_the_work(place):
    before = files(place)
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *RUN, "measure", "run", *FEW]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "stdout is closed" in done.stderr
    assert done.stderr.count("\n") == 1 and files(place) == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
@pytest.mark.parametrize("argv", [["--help"], ["theory", "--num-chains", "2", "--json"]])
def test_a_full_stdout_is_one_line(argv):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*RUN, *argv], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "stdout: No space left on device" in done.stderr


def test_messages_never_land_among_the_results(place):
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *RUN, "measure", "nowhere"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 2 and not done.stdout
