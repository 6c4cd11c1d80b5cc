"""The lowest versions that pyproject.toml allows, one requirement a line: python .ci/lowest.py.

What undrift and its extras for users need is pinned; what only tests need is left open. A version
for a package, as in ``torch=2.13.0``, takes the place of its lowest.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

EXTRAS = ("data", "tracking", "features", "patches", "metrics", "lora")
TOOLS = ("hypothesis", "pytest", "pytest-xdist", "hatchling")


def lowest(given: dict[str, str]) -> list[str]:
    """Each direct dependency at its lowest version, or at the one that is given for it."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = project["dependencies"] + [line for name in EXTRAS for line in extras[name]]
    pins = []
    for line in needed:
        name, version = line.split(">=")
        package = name.partition("[")[0]
        pins.append(f"{name}=={given.pop(package, version)}")
    if given:
        raise SystemExit(f"no direct dependency: {', '.join(given)}")
    return [*pins, *(line for line in extras["dev"] if line.startswith(TOOLS))]


if __name__ == "__main__":
    print(*lowest(dict(word.split("=") for word in sys.argv[1:])), sep="\n")
