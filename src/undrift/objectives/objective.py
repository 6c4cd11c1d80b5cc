"""What training methods have in common: one call in any training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from undrift.diffusion.denoiser import (
    Denoiser,
    Prediction,
    PredictionType,
    estimates,
    split_variance,
)
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput, Limits
from undrift.processes import Processes
from undrift.regularizer.balance import NoEffectWarning
from undrift.regularizer.gradients import gradient_norm
from undrift.regularizer.resumable import Resumable, Streams, seeded
from undrift.seeds import drawn_seed

Pair = tuple[Tensor, Tensor]


class Objective(Resumable, ABC):
    r"""A training loss: one call in any training loop.

    >>> loss = objective(model, x_0)  # doctest: +SKIP

    Most have a main term, the mean squared error of what the network predicts
    (:class:`DenoisingObjective`); others are losses of finished samples
    (:class:`~undrift.objectives.samples.SampleObjective`).

    Steps and noise of the main term come from one random stream, and everything else that a method
    draws from another: objectives with the same seed use the same steps and the same noise. With
    several processes both are drawn for the joined batch, of which every process takes its rows;
    every process has to see batches of one size.

    Arguments:
        seed: Seed of both random streams.

    Attributes:
        log: What the last call measured.
    """

    saved: tuple[str, ...] = ("streams",)

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.log: dict[str, float] = {}

    @abstractmethod
    def __call__(
        self, model: nn.Module, x_0: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss of a batch, with its graph.

        Arguments:
            model: The network that is trained, wrapped or not, or a
                :class:`~undrift.diffusion.denoiser.Denoiser` over it.
            x_0: Data, with shape :math:`(B, *)`.
            generator: Source of the draws of a main term; the stream ``main`` when None.
        """

    @cached_property
    def streams(self) -> Streams:
        """The random streams ``main`` and ``own``, the same in all processes."""
        return Streams(self.seed, ["main", "own"])


class DenoisingObjective(Objective):
    r"""A training loss with the main term of denoising.

    It is the mean squared error of what the network predicts, at steps drawn uniformly from 1 to T.
    A method changes the input and the target of the main term (:meth:`pair`) or adds another term
    (:class:`TermObjective`).

    Arguments:
        model: The sampler, or only the denoiser: its noise schedule and prediction type are used.
        strength: The strength of the method; its published value when None.
        seed: Seed of both random streams.

    Raises:
        InvalidInput: If the strength is invalid, or the sampler has no schedule to train with.
    """

    published_strength = 0.0

    def __init__(
        self, model: Sampler | Denoiser, *, strength: float | None = None, seed: int = 0
    ) -> None:
        super().__init__(seed=seed)
        strength = self.published_strength if strength is None else strength
        Limits(0).check(f"strength of {type(self).__name__}", strength)
        self.denoiser = trained_denoiser(model)
        self.schedule = self.denoiser.schedule
        self.strength = float(strength)

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
            generator: Source of both, on the CPU; the stream ``main`` when None.

        Returns:
            A scalar.

        Raises:
            InvalidInput: If a step is not one of the schedule, or the model is a wrapped denoiser.
        """
        self.log = {}
        generator = self.streams["main"] if generator is None else generator
        if t is None:
            last = self.schedule.num_steps + 1
            t = of_all(lambda n: torch.randint(1, last, (n,), generator=generator), x_0)
            t = self.emphasized(t)
        elif not 1 <= int(t.min()) <= int(t.max()) <= self.schedule.num_steps:
            raise InvalidInput(
                f"steps from {int(t.min())} to {int(t.max())}: t counts from 1 to "
                f"{self.schedule.num_steps}, the timestep of diffusers + 1"
            )
        if epsilon is None:
            dims = x_0.shape[1:]
            epsilon = of_all(lambda n: torch.randn(n, *dims, generator=generator), x_0).to(x_0)
        network = model.network if isinstance(model, Denoiser) else model
        denoiser = self.denoiser.with_network(network)
        x_t, target = self.pair(denoiser, x_0, t, epsilon)
        output, _ = split_variance(denoiser.output(x_t, t), x_t)
        error = (output.to(target.dtype) - target).square()
        main = (denoiser.weight(t, error) * error).mean()
        return self.completed(main, denoiser, x_t, t, output)

    @abstractmethod
    def pair(self, denoiser: Denoiser, x_0: Tensor, t: Tensor, epsilon: Tensor) -> Pair:
        """Input and target of the network, each with the shape of the data."""

    def emphasized(self, t: Tensor) -> Tensor:
        """Steps that were drawn uniformly, in the distribution that a method trains with."""
        return t

    def completed(
        self, main: Tensor, denoiser: Denoiser, x_t: Tensor, t: Tensor, output: Tensor
    ) -> Tensor:
        """The loss, from its main term and the output of the network in it."""
        return main

    def noisy(self, x_0: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        r"""The forward draw :math:`\alpha_t x_0 + \sigma_t\epsilon`."""
        alpha_t, sigma_t = self.schedule.alpha_sigma(t, x_0)
        return alpha_t * x_0 + sigma_t * epsilon

    def draw(self, like: Tensor) -> Tensor:
        """Standard Gaussian noise from the stream ``own``, in the shape of a batch."""
        own, dims = self.streams["own"], like.shape[1:]
        return of_all(lambda n: torch.randn(n, *dims, generator=own), like).to(like)

    def aside(self, like: Tensor) -> AbstractContextManager[None]:
        """For additional passes: the main term uses the same dropout as without them."""
        seed = drawn_seed(self.streams["own"])
        return seeded(seed + Processes.running().index, like.device)

    def log_change(self, x_t: Tensor, plain: Tensor) -> None:
        """Log the root-mean-square difference of the network's input from the plain one."""
        square = (x_t - plain).detach().float().square().mean()
        self.log["input_change"] = float(Processes.running().mean(square).sqrt())


