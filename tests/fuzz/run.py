"""Coverage-guided fuzzing of every format that undrift reads. `make fuzz`.

    python tests/fuzz/run.py [--runs 200000] [--seed 1] [--only yaml,npz]

Each format has a process of its own, in which atheris (libFuzzer) changes whole files and failed
inputs of the past: bytes anywhere, values in JSON, what is compressed in gzip and zip. An input
that ends in another exception than InvalidInput, takes longer than two minutes or more than 4 GB is
kept in tests/fuzz/corpus, whose files `make test` reads.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import hashlib
import io
import json
import os
import random
import re
import sys
import tempfile
import time
import traceback
import zipfile
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
CORPUS = Path(__file__).with_name("corpus")
MOST_PLACES = 5000
READERS = [
    *("undrift.storage", "undrift.data", "undrift.measurement.reading", "undrift.theory", "yaml"),
    *("undrift.training.checkpoint", "undrift.training.records"),
]
"""Packages in which atheris sees which lines an input reaches."""
ODD = [
    *(None, True, False, 0, -1, 2**31, 2**63, 10**400, -(10**400), 1e308, -1e308, 1e-320, 0.5),
    *(float("inf"), float("nan"), "", "x", "\x1b[31m", "\ud800", "1e999", "9" * 30, [], {}, [[]]),
    *([None], {"": None}, [0.0, 0.0], [1e308, -1e308]),
]


def changed_json(content: bytes, random: random.Random) -> bytes:
    """JSON with some values replaced, left out, doubled, nested or exchanged."""
    root = [json.loads(content)]
    for _ in range(random.choice((1, 1, 2, 4))):
        places = [(root, 0)]
        for holder, key in places:
            value = holder[key]
            keys: Any = value.keys() if isinstance(value, dict) else ()
            keys = range(len(value)) if isinstance(value, list) else keys
            places += [(value, inner) for inner in keys]
        if len(places) > MOST_PLACES:
            break
        holder, key = random.choice(places)
        match random.randrange(6):
            case 0 if holder is not root:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.append(holder[key])
            case 2:
                other, there = random.choice(places)
                holder[key] = json.loads(json.dumps(other[there]))
            case 3:
                for _ in range(random.choice((1, 50, 200))):
                    holder[key] = [holder[key]] if random.random() < 0.9 else {"a": holder[key]}
            case _:
                holder[key] = copy.deepcopy(random.choice(ODD))
    return json.dumps(root[0]).encode("utf-8", "surrogatepass")


def changed_zip(content: bytes, mutate: Any, random: random.Random) -> bytes:
    """An archive with one file in it changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(files))
    files[name] = mutate(files[name])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, inner in files.items():
            archive.writestr(name, inner)
    return buffer.getvalue()


def mutator(name: str) -> Any:
    """What changes an input of a format."""
    import atheris

    def mutate(content: bytes, limit: int, seed: int) -> bytes:
        draw = random.Random(seed)

        def plainly(inner: bytes) -> bytes:
            return atheris.Mutate(inner, max(len(inner) + 32, 64))

        with suppress(Exception):  # of an input that is no such file any more
            if draw.random() < 0.8:
                if name in ("profile", "study", "chain", "manifest"):
                    return changed_json(content, draw)[:limit]
                if name in ("npz", "pt", "checkpoint"):
                    return changed_zip(content, plainly, draw)[:limit]
                if name == "idx":
                    return gzip.compress(plainly(gzip.decompress(content)), 1, mtime=0)[:limit]
        return atheris.Mutate(content, limit)

    return mutate


def fuzz(name: str, read: Any, seeds: list[bytes], runs: int, seed: int) -> None:
    """Fuzz one format in this process, which ends with it."""
    import atheris

    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=read.folder.parent))
    for k, content in enumerate(seeds):
        (folder / f"seed-{k}").write_bytes(content)
    flags = [
        f"-runs={runs}",
        "-max_len=65536",
        "-timeout=120",
        "-rss_limit_mb=4096",
        f"-seed={seed}",
    ]
    flags += [f"-artifact_prefix={kept}/", "-print_final_stats=1", "-len_control=0"]
    arguments = [sys.argv[0], *flags, str(folder), str(kept)]

    def noting(content: bytes) -> None:
        try:
            read(content)
        except Exception:
            (kept / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
            raise

    atheris.Setup(arguments, noting, custom_mutator=mutator(name))
    atheris.Fuzz()


def forked(name: str, read: Any, runs: int, seed: int) -> tuple[int, str]:
    """Fuzz one format in a fork; return its exit code and what it told."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "told")
        process = os.fork()
        if not process:
            output = os.open(told, os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1)
            os.dup2(output, 2)
            try:
                fuzz(name, read, read.seeds(), runs, seed)
            finally:
                traceback.print_exc()
                os._exit(70)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return code, told.read_text("utf-8", "replace")


def main() -> None:
    """Fuzz the formats one after the other and print how many inputs each has taken."""
    import atheris

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200_000, help="inputs of each format")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="formats, separated by commas")
    options = parser.parse_args()
    sys.path[:0] = [str(CORPUS.parents[1]), str(CORPUS.parent)]

    with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=READERS):
        from formats import FORMATS, quiet
    quiet()
    failed = False
    for name in options.only.split(",") if options.only else FORMATS:
        started = time.monotonic()
        code, told = forked(name, FORMATS[name], options.runs, options.seed)
        found = re.search(r"number_of_executed_units: (\d+)", told)
        count, seconds = int(found[1]) if found else 0, time.monotonic() - started
        print(
            f"{name:<11} {count:>9,} inputs, {int(code != 0)} uncaught, {seconds:.0f} s", flush=True
        )
        if code:
            failed = True
            print(told[-3000:], file=sys.stderr, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
