"""The commands of studies/ as modules, which no package holds."""

import importlib.util
import sys
from pathlib import Path

STUDIES = Path(__file__).parents[1] / "studies"


def load_study(name):
    """The command studies/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_study", STUDIES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
