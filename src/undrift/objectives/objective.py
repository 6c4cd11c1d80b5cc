"""What training methods have in common: one call in anybody's training loop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from undrift.diffusion.denoiser import Denoiser, PredictionType, split_variance
from undrift.diffusion.gaussian import DenoiserSampler
from undrift.exceptions import InvalidInput
from undrift.regularizer.balance import NoEffectWarning
from undrift.regularizer.gradients import gradient_norm
from undrift.regularizer.processes import process_index
from undrift.seeds import stream_seed


class Objective(ABC):
    r"""A training loss: one call in anybody's training loop.

    >>> loss = objective(model, x_0)  # doctest: +SKIP

    Its main term is the mean squared error of what the network predicts, at steps drawn uniformly
    from 1 to T. A method changes the input and the target of the main term (:meth:`pair`) or adds a
    term of its own (:class:`TermObjective`).

    Steps and noise of the main term come from one random stream, whatever else a method draws from
    another: objectives with one seed see the same steps and the same noise.

    Arguments:
        model: The chain, or only the denoiser, whose schedule and prediction type hold.
        strength: The number that the method turns on; its published value when None.
        seed: Seed of both random streams.

    Attributes:
        log: What the last call measured.

    Raises:
        InvalidInput: If the strength has no meaning.
    """

    published_strength = 0.0

    def __init__(
        self,
        model: DenoiserSampler | Denoiser,
        *,
        strength: float | None = None,
        seed: int = 0,
    ) -> None:
        strength = self.published_strength if strength is None else strength
        if not 0 <= strength < math.inf:
            raise InvalidInput(
                f"strength of {type(self).__name__} is {strength}: choose a number from 0 on"
            )
        self.denoiser = model if isinstance(model, Denoiser) else model.denoiser
        self.schedule = self.denoiser.schedule
        self.strength = float(strength)
        self.seed = seed
        self.log: dict[str, float] = {}
        self._streams: dict[str, torch.Generator] | None = None

    @property
    def streams(self) -> dict[str, torch.Generator]:
        """The random streams of this process, ``main`` and ``own``; made at the first call."""
        if self._streams is None:
            self._streams = {
                name: torch.Generator().manual_seed(stream_seed(self.seed, name, process_index()))
                for name in ("main", "own")
            }
        return self._streams

    def __call__(
        self,
        model: nn.Module,
        x_0: Tensor,
        *,
        t: Tensor | None = None,
        epsilon: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""The loss of a batch, with its graph.

        Arguments:
            model: The network that is trained, wrapped or not, or a
                :class:`~undrift.diffusion.denoiser.Denoiser` over it.
            x_0: Data, with shape :math:`(B, *)`.
            t: Step of each row, with shape :math:`(B,)`, from 1 to T: diffusers' timestep + 1;
                drawn when None.
            epsilon: Noise of the main term, with shape :math:`(B, *)`; drawn when None.
            generator: Source of both, on the CPU; the objective's own stream when None.

        Returns:
            A scalar.

        Raises:
            InvalidInput: If a step is none of the chain, or the model is a wrapped denoiser.
        """
        self.log = {}
        generator = self.streams["main"] if generator is None else generator
        if t is None:
            t = torch.randint(1, self.schedule.num_steps + 1, (len(x_0),), generator=generator)
            t = self.emphasized(t)
        elif not 1 <= int(t.min()) <= int(t.max()) <= self.schedule.num_steps:
            raise InvalidInput(
                f"steps from {int(t.min())} to {int(t.max())}: t counts from 1 to "
                f"{self.schedule.num_steps}, the timestep of diffusers + 1"
            )
        if epsilon is None:
            epsilon = torch.randn(x_0.shape, generator=generator).to(x_0)
        network = model.network if isinstance(model, Denoiser) else model
        denoiser = self.denoiser.with_network(network)
        x_t, target = self.pair(denoiser, x_0, t, epsilon)
        output, _ = split_variance(denoiser.output(x_t, t), x_t)
        main = (output.to(target.dtype) - target).square().mean()
        return self.completed(main, denoiser, x_t, t, output)

    @abstractmethod
    def pair(
        self, denoiser: Denoiser, x_0: Tensor, t: Tensor, epsilon: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the network is shown and what it should say, each with the shape of the data."""

    def emphasized(self, t: Tensor) -> Tensor:
        """Steps that were drawn uniformly, moved to where a method wants more of them."""
        return t

    def completed(
        self, main: Tensor, denoiser: Denoiser, x_t: Tensor, t: Tensor, output: Tensor
    ) -> Tensor:
        """The loss, of its main term and of what the network said in it."""
        del denoiser, x_t, t, output
        return main

    def noisy(self, x_0: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        r"""The forward draw :math:`\alpha_t x_0 + \sigma_t\epsilon`."""
        alpha_t, sigma_t = self.schedule.alpha_sigma(t, x_0)
        return alpha_t * x_0 + sigma_t * epsilon

    def draw(self, like: Tensor) -> Tensor:
        """Standard Gaussian noise of the method's own stream, in the shape of a tensor."""
        return torch.randn(like.shape, generator=self.streams["own"]).to(like)

    @contextmanager
    def aside(self, like: Tensor) -> Iterator[None]:
        """Passes beside that of the main term, which then meets the same dropout as without."""
        seed = int(torch.randint(2**62, (), generator=self.streams["own"]))
        with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
            torch.manual_seed(seed)
            yield

    def log_change(self, x_t: Tensor, plain: Tensor) -> None:
        """Log how far the network's input is from the plain one, root mean square."""
        self.log["input_change"] = float((x_t - plain).detach().float().square().mean().sqrt())

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {name: stream.get_state() for name, stream in self.streams.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        for name, stream in self.streams.items():
            stream.set_state(state[name].cpu())


class Plain(Objective):
    r"""The plain loss: input :math:`\alpha_t x_0 + \sigma_t\epsilon`, target as the network's kind.

    .. math:: \| F_\theta(x_t, t) - y \|^2 / d, \qquad
              y = \epsilon, \; x_0 \text{ or } v = \alpha_t\epsilon - \sigma_t x_0

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)

    Example:
        >>> from undrift.diffusion.schedule import CosineSchedule
        >>> network = torch.nn.Conv2d(1, 1, 3, padding=1)
        >>> denoiser = Denoiser(lambda x, t: network(x), CosineSchedule(10), "v_prediction")
        >>> objective = Plain(denoiser)
        >>> loss = objective(denoiser, torch.zeros(4, 1, 8, 8))
        >>> loss.shape, loss.requires_grad
        (torch.Size([]), True)
    """

    def pair(
        self, denoiser: Denoiser, x_0: Tensor, t: Tensor, epsilon: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The forward draw and the target of the network's kind."""
        return self.noisy(x_0, t, epsilon), denoiser.target(x_0, epsilon, t)


class TermObjective(Plain):
    r"""The plain loss plus :math:`\lambda` times a term.

    Arguments:
        model: The chain, or only the denoiser.
        strength: λ; its published value when None.
        log_every: After how many calls the gradient norms of both parts are measured, each by a
            backward pass of its own.
        seed: Seed of both random streams.

    Attributes:
        log: ``main`` and ``term`` (without λ) of the last call, and now and then
            ``grad_norm_main`` and ``grad_norm_term`` (with λ).

    Raises:
        InvalidInput: If the strength or the interval has no meaning.
    """

    def __init__(
        self,
        model: DenoiserSampler | Denoiser,
        *,
        strength: float | None = None,
        log_every: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(model, strength=strength, seed=seed)
        if log_every < 1:
            raise InvalidInput(f"log_every is {log_every}: choose at least 1")
        self.log_every = log_every
        self.calls = 0
        self.watch = NoEffectWarning(f"the term of {type(self).__name__}", "raise its strength")

    @abstractmethod
    def term(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        r"""The term without λ, a scalar with graph.

        Arguments:
            denoiser: The model.
            x_t: States of the main term, with shape :math:`(B, *)`.
            t: Their steps, with shape :math:`(B,)`.
            output: What the network said of them in the main term, with its graph.
        """

    def completed(
        self, main: Tensor, denoiser: Denoiser, x_t: Tensor, t: Tensor, output: Tensor
    ) -> Tensor:
        """Both parts of the loss; their values and, now and then, gradients are logged."""
        with self.aside(x_t):
            term = self.term(denoiser, x_t, t, output)
        self.log |= {"main": float(main.detach()), "term": float(term.detach())}
        if self.calls % self.log_every == 0 and term.requires_grad:
            self._measure(denoiser, main, term)
        self.calls += 1
        return main + self.strength * term

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        counts = {"calls": self.calls, "weak_since": self.watch.weak_since}
        return super().state_dict() | counts

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        super().load_state_dict(state)
        self.calls, self.watch.weak_since = state["calls"], state["weak_since"]

    def _measure(self, denoiser: Denoiser, main: Tensor, term: Tensor) -> None:
        """Log the gradient norms, and warn of a term that never changes anything."""
        parameters = [p for p in denoiser.parameters() if p.requires_grad]
        if not parameters:
            return
        main_norm, term_norm = (gradient_norm(part, parameters) for part in (main, term))
        self.log["grad_norm_main"] = main_norm
        self.log["grad_norm_term"] = self.strength * term_norm
        self.watch.note(self.calls, main_norm, self.strength * term_norm, self.strength)


def data_error_weight(
    prediction_type: PredictionType, alpha_t: Tensor | float, sigma_t: Tensor | float
) -> Tensor | float:
    r"""Weight of :math:`\|\hat x_0 - x_0\|^2` that the plain loss of a network's kind amounts to.

    .. math:: \alpha_t^2/\sigma_t^2 \;(\epsilon), \qquad 1 \;(x_0), \qquad 1/\sigma_t^2 \;(v)

    With it a published term keeps, at each step, the weight beside the main term that it had beside
    the published one, whatever the network predicts.

    Arguments:
        prediction_type: What the network predicts.
        alpha_t: :math:`\alpha_t`.
        sigma_t: :math:`\sigma_t`.
    """
    if prediction_type == "sample":
        return 1.0
    snr = 1 / sigma_t**2
    return snr if prediction_type == "v_prediction" else alpha_t**2 * snr


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """One number for each row, ready to multiply a batch."""
    return values.view(-1, *[1] * (like.ndim - 1)).to(like)
