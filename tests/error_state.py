"""States with known numbers, each number in the part that has its name."""

from __future__ import annotations

import math
from dataclasses import fields

from undrift.measurement.state import Budget, CumulativeError, ErrorState, Exposure, KLLimits

PARTS = {"error": CumulativeError, "budget": Budget, "exposure": Exposure, "kl": KLLimits}
NEEDED = {
    "error": {"mmd_sq_data_se": 0.0, "null_sd": 1e-4},
    "budget": dict.fromkeys(
        (f"{term}_sq{end}" for term in ("fresh", "inherited") for end in ("", "_se", "_data_se")),
        0.0,
    ),
}


def state(t=0.0, mmd_sq=1e-2, se=1e-3, **numbers):
    """A state with a cumulative error; any other number by its name alone."""
    numbers = {"mmd_sq": mmd_sq, "mmd_sq_se": se, "p_value": 0.005} | numbers
    value, half = numbers["mmd_sq"], 1.96 * se
    numbers.setdefault("interval", (max(value - half, 0.0), max(value + half, 0.0)))
    parts = {}
    for name, kind in PARTS.items():
        found = {f.name: numbers.pop(f.name) for f in fields(kind) if f.name in numbers}
        parts[name] = kind(**(NEEDED.get(name, {}) | found)) if found else None
    return ErrorState(t, math.cos(t), math.sin(t), **parts, **numbers)


def nested(numbers):
    """The plain data of a state, from numbers by their names alone."""
    state = dict(numbers)
    for name, kind in PARTS.items():
        found = {f.name: state.pop(f.name) for f in fields(kind) if f.name in state}
        if found:
            state[name] = found
    return state
