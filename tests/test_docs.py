"""The pages: commands are accepted, snippets name what exists, and the first pages run."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
import shlex
import textwrap
from pathlib import Path

import pytest

import undrift
from undrift.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page that are in a language."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [textwrap.dedent(text) for _, name, text in found if name == language]


def commands(page: Path) -> list[list[str]]:
    """What follows ``undrift`` in the commands of a page: in blocks, and in its text."""
    text = page.read_text(encoding="utf-8")
    joined = "\n".join(blocks(page, "console")).replace("\\\n", " ")
    lines = re.findall(r"^\$ (.*?)(?:\s+#.*)?$", joined, re.MULTILINE)
    lines += re.findall(r"`(undrift [^`]+)`", FENCE.sub("", text))
    found = [shlex.split(line.split(" > ")[0]) for line in lines]
    words = [line[line.index("undrift") + 1 :] for line in found if "undrift" in line]
    return [line for line in words if line and not {"COMMAND", "CMD", "..."} & set(line)]


def is_complete(words: list[str]) -> bool:
    """Whether it is more than the name of a command, or a command that takes no arguments."""
    return len(words) > 2 or words[0] in ("demo", "cite", "theory", "--help")


ALL = sorted({tuple(words) for page in PAGES for words in commands(page) if is_complete(words)})
SNIPPETS = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, text in enumerate(blocks(page, "python"))
    if "--8<--" not in text  # an example script: tests/test_examples.py runs it
]


def test_the_pages_have_commands_and_snippets():
    assert len(ALL) >= 60
    assert len(SNIPPETS) >= 15
    assert {words[0] for words in ALL} >= set(COMMANDS)


def number_for(words: tuple[str, ...]) -> list[str]:
    """A command with a number in the place of a letter that stands for one."""
    return [re.sub(r"^(?:\d*N|K|W|RATIO)$", "2", word).replace(":RATIO", ":1.01") for word in words]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_is_accepted(words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = number_for(words)
    if not {"--help", "--version"} & set(line):
        line.append("--print-config")
    if "--config" in line and not (ROOT / line[line.index("--config") + 1]).exists():
        place = line.index("--config")
        presets = {path.stem for path in (ROOT / "src/undrift/presets/train").glob("*.yaml")}
        if line[place + 1] not in presets:  # a file that an earlier command of the page wrote
            del line[place : place + 2]
    with contextlib.suppress(SystemExit):
        assert main(line) == 0, capsys.readouterr().err


@pytest.mark.parametrize("text", SNIPPETS)
def test_every_snippet_names_what_exists(text):
    """It is Python; its imports work; public functions are called by their own keywords."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert not [a.name for a in node.names if not hasattr(module, a.name)]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "undrift":
            assert hasattr(undrift, node.attr)
        if isinstance(node, ast.Call) and re.fullmatch(r"undrift\.\w+", ast.unparse(node.func)):
            check_keywords(getattr(undrift, ast.unparse(node.func).partition(".")[2]), node)


def check_keywords(function: object, call: ast.Call) -> None:
    """Every keyword of a call is a parameter."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = {parameter.name for parameter in parameters}
    assert not [word.arg for word in call.keywords if word.arg and word.arg not in known]


SMALL = {"--steps": "2", "--chain.num-steps": "10", "--num-samples": "40", "--states": "3"}
"""What makes the commands of a page quick; they stay what they are otherwise."""
TO_RUN = {"quickstart": ("train", "measure"), "how-to/repair": ("measure", "train", "report")}


def small(words: list[str]) -> list[str]:
    """A command with small numbers in the place of those of the page."""
    pairs = zip(["", *words], words, strict=False)
    line = [SMALL.get(before, word) for before, word in pairs]
    return line + (["--num-samples", "40", "--states", "3"] if "measure" in line else [])


def test_the_pages_of_work_run_in_their_order(tmp_path, monkeypatch):
    """The commands and snippets of the first pages as they stand, but for smaller numbers."""
    monkeypatch.chdir(tmp_path)
    for page, names in TO_RUN.items():
        path = ROOT / "docs" / f"{page}.md"
        for words in commands(path):
            if words[0] in names and is_complete(words):
                assert main([*small(words), "--quiet"]) == 0, words
        scope: dict[str, object] = {}
        for text in blocks(path, "python"):
            exec(text.replace("=1000", "=40").replace("states=8", "states=3"), scope)
        if page == "quickstart":
            times = [state.t for state in scope["profile"]]
            assert (times[0], times[-1], len(times)) == (10, 0, 3)
    for name in ("report.html", "both.html", "repair.html", "runs/regularized-10/pipeline"):
        assert Path(name).exists()


def test_the_messages_that_the_questions_explain_exist():
    """Each text in the table of messages is part of a message of the source."""
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    page = (ROOT / "docs" / "faq.md").read_text("utf-8").partition("## Messages")[2]
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    texts = [part for row in rows for part in re.findall(r"`([^`]+)`", row)]
    assert len(texts) >= 6
    for text in texts:
        assert all(part.strip(" ,]'") in sources for part in text.split("...")), text


def test_links_between_pages_lead_somewhere():
    """README, pages and notebooks: each relative link is a file; mkdocs checks the anchors."""
    for page in [*PAGES, *(ROOT / "docs").rglob("*.ipynb")]:
        text = FENCE.sub("", page.read_text("utf-8"))
        text = re.sub(r"(tutorials/\S+)\.md\b", r"\1.ipynb", text)  # the page of a notebook
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not target.startswith(("api/", "../api/")):
                assert (page.parent / target).exists(), (page.name, target)
