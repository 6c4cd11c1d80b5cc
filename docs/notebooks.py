"""Execute the tutorials and keep their outputs: python docs/notebooks.py [NAME ...]."""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "tutorials"


def executed(path: Path, place: str) -> nbformat.NotebookNode:
    """The notebook with new outputs; what it writes is in a folder outside of the checkout."""
    notebook = nbformat.read(path, as_version=4)
    options = {"resources": {"metadata": {"path": place}}, "record_timing": False}
    notebook.metadata["undrift"] = {"executed": digest(notebook)}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", **options).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":  # warnings of libraries hold paths of this machine
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return notebook


def digest(notebook: nbformat.NotebookNode) -> str:
    """The SHA-256 of the code, by which a test finds outputs of older code."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()


def main() -> None:
    """All of them in their order in one folder, as the later ones use the model of the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these (default: all)")
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as place:
        for path in sorted(FOLDER.glob("*.ipynb")):
            if not names or path.stem in names:
                nbformat.write(executed(path, place), path)
                print(path.name, flush=True)


if __name__ == "__main__":
    main()
