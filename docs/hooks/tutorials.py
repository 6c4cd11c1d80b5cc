"""The tutorials: each notebook becomes a page with its outputs, and lies beside it to be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

NOTE = "*[This page as a notebook]({name}.ipynb), with the outputs of `make notebooks`.*\n\n"


def notebooks(config: Any) -> list[Path]:
    """The notebooks in the order in which they are read."""
    return sorted(Path(config.docs_dir).glob("tutorials/*.ipynb"))


def on_files(files: Files, config: Any) -> Files:
    """Write the pages and the figures of the notebooks."""
    exporter = MarkdownExporter()
    for path in notebooks(config):
        figures = {"output_files_dir": f"{path.stem}_files", "unique_key": "figure"}
        body, resources = exporter.from_filename(str(path), resources=figures)
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
        text = titled(body.replace(".ipynb)", ".md)"), NOTE.format(name=path.stem))
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
    return files


def titled(body: str, note: str) -> str:
    """The page with a note below its title."""
    title, _, rest = body.strip().partition("\n")
    return f"{title}\n\n{note}{rest}\n"
