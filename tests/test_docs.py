"""The pages: commands are accepted, messages exist, links lead somewhere.

Tests of test_pages.py run them.
"""

from __future__ import annotations

import contextlib
import re
import shlex

import pytest

from pages import FENCE, FILES, PAGES, ROOT, blocks, lines
from undrift.cli import COMMANDS, main


def commands(page: str) -> list[list[str]]:
    """What follows ``undrift`` in the commands of a page: in blocks, and in its text."""
    found = [line for name, text in blocks(page) if name == "console" for line in lines(text)]
    found += re.findall(r"`(undrift [^`]+)`", FENCE.sub("", PAGES[page]))
    split = [shlex.split(re.split(r" '?>'? ", line)[0]) for line in found]
    words = [line[line.index("undrift") + 1 :] for line in split if "undrift" in line]
    return [line for line in words if line and not {"COMMAND", "CMD", "..."} & set(line)]


def is_complete(words: list[str]) -> bool:
    """Whether it is more than the name of a command, or a command that takes no arguments."""
    return len(words) > 2 or words[0] in ("demo", "cite", "theory", "--help")


ALL = sorted({tuple(words) for page in PAGES for words in commands(page) if is_complete(words)})


def test_the_pages_have_commands():
    assert len(ALL) >= 60
    assert {words[0] for words in ALL} >= set(COMMANDS)


def number_for(words: tuple[str, ...]) -> list[str]:
    """A command with a number in the place of a letter that stands for one."""
    return [re.sub(r"^(?:\d*N|K|W)$", "2", re.sub("RATIO", "1.01", word)) for word in words]


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
    for page in [*FILES, *(ROOT / "docs").rglob("*.ipynb")]:
        text = FENCE.sub("", page.read_text("utf-8"))
        text = re.sub(r"(tutorials/\S+)\.md\b", r"\1.ipynb", text)  # the page of a notebook
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not target.startswith(("api/", "../api/")):
                assert (page.parent / target).exists(), (page.name, target)
