r"""Solvers and time grids that serve the network of a pipeline at a number of network calls.

A candidate is a scheduler of diffusers over the network of the pipeline. It takes as many denoising
steps as N network calls allow, which are counted: a solver that calls the network twice in a step
takes half the steps. The time grids are those that the class of the scheduler has options for,

=============  ====================================================================================
linspace       timesteps evenly spaced, both ends included
leading        evenly spaced from the data's end
trailing       evenly spaced from the noise's end
karras         :math:`\sigma^{1/7}` evenly spaced
exponential    :math:`\ln\sigma` evenly spaced
beta           quantiles of a Beta distribution
lu             :math:`\ln(\alpha/\sigma)` by its powers
=============  ====================================================================================

and one that is computed from the measured error budget (:mod:`undrift.advice.allocation`).

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models
      (Lu et al., 2022)
    | UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models
      (Zhao et al., 2023)
    | Beta Sampling is All You Need (Lee et al., 2024)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from undrift.data.images import ImageData
from undrift.diffusion.conversion import check_same_process, converted, has_table
from undrift.diffusion.pipelines import quiet_diffusers
from undrift.diffusion.sampler import Sampler
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.diffusion.solvers import SOLVERS
from undrift.exceptions import InvalidInput, check_choice
from undrift.measurement.parallel_chains import network_calls
from undrift.remedies.registry import apply_remedy
from undrift.remedies.remedy import Remedy
from undrift.remedies.sampler import RemediedSampler

GRIDS: dict[str, dict[str, Any]] = {
    "linspace": {"timestep_spacing": "linspace"},
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}
"""The options of a scheduler that stand for each time grid."""
FLAGS = [name for options in GRIDS.values() for name, value in options.items() if value is True]
COMPUTED, OWN, PRESENT = "computed", "own", "present"


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to sample from the network of a pipeline.

    Arguments:
        solver: Name of the solver; present for the scheduler that the pipeline has.
        grid: Name of the time grid; own where the class of the scheduler has one only.
        sampler: The chain.
        scheduler: Its scheduler of diffusers.
        num_inference_steps: Steps to ask the scheduler for, where its grid has a name.
        network_calls: Network calls for one sample, counted.
        timesteps: The timesteps of the computed grid; empty for the others.
        remedy: The remedy in its text form.
    """

    solver: str
    grid: str
    sampler: Sampler
    scheduler: Any
    num_inference_steps: int
    network_calls: int
    timesteps: tuple[int, ...] = ()
    remedy: str = "none"

    @property
    def label(self) -> str:
        """Solver, grid and remedy, which tell candidates apart."""
        shown = [self.solver, self.grid, "" if self.remedy == "none" else self.remedy]
        return ", ".join(filter(None, shown))

    @property
    def is_in_config(self) -> bool:
        """Whether the configuration of the scheduler says all of it."""
        return not self.timesteps and self.remedy == "none"


