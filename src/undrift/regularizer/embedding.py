r"""A population as a moving average of its mean embedding, by random Fourier features.

A kernel of the difference is a mean over random frequencies,
:math:`k(x, y) = E_\omega \cos\omega^\top(x - y) \approx \langle z(x), z(y) \rangle` with

.. math:: z(x) = R^{-1/2} \bigl(\cos\omega_r^\top x,\; \sin\omega_r^\top x\bigr)_{r \le R},

:math:`\omega \sim N(0, \tfrac{2}{m_i b} I)` with i drawn uniformly for the mixture of Gaussian
kernels, and :math:`\omega = (m b)^{-1/2} g/|n|` with standard normal g and n for the Laplace
kernel.
So the mean kernel between states and a distribution is a scalar product with the mean of z under
it, which takes as much memory as one state. That of the model is a moving average over the last N
states,

.. math:: \mu \leftarrow \beta \mu + (1 - \beta)\, \bar z_\text{batch}, \qquad \beta = 1 - B/N
          \quad (\text{the plain mean until there are N}),

and the loss of a batch of B states v is, with the average of the others instead of its own
embedding,

.. math:: L = \frac{2}{B} \sum_i \Bigl\langle z(v_i),\; \beta\,\operatorname{sg}\mu
              + (1 - \beta)\,\operatorname{sg}\tfrac{1}{B-1} \textstyle\sum_{j \ne i} z(v_j)
              - \mu_y \Bigr\rangle.

Its mean is 0 where model and data are equal, its gradient goes through the batch alone, and its
cost is linear in the batch and does not depend on N.

References:
    | Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007)
    | A Hilbert Space Embedding for Distributions (Smola et al., 2007)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.exceptions import InvalidInput
from undrift.mmd.kernel import Kernel, RadialKernel
from undrift.mmd.kernels import LaplaceKernel, RBFMixture
from undrift.mmd.units import Units

NUM_FREQUENCIES = 1024


@dataclass
class MeanEmbedding:
    r"""A weighted mean of embeddings.

    Arguments:
        mean: :math:`\sum_i w_i z_i`, with shape :math:`(2R)`.
        square: :math:`\sum_i w_i^2`, which is the share of pairs of a state with itself.
        count: How many states it is of, at most the size of the population.
    """

    mean: Tensor
    square: float = 0.0
    count: int = 0

    def weight(self, batch: int, size: int) -> float:
        r""":math:`\beta`, the weight of the past when a batch joins a population of this size."""
        before = min(self.count, max(0, size - batch))
        return before / (before + batch)

    def add(self, z: Tensor, size: int) -> None:
        """Let a batch of embeddings join."""
        beta, batch = self.weight(len(z), size), len(z)
        self.mean = beta * self.mean + (1 - beta) * z.mean(0)
        self.square = beta**2 * self.square + (1 - beta) ** 2 / batch
        self.count = min(self.count + batch, max(size, batch))

    def among(self) -> float:
        """The mean kernel between different states, unbiased; that of a state with itself is 1."""
        return (float(self.mean @ self.mean) - self.square) / (1 - self.square)

    def mmd_sq(self, other: MeanEmbedding) -> float:
        """The unbiased MMD² between both."""
        return self.among() + other.among() - 2 * float(self.mean @ other.mean)


@dataclass
class EmbeddedBlock:
    r"""One block of features as mean embeddings.

    Arguments:
        units: Those of the first forward draws.
        frequencies: :math:`\omega`, with shape :math:`(G D, R)`.
        forward: The embeddings of two halves of the forward draws.
        generated: The embedding of generated states.
        size: Number of forward draws, the last of which are averaged.
        scale: :math:`k(x, x)`, which is not 1 where kernels are summed.
    """

    units: Units
    frequencies: Tensor
    forward: tuple[MeanEmbedding, MeanEmbedding]
    generated: MeanEmbedding
    size: int
    scale: float = 1.0

    @classmethod
    def of(cls, features: Tensor, kernel: RadialKernel) -> EmbeddedBlock:
        """A block whose units, bandwidth and frequencies are those of forward draws."""
        units = Units.of(features)
        rows = units(features)
        frequencies = draw_frequencies(kernel.fit_features(rows), rows)
        nothing = rows.new_zeros(2 * frequencies.shape[1])
        halves = MeanEmbedding(nothing), MeanEmbedding(nothing)
        generated = MeanEmbedding(nothing)
        block = cls(units, frequencies, halves, generated, len(rows), kernel.self_value)
        block.renew(features)
        return block

    def embedded(self, features: Tensor) -> Tensor:
        """Embeddings z of features, with shape :math:`(B, 2R)`; differentiable."""
        angles = self.units(features) @ self.frequencies
        z = torch.cat([angles.cos(), angles.sin()], 1)
        return z * z.new_tensor(1 / self.frequencies.shape[1]).sqrt()

    def renew(self, features: Tensor) -> None:
        """Let forward draws join theirs."""
        z = self.embedded(features)
        for half, rows in zip(self.forward, (z[::2], z[1::2]), strict=True):
            if len(rows):
                half.add(rows, max(1, self.size // 2))

    def compare(self, features: Tensor, size: int) -> Tensor:
        """L of a batch, which then joins the average over the last ``size`` states."""
        z = self.embedded(features)
        own, batch = z.detach(), len(z)
        beta = self.generated.weight(batch, size)
        others = (own.sum(0) - own) / max(1, batch - 1)
        data = (self.forward[0].mean + self.forward[1].mean) / 2
        toward = beta * self.generated.mean + (1 - beta) * others - data
        self.generated.add(own, size)
        return 2 * self.scale * (z * toward).sum(1).mean()

    def discrepancy(self) -> tuple[float, float]:
        """The unbiased MMD² of the population and forward draws, and that of halves of these."""
        values = [self.generated.mmd_sq(half) for half in self.forward]
        null = self.forward[0].mmd_sq(self.forward[1])
        return self.scale * sum(values) / 2, self.scale * null

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        embeddings = [vars(each) for each in (*self.forward, self.generated)]
        own = {"frequencies": self.frequencies, "size": self.size, "scale": self.scale}
        return own | {"units": vars(self.units), "embeddings": embeddings}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> EmbeddedBlock:
        """The block of a saved state."""
        first, second, generated = (MeanEmbedding(**saved) for saved in state["embeddings"])
        units = Units(**state["units"])
        last = generated, state["size"], state["scale"]
        return cls(units, state["frequencies"], (first, second), *last)


def draw_frequencies(kernel: Kernel, like: Tensor, count: int = NUM_FREQUENCIES) -> Tensor:
    """Frequencies of a kernel, the same for the same shape, with shape :math:`(D, R)`.

    Those of a mixture are of the mean of its kernels, even where it sums them.

    Arguments:
        kernel: With a fixed bandwidth.
        like: Rows of features.
        count: R.

    Raises:
        InvalidInput: If the kernel is not one that is a mean over frequencies.
    """
    check_kernel(kernel)
    source = torch.Generator().manual_seed(0)
    normal = torch.randn(like.shape[1], count, generator=source, dtype=torch.float64)
    if isinstance(kernel, RBFMixture):
        scales = torch.tensor(kernel.scales, dtype=torch.float64)
        chosen = scales[torch.randint(len(scales), (count,), generator=source)]
        return torch.mul(normal, (2 / chosen).sqrt()).to(like)
    length = torch.randn(count, generator=source, dtype=torch.float64).abs()
    return torch.div(normal, length * math.sqrt(kernel.resolution)).to(like)


def check_kernel(kernel: Kernel) -> None:
    """Check that a kernel is a mean over frequencies.

    Raises:
        InvalidInput: If it is none.
    """
    if not isinstance(kernel, (RBFMixture, LaplaceKernel)):
        raise InvalidInput(
            f"a moving average needs the kernel rbf or laplace, not {kernel.name}: choose one of "
            "them, or the queue"
        )
