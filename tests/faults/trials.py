"""Commands that are killed, or whose disk fills up, and what is left of them. `make test-faults`.

Each trial runs a command in a fork and strikes it: a kill or a SIGTERM at a random time; a kill at
each of its file operations in the folder of the trial (an open for writing, rename, link, unlink,
mkdir, rmdir or fsync); a disk that is full from each of these operations on. Then the command that
a user would give goes on in another process, and its result is compared with that of a command that
was left alone: every weight, every row of the log, every number.

One run is enough for all file operations. What a kill at an operation leaves are the files as they
are before it, which are copied. For the full disk the process forks there, and the fork goes on in
a copy of the folder, where each write fails.

What the commands import is imported once, before the forks; figures are drawn empty; the trials lie
in memory where the system has a folder there (kills lose nothing that was written, so the kind of
disk is no part of a trial); and after strikes at file operations that leave the same files, byte by
byte, the command goes on once. For this the clock of the processor time is a counter. After strikes
at random times it always goes on.

    python tests/faults/trials.py [--kills 60] [--terms 30] [--every 1] [--only train]
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from matplotlib.figure import Figure
from safetensors.torch import load_file

from undrift import cli

TRAIN = ["--data=digits", "--method=persistent", "--steps=6", "--batch-size=8", "--quiet"]
TRAIN += ["--chain.num-steps=6", "--model.block-out-channels=8,8", "--model.norm-num-groups=4"]
TRAIN += ["--regularizer.num-cohorts=2", "--regularizer.every=1", "--checkpoint-every=2"]
TRAIN += ["--sample-every=4", "--log-every=4"]
PLAN = """
base: {data: digits, steps: 2, batch_size: 8, checkpoint_every: 1, sample_every: 0, log_every: 2,
       chain: {num_steps: 4}, model: {block_out_channels: [8], norm_num_groups: 4}}
methods: {plain: {method: plain}, dream: {method: dream}}
steps: 2
seeds: [0]
num_samples: 8
features: pixels
judge_every: 1
"""
VARYING = (
    "train_cpu_s",
    "created",
    "command",
    "costs",
    "cpu_s_per_step",
    "run",
    "saved",
    "seconds",
)


class Disk:
    """Counts the file operations of this process below a folder, and can be full.

    Arguments:
        place: The folder.
        before: Called before each operation while the disk is not full.
    """

    def __init__(self, place: Path, before: Callable[[Disk], None]) -> None:
        self.place, self.before = place, before
        self.count, self.is_full, self.is_busy = 0, False, False
        sys.addaudithook(self.audit)
        fsync = os.fsync
        os.fsync = lambda handle: (self.step("fsync"), fsync(handle))[1]

    def audit(self, event: str, arguments: tuple) -> None:
        names = ("os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.truncate")
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in names:
            path = arguments[0]
        else:
            return
        if not isinstance(path, int) and os.fsdecode(path).startswith(str(self.place)):
            self.step(event)

    def step(self, event: str) -> None:
        if self.is_busy:
            return
        self.count += 1
        if not self.is_full:
            self.is_busy = True
            self.before(self)
            self.is_busy = False
        if self.is_full and event not in ("os.rmdir", "os.remove"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def move_into_copy(place: Path, kept: Path) -> None:
    """Let this process use a copy of a folder in its place; the folder itself is moved."""
    links = [(int(handle.name), os.readlink(handle)) for handle in open_handles()]
    place.rename(kept)
    shutil.copytree(kept, place, symlinks=True)
    for handle, path in links:
        if path.startswith(f"{place}/") and os.path.exists(path):
            again = os.open(path, fcntl.fcntl(handle, fcntl.F_GETFL))
            os.lseek(again, os.lseek(handle, 0, os.SEEK_CUR), os.SEEK_SET)
            os.dup2(again, handle)
            os.close(again)


def open_handles() -> list[Path]:
    """The open files of this process, as Linux lists them."""
    return [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


@dataclass(frozen=True)
class Strike:
    """What a strike at a file operation left.

    Arguments:
        what: Which one it was.
        files: The digest of all files.
        code: The exit code.
        told: What the command printed at last.
        left: Temporary files.
    """

    what: str
    files: str
    code: int = -signal.SIGKILL
    told: str = ""
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A command under trial.

    Arguments:
        name: What it is called.
        argv: Its arguments, of which ``PLACE`` is the folder of the trial.
        again: Those of the command by which it goes on.
        done: Whether the result is there, so that nothing is left to do.
        result: What is compared.
    """

    name: str
    argv: tuple[str, ...]

    def begin(self, place: Path) -> list[str]:
        return [word.replace("PLACE", str(place)) for word in self.argv]

    def again(self, place: Path) -> list[str]:
        """The command by which a user goes on."""
        started = self.name == "train" and (place / "run").is_dir()
        return self.begin(place) + (["--resume"] if started else [])

    def is_done(self, place: Path) -> bool:
        return self.name == "measure" and (place / "profile.json").exists()

    def result(self, place: Path) -> object:
        """All numbers, rows and weights that a command leaves."""
        found = {}
        for file in sorted(path for path in place.rglob("*") if path.is_file()):
            name = str(file.relative_to(place))
            if name.startswith("model") or ".lock" in name or name.endswith(".part"):
                continue
            if file.suffix == ".safetensors":
                found[name] = {k: v.numpy().tobytes() for k, v in load_file(file).items()}
            elif file.name in ("log.jsonl", "study.json", "profile.json", "result.json"):
                found[name] = _plain(file)
            elif file.suffix == ".png":
                found[name] = file.read_bytes()
        return found