@dataclass
class Candidates:
    """The chains that serve the network of a pipeline with at most N network calls.

    Arguments:
        network: The network.
        scheduler: The scheduler that the pipeline has.
        network_calls: N.
        left_out: Why a solver or a remedy was left out, by its name; filled on the way.

    Raises:
        InvalidInput: If N is no number of steps of the network's training.
    """

    network: Any
    scheduler: Any
    network_calls: int
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the number of network calls."""
        steps = self.scheduler.config.get("num_train_timesteps")
        if steps is not None and self.network_calls > steps:
            raise InvalidInput(
                f"num_inference_steps is {self.network_calls}, but the model was trained with "
                f"{steps} steps: choose at most {steps}"
            )

    def present(self) -> Candidate:
        """The scheduler of the pipeline as it is."""
        return self._candidate(PRESENT, type(self.scheduler).__name__, self.scheduler)

    def solvers(self, names: Sequence[str] | None = None) -> list[Candidate]:
        """Each solver on each grid that it has, and no two that do the same.

        Arguments:
            names: The solvers; all that serve the network when None.

        Raises:
            InvalidInput: If a solver that is named does not serve the network, or none does.
        """
        for name in names or ():
            check_choice("solver", name, SOLVERS)
        found: list[Candidate] = []
        for name in names or SOLVERS:
            try:
                found += self._on_all_grids(name)
            except InvalidInput as error:
                reason = str(error).partition("; choose")[0]
                if names is not None:
                    raise InvalidInput(f"{reason}: leave it out of the solvers") from error
                self.left_out[name] = reason
        different = list(_different(found, self.present()))
        if not different:
            raise InvalidInput("no other solver serves this model: see undrift sample --sampler")
        return different

    def on_timesteps(self, candidates: Iterable[Candidate], timesteps: Any) -> list[Candidate]:  # noqa: ANN401
        """The solvers among candidates on given timesteps, where a class takes them.

        Arguments:
            candidates: Candidates on grids that have names.
            timesteps: A function from a number of steps to as many descending timesteps.
        """
        first = {each.solver: each for each in reversed(list(candidates))}
        found = []
        for each in first.values():
            takes = "timesteps" in inspect.signature(each.scheduler.set_timesteps).parameters
            if not takes or not hasattr(each.scheduler, "alphas_cumprod"):
                continue
            plain = type(each.scheduler).from_config(
                each.scheduler.config, **_known(type(each.scheduler), dict.fromkeys(FLAGS, False))
            )
            count = len(each.sampler.grid) - 1
            try:
                found.append(self._candidate(each.solver, COMPUTED, plain, tuple(timesteps(count))))
            except InvalidInput as error:
                self.left_out[f"{each.solver}, {COMPUTED}"] = str(error)
        return found

    def remedied(
        self, base: Candidate, kind: type[Remedy], data: ImageData, seed: int
    ) -> list[Candidate]:
        """A candidate with a remedy at each strength that a search of it tries first.

        Arguments:
            base: The candidate without a remedy.
            kind: The remedy.
            data: Images that a remedy is estimated from, if it is.
            seed: Seed of the estimate.
        """
        found = []
        try:
            chain = apply_remedy(base.sampler, kind(), data.images, seed=seed, check_range=False)
            for strength in kind.strengths.grid:
                if strength != kind().neutral:
                    remedy = kind(strength=strength)
                    found.append(self._within_calls(base, chain, remedy, data, seed))
        except InvalidInput as error:
            self.left_out[kind.remedy] = str(error)
        return found

    def _within_calls(
        self, base: Candidate, chain: Sampler, remedy: Remedy, data: ImageData, seed: int
    ) -> Candidate:
        """A remedied chain, with fewer steps where the remedy calls the network more often."""
        sampler: Sampler = cast(RemediedSampler, chain).with_strength(remedy.value)
        for steps in range(base.num_inference_steps, 0, -1):
            if steps < base.num_inference_steps:
                shorter = base.sampler.with_steps(steps)
                sampler = apply_remedy(shorter, remedy, data.images, seed=seed, check_range=False)
            calls = network_calls(sampler, data.image_shape)
            if calls <= self.network_calls:
                return replace(
                    base,
                    sampler=sampler,
                    num_inference_steps=steps,
                    network_calls=calls,
                    remedy=remedy.text,
                )
            if base.timesteps:
                break
        raise InvalidInput(f"{remedy.text} takes more than {self.network_calls} network calls")

    def first_order(self, like: Candidate) -> Sampler | None:
        """The chain of DDIM on the time grid of a candidate; None for a model without betas."""
        from diffusers import DPMSolverMultistepScheduler

        if not has_table(self.scheduler):
            return None
        with quiet_diffusers():
            base = converted(self.scheduler, DPMSolverMultistepScheduler)
            options = dict.fromkeys(FLAGS, False) | _LINSPACE | GRIDS[like.grid]
            options["algorithm_type"] = "dpmsolver++"
            scheduler = type(base).from_config(base.config, solver_order=1, **options)
        return DiffusersSampler(self.network, scheduler, self.network_calls)

    def _on_all_grids(self, solver: str) -> list[Candidate]:
        """A solver on all grids that its class has options for."""
        import diffusers

        class_name, options = SOLVERS[solver]
        kind = getattr(diffusers, class_name)
        with quiet_diffusers():
            base = converted(self.scheduler, kind, options)
        grids = {name: own for name, own in GRIDS.items() if _known(kind, own) == own}
        found, refused = [], None
        for grid, own in (grids or {OWN: {}}).items():
            off = dict.fromkeys(FLAGS, False) | ({} if "timestep_spacing" in own else _LINSPACE)
            with quiet_diffusers():
                scheduler = kind.from_config(base.config, **_known(kind, off | own))
            try:
                found.append(self._candidate(solver, grid, scheduler))
            except InvalidInput as error:
                refused = error
        if refused is not None and not found:
            raise refused
        return found

    def _candidate(
        self, solver: str, grid: str, scheduler: Any, timesteps: tuple[int, ...] = ()
    ) -> Candidate:  # noqa: ANN401
        """A scheduler with as many steps as the network calls allow."""
        if timesteps:
            options = {"timesteps": list(timesteps)}
            sampler = DiffusersSampler(self.network, scheduler, timestep_options=options)
        else:
            sampler = self._longest(scheduler)
        check_same_process(solver, sampler, self.scheduler)
        calls = len(sampler.scheduler.timesteps)
        if calls > self.network_calls:
            raise InvalidInput(f"{solver} has no chain of {self.network_calls} network calls")
        steps = int(sampler.scheduler.num_inference_steps or len(sampler.grid) - 1)
        return Candidate(solver, grid, sampler, sampler.scheduler, steps, calls, timesteps)

    def _longest(self, scheduler: Any) -> DiffusersSampler:  # noqa: ANN401
        """The chain of the most steps within the network calls."""
        for count in range(self.network_calls, 0, -1):
            sampler = DiffusersSampler(self.network, scheduler, count)
            if len(sampler.scheduler.timesteps) <= self.network_calls:
                return sampler
        raise InvalidInput(
            f"{type(scheduler).__name__} has no chain of {self.network_calls} network calls"
        )


_LINSPACE = {"timestep_spacing": "linspace"}


def _known(kind: Any, options: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """The options that a class of schedulers takes."""
    names = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in options.items() if name in names}


def _different(candidates: Iterable[Candidate], present: Candidate) -> Iterator[Candidate]:
    """Those that do something else than the present scheduler and than those before."""
    seen = {_identity(present)}
    for each in candidates:
        identity = _identity(each)
        if identity not in seen:
            seen.add(identity)
            yield each


def _identity(candidate: Candidate) -> str:
    """All that the samples depend on: the class, its times, its options besides the grid."""
    scheduler = candidate.scheduler
    of_grid = {*FLAGS, "timestep_spacing"}
    options = {
        name: value
        for name, value in sorted(scheduler.config.items())
        if name not in of_grid and not name.startswith("_")
    }
    names = ("timesteps", "sigmas")
    times = [torch.as_tensor(getattr(scheduler, name, ())).tolist() for name in names]
    return repr((type(scheduler).__name__, times, _known(type(scheduler), options)))
