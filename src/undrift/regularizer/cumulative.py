"""The regularizer: one call in any training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.pipelines import as_sampler
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput, Limits
from undrift.mmd.kernel import Kernel, RadialKernel
from undrift.mmd.kernels import RBFMixture
from undrift.processes import Processes
from undrift.regularizer.balance import GradientBalance, NoEffectWarning
from undrift.regularizer.bootstrap import rollout_streams
from undrift.regularizer.comparison import (
    BatchComparison,
    Comparison,
    PopulationComparison,
    comparing,
)
from undrift.regularizer.gradients import add_gradients, gradient_norm, norm, take_gradients
from undrift.regularizer.options import Variant, defaults_of, term_options
from undrift.regularizer.pool import ForwardPool
from undrift.regularizer.resumable import Resumable, Streams
from undrift.regularizer.spaces import PixelSpace, Space
from undrift.regularizer.variants import rollout_of
from undrift.regularizer.weighting import Weighting, step_weights, window_start
from undrift.seeds import stream_seed


class CumulativeErrorRegularizer(Resumable):
    r"""A regularizer on the cumulative error: one call in any training loop.

    >>> loss = nll + regularizer(model, x_0, main_loss=nll)  # doctest: +SKIP

    or, with both backward passes left to it, so that the rollout's graph is freed before that of
    the main term is built, and both gradients are measured at every call,

    >>> regularizer.backward(model, x_0, main_loss=lambda: nll(model, x_0))  # doctest: +SKIP

    With several processes the value is that of one process with the joined batch: the kernel spans
    the states of all of them, and gradients are to be averaged over processes, as data-parallel
    training does. All numbers of states and draws are totals, and every process has to see batches
    of one size.

    Arguments:
        model: The chain whose error is regularized: a sampler, a denoiser, which is sampled
            ancestrally, or a pipeline of diffusers.
        variant: ``"persistent"``, ``"truncated"``, ``"full"`` or ``"official"``.
        strength: λ: a number, or a :class:`GradientBalance`, which needs the main term. The
            gradient of the discrepancy itself is about a hundred times smaller than the main
            term's: λ = 1 has no visible effect. When None, a balance, or 1 for ``"official"``.
        weighting: :math:`w_t`, of mean 1 over the window: ``"uniform"``; ``"exponential"``,
            proportional to :math:`e^{\rho (T - t)/T}`; or a table of times and weights, such as the
            measured downstream gains of a profile, interpolated.
        kernel: A kernel on states; a bandwidth that is no number is set anew from the forward
            draws in each call. When None, the mixture of Gaussian kernels.
        space: What is compared (:mod:`undrift.regularizer.spaces`): pixels when None. Each block of
            its features is compared on its own scale.
        log_every: After how many terms the discrepancy is logged, together with its null floor:
            the same estimator on forward draws alone. A fixed strength is compared with the main
            term as often, where that is given.
        options: The numbers of the term, with the defaults of
            :class:`~undrift.regularizer.options.RegularizerConfig`:

            - ``num_inference_steps``: Number of denoising steps of the chain that rollouts follow;
              those of the sampler when None. Give what the model will be sampled with: with
              T = 1000 sampling rarely uses all steps, and cohorts would stem from old weights (see
              :class:`~undrift.regularizer.cohorts.PersistentCohorts` for their cost). The term is
              then about the coarse chain, including the errors that its long steps make even with
              an ideal denoiser; training corrects these too, for this chain alone. A large reverse
              variance is noise in the samples of a coarse chain: choose the small one.
            - ``length``: L, the number of denoising steps of a rollout.
            - ``num_states``: States that are rolled out, the size of a cohort; more of them mean
              less noise in the gradient.
            - ``num_forward``: Forward draws that they are compared with, of the last data seen.
            - ``num_cohorts``: Cohorts of ``"persistent"``, which take turns.
            - ``every``: The term is computed in every k-th call; it is 0 in the others.
            - ``window``: Share of the chain, its end at data, in which the term is computed. Where
              the error is not distinguishable from zero (see a profile) the term is only noise.
            - ``stride``: Times of the chain that one step of a new cohort spans on its way to the
              window; 1 is the chain itself. Larger steps have larger errors, which are more easily
              distinguishable from noise in the gradient, and cost less; too large ones make
              training correct too much (docs/results).
            - ``gradient_steps``: Last steps of ``"persistent"`` that the gradient goes through.
            - ``rho``: ρ of the exponential weights.
            - ``population``: Generated states of each time that the states of a term are compared
              as a part of (:mod:`undrift.regularizer.population`); 0 compares them alone.
            - ``averaging``: ``"queue"``, or ``"moving"`` (:mod:`undrift.regularizer.embedding`).
            - ``seed``: Seed of the regularizer's random streams.

    Attributes:
        log: What the last call measured; empty after a call without a term. ``regularizer`` and
            ``regularizer_null`` are discrepancies without weight and strength,
            ``grad_norm_regularizer`` has both.

    Raises:
        InvalidInput: If an option is invalid, or the model is no chain that can be regularized.

    References:
        | On Error Propagation of Diffusion Models (Li & van der Schaar, 2024)
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        *,
        variant: Variant = "persistent",
        strength: float | GradientBalance | None = None,
        weighting: Weighting = "uniform",
        kernel: Kernel | None = None,
        space: Space | None = None,
        log_every: int = 25,
        **options: Any,
    ) -> None:
        fixed = None if isinstance(strength, GradientBalance) else strength
        config = term_options(variant, fixed, options)
        Limits(1).check("log_every of the regularizer", log_every)
        defaults, released = defaults_of(variant, config.population), variant == "official"
        window, steps = config.window or defaults.window, config.num_inference_steps
        sampler = _trainable_chain(model)
        self.sampler = sampler if steps is None or released else sampler.with_steps(steps)
        self.defaults = defaults
        strength = defaults.strength if strength is None else strength
        self.strength = GradientBalance() if strength is None else strength
        self.num_states = config.num_states
        self.num_forward = config.num_forward or defaults.num_forward
        self.every = config.every or defaults.every
        grid = self.sampler.grid
        self.weights = step_weights(grid, weighting, config.rho, window_start(grid, window))
        kernel = kernel or (RBFMixture("pooled", reduction="sum") if released else RBFMixture())
        if not (config.population or isinstance(kernel, RadialKernel)):
            raise InvalidInput(
                f"the {kernel.name} kernel is not a function of the distance and compares a "
                "population: give population, such as 256"
            )
        space = space or PixelSpace()
        self.comparison: Comparison = (
            PopulationComparison(space, kernel, config.population, config.averaging)
            if config.population
            else BatchComparison(space, kernel, "v" if released else "u")
        )
        self.log_every = log_every
        self.seed = config.seed
        self.rollout = rollout_of(variant, config, defaults)
        self.pool = ForwardPool()
        self.calls = 0
        self.terms = 0
        self.watch = NoEffectWarning()
        self.log: dict[str, float] = {}
        self.saved = ("calls", "terms", "watch", "rollout", "streams", "pool", "comparison")
        self.saved += ("balance",) if self.balance else ()

    @cached_property
    def streams(self) -> Streams:
        """The random streams, the same in all processes."""
        return rollout_streams(self.seed)

    @property
    def balance(self) -> GradientBalance | None:
        """The balance of the strength by gradient norms; None for a fixed strength."""
        return self.strength if isinstance(self.strength, GradientBalance) else None

    def __call__(
        self,
        model: nn.Module,
        x_0: Tensor,
        main_loss: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        r"""The term :math:`\lambda w_t \mathrm{MMD}^2`, to be added to a loss.

        Arguments:
            model: The network that is trained, wrapped or not, or a
                :class:`~undrift.diffusion.denoiser.Denoiser` over it.
            x_0: A batch of data, with shape :math:`(B, *)`.
            main_loss: The main term, with its graph: needed by a :class:`GradientBalance`, which
                takes its gradient from time to time (the graph is kept).
            labels: The conditions of the data, with shape :math:`(B,)`, of a conditional model.

        Returns:
            A scalar; 0 in the calls without a term.

        Raises:
            InvalidInput: If the strength is balanced and the main term is not given, or the model
                is conditional and the labels are not.
        """
        if main_loss is None and self.balance:
            raise InvalidInput(
                "a balanced strength needs the main term: call regularizer(model, x_0, "
                "main_loss=loss), or give a number as strength"
            )
        value = self._discrepancy(model, x_0, labels)
        if value is None:
            return x_0.new_zeros(())
        if main_loss is not None:
            self._measure(model, value, main_loss)
        return self._strength() * value

    def backward(
        self,
        model: nn.Module,
        x_0: Tensor,
        main_loss: Callable[[], Tensor],
        backward: Callable[[Tensor], None] = Tensor.backward,
        labels: Tensor | None = None,
    ) -> Tensor:
        r"""Run both backward passes, the regularizer's first; gradients add up in ``.grad``.

        Arguments:
            model: The network that is trained, wrapped or not.
            x_0: A batch of data, with shape :math:`(B, *)`.
            main_loss: Computes the main term; called when the rollout's graph is gone.
            backward: How to run a backward pass (``accelerator.backward``).
            labels: The conditions of the data, with shape :math:`(B,)`, of a conditional model.

        Returns:
            The main term, detached.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        value = self._discrepancy(model, x_0, labels)
        if value is None:
            main = main_loss()
            backward(main)
            return main.detach()
        before = take_gradients(parameters)
        backward(value)
        del value
        reg = take_gradients(parameters)
        main = main_loss()
        backward(main)
        norms = norm([p.grad for p in parameters]), norm(reg)
        add_gradients(parameters, reg, self._note_norms(*norms))
        add_gradients(parameters, before)
        return main.detach()

    def sizes(self, batch: int) -> tuple[int, int]:
        """How many states and forward draws this process contributes to a term.

        Arguments:
            batch: Number of data in its share of a batch.
        """
        count = Processes.running().count
        num_states, num_forward = self.totals(batch * count)
        return max(2, -(-num_states // count)), max(2, -(-num_forward // count))

    def totals(self, batch: int) -> tuple[int, int]:
        """How many states and forward draws a term has, of all processes.

        Arguments:
            batch: Number of data in the batches of all processes.
        """
        num_states = self.num_states or self.defaults.num_states(batch)
        return num_states, self.num_forward or max(num_states, self.comparison.least)

    def held(self, batch: int) -> int:
        """How many data and states this process holds between calls.

        Arguments:
            batch: Number of data in its share of a batch.
        """
        own, _ = self.sizes(batch)
        pool = sum(self.totals(batch * Processes.running().count))
        return pool + self.rollout.num_chains * own

    @property
    def starting_passes(self) -> int:
        """Network calls, each with all states of a cohort, that the first term takes beforehand."""
        return self.rollout.starting_passes(self.sampler.grid)

    def fill(self, batch: int, share: float, draw: Callable[[int], Tensor]) -> None:
        """Prepare a dry run: the next call costs what a call in the middle of a run costs.

        The next call computes the term, its chains are in their places, filled with noise, and its
        rollout has the full length. Do not continue training from here.

        Arguments:
            batch: Number of data in this process' share of a batch.
            share: Share of the states and forward draws of that batch that it takes; populations
                have their full size.
            draw: Makes as many states of noise as asked for.
        """
        count = Processes.running().count
        whole = self.totals(batch * count)[1]
        own, own_forward = (max(2, round(share * size)) for size in self.sizes(batch))
        self.every = 1
        self.num_states, self.num_forward = own * count, own_forward * count
        self.pool.capacity = self.num_states + self.num_forward
        rows = draw(self.pool.capacity)
        classes = torch.zeros(len(rows), dtype=torch.int64)
        self.pool.add(rows, classes if self.sampler.is_conditional else None)
        grid = self.sampler.grid
        self.rollout.fill(grid, lambda: draw(own))
        times = [t for t, weight in zip(grid, self.weights, strict=True) if weight]
        self.comparison.fill(times, draw, whole)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: chains, data pool, random streams, averages."""
        return {"grid": self.sampler.grid} | super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            InvalidInput: If its chains have another grid.
        """
        grid, saved = self.sampler.grid, state["grid"]
        if tuple(saved) != grid:
            raise InvalidInput(
                f"the saved regularizer has a grid of {len(saved) - 1} denoising steps from t = "
                f"{saved[0]:g}, this one of {len(grid) - 1} from {grid[0]:g}: use the same "
                "num_inference_steps"
            )
        super().load_state_dict(state)

    def _discrepancy(self, model: nn.Module, x_0: Tensor, labels: Tensor | None) -> Tensor | None:
        r""":math:`w_t \mathrm{MMD}^2` of this call, or None in a call without a term."""
        self.log = {}
        gather = Processes.running().gather
        if self.sampler.is_conditional:
            labels = gather(self._checked(x_0, labels))
        batch = gather(x_0)
        num_states, num_forward = self.totals(len(batch))
        self.pool.capacity = max(self.pool.capacity, num_states + num_forward)
        self.pool.add(batch, labels)
        self.calls += 1
        if self.calls % self.every or len(self.pool) < 2 + self.comparison.least:
            return None
        self.terms += 1
        network = model.network if isinstance(model, Denoiser) else model
        sampler, noise = self.sampler.with_network(network), self.streams["noise"]
        least = self.comparison.least
        starts, others, own = self.pool.draw(num_states, num_forward, noise, least)
        states, position = self.rollout(sampler, starts, num_states, self.streams, own)
        t = sampler.grid[position]
        wanted = self.comparison.num_forward(t, num_states, len(others))
        forward = sampler.forward(self.pool.at(others[:wanted]), t, generator=noise)
        self.log["regularizer_t"] = float(t)
        with comparing(states, t):
            value = self.comparison.loss(states, forward, t)
            if (self.terms - 1) % self.log_every == 0:
                null = sampler.forward(starts, t, generator=self._log_noise())
                self.log |= self.comparison.logged(value.detach(), null, forward, t)
        return self.weights[position] * value

    def _checked(self, x_0: Tensor, labels: Tensor | None) -> Tensor:
        """The conditions of a batch, if there is one for each of its data."""
        if labels is None or len(labels) != len(x_0):
            raise InvalidInput(
                "the model is conditional: give the regularizer the labels of the data, "
                "labels=labels, one for each"
            )
        return cast(Tensor, self.sampler.network.checked(labels))

    def _log_noise(self) -> torch.Generator:
        """A separate random stream, so that a run does not depend on what is logged."""
        seed = stream_seed(self.seed, "log", 0, self.terms)
        return torch.Generator().manual_seed(seed)

    def _strength(self) -> float:
        known = self.strength
        self.log["lambda"] = known.strength if isinstance(known, GradientBalance) else float(known)
        return self.log["lambda"]

    def _measure(self, model: nn.Module, value: Tensor, main_loss: Tensor) -> None:
        """Measure both gradient norms from time to time, each by a separate backward pass."""
        every = self.balance.every if self.balance else self.log_every
        at_first = self.balance is not None and self.terms <= every
        if not torch.is_grad_enabled() or ((self.terms - 1) % every and not at_first):
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        self._note_norms(*(gradient_norm(term, parameters) for term in (main_loss, value)))

    def _note_norms(self, main: float, reg: float) -> float:
        """Balance the strength, log both norms, warn of a term without effect; the strength."""
        if self.balance:
            self.balance.update(main, reg)
        strength = self._strength()
        self.log["grad_norm_main"] = main
        self.log["grad_norm_regularizer"] = strength * reg
        self.watch.note(self.terms, main, strength * reg, strength)
        return strength


def _trainable_chain(model: Any) -> Sampler:  # noqa: ANN401
    """A model as a chain that rollouts can follow with the network that is trained."""
    sampler = as_sampler(model)
    if sampler.network is None:
        raise InvalidInput(
            f"{type(sampler).__name__} shows no network that could be trained: use a sampler of "
            "undrift, or define network and with_network"
        )
    return sampler
