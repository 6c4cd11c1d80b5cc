"""Results that are kept as they come, so that a stopped search continues where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from undrift.exceptions import InvalidInput
from undrift.storage.writing import written

FILE = "trials.jsonl"


class Trials:
    """Results by name in a file of JSON lines, the first of which says what they depend on.

    Arguments:
        folder: The folder of the file; None to keep nothing.
        settings: All that the results depend on.

    Raises:
        InvalidInput: If the folder holds results of other settings, or other things.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        text = json.dumps(settings, sort_keys=True, default=str)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.file = None if folder is None else folder / FILE
        self.known: dict[str, Any] = {}
        if self.file is not None and self.file.is_file():
            self._read(self.file)

    def result(self, name: str, compute: Callable[[], Any]) -> Any:  # noqa: ANN401
        """The result of a name, in plain data; computed and kept if it is not known."""
        if name not in self.known:
            self.known[name] = compute()
            self._append({"name": name, "result": self.known[name]})
        return self.known[name]

    def forget(self) -> None:
        """Delete the file: the results are in the record."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def _append(self, row: dict[str, Any]) -> None:
        if self.file is None:
            return
        is_new = not self.file.exists()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            if is_new:
                file.write(json.dumps({"settings": self.digest}) + "\n")
            file.write(json.dumps(row) + "\n")

    def _read(self, path: Path) -> None:
        """Read complete lines; a line that a stopped run left incomplete is cut off."""
        lines = [line for line in path.read_text("utf-8").splitlines(keepends=True)]
        whole = [line for line in lines if line.endswith("\n")]
        try:
            rows = [json.loads(line) for line in whole]
            digest = rows[0]["settings"] if rows else self.digest
            self.known = {row["name"]: row["result"] for row in rows[1:]}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InvalidInput(f"{path} is damaged: delete it to start again") from None
        if digest != self.digest:
            raise InvalidInput(
                f"{path.parent} holds a search that other options, another model or other data "
                "began: give the same ones to continue it, or choose another --output"
            )
        if len(whole) < len(lines) or not rows:
            if rows:
                with written(path) as part:
                    part.write_text("".join(whole), "utf-8")
            else:
                path.unlink()
