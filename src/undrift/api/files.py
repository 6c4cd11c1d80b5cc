"""Files that a command writes: where they go, and that nothing is ever overwritten."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from undrift.exceptions import InvalidInput
from undrift.storage.lock import locked

LONGEST_NAME = 100
"""Bytes of a name that is made of a text; file systems have room for 255 with what is added."""


def slug(text: str) -> str:
    """A text as part of a file name, not longer than 100 bytes.

    Example:
        >>> slug("λ = 3, long / short"), slug(".."), len(slug("x" * 300))
        ('λ-3-long-short', 'model', 100)
    """
    name = re.sub(r"[^\w.-]+", "-", text).encode()[:LONGEST_NAME].decode(errors="ignore")
    return name.strip("-.") or "model"


def place_for(run: str, folder: str) -> Path:
    """The folder of results about a model: inside the run, or here for a name on the hub."""
    path = Path(run)
    return (path if path.is_dir() else Path()) / folder


@contextmanager
def reserved(
    output: str | Path | None, *, folder: bool = False, also: str | None = None
) -> Iterator[None]:
    """Hold the place of a result from before the work until it is written; see `check_free`.

    Raises:
        InvalidInput: If something is there, or another process is about to write it.
    """
    if output is None:
        yield
        return
    check_free(output, folder=folder, also=also)
    with held(Path(output).absolute()):
        check_free(output, folder=folder, also=also)
        yield


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a file or folder, in a folder that is made; if it stays empty it is removed again."""
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            yield
    finally:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


@contextmanager
def output_file(output: str | None, folder: Path, stem: str, *suffixes: str) -> Iterator[Path]:
    """The file that was chosen, or ``folder/stem-K`` with the first suffix.

    K is the first number that is free with all suffixes. No other process gets the same while the
    file is written.
    """
    if output is not None:
        yield Path(output)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / stem, wait=True):
        paths = ([folder / f"{stem}-{k}{suffix}" for suffix in suffixes] for k in count(1))
        yield next(found[0] for found in paths if not any(path.exists() for path in found))


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
    with suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()  # a name that is too long ends here
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InvalidInput(f"{path} is there already: choose another --output")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InvalidInput(f"cannot write {path}: {there} is no folder that may be written")
    if also is not None:
        check_free(path.with_suffix(also))
