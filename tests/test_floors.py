"""Imports only go down: the floors of the house, read from the sources themselves."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import undrift

ROOT = Path(undrift.__file__).parent

# From the ground up: a room imports from its own floor and from those below.
FLOORS = (
    ("exceptions", "processes", "progress", "seeds"),
    ("storage",),
    ("reporting",),
    ("mmd",),
    ("data",),
    ("diffusion",),
    ("measurement",),
    ("theory", "quality"),
    ("remedies", "regularizer"),
    ("objectives",),
    ("training",),
    ("study", "advice"),
    ("api",),
    ("cli",),
)
LOOSE = {"exceptions", "processes", "progress", "seeds"}
"""The only modules that lie outside of a package, beside ``__init__`` and ``__main__``."""
MOST_ROOMS = 20
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
FORBIDDEN_NAMES = {"utils", "util", "misc", "helpers", "helper", "common"}


def dotted(path: Path) -> str:
    """``undrift/cli/command.py`` as ``cli.command``; the package itself as the empty string."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {dotted(path): path for path in sorted(ROOT.rglob("*.py"))}
MODULES = [name for name in SOURCES if name not in ("", "__main__")]


def imports(name: str, source: str, is_package: bool) -> set[str]:
    """Absolute names of everything that a module imports, at the top or inside functions."""
    package = ["undrift", *filter(None, name.split("."))]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = package[: len(package) - node.level + is_package]
                base = ".".join([*here, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def own_imports(name: str) -> set[str]:
    """Modules of the house that a module imports, public names traced to where they live."""
    path = SOURCES[name]
    result = set()
    for target in imports(name, path.read_text(), path.name == "__init__.py"):
        head, _, rest = target.partition(".")
        if head != "undrift" or rest == "__version__":
            continue
        first = rest.partition(".")[0]
        result.add(undrift._MODULE_OF.get(first, rest))
    return result


def rooms(name: str) -> str:
    """The room of the floor plan that a module is in."""
    return name.partition(".")[0]


def test_every_module_has_its_floor():
    assert {rooms(name) for name in MODULES} <= set(FLOOR_OF)


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_go_down(name):
    wrong = {
        target
        for target in own_imports(name)
        if FLOOR_OF.get(rooms(target), len(FLOORS)) > FLOOR_OF[rooms(name)]
    }
    assert not wrong, f"{name} reaches up"


def test_rooms_of_one_floor_do_not_import_in_a_circle():
    below = defaultdict(set)
    for name in MODULES:
        below[rooms(name)] |= {rooms(target) for target in own_imports(name)} - {rooms(name)}
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_only_the_door_opens_the_door():
    assert not [
        name for name in MODULES if rooms(name) != "cli" and "cli" in map(rooms, own_imports(name))
    ]


def test_names_hold_what_they_say():
    parts = {part for name in MODULES for part in name.split(".")}
    assert not parts & FORBIDDEN_NAMES


@pytest.mark.parametrize("name", SOURCES)
def test_torchvision_is_imported_nowhere(name):
    path = SOURCES[name]
    found = imports(name, path.read_text(), path.name == "__init__.py")
    assert "torchvision" not in {target.partition(".")[0] for target in found}


def test_relative_imports_are_resolved():
    source = "from . import a\nfrom .b import c\nfrom ..mmd import kernels\nimport undrift.data.d"
    assert imports("measurement.modular", source, is_package=False) == {
        "undrift.measurement.a",
        "undrift.measurement.b.c",
        "undrift.mmd.kernels",
        "undrift.data.d",
    }
    assert imports("mmd", "from .kernels import x", is_package=True) == {"undrift.mmd.kernels.x"}


def test_few_modules_lie_outside_of_a_package():
    assert {name for name in MODULES if SOURCES[name].parent == ROOT} <= LOOSE
    assert len({rooms(name) for name in MODULES}) <= MOST_ROOMS
