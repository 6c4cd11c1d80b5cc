"""Checksums of a folder, by which damage to its files is found, down to a single bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from undrift.exceptions import InvalidInput

MANIFEST = "manifest.json"


class Damaged(InvalidInput):
    """A file that is not what was written, or is missing."""


def seal(folder: Path) -> None:
    """Write the SHA-256 of every file below a folder into its manifest."""
    own = folder / MANIFEST
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != own)
    sums = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    own.write_text(json.dumps({"sha256": sums}, indent=1) + "\n", "utf-8")


def check_sealed(folder: Path, needs: Collection[str] = ()) -> None:
    """Check that all files of a folder are what they were when it was sealed.

    Arguments:
        folder: A folder with a manifest.
        needs: Files that the manifest has to name.

    Raises:
        Damaged: Names the first file that is missing or changed.
    """
    try:
        sums = dict(json.loads((folder / MANIFEST).read_text("utf-8"))["sha256"])
    except FileNotFoundError:
        raise Damaged(f"{folder} is damaged: it has no {MANIFEST}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Damaged(f"{folder / MANIFEST} is damaged") from None
    for name in [*needs, *sums]:
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name} is missing")
        if sha256(folder / name) != sums.get(name):
            raise Damaged(f"{folder / name} is damaged: its SHA-256 is not that of {MANIFEST}")


def check_if_sealed(folder: Path) -> None:
    """Check the files of a folder that has a manifest; one without is taken as it is.

    Raises:
        Damaged: Names the first file that is missing or changed, and what to do.
    """
    try:
        if is_sealed(folder):
            check_sealed(folder)
    except Damaged as error:
        raise Damaged(
            f"{error}: restore it, write it again (undrift train --resume, for a run), or delete "
            f"{MANIFEST} if the change is meant"
        ) from None


def is_intact(folder: Path) -> bool:
    """Whether a folder is there, and is what it was when it was sealed, if it was."""
    try:
        check_if_sealed(folder)
    except Damaged:
        return False
    return folder.is_dir()


def is_sealed(folder: Path) -> bool:
    """Whether a folder has a manifest, however damaged."""
    return (folder / MANIFEST).exists()


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
