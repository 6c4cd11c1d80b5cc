"""The published training methods by name: their options and the values that were published.

Nothing here imports torch.
"""

from __future__ import annotations

from typing import Literal

PublishedMethod = Literal[
    "input_perturbation", "mixflow", "consistent", "fokker_planck", "dream", "scheduled_sampling"
]
STRENGTHS: dict[str, float] = {
    "input_perturbation": 0.1,  # 0.15 on CIFAR-10
    "mixflow": 0.8,  # for SiT; 0.4 in a representation's space
    "consistent": 10.0,
    "fokker_planck": 0.15,
    "dream": 1.0,
}
"""The published strength of each method that has one."""
LENGTH = 5
"""Denoising steps that scheduled sampling rolls out at most, unless another number is given."""
OPTIONS: dict[str, tuple[str, ...]] = {
    **{name: ("strength",) for name in STRENGTHS},
    "scheduled_sampling": ("length",),
}
"""Options of each method, besides its seed."""