def _plain(file: Path) -> object:
    """The content of a file without what no two runs share: times and places."""

    def bare(value: object) -> object:
        if isinstance(value, dict):
            return {k: bare(v) for k, v in value.items() if k not in VARYING and "folder" not in k}
        return [bare(item) for item in value] if isinstance(value, list) else value

    if file.suffix == ".jsonl":
        return file.read_text()
    text = file.read_text().replace(str(file.parent), "PLACE")
    found = bare(json.loads(text))
    if isinstance(found, dict):
        found.pop("pipeline", None)
        found.pop("config", None)
    return found


def subjects(model: str) -> list[Subject]:
    """The commands: train, compare and measure."""
    few = ("--num-samples=16", "--states=3", "--quiet", "--num-forward=32")
    return [
        Subject("train", ("train", *TRAIN, "--output=PLACE/run")),
        Subject("compare", ("compare", "PLACE/plan.yaml", "--output=PLACE/study", "--quiet")),
        Subject("measure", ("measure", model, *few, "--output=PLACE/profile.json")),
    ]


def forked(argv: list[str], place: Path, before: Callable[[Disk], None] = lambda disk: None) -> int:
    """Start a command in a process of its own; returns the process."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        redirect(output_of(place))
        scratch(place).mkdir(exist_ok=True)
        tempfile.tempdir = str(scratch(place))
        disk = Disk(place, before)
        code = cli.main(argv)
        if not disk.is_full:
            (place.parent / "count").write_text(str(disk.count))
            (place.parent / "modules").write_text("\n".join(sys.modules))
    finally:
        sys.stdout.flush()
        os._exit(code)
    return 0


def output_of(place: Path) -> Path:
    """Where the output of a command goes."""
    return place.with_name(f"{place.name}.out")


def scratch(place: Path) -> Path:
    """Where a command has its temporary folders, on a disk that is never full."""
    return place.with_name("scratch")


def redirect(file: Path) -> None:
    """Write what this process prints into a file."""
    output = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def outcome(process: int) -> int:
    """Exit code of a process; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def import_all(names: list[str]) -> None:
    """Import here what a fork had to import."""
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)


