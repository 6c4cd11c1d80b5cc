"""The navigation, and one page for each room of the house, written from the docstrings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[2] / "src" / "undrift"


def modules() -> dict[str, list[str]]:
    """The rooms that have a page, each with the modules on it."""
    found = {path.stem: [] for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    for package in PACKAGE.glob("*/__init__.py"):
        inside = sorted(path.stem for path in package.parent.glob("*.py") if path != package)
        found[package.parent.name] = [f"{package.parent.name}.{name}" for name in inside]
    return {name: found[name] for name in sorted(found) if name not in ("cli", "reporting")}


def on_config(config: Any) -> Any:
    """Put every page into the navigation: the home page, the others, the guides, the modules."""
    docs = Path(config.docs_dir)
    pages = sorted(path.name for path in docs.glob("*.md") if path.name != "index.md")
    guides = [f"how-to/{path.name}" for path in sorted(docs.glob("how-to/*.md"))]
    api = [{name: f"api/{name}.md"} for name in modules()]
    config.nav = ["index.md", *pages, {"How to": guides}, {"API": ["api/index.md", *api]}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Write the pages of the modules."""
    for name, inside in modules().items():
        blocks = [f"# `undrift.{name}`\n\n::: undrift.{name}\n"]
        blocks += [f"## `undrift.{module}`\n\n::: undrift.{module}\n" for module in inside]
        files.append(File.generated(config, f"api/{name}.md", content="\n".join(blocks)))
    return files
