"""The published training methods by name: their options and the values that were published.

Nothing here imports torch.
"""

from __future__ import annotations

from typing import Literal

PublishedMethod = Literal[
    "input_perturbation",
    "mixflow",
    "consistent",
    "fokker_planck",
    "dream",
    "scheduled_sampling",
    "mmd_ddm",
    "fd_loss",
]
STRENGTHS: dict[str, float] = {
    "input_perturbation": 0.1,  # 0.15 on CIFAR-10
    "mixflow": 0.8,  # for SiT; 0.4 in a representation's space
    "consistent": 10.0,
    "fokker_planck": 0.15,
    "dream": 1.0,
    "mmd_ddm": 0.025,  # of the learning rate: 5e-6 after 2e-4
    "fd_loss": 0.01,
}
"""The published strength of each method that has one."""
ON_SAMPLES: dict[str, tuple[str, ...]] = {
    "mmd_ddm": ("num_inference_steps", "features"),
    "fd_loss": ("num_inference_steps", "features", "population"),
}
"""Losses of finished samples, without a denoising term: the regularizer's options that they take.

Their strength is a factor of the learning rate; a factor of the loss would have no effect, because
the optimizer divides gradients by their own size.
"""
MAX_GRAD_NORM = {"mmd_ddm": 0.5}
"""Published bounds on the gradient's norm."""
LENGTH = 5
"""Denoising steps that scheduled sampling rolls out at most, unless another number is given."""
OPTIONS: dict[str, tuple[str, ...]] = {
    **{name: ("strength",) for name in STRENGTHS},
    "scheduled_sampling": ("length",),
}
"""Options of each method, besides its seed."""
