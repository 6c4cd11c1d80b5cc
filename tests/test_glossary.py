"""The glossary explains what the README's tables name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def entries() -> set[str]:
    """The terms that the glossary defines, without marks and in lower case."""
    lines = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    heads = [above for above, below in zip(lines, lines[1:], strict=False) if below[:4] == ":   "]
    return {term.strip("` ").lower() for head in heads for term in re.split(r", | and ", head)}


def tables_of_the_readme() -> list[list[str]]:
    """Header and rows of the README's tables as cells."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set(row[0]) <= set("-")]


def test_every_number_in_the_readme_has_an_entry() -> None:
    rows = tables_of_the_readme()
    names = {name for row in rows for name in re.findall(r"`([a-z_.]+)`", row[0])}
    assert len(names) >= 10
    known = entries()
    assert not [name for name in names if not {name.rpartition(".")[2], name} & known]


def test_variants_budgets_and_metrics_of_the_readme_have_entries() -> None:
    rows = tables_of_the_readme()
    header = next(row for row in rows if row[0] == "regularizer")
    results = [row for row in rows if len(row) == len(header) and row[0] != "regularizer"]
    named = {row[0].split()[0] for row in results} | {row[1] for row in results}
    named |= {"regularizer", "fréchet distance", "population", "data set"}
    assert {"fréchet distance", "to its population"} <= {cell.lower() for cell in header}
    assert {"persistent", "official", "equal steps", "equal compute"} <= named
    assert not named - entries()
