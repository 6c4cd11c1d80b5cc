"""Files of every kind, whole, damaged, or once failed: read, or refused in one line."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from formats import CORPUS, FORMATS
from run import changed_json, changed_zip

from undrift.exceptions import InvalidInput

KEPT = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_are_read(name):
    kind = FORMATS[name]
    for content in kind.seeds():
        (kind.folder / kind.name).write_bytes(content)
        kind.read(kind.folder)


@pytest.mark.parametrize("file", KEPT, ids=lambda file: f"{file.parent.name}-{file.name[:16]}")
def test_what_once_failed_is_read_or_refused(file):
    FORMATS[file.parent.name](file.read_bytes())


def flipped(content, draw):
    """A content with a few bytes changed, or its end cut off."""
    values = np.frombuffer(content, np.uint8).copy()
    for _ in range(draw.choice((1, 1, 4, 16))):
        values[draw.randrange(len(values))] = draw.randrange(256)
    return values[: draw.choice((len(values), draw.randrange(len(values))))].tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(name):
    draw, kind = random.Random(0), FORMATS[name]
    for content in kind.seeds() * (4 if name in ("study", "image") else 20):
        kind(flipped(content, draw))
        if content[:1] == b"{" and name != "log":
            kind(changed_json(content, draw))
        if content[:2] == b"PK":
            kind(changed_zip(content, lambda inner: flipped(inner, draw), draw))


def test_a_reader_that_fails_is_noticed(tmp_path):
    def broken(folder):
        raise KeyError("x")

    def refusing(folder):
        raise InvalidInput("no")

    kind = type(FORMATS["log"])
    kind(refusing, "a", list)(b"")
    with pytest.raises(KeyError):
        kind(broken, "a", list)(b"")
