r"""FD-loss: a model is fine-tuned by the Fréchet distance between its few-step samples and data.

.. math:: L = \|\mu - \mu_r\|^2 + \operatorname{tr}\Sigma + \operatorname{tr}\Sigma_r
              - 2 \operatorname{tr}\bigl(\Sigma_r^{1/2} \Sigma\, \Sigma_r^{1/2}\bigr)^{1/2},

:math:`\mu_r, \Sigma_r` the moments of the features of data, fixed, and :math:`\mu, \Sigma` those of
a population of samples, which is larger than a batch, because moments of a batch alone make a model
worse. The population is one of two, and the gradient goes through the current batch alone:

- a moving average with decay β, :math:`m \leftarrow \beta\, m + (1 - \beta)\, m_\text{batch}` of
  :math:`E\varphi` and :math:`E\varphi\varphi^\top`;
- a queue of the last N features, the batch among them.

Both begin with samples of the starting model. With :math:`\Sigma_r = R R^\top` the last trace is
the sum of the roots of the eigenvalues of :math:`R^\top \Sigma R`, in double precision; eigenvalues
that are 0 up to rounding are left out. Of several blocks each is divided by its own value without
gradient, as published for several networks. Published settings: β = 0.999, batches of 1,024, a
learning rate of 1e-6, about a hundredth of that of training: the default of
``--objective.strength`` is 0.01. The optimizer starts anew.

A model that is trained on two moments of features matches these: judge it in another network, and
by a distance that sees more than moments.

References:
    | FD-loss (arXiv 2604.28190, 2026)
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
      (Heusel et al., 2017)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from undrift.diffusion.sampler import Sampler
from undrift.exceptions import Limits
from undrift.objectives.samples import SampleObjective
from undrift.processes import Processes, gather

MOST_DATA = 10_000
"""Images that the moments of data are taken of at most, evenly spaced."""
FIRST_SAMPLES = 1024
"""Samples of the starting model that the moving average begins with."""


@dataclass
class Moments:
    r"""Raw moments :math:`E\varphi` and :math:`E\varphi\varphi^\top`, in double precision.

    Arguments:
        first: With shape :math:`(D)`.
        second: With shape :math:`(D, D)`.
    """

    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Moments of rows, differentiable."""
        rows = features.double()
        return cls(rows.mean(0), rows.T @ rows / len(rows))

    def detach(self) -> Moments:
        """The same without their graph."""
        return Moments(self.first.detach(), self.second.detach())

    def mixed(self, other: Moments, weight: float) -> Moments:
        """Moments of the mixture that has the other with this weight."""
        return Moments(
            torch.lerp(self.first, other.first, weight),
            torch.lerp(self.second, other.second, weight),
        )

    @property
    def covariance(self) -> Tensor:
        """With shape :math:`(D, D)`."""
        return self.second - torch.outer(self.first, self.first)


def frechet_loss(generated: Moments, reference: Moments) -> Tensor:
    """The Fréchet distance of the Gaussians with two moments, differentiable by the first."""
    root = _root(reference.covariance)
    covariance = generated.covariance
    values = torch.linalg.eigvalsh(root.T @ covariance @ root)
    kept = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    cross = torch.where(kept, values, 1.0).sqrt()[kept].sum()
    gap = (generated.first - reference.first).square().sum()
    return gap + covariance.trace() + reference.covariance.trace() - 2 * cross


def _root(covariance: Tensor) -> Tensor:
    """A factor R of a covariance, without the columns that are 0 up to rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    return torch.as_tensor(vectors[:, kept] * values[kept].sqrt())


class FrechetLoss(SampleObjective):
    r"""FD-loss: the Fréchet distance of finished samples to data.

    Arguments:
        sampler: The chain.
        data: Images whose moments are compared with, 10,000 of them at most.
        queue: N, the length of the queue; 0 takes the moving average.
        decay: β of the moving average.
        options: ``space`` and ``seed`` of :class:`~undrift.objectives.samples.SampleObjective`.

    Attributes:
        log: ``frechet``, the distance, the sum over blocks.

    Raises:
        InvalidInput: If the length of the queue or the decay is invalid.

    References:
        | FD-loss (arXiv 2604.28190, 2026)
    """

    def __init__(
        self,
        sampler: Sampler,
        data: Tensor,
        *,
        queue: int = 0,
        decay: float = 0.999,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(sampler, **options)
        Limits(0).check("queue of FrechetLoss", queue)
        Limits(0, 1).check("decay of the moments", decay)
        self.data, self.queue, self.decay = data, queue, decay
        self.reference: list[Moments] = []
        self.moments: list[Moments] = []
        self.rows: list[Tensor] = []

    def distance(self, model: nn.Module, samples: Tensor, x_0: Tensor) -> Tensor:
        """The distance of the population with the batch in it, the sum over blocks."""
        if not self.reference:
            self._begin(model, x_0)
        batch = [block.flatten(1) for block in self.features(samples)]
        moments = self._with_batch(batch)
        pairs = zip(moments, self.reference, strict=True)
        values = torch.stack([frechet_loss(own, data) for own, data in pairs])
        self.log = {"frechet": float(values.detach().sum())}
        if len(values) > 1:
            values = values / values.detach().clamp(min=torch.finfo(values.dtype).tiny)
        return values.sum().to(samples.dtype)

    def _with_batch(self, batch: list[Tensor]) -> list[Moments]:
        """The moments of the population, which the batch joins."""
        if self.queue:
            rows = [
                torch.cat([old, new])[-self.queue :]
                for old, new in zip(self.rows, batch, strict=True)
            ]
            self.rows = [block.detach() for block in rows]
            return [Moments.of(block) for block in rows]
        pairs = zip(self.moments, batch, strict=True)
        found = [own.mixed(Moments.of(new), 1 - self.decay) for own, new in pairs]
        self.moments = [own.detach() for own in found]
        return found

    @torch.no_grad()
    def _begin(self, model: nn.Module, like: Tensor) -> None:
        """Take the moments of data, and the population from samples of the starting model."""
        step = math.ceil(len(self.data) / MOST_DATA)
        parts = (rows.to(like) for rows in self.data[::step].split(256))
        self.reference = [Moments.of(block) for block in self._blocks(parts)]
        count = math.ceil((self.queue or FIRST_SAMPLES) / (len(like) * Processes.running().count))
        drawn = self._blocks(gather(self.samples(model, like)) for _ in range(count))
        self.rows = [block[-self.queue :] for block in drawn] if self.queue else []
        self.moments = [] if self.queue else [Moments.of(block) for block in drawn]

    def _blocks(self, parts: Iterator[Tensor]) -> list[Tensor]:
        """The features of images that come in parts, in blocks of rows."""
        found = [[block.flatten(1) for block in self.space(part, 0)] for part in parts]
        return [torch.cat(block) for block in zip(*found, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Random streams, space, and the population."""
        own = {name: [vars(m) for m in getattr(self, name)] for name in ("reference", "moments")}
        return super().state_dict() | own | {"rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        super().load_state_dict(state)
        self.reference = [Moments(**saved) for saved in state["reference"]]
        self.moments = [Moments(**saved) for saved in state["moments"]]
        self.rows = list(state["rows"])
