r"""Measure the error of a chain: :func:`measure` runs a sampler once and compares as it runs.

All chains advance together from one chosen state to the next and are compared there with forward
draws. The budget's second pass runs each segment once more from forward draws. A few pilot chains
run first, from :math:`q(x_T | x_0)`: their data are known, which :math:`\delta_t` needs, and the
states are placed where their error grows.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor

from undrift.diffusion.batch_size import automatic_batch_size
from undrift.diffusion.condition import bare
from undrift.diffusion.network import evaluating
from undrift.diffusion.pipelines import as_sampler, check_weights, weights_digest
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput, Limits
from undrift.measurement.chain import ChainMeasurement
from undrift.measurement.cost import announce_cost
from undrift.measurement.data import check_data_range, conditioned, data_for
from undrift.measurement.feature_error import FeatureSpace, check_spaces
from undrift.measurement.forward_draws import ForwardDraws, Reference, default_count
from undrift.measurement.growth import NUM_CHAINS
from undrift.measurement.profile import ErrorProfile
from undrift.measurement.state import with_ratios
from undrift.mmd.kernel import Kernel
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.two_sample import MIN_SAMPLES
from undrift.processes import Processes
from undrift.progress import progress_bar
from undrift.seeds import stream_seed

logger = logging.getLogger("undrift")

MIN_PERMUTATIONS = 39
"""The fewest that have a quantile of 97.5 %, the end of a 95 % interval."""

States = int | Literal["all"] | Sequence[float]


@torch.no_grad()
def measure(
    model: Any,  # noqa: ANN401
    data: Any,  # noqa: ANN401
    *,
    schedule: Any = None,  # noqa: ANN401
    labels: Any = None,  # noqa: ANN401
    num_inference_steps: int | None = None,
    num_samples: int = 2000,
    num_forward: int | None = None,
    states: States = 16,
    budget: bool = True,
    exposure: bool = True,
    modular: bool = False,
    num_modular: int = 500,
    growth: bool = False,
    spaces: Mapping[str, FeatureSpace] | None = None,
    reference: Reference = "population",
    kernel: Kernel | None = None,
    num_permutations: int = 200,
    batch_size: int | None = None,
    check_range: bool = True,
    seed: int = 0,
    device: torch.device | str | None = None,
    label: str = "model",
    progress: bool = True,
    on_state: Callable[[float, Tensor], None] = lambda t, x: None,
    accelerator: Any = None,  # noqa: ANN401
) -> ErrorProfile:
    r"""Measure the error of a chain after chosen states, with error bars.

    Arguments:
        model: A :class:`~undrift.diffusion.sampler.Sampler`, a
            :class:`~undrift.diffusion.denoiser.Denoiser` (sampled ancestrally), a network with its
            ``schedule``, or a pipeline of diffusers with ``unet`` and ``scheduler``: itself, its
            folder, its name on the hub, or a run of ``undrift train``.
        data: Data, with shape :math:`(n, *)`, scaled as the model's samples are: a tensor, an
            array, a ``DataLoader``, a list of tensors; or what is read as images and scaled to
            [-1, 1] and the size that the model makes: a name, a folder, a file, Pillow images, a
            Hugging Face dataset (see :func:`undrift.load_data`).
        schedule: Noise schedule of a bare network that predicts the noise, or a scheduler of
            diffusers.
        labels: The condition of each datum, for a conditional model: a class, or a prompt by its
            number; those that the data come with when None. Chains draw their conditions from them.
            Without any, chains draw from all conditions evenly, and neither fresh and inherited
            error nor exposure bias is measured, which need forward draws with their conditions.
        num_inference_steps: Number of steps of the sampler; all training steps when None.
        num_samples: Number of chains; standard errors fall with its root, and with the number
            itself where there is no error.
        num_forward: Number of forward draws at each state; all data, up to four times
            ``num_samples``, when None.
        states: ``"all"`` states of the sampler's grid; a number of them, spaced where the error
            grows (:mod:`undrift.measurement.placement`); or the times themselves, to which the
            first and the last are added.
        budget: Whether to run the second pass, for fresh and inherited error (twice the cost).
        exposure: Whether to measure δ, on one more chain for each 24, and the ε-norm gap, on some
            of all.
        modular: Whether to measure the modular error of every step in nats, and with it the upper
            limit of the cumulative error (:mod:`undrift.measurement.modular_segments`); both, and
            the lower limit, are then against the data set itself. The last state but one of the
            grid is measured too, because a divergence from a data set exists down to there. It
            costs twice ``num_modular`` chains, and time in proportion to the number of data.
        num_modular: Number of chains on which the modular error is measured.
        growth: Whether to measure how much each segment enlarges small perturbations
            (:mod:`undrift.measurement.growth`), on 32 more chains; no data are involved.
        spaces: Other spaces in which the states are compared with forward draws too, by name, each
            a function of states and their time (:mod:`undrift.measurement.feature_error`;
            :func:`undrift.regularizer.spaces.space_named` has some).
        reference: Whether the data are draws of a ``"population"``, or the target themselves, as an
            ``"empirical"`` distribution (:class:`~undrift.measurement.cumulative.ForwardDraws`).
        kernel: Kernel; its bandwidth is fixed by the forward draws of each state. The RBF mixture
            with the mean squared distance when None.
        num_permutations: Permutations of the test at each state; without the budget 0 is allowed,
            for no p-values.
        batch_size: Number of chains that go through the network at once; by the size of its
            activations (:mod:`undrift.diffusion.batch_size`) when None.
        check_range: Whether to refuse data that are scaled in another way than the model's samples
            (:mod:`undrift.measurement.data`).
        seed: Seed of everything; the same seed gives the same profile.
        device: Where to run, and where the model must be; the model's device when None.
        label: Name of the profile in reports.
        progress: Whether to draw a progress bar on stderr, and to estimate the time of work that
            takes more than 10 seconds.
        on_state: Called at each compared state with its time and the states of all chains, with
            shape :math:`(N, *)`; at time 0 these are the samples, so that nobody has to draw them
            again. They are not to be changed in place.
        accelerator: An ``Accelerator`` whose processes share the chains; each of them has to call,
            and gets the profile. This process alone when None.

    Raises:
        InvalidInput: If the model, the data, the states or the sample size cannot be used, or the
            chain or the weights hold values that are not finite.

    Example:
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser, measure
        >>> def ideal(x_t, timestep):  # of data N(0, 1): the best estimate of the noise
        ...     return schedule.sigma(int(timestep[0]) + 1) * x_t
        >>> schedule = CosineSchedule(20)
        >>> data = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> denoiser = Denoiser(ideal, schedule)
        >>> sampler = AncestralSampler(denoiser, variance_type="fixed_large", clip=None)
        >>> profile = measure(sampler, data, num_samples=500, states=3, progress=False)
        >>> [state.t for state in profile.states][0], profile.final.p_value > 0.01
        (20, True)
    """
    started = time.perf_counter()
    sampler = as_sampler(model, num_inference_steps, schedule)
    data, known, data_how = data_for(sampler, data, device)
    sampler, data, labels = conditioned(sampler, data, known if labels is None else labels)
    if sampler.is_conditional and labels is None and (budget or exposure):
        logger.info("the data have no labels: fresh and inherited error are not measured")
        budget = exposure = False
    sizes = {"num_samples": num_samples, "num_forward": num_forward, "num_modular": num_modular}
    _check_sizes(sizes | {"number of data": len(data)}, batch_size)
    _check_permutations(num_permutations, budget)
    check_weights(sampler.network)
    if kernel is None and bool((data == data[0]).all()):
        raise InvalidInput("all data are equal: give a kernel with a number as its bandwidth")
    chosen = _chosen(sampler.grid, states)
    batch_size = batch_size or automatic_batch_size(bare(sampler.network), data.shape[1:])
    if check_range:
        is_scaled = "source" in data_how or sampler.space is not None
        check_data_range(sampler, data, is_scaled=is_scaled, seed=seed)
    check_spaces(spaces or {}, sampler, data)
    count = num_forward or default_count(data, num_samples, reference)
    draws = torch.Generator().manual_seed(stream_seed(seed, "forward"))
    forward = ForwardDraws(data, sampler, count, reference, draws, labels)
    chain = ChainMeasurement(
        sampler, forward, kernel or RBFMixture(), num_samples, num_permutations, batch_size, seed,
        budget=budget, exposure=exposure, num_modular=num_modular if modular else 0,
        num_growth=NUM_CHAINS if growth else 0, spaces=spaces or {},
        processes=Processes.of(accelerator), on_state=on_state,
    )  # fmt: skip
    calls = chain.num_calls(chosen)
    progress = progress and chain.processes.is_main
    if progress:
        announce_cost(sampler, data, num_samples, calls, batch_size, chain.processes.count)
    bar = progress_bar(f"measuring {label}", calls, show=progress)
    with evaluating(sampler.network), bar as tick:
        measured, modular_how = chain.run(chosen, tick)
    seconds = round(time.perf_counter() - started, 2)
    how = _how(chain) | {"data": data_how} | modular_how | {"seconds": seconds}
    return ErrorProfile(
        with_ratios(measured),
        num_samples,
        count,
        json.loads(json.dumps(how, default=str)),
        label,
        datetime.now(UTC).isoformat(timespec="seconds"),
        statistics=chain.scalars.statistics.listed,
    )


def _how(chain: ChainMeasurement) -> dict[str, Any]:
    """All that the numbers depend on besides the data."""
    return {
        "model": type(bare(chain.sampler.network)).__name__,
        "weights": weights_digest(chain.sampler.network),
        "sampler": chain.sampler.describe(),
        **_conditions(chain.sampler),
        "kernel": chain.kernel.to_dict(),
        "estimator": "u",
        "reference": chain.forward.reference,
        "num_permutations": chain.num_permutations,
        "batch_size": chain.batch_size,
        "budget": chain.budget,
        **({"features": [*chain.spaces]} if chain.spaces else {}),
        "seed": chain.seed,
        "device": str(chain.forward.data.device),
        "processes": chain.processes.count,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("undrift", "torch", "diffusers")},
    }


def _conditions(sampler: Sampler) -> dict[str, Any]:
    """Guidance and the shares of the conditions of a conditional model."""
    if not sampler.is_conditional:
        return {}
    network = sampler.network
    counts = torch.bincount(network.population, minlength=network.num_conditions)
    return {"conditions": {"guidance": network.guidance, "counts": counts.tolist()}}


def _chosen(grid: tuple[float, ...], states: States) -> int | tuple[float, ...]:
    """Times of the states, descending, with both ends; or their number, to be placed."""
    if states == "all" or (isinstance(states, int) and states >= len(grid)):
        return grid
    if isinstance(states, str):
        raise InvalidInput(f"states {states!r}: give a number of states, times, or all")
    if isinstance(states, int):
        if states < 2:
            raise InvalidInput(f"{states} states asked for: choose at least 2, or all")
        return states
    off = [t for t in states if t not in grid]
    if off:
        raise InvalidInput(
            f"state t={off[0]:g} is not on the sampler's grid of {len(grid)} times from "
            f"{grid[0]:g} to 0: choose times of the grid, or a number of states"
        )
    return tuple(t for t in grid if t in {*states, grid[0], grid[-1]})


def _check_sizes(sizes: dict[str, int | None], batch: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and value < MIN_SAMPLES:
            raise InvalidInput(f"{name} is {value}: an error bar needs at least {MIN_SAMPLES}")
    Limits(1).check("batch_size", batch)


def _check_permutations(count: int, budget: bool) -> None:
    if count < MIN_PERMUTATIONS and (count != 0 or budget):
        raise InvalidInput(
            f"num_permutations is {count}: 95 % intervals, and amplifications where they exclude "
            f"0, need at least {MIN_PERMUTATIONS}" + ("" if budget else ", or 0 for no p-values")
        )
