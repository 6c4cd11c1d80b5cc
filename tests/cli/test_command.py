"""The command line: what it accepts, what it prints where, and how it fails."""

import json
import logging
import math
import os
import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import undrift
from undrift import cli
from undrift.api.configuration import build, named
from undrift.api.options import options
from undrift.cli.command import session
from undrift.cli.result import to_yaml
from undrift.exceptions import InvalidInput


@dataclass
class Strength:
    """How strong.

    Arguments:
        weight: Weight :math:`w_t` of the term.
        every_k_steps: How often.
        decay: Whether it gets weaker.
    """

    weight: float = 1.0
    every_k_steps: int = 1
    decay: bool = False


@dataclass
class Config:
    """Measure a thing.

    Arguments:
        run: Folder of the run.
        rest: More folders.
        num_samples: How many, 100% of them.
        states: Which states.
        variant: Which variant.
        times: Which times.
        pair: Two numbers.
        label: What to call it.
        out: Where to write.
        strength: The term.
        fail: How to fail.
    """

    run: str
    rest: list[str] = field(default_factory=list)
    num_samples: int = 2000
    states: int | Literal["all"] | list[int] = "all"
    variant: Literal["full", "truncated"] = "full"
    times: list[int] = field(default_factory=list)
    pair: tuple[float, float] = (0.0, 1.0)
    label: str | None = None
    out: Path = Path("out")
    strength: Strength = field(default_factory=lambda: Strength(weight=3.0))
    fail: str = ""

    def __post_init__(self):
        if self.num_samples < 2:
            raise InvalidInput("--num-samples must be at least 2")


FAILURES = {
    "input": InvalidInput("the data\nare bad:\n  do this"),
    "option": InvalidInput("num_samples is 3: at least 4, unless a/num_samples is there"),
    "word": InvalidInput("times is 0: at least 1, and times are positive"),
    "file": FileNotFoundError(2, "No such file or directory", "nowhere/model"),
    "folder": IsADirectoryError(21, "Is a directory", "somewhere"),
    "rights": PermissionError(13, "Permission denied", "secret"),
    "interrupt": KeyboardInterrupt(),
    "bug": ZeroDivisionError("ours"),
}
SEEN = []


def run(config):
    SEEN.append((config, session()))
    if config.fail:
        raise FAILURES[config.fail]
    logging.getLogger("undrift").info("talking")
    logging.getLogger("undrift").warning("warning")
    print("for people")
    return {"value": 1.5, "nothing": math.nan, "list": [math.inf, 2], "path": Path("a")}


@pytest.fixture
def fake(monkeypatch):
    """A command ``fake`` in addition to the real ones."""
    module = types.ModuleType("undrift.cli.fake")
    module.Config, module.run, module.POSITIONALS = Config, run, ("run", "rest")
    monkeypatch.setitem(sys.modules, "undrift.cli.fake", module)
    monkeypatch.setattr(cli, "COMMANDS", {"fake": "a fake", "cite": "cite"})
    SEEN.clear()


def parsed(*argv):
    """The configuration that the command line gives."""
    assert cli.main(["fake", *argv, "--quiet", "--json"]) == 0
    return SEEN[-1][0]


