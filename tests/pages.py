"""The pages that users read, their code blocks and commands."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in FILES}
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each code block."""
    found = FENCE.findall(PAGES[page])
    return [(name, textwrap.dedent(text)) for _, name, text in found if "--8<--" not in text]


def lines(text: str) -> list[str]:
    """The commands of a block."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"^\$ (.*)$", joined, re.MULTILINE)
    return [shlex.join(shlex.split(line, comments=True)) for line in found]


def bare(line: str) -> str:
    """A command without its environment."""
    return re.sub(r"^(\w+=\S+ )+", "", line)
