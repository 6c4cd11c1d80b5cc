"""Each format that undrift reads: how a file of it is read, and whole files to start from.

Whatever a file holds, reading it ends with a result or with :class:`InvalidInput`. Of one record in
:data:`ONE_IN` the page is made too, with figures that are composed and not drawn.
"""

from __future__ import annotations

import atexit
import gzip
import io
import json
import logging
import shutil
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image

from error_state import state
from study_record import study
from undrift.api.report import collect, write
from undrift.data import decode
from undrift.data.arrays import load_arrays
from undrift.data.folder import load_folder
from undrift.data.named import load_fashion_mnist
from undrift.data.options import LoadOptions
from undrift.exceptions import InvalidInput
from undrift.measurement.profile import ErrorProfile
from undrift.measurement.reading import Record
from undrift.storage.manifest import check_sealed, seal
from undrift.storage.reading import read_yaml
from undrift.study.record import StudyRecord
from undrift.theory.chain_file import read_chain
from undrift.training.checkpoint import NEEDED_TO_START, read_state
from undrift.training.records import lines_until, read_log

ONE_IN = 500
CORPUS = Path(__file__).with_name("corpus")
"""Inputs that once failed, in a folder for each format."""
_LABELS = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1]), mtime=0)
_MOST_PIXELS = 1 << 20
"""Larger pictures are refused as always, but sooner."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Arguments:
        read: Reads the only file of a folder, and uses what it holds.
        name: The file in that folder.
        seeds: Makes contents of whole files.
    """

    read: Callable[[Path], object]
    name: str
    seeds: Callable[[], list[bytes]]

    @cached_property
    def folder(self) -> Path:
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        folder = tempfile.mkdtemp(prefix="undrift-fuzz-", dir=memory)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def __call__(self, content: bytes) -> None:
        """Read a content.

        Raises:
            Exception: Any but the one that says in one line what was wrong.
        """
        (self.folder / self.name).write_bytes(content)
        with warnings.catch_warnings(), suppress(InvalidInput):
            warnings.simplefilter("ignore")
            self.read(self.folder)


def quiet() -> None:
    """Compose figures without drawing them, and say nothing."""
    Figure.savefig = lambda self, file, **options: file.write("<svg></svg>")  # type: ignore
    logging.disable(logging.CRITICAL)


def _record(kind: type[Record], file: Path) -> None:
    record = kind.load(file)
    repr(record)
    if isinstance(record, ErrorProfile):
        record.summary()
    if not zlib.crc32(file.read_bytes()) % ONE_IN:
        write(collect([file]), file.with_name("page.html"))


def _run_log(folder: Path) -> None:
    read_log(folder)
    lines_until(folder, 3)


def _in_this_thread() -> nullcontext[SimpleNamespace]:
    """A pool without threads: to start one takes longer than to read a small picture."""
    return nullcontext(SimpleNamespace(map=map))


def _images(folder: Path) -> None:
    sooner = mock.patch.object(Image, "MAX_IMAGE_PIXELS", _MOST_PIXELS)
    with sooner, mock.patch.object(decode, "ThreadPoolExecutor", _in_this_thread):
        load_folder(folder, LoadOptions(image_size=4, channels=3))


def _idx(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(_LABELS)
    load_fashion_mnist(LoadOptions(split="test"), folder)


def _checkpoint(folder: Path) -> None:
    read_state(folder / "state.pt", NEEDED_TO_START)


def _manifest(folder: Path) -> None:
    (folder / "a").write_text("a")
    check_sealed(folder, ["a"])


def _profiles() -> list[bytes]:
    whole = state(
        0.0, p_value=0.01, fresh_sq=0.1, inherited_sq=0.2, downstream_gain=1.0, lower=0.1, upper=0.4
    )
    how = {"sampler": {"sampler": "DDIMSampler", "num_inference_steps": 10}, "seed": 0}
    profiles = [
        ErrorProfile((state(9.0), state(3.0), whole), 100, 100, how, "a", "2026-01-01"),
        ErrorProfile((state(),), 10, 10),
    ]
    return [json.dumps(profile.to_dict()).encode() for profile in profiles]


def _studies() -> list[bytes]:
    small = {"methods": ("plain", "persistent"), "seeds": (0,), "protocols": ("branched",)}
    return [json.dumps(study(**small, full=full)).encode() for full in (True, False)]


def _logs() -> list[bytes]:
    rows = [{"step": k, "loss": 1 / k, "lr": 1e-4} for k in (1, 2, 3)]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode()]