def complaint(capsys, *argv):
    """The one line with which the command line is refused."""
    assert cli.main(["fake", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("undrift: error: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    return err


def python(code):
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


# -- what is accepted --------------------------------------------------------------------------


def test_defaults(fake):
    assert parsed("r") == Config("r")


@pytest.mark.parametrize(
    "argv",
    [
        ("r", "--num-samples", "7", "--strength.every-k-steps", "2"),
        ("--num-samples=7", "r", "--strength.every-k-steps=2"),
        ("--num_samples", "7", "--strength.every_k_steps", "2", "r"),
    ],
)
def test_hyphens_underscores_and_any_order(fake, argv):
    assert parsed(*argv) == Config("r", num_samples=7, strength=Strength(3.0, 2))


@pytest.mark.parametrize(
    ("text", "value"), [("8", 8), ("all", "all"), ("9,5,0", [9, 5, 0]), ("[9, 5]", [9, 5])]
)
def test_unions_of_numbers_words_and_lists(fake, text, value):
    assert parsed("r", "--states", text).states == value


def test_lists_tuples_switches_paths_and_null(fake):
    config = parsed(
        *("r", "a", "b", "--times", "3,2", "--pair", "1e-3,2", "--strength.decay"),
        *("--out", "x/y", "--label", "null"),
    )
    assert config.rest == ["a", "b"]
    assert config.times == [3, 2]
    assert config.pair == (0.001, 2.0)
    assert config.strength.decay is True
    assert config.out == Path("x/y")
    assert config.label is None
    assert parsed("r", "--no-strength.decay").strength.decay is False
    assert parsed("r", "--times", "4").times == [4]


def test_flags_override_yaml_overrides_defaults(fake, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("run: r\nnum_samples: 5\nlabel: a\nstrength: {weight: 1e-2}\n")
    config = parsed("--config", str(file), "--label", "b", "--strength.every-k-steps", "4")
    assert config == Config("r", num_samples=5, label="b", strength=Strength(0.01, 4))
    assert parsed("other", "--config", str(file)).run == "other"


def test_print_config_round_trip(fake, capsys, tmp_path):
    argv = ["fake", "r", "x", "--label", "3", "--states", "9,0", "--strength.weight", "1e-7"]
    assert cli.main([*argv, "--print-config"]) == 0
    file = tmp_path / "c.yaml"
    file.write_text(capsys.readouterr().out)
    assert cli.main(["fake", "--config", str(file), "--print-config"]) == 0
    assert capsys.readouterr().out == file.read_text()
    assert not SEEN, "--print-config must not run the command"
    expected = Config("r", ["x"], label="3", states=[9, 0], strength=Strength(1e-7))
    assert parsed("--config", str(file)) == expected


numbers = st.floats(allow_nan=False)
tricky = ["null", "~", "true", "on", "3", "1e3", "[a", "{a: 1}", "a: b", "- a", "#a", ".nan", "a,b"]
printable = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
texts = st.text(printable, max_size=8) | st.sampled_from(tricky)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.builds(
        Config,
        run=texts,
        rest=st.lists(texts, max_size=3),
        num_samples=st.integers(min_value=2),
        states=st.one_of(st.integers(), st.just("all"), st.lists(st.integers(), max_size=3)),
        variant=st.sampled_from(["full", "truncated"]),
        times=st.lists(st.integers(), max_size=3),
        pair=st.tuples(numbers, numbers),
        label=st.none() | texts.filter(lambda text: text != "null"),  # that one means None
        strength=st.builds(Strength, numbers, st.integers(), st.booleans()),
        fail=texts,
    )
)
def test_every_configuration_survives_its_yaml(config):
    values = yaml.safe_load(to_yaml(config))
    assert build(Config, dict(named(values, Config, "c.yaml"))) == config


# -- what is printed where ---------------------------------------------------------------------


def test_json_is_one_object_on_stdout_and_messages_are_on_stderr(fake, capsys):
    assert cli.main(["fake", "r", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out, parse_constant=pytest.fail) == {
        "value": 1.5,
        "nothing": None,
        "list": [None, 2],
        "path": "a",
        "config": yaml.safe_load(to_yaml(Config("r"))),
    }
    assert out.count("\n") == 1
    assert "for people" in err and "talking" in err


def test_results_are_on_stdout_and_quiet_silences_messages(fake, capsys):
    assert cli.main(["fake", "r"]) == 0
    assert capsys.readouterr() == ("for people\n", "talking\nwarning\n")
    assert cli.main(["fake", "r", "--quiet"]) == 0
    assert capsys.readouterr() == ("for people\n", "warning\n")
    assert not logging.getLogger("undrift").handlers


def test_the_session_knows_its_command_line(fake):
    parsed("a b", "--num_samples", "3")
    called = SEEN[-1][1]
    assert called.command == "undrift fake 'a b' --num_samples 3 --quiet --json"
    assert called.quiet and called.json
    assert session().command == "undrift"


def test_help_comes_from_the_docstrings(fake, capsys):
    assert cli.main(["fake", "--help"]) == 0
    text = capsys.readouterr().out
    for words in (
        "usage: undrift fake RUN [REST ...] [--option VALUE ...]",
        "Measure a thing.",
        "--num-samples INT",
        "How many, 100% of them [2000]",
        "--states INT|all|INT,...",
        "{full,truncated}",
        "Weight w_t of the term [3.0]",
        "--strength.decay, --no-strength.decay",
    ):
        assert words in text
    assert "num_samples" not in text


# -- how it fails ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "RUN is missing (Folder of the run)"),
        (("r", "--num-sample", "3"), "unknown option --num-sample, did you mean --num-samples?"),
        (("r", "--strength.wieght=3"), "did you mean --strength.weight?"),
        (("r", "--num-samples"), "--num-samples: expected one argument"),
        (("r", "--num-samples", "x"), "--num-samples: expected an integer, got 'x'"),
        (("r", "--num-samples", "2.5"), "--num-samples: expected an integer, got '2.5'"),
        (("r", "--num-samples", "1"), "--num-samples must be at least 2"),
        (("r", "--variant", "no"), "--variant: expected full or truncated, got 'no'"),
        (("r", "--states", "x"), "expected an integer, all or integers separated by commas"),
        (("r", "--pair", "1,2,3"), "--pair: expected 2 numbers separated by commas, got '1,2,3'"),
        (("r", "--strength.weight", "x"), "--strength.weight: expected a number, got 'x'"),
        (("r", "--config", "no/such.yaml"), "no/such.yaml: No such file or directory"),
        (("r", "--config", "."), ".: Is a directory"),
    ],
)
def test_bad_command_lines_are_refused_in_one_line(fake, capsys, argv, words):
    assert words in complaint(capsys, *argv)
    assert not SEEN


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run: r\nnum_sampels: 3\n", "unknown option num_sampels; did you mean num_samples?"),
        ("run: r\nstrength:\n  wait: 3\n", "unknown option strength.wait"),
        ("run: r\nstrength: 3\n", "strength is a section of options, not 3"),
        ("run: 3\n", "RUN: expected text, got 3"),
        ("run: [r\n", "is not YAML"),
        ("run: r\nrun: s\n", "the name 'run' is given twice"),
        ("- r\n", "holds no options"),
        ("", "RUN is missing"),
    ],
)
def test_bad_yaml_is_refused_in_one_line(fake, capsys, tmp_path, text, words):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert words in complaint(capsys, "--config", str(file))