class Trials:
    """All trials of one command.

    Arguments:
        subject: The command.
        work: A folder for all trials.
    """

    def __init__(self, subject: Subject, work: Path) -> None:
        self.subject, self.work, self.seen = subject, work, Counter()
        self.gone_on_from: set[str] = set()
        for _ in range(2):  # the first one imports
            place = self.place()
            started = time.monotonic()
            assert outcome(forked(subject.begin(place), place)) == 0, self.told(place)
            self.seconds = time.monotonic() - started
            import_all((work / "modules").read_text().split())
        self.operations = int((work / "count").read_text())
        self.whole = subject.result(place)

    def place(self) -> Path:
        place = self.work / self.subject.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "plan.yaml").write_text(PLAN)
        return place

    def told(self, place: Path) -> str:
        return output_of(place).read_text()[-2000:]

    def go_on(self, place: Path, what: str) -> None:
        """Go on after a strike; the result has to be that of the command that was left alone."""
        subject = self.subject
        if not subject.is_done(place):
            code = outcome(forked(subject.again(place), place))
            assert code == 0, f"{what}: goes on with code {code}: {self.told(place)}"
        found = subject.result(place)
        differing = {k for k in self.whole | found if self.whole.get(k) != found.get(k)}
        assert not differing, f"{what}: other results in {sorted(differing)}"
        assert not leftovers(place), f"{what}: {leftovers(place)} are left"

    def strike_after(self, seconds: float, number: signal.Signals) -> None:
        place = self.place()
        process = forked(self.subject.begin(place), place)
        time.sleep(seconds)
        os.kill(process, number)
        code, told = outcome(process), self.told(place)
        assert code in (0, -number, 128 + number), f"{number.name}: code {code}: {told}"
        assert code <= 0 or "go on with" in told or "interrupted" in told, told
        self.seen[number.name] += 1
        self.gone_on_from.add(digest(place))
        self.go_on(place, f"{number.name} after {seconds:.3f} s")

    def strike_everywhere(self, every: int) -> None:
        """Strike at each file operation of one run, and go on from what that leaves."""
        place = self.place()
        strikes = Strikes(place, every)
        code = outcome(forked(self.subject.begin(place), place, strikes.strike))
        assert code == 0, self.told(place)
        found = strikes.read()
        assert len(found) == 2 * ((self.operations - 1) // every + 1), len(found)
        for strike in found:
            self.seen[strike.what.split()[0]] += 1
            check(strike)
            if strike.files not in self.gone_on_from:
                self.gone_on_from.add(strike.files)
                shutil.rmtree(place)
                shutil.copytree(strikes.kept / strike.files, place)
                self.go_on(place, strike.what)
        shutil.rmtree(strikes.kept)

    def report(self) -> None:
        print(
            f"{self.subject.name}: {self.operations} file operations, {dict(self.seen)}, "
            f"{len(self.gone_on_from)} different states gone on from",
            flush=True,
        )


class Strikes:
    """Strikes at the file operations of a command, made in its process.

    Arguments:
        place: The folder of the trial.
        every: Every how many operations.
    """

    def __init__(self, place: Path, every: int) -> None:
        self.place, self.every = place, every
        self.kept = place.with_name(f"{place.name}.kept")
        shutil.rmtree(self.kept, ignore_errors=True)
        self.kept.mkdir()

    def strike(self, disk: Disk) -> None:
        """Keep the files that a kill leaves now, and those that a disk leaves that is full now."""
        if (disk.count - 1) % self.every:
            return
        self.keep(Strike(f"crash point {disk.count}", digest(self.place)))
        output = self.kept / "output"
        own = {folder: self.kept / folder.name for folder in (self.place, scratch(self.place))}
        if not (process := os.fork()):
            redirect(output)
            for folder, kept in own.items():
                move_into_copy(folder, kept)
            disk.is_full = True
            return
        code, told = outcome(process), output.read_text()[-2000:]
        left = tuple(map(str, leftovers(self.place)))
        self.keep(Strike(f"full disk at {disk.count}", digest(self.place), code, told, left))
        for folder, kept in own.items():
            shutil.rmtree(folder)
            kept.rename(folder)

    def keep(self, strike: Strike) -> None:
        """Note a strike, and copy the files if there are no such ones yet."""
        if not (self.kept / strike.files).exists():
            shutil.copytree(self.place, self.kept / strike.files, symlinks=True)
        with (self.kept / "strikes").open("a") as file:
            file.write(json.dumps(asdict(strike)) + "\n")

    def read(self) -> list[Strike]:
        """All that were made."""
        return [Strike(**json.loads(row)) for row in (self.kept / "strikes").open()]


def check(strike: Strike) -> None:
    """A full disk ends a command with one line, or not at all, and leaves no temporary files."""
    lines = strike.told.strip().splitlines()
    assert strike.code in (0, 2, -signal.SIGKILL), strike
    assert strike.code != 2 or "No space left" in lines[-1], strike
    assert not strike.left, strike


def leftovers(place: Path) -> list[Path]:
    """Temporary files."""
    return [path for path in place.rglob(".*.part") if path.is_file()]


def digest(place: Path) -> str:
    """What tells the names and the contents of all files below a folder, temporary ones too."""
    found = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        name = re.sub(r"-\d+-[0-9a-f]{8}\.part", ".part", str(path.relative_to(place)))
        found.update(f"{name}\0{path.is_dir()}\0".encode())
        if path.is_file():
            found.update(_told(path))
    return found.hexdigest()


def _told(file: Path) -> bytes:
    """The content of a file, without times where they can be told."""
    try:
        return repr(_plain(file)).encode() if file.suffix == ".json" else file.read_bytes()
    except ValueError:
        return file.read_bytes()


def main() -> None:
    """Run the trials and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="random kills, over all commands")
    parser.add_argument("--terms", type=int, default=30, help="random SIGTERMs, likewise")
    parser.add_argument("--every", type=int, default=1, help="every k-th file operation")
    parser.add_argument("--only", default="train,compare,measure", help="commands")
    parser.add_argument("--strikes", default="random,operations", help="kinds of strikes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    Figure.savefig = lambda self, file, **options: file.write("<svg></svg>")
    ticks = itertools.count()
    time.process_time = lambda: next(ticks) / 100
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        work = Path(folder)
        model = work / "model"
        assert outcome(forked(["train", *TRAIN, f"--output={model}"], model)) == 0
        chosen = [s for s in subjects(str(model)) if s.name in options.only.split(",")]
        for subject in chosen:
            trials = Trials(subject, work)
            if "random" in options.strikes:
                numbers = [signal.SIGKILL] * (options.kills // len(chosen))
                for number in numbers + [signal.SIGTERM] * (options.terms // len(chosen)):
                    trials.strike_after(draw.uniform(0, trials.seconds), number)
                trials.report()
            if "operations" in options.strikes:
                trials.strike_everywhere(options.every)
                trials.report()


if __name__ == "__main__":
    main()
