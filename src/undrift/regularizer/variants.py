"""The variants of the regularizer, and what each chooses where nobody does.

Nothing here imports torch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Variant = Literal["official", "full", "truncated", "persistent"]


class Chosen(NamedTuple):
    """What a variant of the regularizer chooses where nobody does.

    Arguments:
        states: States that are rolled out, as a share of the batch: what keeps the cost of a step
            in bounds.
        num_forward: Forward draws; as many as there are states if None.
        every: The term is computed in every k-th step.
        window: Share of the chain.
    """

    states: float
    num_forward: int | None
    every: int
    window: float


CHOSEN: dict[Variant, Chosen] = {
    "official": Chosen(1.0, None, 1, 1.0),  # as released
    "full": Chosen(0.25, 1024, 2, 0.3),
    "truncated": Chosen(0.25, 1024, 2, 0.3),
    "persistent": Chosen(0.5, 1024, 2, 0.15),
}
"""What null stands for in the regularizer's options."""
