"""The package: lazy public names, one version, and a wheel that holds what it needs."""

import ast
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import undrift

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "diffusers", "accelerate", "matplotlib", "sklearn", "numpy", "PIL", "datasets"}


def test_public_names_agree_with_themselves():
    assert undrift.__all__ == ["__version__", *undrift._MODULE_OF]
    tree = ast.parse(Path(undrift.__file__).read_text())
    typed = {
        alias.name: node.module.removeprefix("undrift.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == undrift._MODULE_OF


@pytest.mark.parametrize("name", undrift._MODULE_OF)
def test_public_names_are_where_they_are_said_to_be(name):
    module = f"undrift.{undrift._MODULE_OF[name]}"
    assert getattr(undrift, name) is getattr(sys.modules[module], name)


@pytest.mark.parametrize("name", undrift._MODULE_OF)
def test_no_public_name_is_that_of_a_package(name):
    # The first import of a module of the package ``undrift.name`` would put the package in the
    # place of the function.
    assert find_spec(f"undrift.{name}") is None


def test_public_functions_outlive_the_import_of_every_module():
    probe = (
        "import importlib, pkgutil, undrift\n"
        "before = {name: getattr(undrift, name) for name in undrift._MODULE_OF}\n"
        "for found in pkgutil.walk_packages(undrift.__path__, 'undrift.'):\n"
        "    if found.name != 'undrift.__main__':\n"
        "        importlib.import_module(found.name)\n"
        "assert all(getattr(undrift, name) is value for name, value in before.items())\n"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_unknown_names_are_unknown():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = undrift.nonsense
    assert set(undrift.__all__) <= set(dir(undrift))


def test_import_undrift_imports_nothing_heavy():
    probe = "import undrift, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert not HEAVY & set(done.stdout.split())


def test_citation_is_of_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == undrift.__version__


def test_changelog_knows_this_version():
    assert f"## {undrift.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_are_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    assert "torchvision" not in pins
    assert not [version for version in pins.values() if "+" in version or "/" in version]


def test_wheel_holds_all_sources_and_the_citation(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "undrift/py.typed" in sources
    content = {name for name in names if not name.startswith("undrift-")}
    assert content == sources | {"undrift/CITATION.cff"}
