"""Files that a command writes: where they go, and that nothing is ever overwritten."""

from __future__ import annotations

import os
import re
from itertools import count
from pathlib import Path

from undrift.exceptions import InvalidInput


def slug(text: str) -> str:
    """A text as part of a file name.

    Example:
        >>> slug("λ = 3, long / short"), slug("..")
        ('λ-3-long-short', 'model')
    """
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "model"


def place_for(run: str, folder: str) -> Path:
    """The folder of results about a model: inside the run, or here for a name on the hub."""
    path = Path(run)
    return (path if path.is_dir() else Path()) / folder


def output_file(output: str | None, folder: Path, stem: str, *suffixes: str) -> Path:
    """The file that was chosen, or ``folder/stem-K`` with the first suffix.

    K is the first number that is free with all suffixes.
    """
    if output is not None:
        return Path(output)
    paths = ([folder / f"{stem}-{k}{suffix}" for suffix in suffixes] for k in count(1))
    return next(found[0] for found in paths if not any(path.exists() for path in found))


def check_free(output: str | Path | None, *, folder: bool = False, also: str | None = None) -> None:
    """Stop before any work if a result would overwrite another, or cannot be written.

    Arguments:
        output: Where it will be; None for a name that is free anyway.
        folder: Whether it will be a folder, which may exist already if it is empty.
        also: Suffix of a second file that is written next to it.

    Raises:
        InvalidInput: If so.
    """
    if output is None:
        return
    path = Path(output)
    if also == path.suffix:
        raise InvalidInput(f"--output {output} is for the record: choose a .json file")
    if path.is_dir() and not folder:
        raise InvalidInput(f"{path} is a folder: give a file in it as --output")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InvalidInput(f"{path} is there already: choose another --output")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InvalidInput(f"cannot write {path}: {there} is no folder that may be written")
    if also is not None:
        check_free(path.with_suffix(also))
