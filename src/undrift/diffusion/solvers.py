"""Solvers by name: a scheduler class of diffusers, with the options that make it this solver.

The other options, the time grid among them, are those of the model's own scheduler.
"""

from __future__ import annotations

from typing import Any

_ODE = {"algorithm_type": "dpmsolver++"}
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ancestral": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm-solver++": ("DPMSolverMultistepScheduler", {"solver_order": 2, **_ODE}),
    "dpm-solver++3": ("DPMSolverMultistepScheduler", {"solver_order": 3, **_ODE}),
    "sde-dpm-solver++": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}),
    "unipc3": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "deis": ("DEISMultistepScheduler", {"solver_order": 2, "algorithm_type": "deis"}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "flow-euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow-heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "edm-euler": ("EDMEulerScheduler", {}),
    "edm-dpm-solver++": ("EDMDPMSolverMultistepScheduler", {}),
}


def solver_named(name: str) -> tuple[str, dict[str, Any]]:
    """The scheduler class of a solver and its options; any other name is that of a class itself.

    Example:
        >>> solver_named("unipc3"), solver_named("TCDScheduler")
        (('UniPCMultistepScheduler', {'solver_order': 3}), ('TCDScheduler', {}))
    """
    return SOLVERS.get(name, (name, {}))


def first_of_class(name: str) -> str:
    """The first solver of a scheduler class; a solver, and any other name, is itself.

    Example:
        >>> first_of_class("UniPCMultistepScheduler"), first_of_class("unipc3")
        ('unipc', 'unipc3')
    """
    return next((known for known, (kind, _) in SOLVERS.items() if kind == name), name)
