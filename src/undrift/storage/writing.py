"""Files and folders that appear complete or not at all.

Each is written under a temporary name in its folder, brought to the disk (``fsync`` of the content,
of the new name) and renamed. So whatever happens before the rename leaves what was there, and after
it the new content is there even if the power fails.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"
"""Ending of temporary names, which begin with a dot."""


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The temporary name under which a file is to be written, which then takes its own name.

    Arguments:
        path: Its own name; the folder is made.

    Raises:
        OSError: If it cannot be written; names the file. What was there before is unchanged.
    """
    path = Path(path)
    with blaming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _temporary(path)
        try:
            yield part
            sync(part)
            part.replace(path)
            sync(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def appearing(
    path: str | os.PathLike[str], *, when: bool = True, agree: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """The temporary name under which a folder is to be filled, which then takes its own name.

    Arguments:
        path: Its own name; a folder of that name is replaced.
        when: Whether this process is the one that makes and renames it.
        agree: Waits for all processes that write into it.

    Raises:
        OSError: If it cannot be written; names the folder. What was there before is unchanged.
    """
    path = Path(path)
    part, before = (path.with_name(f".{path.name}.{end}{PART}") for end in ("new", "old"))
    with blaming(path):
        if when:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        agree()
        try:
            yield part
            agree()
            if when:
                _take_place(part, path, before)
        except BaseException:
            if when:
                shutil.rmtree(part, ignore_errors=True)
            raise
    agree()


def _take_place(part: Path, path: Path, before: Path) -> None:
    """Bring a folder to the disk and give it its name; the folder of that name goes."""
    for file in [*part.rglob("*"), part]:
        sync(file)
    shutil.rmtree(before, ignore_errors=True)
    with suppress(FileNotFoundError):
        path.replace(before)
    try:
        part.replace(path)
    except OSError:
        with suppress(OSError):
            before.replace(path)
        raise
    sync(path.parent)
    shutil.rmtree(before, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except (PermissionError, IsADirectoryError):  # systems that do not open folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(*folders: Path) -> None:
    """Delete what killed processes have left in folders that this process alone writes."""
    for part in [part for folder in folders for part in folder.glob(f".*{PART}")]:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Let an error of the operating system name a path instead of its temporary name.

    torch and safetensors report a full disk by exceptions of their own, which become an
    :class:`OSError` again.
    """
    try:
        yield
    except Exception as error:
        code = _system_error(error)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _system_error(error: BaseException | None) -> int | None:
    """The number of the operating system's error that an exception was raised for, if any."""
    kinds = ("RuntimeError", "SafetensorError")
    while error is not None:
        if isinstance(error, OSError):
            return error.errno
        if type(error).__name__ not in kinds:
            return None
        if found := re.search(r"os error (\d+)", str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


def sweep_parts(path: Path) -> None:
    """Delete what killed processes have left of one file, which this process alone writes."""
    for part in path.parent.glob(f".{_key(path)}-*{PART}"):
        part.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A name next to a path that no other process uses, short whatever the path is called."""
    return path.with_name(f".{_key(path)}-{os.getpid()}-{secrets.token_hex(4)}{PART}")


def _key(path: Path) -> str:
    """What the temporary names of a file have in common."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