class Plain(DenoisingObjective):
    r"""The plain loss: input :math:`\alpha_t x_0 + \sigma_t\epsilon`, target by prediction type.

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

    def pair(self, denoiser: Denoiser, x_0: Tensor, t: Tensor, epsilon: Tensor) -> Pair:
        """The forward draw and the target of the prediction type."""
        return self.noisy(x_0, t, epsilon), denoiser.target(x_0, epsilon, t)


class TermObjective(Plain):
    r"""The plain loss plus :math:`\lambda` times a term.

    Arguments:
        model: The sampler, or only the denoiser.
        log_every: After how many calls the gradient norms of both parts are measured, each by a
            separate backward pass.
        options: ``strength`` (λ, its published value by default) and ``seed`` of
            :class:`DenoisingObjective`.

    Attributes:
        log: ``main`` and ``term`` (without λ) of the last call, and every ``log_every`` calls
            ``grad_norm_main`` and ``grad_norm_term`` (with λ).

    Raises:
        InvalidInput: If the strength or the interval is invalid.
    """

    saved = ("streams", "calls", "watch")

    def __init__(self, model: Sampler | Denoiser, *, log_every: int = 50, **options: Any) -> None:
        super().__init__(model, **options)
        Limits(1).check("log_every", log_every)
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
            output: The output of the network there, in the main term, with its graph.
        """

    def completed(
        self, main: Tensor, denoiser: Denoiser, x_t: Tensor, t: Tensor, output: Tensor
    ) -> Tensor:
        """Both parts of the loss; logs their values and sometimes their gradient norms."""
        with self.aside(x_t):
            term = self.term(denoiser, x_t, t, output)
        mean = Processes.running().mean
        self.log |= {"main": float(mean(main)), "term": float(mean(term))}
        if self.calls % self.log_every == 0 and term.requires_grad:
            self._measure(denoiser, main, term)
        self.calls += 1
        return main + self.strength * term

    def _measure(self, denoiser: Denoiser, main: Tensor, term: Tensor) -> None:
        """Log the gradient norms, and warn of a term without effect."""
        parameters = [p for p in denoiser.parameters() if p.requires_grad]
        if not parameters:
            return
        main_norm, term_norm = (gradient_norm(part, parameters) for part in (main, term))
        self.log["grad_norm_main"] = main_norm
        self.log["grad_norm_term"] = self.strength * term_norm
        self.watch.note(self.calls, main_norm, self.strength * term_norm, self.strength)


def of_all(draw: Callable[[int], Tensor], batch: Tensor) -> Tensor:
    """This process' rows of random numbers that are drawn for the joined batch.

    Arguments:
        draw: Draws so many rows, the same in every process.
        batch: The rows of this process.
    """
    return Processes.running().drawn(draw, len(batch))


def trained_denoiser(model: Sampler | Denoiser) -> Denoiser:
    """The denoiser that is trained, of a sampler over it.

    Raises:
        InvalidInput: If the sampler has no noise schedule, or does not say what its network
            predicts.
    """
    if isinstance(model, Denoiser):
        return model
    known: Denoiser | None = getattr(model, "denoiser", None)
    if known is not None:
        return known
    if model.schedule is None or model.prediction_type is None:
        raise InvalidInput(
            f"{type(model).__name__} has no table of its noise schedule to train with: use a "
            "DDPMScheduler or a DDIMScheduler"
        )
    return Denoiser(model.network, model.schedule, model.prediction_type)


def data_error_weight(
    prediction_type: PredictionType, alpha_t: Tensor | float, sigma_t: Tensor | float
) -> Tensor | float:
    r"""Weight of :math:`\|\hat x_0 - x_0\|^2` in the plain loss of a prediction type.

    .. math:: \alpha_t^2/\sigma_t^2 \;(\epsilon), \quad 1 \;(x_0), \quad 1/\sigma_t^2 \;(v), \quad
              (\alpha_t + \sigma_t)^2/\sigma_t^2 \;(\epsilon - x_0)

    With it a published term keeps, at each step, its published weight relative to the main term,
    whatever the network predicts.

    Arguments:
        prediction_type: What the network predicts.
        alpha_t: :math:`\alpha_t`.
        sigma_t: :math:`\sigma_t`.
    """
    if prediction_type == "sample":
        return 1.0
    snr = 1 / sigma_t**2
    if prediction_type == "flow_prediction":
        return (alpha_t + sigma_t) ** 2 * snr
    return snr if prediction_type == "v_prediction" else alpha_t**2 * snr


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """One number for each row, in a shape that broadcasts to a batch."""
    return values.view(-1, *[1] * (like.ndim - 1)).to(like)


def predict_between(
    denoiser: Denoiser, x: Tensor, step: Tensor, alpha: Tensor, sigma: Tensor
) -> Prediction:
    r"""The model's :math:`\hat x_0` and :math:`\hat\epsilon` at any time.

    Arguments:
        denoiser: The model.
        x: States, with shape :math:`(B, *)`.
        step: Their fractional steps, with shape :math:`(B,)`.
        alpha: :math:`\alpha` there, with shape :math:`(B,)`.
        sigma: :math:`\sigma` there.
    """
    at = per_row(alpha, x), per_row(sigma, x)
    out = denoiser.output_at(x, (step - 1).to(x), *at)
    return estimates(split_variance(out, x)[0], x, *at, denoiser.prediction_type)
