"""Plain data from YAML and JSON: read as written, or refused in one line, whatever the file."""

import contextlib
import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from undrift import cli
from undrift.exceptions import InvalidInput
from undrift.measurement.profile import ErrorProfile
from undrift.measurement.reading import load_json
from undrift.storage.reading import parse_json, parse_yaml, read_yaml, to_yaml
from undrift.study.record import StudyRecord
from undrift.training.records import read_log

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
NUMBERS = st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
LOOKS_LIKE_A_NUMBER = ["010", "1:30", "1_000", "0x1f", "0o7", "1e", "--1", "1.2.3", "2001-99-99"]
REFUSED = {
    "a: !!int x": "tag",
    "a: !!float abc": "tag",
    "a: !!bool maybe": "tag",
    "a: !!timestamp foo": "tag",
    "a: !!python/object/apply:os.system [ls]": "tag",
    "a: &a [*a]": "levels",
    "a: " + "[" * 2000: "levels",
    "a: " + "{a: " * 2000: "levels",
    "a: 1\na: 2": "given twice",
    "a: {b: 1, b: 1}": "given twice",
    "1: a\n'1': b": "given twice",
    "{? [1] : 2}": "a name is a list",
    "a: 1e999": "too large",
    "a: 99999999999999999999": "too large",
    "a: " + "9" * 5000: "too large",
    "a: *b": "alias",
    "\x00": "not allowed",
    "- 1": "no options",
    "x": "no options",
}
LAUGHS = "l0: &l0 [1,1,1,1,1,1,1,1,1,1]\n" + "\n".join(
    f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 10)}]" for k in range(1, 12)
)


@settings(max_examples=50, deadline=None)
@given(PLAIN)
def test_what_is_written_as_yaml_is_read_back(value):
    assert parse_yaml(to_yaml(value)) == value


@pytest.mark.parametrize("text", [*LOOKS_LIKE_A_NUMBER, "yes", "no", "on", "off", "y", "n"])
def test_what_is_no_number_of_yaml_1_2_stays_as_it_is_written(text):
    assert parse_yaml(text) == text and parse_yaml(to_yaml(text)) == text


@given(NUMBERS)
def test_numbers_are_those_that_python_reads(value):
    assert parse_yaml(repr(value)) == value and type(parse_yaml(repr(value))) is type(value)


def test_the_infinities_of_yaml_are_read():
    assert parse_yaml(".inf") == -parse_yaml("-.inf") == math.inf
    assert math.isnan(parse_yaml(".nan"))


@pytest.mark.parametrize(("text", "word"), REFUSED.items())
def test_other_yaml_is_one_line(text, word, tmp_path):
    (tmp_path / "it.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=word) as refused:
        read_yaml(tmp_path / "it.yaml")
    assert len(str(refused.value)) < 500


def test_yaml_that_grows_without_end_is_refused_at_once():
    with pytest.raises(yaml.YAMLError, match="more than"):
        parse_yaml(LAUGHS)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1e999}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": ' + "9" * 400 + "}",
        '{"a": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * 200 + "]" * 200,
        '"\\ud800"',
        '{"\\udfff": 1}',
        "",
        "{",
    ],
)
def test_other_json_is_one_line(text, tmp_path):
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(InvalidInput, match="is no profile: it is not JSON"):
        load_json(tmp_path / "it.json", "profile")


@settings(max_examples=50, deadline=None)
@given(PLAIN)
def test_json_is_read_as_python_reads_it(value):
    assert parse_json(json.dumps(value)) == value


TOKENS = [
    *"[]{}:,&*!|>-?#'\"\n\t \\",
    "a",
    "<<",
    "1",
    "1e9",
    "~",
    "!!int",
    "010",
    "\x00",
    "é",
    ".nan",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(TOKENS) | TEXTS, max_size=25).map("".join))
def test_any_text_is_plain_data_or_refused(text):
    for parse, error in ((parse_yaml, yaml.YAMLError), (parse_json, ValueError)):
        with contextlib.suppress(error):
            parse(text)


@settings(max_examples=50, deadline=None)
@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from(TOKENS), max_size=20).map(lambda t: "".join(t).encode())
)
def test_any_bytes_are_a_log_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("log")
    (folder / "log.jsonl").write_bytes(content)
    try:
        rows = read_log(folder)
    except InvalidInput:
        return
    assert all(math.isfinite(value) for row in rows for value in row.values())


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["rows", "states", "paired", "config", "num_samples", "label", "how"]),
        PLAIN,
    )
)
@pytest.mark.parametrize("kind", [ErrorProfile, StudyRecord])
def test_any_values_are_a_record_or_refused(kind, values):
    schema = {"kind": kind.schema.kind, "schema_version": kind.schema.version}
    with contextlib.suppress(InvalidInput):
        kind.from_dict(schema | values)


@pytest.mark.parametrize(
    "value", ["2001-99-99", "!!int x", "010", "1:30", "[" * 2000, "1e999", "&a [*a]"]
)
def test_the_commands_refuse_such_a_value_in_one_line(value, tmp_path, capsys):
    for option in ("seed", "batch_size", "sample_every"):
        (tmp_path / "it.yaml").write_text(f"{option}: {value}\n")
        assert cli.main(["train", "--dry-run", "--config", str(tmp_path / "it.yaml")]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "Traceback" not in err and len(err) < 600


def test_escape_codes_in_names_never_reach_the_terminal(tmp_path, capsys):
    name = "\x1b[31mred\x1b]0;title\x07"
    assert cli.main(["measure", name]) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\x07" not in out + err and r"\x1b[31mred" in err
    from undrift.cli.console import say, show, table

    show(name)
    say(name)
    table(name, [name], [[name]])
    out, _ = capsys.readouterr()
    assert "\x1b" not in out and out.count(r"\x1b") >= 5


def test_commands_write_escape_codes_of_names_as_text(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, shown = "run-\x1b[31m\x9b1m", r"run-\x1b[31m\x9b1m"
    few = ["--steps=1", "--batch-size=2", "--chain.num-steps=2", "--sample-every=0"]
    small = ["--model.block-out-channels=8", "--model.norm-num-groups=4"]
    assert cli.main(["train", "--data=digits", f"--output={name}", *few, *small]) == 0
    numbers = ["--num-samples=8", "--states=2"]
    saved = f"{name}.json"
    argv = ["measure", name, f"--output={saved}", f"--label={name}", *numbers]
    assert cli.main(argv) == 0
    assert cli.main(["report", saved, f"--output={name}.html", f"--title={name}"]) == 0
    plan = {"base": {"steps": 1, "batch_size": 2, "chain": {"num_steps": 2}}, "seeds": [0]}
    plan |= {"methods": {"plain": {}, "b\x1b[2J": {"method": "dream"}}, "steps": 1}
    plan["base"] |= {"model": {"block_out_channels": [8], "norm_num_groups": 4}}
    (tmp_path / "plan.yaml").write_text(to_yaml(plan | {"num_samples": 4, "features": "pixels"}))
    assert cli.main(["compare", "plan.yaml", f"--output={name}-study"]) in (0, 2)
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err and "\x9b" not in out + err and out.count(shown) >= 5
