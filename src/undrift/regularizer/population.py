r"""A population of generated states to compare with forward draws, larger than a batch.

The gradient of :math:`\mathrm{MMD}^2` of a batch alone is noisy, which disturbs training. A queue
of the last N generated features stands for the distribution of the model, of which only the B
newest have a gradient:

.. math:: L = \frac{2}{B} \sum_{i=1}^{B} \Bigl[
          \frac{1}{N - 1} \sum_{j \ne i} k\bigl(v_i, \operatorname{sg}(q_j)\bigr)
          - \frac{1}{M} \sum_{j=1}^{M} k(v_i, y_j) \Bigr],

:math:`v` the features of the batch, :math:`q` those of the queue with the batch in it, :math:`y`
those of forward draws. While the model does not change,

- :math:`E L = 2 (E k(x, x') - E k(x, y))`, which is 0 where both distributions are equal, and
- :math:`\partial L / \partial v_i` is :math:`N / B` times the derivative of the unbiased
  :math:`\mathrm{MMD}^2` of the whole queue by its i-th member: a batch gets the gradient that it
  has as a part of the population, not the one that it has alone.

Features are compared in blocks (:mod:`undrift.regularizer.spaces`), in units of their forward draws
(mean 0, mean variance 1 in each group), each block with its own bandwidth; L is the mean over
blocks. Units and bandwidths are fixed once, by the first forward draws, so that the kernel does not
change with the model. Those draws are replaced, a few at each call, because draws look a little
nearer in units that were fixed by themselves, by the order of :math:`1/M`.

In these units features are of the order of 1, so those that are kept are rounded to half precision,
by less than a thousandth of their spread, and take half of the memory. Features in double precision
are not rounded.

References:
    | Momentum Contrast for Unsupervised Visual Representation Learning (He et al., 2020)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput, Limits
from undrift.mmd.kernel import Kernel
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.tiles import blocks
from undrift.mmd.units import Units
from undrift.regularizer.embedding import EmbeddedBlock, check_kernel
from undrift.regularizer.options import Averaging

TILE = 256
"""Rows of a Gram matrix that are there at once: the whole one would be most of a term's memory."""


