"""One writer for each place: locks that end with their process, however it ends."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from undrift.exceptions import InvalidInput
from undrift.storage.writing import PART, blaming, sweep_parts

FOLDER_LOCK = ".lock"


@contextmanager
def locked(
    path: str | os.PathLike[str], *, inside: bool = False, wait: bool = False
) -> Iterator[None]:
    """Hold the only right to write a file or folder.

    The lock is one of the operating system (``flock``) on a small file, which is deleted at the
    end. A process that is killed holds it no longer, even though it leaves the small file. Where
    the system has no such locks, nothing is locked. What killed processes have left half-written
    of a file is deleted.

    Arguments:
        path: A file or folder, existing or not, in a folder that exists.
        inside: Whether the small file lies in that folder, which exists, instead of next to it.
        wait: Whether to wait for the other process instead.

    Raises:
        InvalidInput: If another process holds it.
        OSError: If the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path, how = Path(path), fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    file = path / FOLDER_LOCK if inside else path.with_name(_name(path.name))
    while True:
        with blaming(path):
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, how)
            except BlockingIOError:
                raise InvalidInput(
                    f"another process of undrift is writing {path}: wait for it, or choose another "
                    "--output"
                ) from None
            if not _is_there(file, handle):  # deleted by its last holder: lock the new one
                continue
            try:
                if not inside:
                    sweep_parts(path)
                yield
            finally:
                file.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)


def is_transient(path: Path) -> bool:
    """Whether a file is a lock or a temporary one, which a killed process may have left."""
    return path.name.startswith(".") and path.name.endswith((FOLDER_LOCK, PART))


def _name(name: str) -> str:
    """The name of the lock of a file, short whatever the file is called."""
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{FOLDER_LOCK}"


def _is_there(file: Path, handle: int) -> bool:
    """Whether a file is the one that is open."""
    try:
        return os.path.samestat(file.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
