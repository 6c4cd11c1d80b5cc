"""The navigation, one page for each package, and the table of the public names, from docstrings."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from formulas import to_markdown
from mkdocs.structure.files import File, Files
from tutorials import notebooks

PACKAGE = Path(__file__).parents[2] / "src" / "undrift"
NAMES = "<!-- public names -->"
FIRST = ["index.md", "quickstart.md"]
WORK = ["measure", "report", "advise", "remedies", "repair", "train", "compare", "presets"]
"""The guides in the order in which people need them."""


def modules() -> dict[str, list[str]]:
    """The rooms that have a page, each with the modules on it."""
    found = {path.stem: [] for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    for package in PACKAGE.glob("*/__init__.py"):
        inside = sorted(path.stem for path in package.parent.glob("*.py") if path != package)
        found[package.parent.name] = [f"{package.parent.name}.{name}" for name in inside]
    return {name: found[name] for name in sorted(found) if name not in ("cli", "reporting")}


def on_config(config: Any) -> Any:
    """Put every page into the navigation: the first pages and the guides in the order of work."""
    docs = Path(config.docs_dir)
    others = sorted(path.name for path in docs.glob("*.md") if path.name not in FIRST)
    guides = ordered([path.stem for path in docs.glob("how-to/*.md")])
    api = [{name: f"api/{name}.md"} for name in modules()]
    tutorials = {"Tutorials": [f"tutorials/{path.stem}.md" for path in notebooks(config)]}
    how_to = {"How to": [f"how-to/{name}.md" for name in guides]}
    config.nav = [*FIRST, tutorials, how_to, *others, {"API": ["api/index.md", *api]}]
    return config


def ordered(names: list[str]) -> list[str]:
    """The guides in the order of work; those that it does not know come last."""
    rank = {name: place for place, name in enumerate(WORK)}
    return sorted(names, key=lambda name: (rank.get(name, len(WORK)), name))


def on_files(files: Files, config: Any) -> Files:
    """Write the pages of the modules."""
    for name, inside in modules().items():
        blocks = [f"# `undrift.{name}`\n\n::: undrift.{name}\n"]
        blocks += [f"## `undrift.{module}`\n\n::: undrift.{module}\n" for module in inside]
        files.append(File.generated(config, f"api/{name}.md", content="\n".join(blocks)))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Put the public names into the page that asks for them."""
    return markdown.replace(NAMES, public_names()) if NAMES in markdown else markdown


def public_names() -> str:
    """Every name that is imported from undrift, each with the first sentence of its docstring."""
    rows = ["| name | what it is |", "|---|---|"]
    for name, module in _table(PACKAGE / "__init__.py").items():
        link = f"{module.partition('.')[0]}.md#undrift.{module}.{name}"
        rows.append(f"| [`{name}`]({link}) | {to_markdown(first_sentence(name, module))} |")
    return "\n".join(rows)


def first_sentence(name: str, module: str) -> str:
    """What the docstring of a public name begins with."""
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8"))
    kinds = (ast.ClassDef, ast.FunctionDef)
    (found,) = (node for node in tree.body if isinstance(node, kinds) and node.name == name)
    return " ".join((ast.get_docstring(found) or "").split("\n\n")[0].split())


def _table(file: Path) -> dict[str, str]:
    """The public names and their modules, without importing them."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_MODULE_OF":
            return dict(ast.literal_eval(node.value))
    raise LookupError(f"{file} has no table of public names")