@dataclass
class Block:
    """One block of features: its units, its kernel, forward draws, and the queue.

    Arguments:
        units: Those of the first forward draws.
        kernel: With a fixed bandwidth.
        forward: Forward draws in these units, the oldest first, with shape :math:`(M, G D)`, in
            half precision.
        queue: Generated features in these units, the oldest first, with shape :math:`(N, G D)`, in
            half precision.
    """

    units: Units
    kernel: Kernel
    forward: Tensor
    queue: Tensor

    @classmethod
    def of(cls, features: Tensor, kernel: Kernel) -> Block:
        """A block whose units and bandwidth are those of forward draws, with an empty queue."""
        units = Units.of(features)
        rows = units(features)
        forward = rounded(rows)
        return cls(units, kernel.fit_features(rows), forward, forward[:0])

    def compare(self, features: Tensor, size: int) -> Tensor:
        """L of a batch, which then joins the queue of the last ``size`` features."""
        v = self.units(features)
        before = self.queue[max(0, len(self.queue) + len(v) - size) :]
        kernel, own = self.kernel, v.detach()
        among = kernel.gram(v, own)
        near = (among - torch.diag(among.diagonal())).sum(1)
        if len(before):
            near = near + kernel.gram(v, before.to(v)).sum(1)
        far = kernel.gram(v, self.forward.to(v)).mean(1)
        self.queue = torch.cat([before, rounded(own)])
        return 2 * (near / (len(self.queue) - 1) - far).mean()

    def renew(self, features: Tensor) -> None:
        """Replace the oldest forward draws."""
        new = rounded(self.units(features))
        self.forward = torch.cat([self.forward[len(new) :], new])

    def discrepancy(self) -> tuple[float, float]:
        """The unbiased MMD² of queue and forward draws, and that of halves of these."""
        x, y = (kept.to(self.units.mean) for kept in (self.queue, self.forward))
        halves = y.split(-(-len(y) // 2))
        value = unbiased_mmd_sq(self.kernel, x, y)
        return float(value), float(unbiased_mmd_sq(self.kernel, *halves))

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return vars(self) | {"units": vars(self.units), "kernel": self.kernel.to_dict()}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Block:
        """The block of a saved state."""
        units, kernel = Units(**state["units"]), Kernel.from_dict(state["kernel"])
        return cls(**dict(state) | {"units": units, "kernel": kernel})


def rounded(rows: Tensor) -> Tensor:
    """Features in half precision, as they are kept; those in double precision as they are."""
    if rows.dtype == torch.float64:
        return rows
    largest = torch.finfo(torch.float16).max
    return rows.clamp(-largest, largest).to(torch.float16)


KINDS: dict[Averaging, Any] = {"queue": Block, "moving": EmbeddedBlock}


@dataclass
class Population:
    """What is generated at one state of a chain, and what it is compared with.

    Arguments:
        size: N, the number of generated states.
        kernel: The kernel; its bandwidth is fixed by the first forward draws.
        averaging: Whether the states are kept in a queue, or their mean embedding as a moving
            average (:mod:`undrift.regularizer.embedding`).
    """

    size: int = 2048
    kernel: Kernel = field(default_factory=RBFMixture)
    averaging: Averaging = "queue"
    blocks: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the size and the kernel."""
        Limits(2).check("population", self.size)
        self.kind = KINDS[self.averaging]
        if self.averaging == "moving":
            check_kernel(self.kernel)
        if self.kernel.feature_map is not None:
            raise InvalidInput(
                "a population compares the features of a space: give the feature map as space, a "
                "Space of undrift.regularizer.spaces, not as that of the kernel"
            )
        if getattr(self.kernel, "bandwidth", None) == "pooled":
            raise InvalidInput(
                "a population fixes the bandwidth by forward draws: give 'mean' or 'median', not "
                "'pooled'"
            )

    @torch.no_grad()
    def renew(self, forward: Sequence[Tensor]) -> None:
        """Add forward draws: the first fix units and bandwidths, later ones replace the oldest.

        Arguments:
            forward: Their features, in blocks with shapes :math:`(M, G_k, D_k)`.
        """
        if not self.blocks:
            self.blocks = [self.kind.of(features, self.kernel) for features in forward]
            return
        for block, features in zip(self.blocks, forward, strict=True):
            block.renew(features)

    def compare(self, generated: Sequence[Tensor]) -> Tensor:
        """L of a batch of generated states, with gradient; the batch joins the queue.

        Arguments:
            generated: Their features, in blocks with shapes :math:`(B, G_k, D_k)`.

        Returns:
            A scalar, the mean over blocks.

        Raises:
            InvalidInput: If they are not finite.
        """
        if not all(bool(x.isfinite().all()) for x in generated):
            raise InvalidInput("generated features are not finite")
        pairs = zip(self.blocks, generated, strict=True)
        return torch.stack([self._compared(block, x) for block, x in pairs]).mean()

    def _compared(self, block: Any, generated: Tensor) -> Tensor:  # noqa: ANN401
        """L of one block, with its gradient taken at once: no graph holds the population."""
        if not generated.requires_grad:
            return cast(Tensor, block.compare(generated, self.size))
        own = generated.detach().requires_grad_()
        value = block.compare(own, self.size)
        (gradient,) = torch.autograd.grad(value, own)
        return cast(Tensor, value.detach() + ((generated - own.detach()) * gradient).sum())

    @torch.no_grad()
    def discrepancy(self) -> tuple[float, float]:
        """The unbiased MMD² of queue and forward draws, and that of two halves of the latter.

        The second is the null floor. Both are means over blocks.
        """
        found = [block.discrepancy() for block in self.blocks]
        value, null = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
        return value, null

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {"blocks": [block.state_dict() for block in self.blocks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        self.blocks = [self.kind.restored(saved) for saved in state["blocks"]]


def unbiased_mmd_sq(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate of MMD² between rows of features for any kernel, differentiable."""

    def mean(a: Tensor, b: Tensor, *, others: bool = False) -> Tensor:
        sums = []
        for rows in blocks(len(a), TILE):
            gram = kernel.gram(a[rows], b)
            sums.append(gram.sum() - gram.diagonal(rows.start).sum() if others else gram.sum())
        return torch.stack(sums).sum() / (len(a) * (len(b) - 1 if others else len(b)))

    return mean(x, x, others=True) + mean(y, y, others=True) - 2 * mean(x, y)