def _chains() -> list[bytes]:
    chain = {"mean": [0.0], "cov": [[1.0]], "betas": [0.1, 0.2], "slope": [[[0.9]]] * 2}
    return [json.dumps(chain | {"offset": [[0.0]] * 2, "var": [0.1, 0.1]}).encode()]


def _plans() -> list[bytes]:
    plan = {"base": {"data": "digits", "steps": 10}, "methods": {"plain": {}}, "seeds": [0, 1]}
    return [
        yaml.safe_dump(plan).encode(),
        b"a: [1, 1e-4, ~, x]\nb: {c: 010, d: 'e'}\n? f\n: |\n g\n",
    ]


def _manifests() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_text("a")
        seal(Path(folder))
        return [(Path(folder) / "manifest.json").read_bytes()]


def _idx_files() -> list[bytes]:
    head = bytes([0, 0, 8, 3]) + struct.pack(">3i", 2, 3, 3)
    return [gzip.compress(head + bytes(range(18)), mtime=0)]


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def _npy_files() -> list[bytes]:
    arrays = [np.zeros((2, 3, 3), kind) for kind in ("u1", "f4", ">f8", "i8", "?")]
    return [_saved(lambda file, a=a: np.save(file, a)) for a in arrays]


def _npz_files() -> list[bytes]:
    arrays = {"images": np.zeros((2, 3, 3), "u1"), "labels": np.arange(2)}
    return [_saved(lambda file: np.savez(file, **arrays))]


def _pt_files() -> list[bytes]:
    images = {"images": torch.zeros(2, 3, 3), "labels": torch.arange(2)}
    return [_saved(lambda file, x=x: torch.save(x, file)) for x in (images, images["images"])]


def _states() -> list[bytes]:
    state = {name: {"a": torch.ones(2), "b": [1, 2.5]} for name in NEEDED_TO_START}
    return [_saved(lambda file: torch.save(state, file))]


def _pictures() -> list[bytes]:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    kinds = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TGA", "TIFF", "WEBP")
    wide = Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4))
    more = [(wide, "PNG"), (image.convert("P"), "PNG"), (image.convert("1"), "TIFF")]
    return [
        _saved(lambda file, i=i, kind=kind: i.save(file, kind))
        for i, kind in [*((image, kind) for kind in kinds), *more]
    ]


FORMATS = {
    "yaml": Format(lambda f: read_yaml(f / "it.yaml"), "it.yaml", _plans),
    "profile": Format(lambda f: _record(ErrorProfile, f / "it.json"), "it.json", _profiles),
    "study": Format(lambda f: _record(StudyRecord, f / "study.json"), "study.json", _studies),
    "log": Format(_run_log, "log.jsonl", _logs),
    "chain": Format(lambda f: read_chain(f / "it.json"), "it.json", _chains),
    "manifest": Format(_manifest, "manifest.json", _manifests),
    "checkpoint": Format(_checkpoint, "state.pt", _states),
    "idx": Format(_idx, "t10k-images-idx3-ubyte.gz", _idx_files),
    "npy": Format(lambda f: load_arrays(f / "it.npy", LoadOptions()), "it.npy", _npy_files),
    "npz": Format(lambda f: load_arrays(f / "it.npz", LoadOptions()), "it.npz", _npz_files),
    "pt": Format(lambda f: load_arrays(f / "it.pt", LoadOptions()), "it.pt", _pt_files),
    "image": Format(_images, "it.png", _pictures),
}