def test_binary_yaml_is_refused_in_one_line(fake, capsys, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_bytes(b"\x89PNG\xff\x00")
    assert "is not YAML" in complaint(capsys, "--config", str(file))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("input", "the data are bad: do this"),
        ("option", "--num-samples is 3: at least 4, unless a/num_samples is there"),
        ("word", "--times is 0: at least 1, and times are positive"),
        ("file", "nowhere/model: No such file or directory"),
        ("folder", "somewhere: Is a directory"),
        ("rights", "secret: Permission denied"),
    ],
)
def test_input_that_cannot_be_used_is_refused_in_one_line(fake, capsys, how, words):
    assert words in complaint(capsys, "r", "--fail", how)


def test_interruption(fake, capsys):
    assert cli.main(["fake", "r", "--fail", "interrupt"]) == 130
    assert capsys.readouterr() == ("", "undrift: interrupted\n")


def test_bugs_keep_their_traceback(fake):
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake", "r", "--fail", "bug"])


def test_unknown_commands(fake, capsys):
    assert cli.main(["fkae"]) == 2
    assert capsys.readouterr().err == "undrift: error: unknown command 'fkae': did you mean fake?\n"
    assert cli.main(["--json"]) == 2
    assert cli.main(["command"]) == 2, "the adapter is no command"


def test_a_reader_that_goes_away():
    process = subprocess.Popen(
        [sys.executable, "-m", "undrift", "cite"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(undrift.__file__).parents[1])},
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


# -- the real commands -------------------------------------------------------------------------


def test_overview_and_version(capsys):
    assert cli.main([]) == cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"undrift {undrift.__version__}\n"


def test_overview_does_not_import_torch():
    loaded = python(
        "import sys; from undrift.cli import main; main(['--help']); "
        "print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    ).partition("LOADED")[2]
    assert not {"torch", "diffusers", "jsonargparse", "yaml", "rich"} & set(loaded.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_does_not_import_torch(name):
    loaded = python(
        f"import sys; from undrift.cli import main; assert main([{name!r}, '--help']) == 0; "
        "print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    ).partition("LOADED")[2]
    assert "undrift" in loaded
    assert not {"torch", "diffusers", "matplotlib", "sklearn"} & set(loaded.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_says_what_it_is_for(name):
    module = __import__(f"undrift.cli.{name}", fromlist=["Config"])
    found = options(module.Config)
    assert not [option.flag for option in found if not option.help]
    assert set(getattr(module, "POSITIONALS", ())) <= {option.key for option in found}


def test_cite(capsys):
    assert cli.main(["cite"]) == 0
    text = capsys.readouterr().out
    assert "On Error Propagation of Diffusion Models" in text
    assert "Li, Yangming and van der Schaar, Mihaela" in text
    assert "arXiv:2308.05021" in text
    assert f"version = {{{undrift.__version__}}}" in text
    assert text.count("{") == text.count("}")
