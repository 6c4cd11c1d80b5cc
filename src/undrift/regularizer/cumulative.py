"""The regularizer: one call in anybody's training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import DenoiserSampler
from undrift.exceptions import InvalidInput
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernels import Kernel, RBFMixture
from undrift.regularizer.balance import GradientBalance, NoOpWatch
from undrift.regularizer.bootstrap import BootstrapRollout, Gradient, Rollout
from undrift.regularizer.cohorts import PersistentCohorts
from undrift.regularizer.grid import strided, window_start
from undrift.regularizer.pool import ForwardPool
from undrift.regularizer.processes import averaged, gather, norm, num_processes, process_index
from undrift.regularizer.streams import Streams
from undrift.regularizer.variants import CHOSEN, Variant
from undrift.regularizer.weighting import Weighting, step_weights
from undrift.seeds import stream_seed

STRIDE = 3


class CumulativeErrorRegularizer:
    r"""A regularizer on the cumulative error: one call in anybody's training loop.

    >>> loss = nll + regularizer(model, x_0, main_loss=nll)  # doctest: +SKIP

    or, with both backward passes left to it, so that the rollout's graph is freed before that of
    the main term is built, and both gradients are measured at every call,

    >>> regularizer.backward(model, x_0, main_loss=lambda: nll(model, x_0))  # doctest: +SKIP

    With several processes the kernel spans the states of all of them, and gradients are to be
    averaged over processes, as data-parallel training does; all numbers of states and draws are
    totals, and every process has to see batches of one size.

    Arguments:
        sampler: The chain whose error is regularized: its schedule, grid, prediction type, reverse
            variance and clipping.
        variant: ``"persistent"``, ``"truncated"``, ``"full"`` or ``"official"``.
        strength: λ: a number, or a :class:`GradientBalance`, which needs the main term. The
            gradient of the discrepancy itself is about a hundred times smaller than the main
            term's: λ = 1 does nothing. When None, a balance, or 1 for ``"official"``.
        num_inference_steps: Number of modules of the chain that rollouts walk; those of the sampler
            when None. Give what the model will be sampled with: with T = 1000 nobody runs all
            modules, and cohorts would be old
            (:class:`~undrift.regularizer.cohorts.PersistentCohorts` says what they cost). The term
            is then about the coarse chain, with what its long steps do wrong even over an ideal
            denoiser; training makes up for that too, for this chain alone. A large reverse variance
            is noise in the samples of a coarse chain: choose the small one. ``"official"`` walks
            the sampler's own, as released.
        length: L, the number of modules of a rollout (``"persistent"`` has no use for it).
        num_states: Number of states that are rolled out, and the size of a cohort. When None, a
            share of the batch that bounds the cost of a step: half for ``"persistent"``, a quarter
            for ``"truncated"`` and ``"full"``, all of it for ``"official"``. More states mean less
            noise in the gradient.
        num_forward: Number of forward draws that they are compared with, of the last data that
            were seen; when None, 1,024, or as many as states for ``"official"``.
        num_cohorts: Number of cohorts of ``"persistent"``, which take turns.
        every: The term is computed in every k-th call; it is 0 in the others. When None, 2; 1 for
            ``"official"``, as released.
        window: Share of the chain, its end at data, in which the term is computed; when None, 0.15
            for ``"persistent"``, 0.3 for ``"truncated"`` and ``"full"`` (docs/results), all of it
            for ``"official"``. Where the error is not told from 0 (see a profile) the term is only
            noise; it is there at the end.
        stride: Times of the chain that one step of a new cohort spans on its way to the window of
            ``"persistent"``; 1 is the chain itself. Larger steps drift more, which makes the error
            that the gradient sees larger, and cost less; too large ones make training correct too
            much (docs/results).
        weighting: :math:`w_t`, of mean 1 over the window: ``"uniform"``; ``"exponential"``,
            proportional to :math:`e^{\rho (T - t)/T}`; or a table of times and weights, such as the
            measured downstream gains of a profile, interpolated.
        rho: ρ of the exponential weights.
        kernel: A kernel on states; a bandwidth that is no number is set anew from the forward
            draws in each call. When None, the mixture of Gaussian kernels.
        feature_map: Map from states to what the kernel compares, such as :class:`Pyramid`; the
            states themselves when None.
        log_every: After how many terms the discrepancy is logged, beside its null floor: the same
            estimator on forward draws alone. A fixed strength is held against the main term as
            often, where that is given.
        seed: Seed of the regularizer's own random streams.

    Attributes:
        log: What the last call measured; empty where the term sat it out. ``regularizer`` and
            ``regularizer_null`` are discrepancies without weight and strength,
            ``grad_norm_regularizer`` has both.

    Raises:
        InvalidInput: If an option has no meaning.

    References:
        | On Error Propagation of Diffusion Models (Li & van der Schaar, 2024)
    """

    def __init__(
        self,
        sampler: DenoiserSampler,
        *,
        variant: Variant = "persistent",
        strength: float | GradientBalance | None = None,
        num_inference_steps: int | None = None,
        length: int = 5,
        num_states: int | None = None,
        num_forward: int | None = None,
        num_cohorts: int = 4,
        every: int | None = None,
        window: float | None = None,
        stride: int = STRIDE,
        weighting: Weighting = "uniform",
        rho: float = 3.0,
        kernel: Kernel | None = None,
        feature_map: Callable[[Tensor], Tensor] | None = None,
        log_every: int = 25,
        seed: int = 0,
    ) -> None:
        released = variant == "official"
        _check_variant(variant)
        chosen = CHOSEN[variant]
        every = every if every is not None else chosen.every
        counts = {"length": length, "num_cohorts": num_cohorts, "every": every, "stride": stride}
        _check_options(strength, counts | {"log_every": log_every})
        window = window if window is not None else chosen.window
        if not 0 < window <= 1:
            raise InvalidInput(f"window of the regularizer is {window}: choose above 0, up to 1")
        _check_sizes(num_states=num_states, num_forward=num_forward)
        self.sampler = sampler if released else strided(sampler, num_inference_steps)
        self.variant = variant
        self.strength = strength if strength is not None else 1.0 if released else GradientBalance()
        self.num_states = num_states
        self.num_forward = num_forward or chosen.num_forward
        self.every = every
        grid = self.sampler.grid
        self.weights = step_weights(grid, weighting, rho, window_start(grid, window))
        self.kernel: Kernel = kernel or (
            RBFMixture("pooled", reduction="sum") if released else RBFMixture()
        )
        self.feature_map = feature_map
        self.log_every = log_every
        self.seed = seed
        self.rollout = _rollout(variant, length, num_cohorts, window, stride)
        self.pool = ForwardPool()
        self.calls = 0
        self.terms = 0
        self.watch = NoOpWatch()
        self.log: dict[str, float] = {}
        self._streams: Streams | None = None

    @property
    def streams(self) -> Streams:
        """The random streams of this process, which may join others until the first call."""
        if self._streams is None:
            self._streams = Streams.seeded(self.seed, process_index())
        return self._streams

    def __call__(self, model: nn.Module, x_0: Tensor, main_loss: Tensor | None = None) -> Tensor:
        r"""The term :math:`\lambda w_t \mathrm{MMD}^2`, to be added to a loss.

        Arguments:
            model: The network that is trained, wrapped or not, or a
                :class:`~undrift.diffusion.denoiser.Denoiser` over it.
            x_0: A batch of data, with shape :math:`(B, *)`.
            main_loss: The main term, with its graph: needed by a :class:`GradientBalance`, which
                now and then takes its gradient (the graph is kept).

        Returns:
            A scalar; 0 in the calls that the term sits out.

        Raises:
            InvalidInput: If the strength is balanced and the main term is not given.
        """
        if main_loss is None and isinstance(self.strength, GradientBalance):
            raise InvalidInput(
                "a balanced strength needs the main term: call regularizer(model, x_0, "
                "main_loss=loss), or give a number as strength"
            )
        value = self._discrepancy(model, x_0)
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
    ) -> Tensor:
        r"""Run both backward passes, the regularizer's first; gradients add up in ``.grad``.

        Arguments:
            model: The network that is trained, wrapped or not.
            x_0: A batch of data, with shape :math:`(B, *)`.
            main_loss: Computes the main term; called when the rollout's graph is gone.
            backward: How to run a backward pass (``accelerator.backward``).

        Returns:
            The main term, detached.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        value = self._discrepancy(model, x_0)
        if value is None:
            main = main_loss()
            backward(main)
            return main.detach()
        before = _take_gradients(parameters)
        backward(value)
        del value
        reg = _take_gradients(parameters)
        main = main_loss()
        backward(main)
        norms = norm([p.grad for p in parameters]), norm(reg)
        if isinstance(self.strength, GradientBalance):
            self.strength.update(*norms)
        strength = self._strength()
        for p, g_reg, g_before in zip(parameters, reg, before, strict=True):
            _add_gradient(p, g_reg, strength)
            _add_gradient(p, g_before, 1.0)
        self._note_norms(*norms)
        return main.detach()

    def sizes(self, batch: int) -> tuple[int, int]:
        """How many states and forward draws this process contributes to a term.

        Arguments:
            batch: Number of data in its share of a batch.
        """

        def share(total: int) -> int:
            return max(2, -(-total // num_processes()))

        own = max(2, int(CHOSEN[self.variant].states * batch))
        num_states = share(self.num_states) if self.num_states else own
        return num_states, share(self.num_forward) if self.num_forward else num_states

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: chains, data pool, random streams, averages."""
        balance = self.strength if isinstance(self.strength, GradientBalance) else None
        return {
            "grid": self.sampler.grid,
            "calls": self.calls,
            "terms": self.terms,
            "weak_since": self.watch.weak_since,
            "rollout": self.rollout.state_dict(),
            "streams": self.streams.state_dict(),
            "pool": self.pool.state_dict(),
            "balance": (balance.main_sq, balance.reg_sq) if balance else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            InvalidInput: If its chains walk another grid.
        """
        grid, saved = self.sampler.grid, state.get("grid", self.sampler.grid)
        if tuple(saved) != grid:
            raise InvalidInput(
                f"the saved regularizer walks a grid of {len(saved) - 1} modules from t = "
                f"{saved[0]:g}, this one of {len(grid) - 1} from {grid[0]:g}: use the same "
                "num_inference_steps"
            )
        self.calls, self.terms = state["calls"], state["terms"]
        self.watch.weak_since = state["weak_since"]
        self.rollout.load_state_dict(state["rollout"])
        self.streams.load_state_dict(state["streams"])
        self.pool.load_state_dict(state["pool"])
        if isinstance(self.strength, GradientBalance) and state["balance"]:
            self.strength.main_sq, self.strength.reg_sq = state["balance"]

    def _discrepancy(self, model: nn.Module, x_0: Tensor) -> Tensor | None:
        r""":math:`w_t \mathrm{MMD}^2` of this call, or None if the term sits it out."""
        self.log = {}
        num_states, num_forward = self.sizes(len(x_0))
        self.pool.capacity = max(self.pool.capacity, num_states + num_forward)
        self.pool.add(x_0)
        self.calls += 1
        if self.calls % self.every or len(self.pool) < 4:
            return None
        self.terms += 1
        network = model.network if isinstance(model, Denoiser) else model
        sampler, noise = self.sampler.with_network(network), self.streams.noise
        starts, targets = self.pool.draw(num_states, num_forward, noise)
        states, position = self.rollout(sampler, starts, num_states, self.streams)
        t = sampler.grid[position]
        forward = self._features(sampler.forward(targets, t, generator=noise), grad=False)
        value = self._compare(self._features(states), forward, states, t)
        self.log["regularizer_t"] = float(t)
        if (self.terms - 1) % self.log_every == 0:
            null = sampler.forward(starts, t, generator=self._log_noise())
            self._log_value(value.detach(), self._features(null, grad=False), forward)
        return self.weights[position] * value

    def _features(self, samples: Tensor, *, grad: bool = True) -> Tensor:
        """What the kernel compares, of the samples of all processes."""
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            x = gather(samples)
            return x if self.feature_map is None else self.feature_map(x)

    def _compare(self, x: Tensor, y: Tensor, states: Tensor, t: float) -> Tensor:
        """The discrepancy, without the part that has no gradient."""
        try:
            return self._mmd_sq(x, y, "omit")
        except InvalidInput:
            if bool(states.isfinite().all()):
                raise
            raise InvalidInput(
                f"the regularizer's states at t = {t:g} hold NaN or infinity: lower the learning "
                "rate, clip the estimate of the data, or let the network predict v or the data"
            ) from None

    def _mmd_sq(self, x: Tensor, y: Tensor, block: Literal["include", "omit"]) -> Tensor:
        with _full_precision(x):
            if self.variant == "official":
                return mmd_sq(x, y, kernel=self.kernel, estimator="v")
            return mmd_sq(x, y, kernel=self.kernel, estimator="u", reference_block=block)

    @torch.no_grad()
    def _log_value(self, value: Tensor, null: Tensor, y: Tensor) -> None:
        """Log the discrepancy with all its terms, and the same of forward draws alone."""
        floor = self._mmd_sq(null, y, "include")
        reference = floor - self._mmd_sq(null, y, "omit")
        self.log["regularizer"] = float(value + reference)
        self.log["regularizer_null"] = float(floor)

    def _log_noise(self) -> torch.Generator:
        """A stream of its own, so that a run does not depend on what is logged."""
        name = "log", process_index(), self.terms
        return torch.Generator().manual_seed(stream_seed(self.seed, *name))

    def _strength(self) -> float:
        known = self.strength
        self.log["lambda"] = known.strength if isinstance(known, GradientBalance) else float(known)
        return self.log["lambda"]

    def _measure(self, model: nn.Module, value: Tensor, main_loss: Tensor) -> None:
        """Measure both gradient norms now and then, each by a backward pass of its own."""
        balance = self.strength if isinstance(self.strength, GradientBalance) else None
        every = balance.every if balance else self.log_every
        at_first = balance is not None and self.terms <= every
        if not torch.is_grad_enabled() or ((self.terms - 1) % every and not at_first):
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        main, reg = (norm(averaged(_gradients_of(term, parameters))) for term in (main_loss, value))
        if balance:
            balance.update(main, reg)
        self._strength()
        self._note_norms(main, reg)

    def _note_norms(self, main: float, reg: float) -> None:
        """Log both norms, and warn of a term that never changes anything."""
        strength = self.log["lambda"]
        self.log["grad_norm_main"] = main
        self.log["grad_norm_regularizer"] = strength * reg
        self.watch.note(self.terms, main, strength * reg, strength)


def _check_variant(variant: str) -> None:
    if variant not in CHOSEN:
        known = ", ".join(CHOSEN)
        raise InvalidInput(f"unknown variant {variant!r} of the regularizer: choose {known}")


def _check_options(strength: float | GradientBalance | None, counts: Mapping[str, int]) -> None:
    if isinstance(strength, (int, float)) and not 0 <= strength < math.inf:
        raise InvalidInput(f"strength of the regularizer is {strength}: choose a number from 0 on")
    for name, value in counts.items():
        if value < 1:
            raise InvalidInput(f"{name} of the regularizer is {value}: choose at least 1")


def _check_sizes(**sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and value < 2:
            raise InvalidInput(f"{name} of the regularizer is {value}: choose at least 2")


def _rollout(variant: str, length: int, num_cohorts: int, window: float, stride: int) -> Rollout:
    if variant == "persistent":
        return PersistentCohorts(num_cohorts, window, stride)
    if variant == "official":
        return BootstrapRollout(length, "all", True, last_module=False, window=window)
    gradient: Gradient = "all" if variant == "full" else "last"
    return BootstrapRollout(length, gradient, window=window)


def _full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast: squared distances from a product in half precision would be noise."""
    return torch.autocast(x.device.type, enabled=False)


def _gradients_of(term: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)


def _take_gradients(parameters: list[nn.Parameter]) -> list[Tensor | None]:
    taken = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    return taken


def _add_gradient(p: nn.Parameter, gradient: Tensor | None, factor: float) -> None:
    if gradient is None:
        return
    if p.grad is None:
        p.grad = gradient.mul_(factor)
    else:
        p.grad.add_(gradient, alpha=factor)
