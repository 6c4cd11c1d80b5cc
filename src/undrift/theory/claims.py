r"""The claims of the paper, tested on Gaussian chains whose errors are known in closed form.

Each claim gets a verdict and the numbers that support it, over chains of many dimensions, lengths,
schedules and reverse variances, with denoisers from ideal to 20 % wrong. A claim about every model
is refuted by one chain. That it holds on all of these chains is evidence, not a proof; where there
is a proof, the evidence says so (docs/theory).

References:
    | On Error Propagation of Diffusion Models (Li & van der Schaar, 2024)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import getdoc
from statistics import median_high
from typing import Literal

import torch
from scipy.stats import spearmanr
from torch import Tensor

from undrift.diffusion.schedule import SCHEDULES, Schedule
from undrift.exceptions import Limits
from undrift.mmd.gaussian import rbf_mmd_sq
from undrift.mmd.kl_bounds import cumulative_brackets
from undrift.quality.frechet import gaussian_distance
from undrift.theory.error_budget import ErrorBudget
from undrift.theory.gaussian_chain import GaussianChain, ReverseVariance
from undrift.theory.mmd_budget import MMDBudget, bootstrap_mmd_sq, mmd_budget

Source = Literal["paper", "undrift"]
Verdict = Literal["holds", "refuted", "not a law"]
VERDICTS: dict[bool | None, Verdict] = {True: "holds", False: "refuted", None: "not a law"}

LENGTHS = (5, 8, 13, 20, 35, 60, 100, 180, 300, 550, 1000)
VARIANCES: tuple[ReverseVariance, ...] = ("small", "large", "optimal", "exact")
NUM_CHAINS = 200
BOOTSTRAP_LENGTH = 5


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_covariance(generator: torch.Generator, dim: int) -> Tensor:
    """A covariance in random axes, with variances from 0.01 to 10, with shape (dim, dim)."""
    basis, _ = torch.linalg.qr(normal(generator, dim, dim))
    logs = 3 * torch.rand(dim, generator=generator, dtype=torch.float64) - 2
    return torch.einsum("ij,j,kj->ik", basis, 10**logs, basis)


def random_chain(index: int, *, longest: int = 1000) -> GaussianChain:
    """Chain number `index` of 200 that cover all dimensions, lengths, schedules and variances.

    The errors of the denoiser (slope, offset) and of the reverse variance grow with the index,
    from 0 to 20 %. They are the same at every step in the even chains, like those of a network with
    a systematic error, and independent from step to step in the odd ones.

    Arguments:
        index: From 0 to 199; it is also the seed.
        longest: The largest number of steps.
    """
    generator = torch.Generator().manual_seed(index)
    dim, lengths = 1 + index % 16, [n for n in LENGTHS if n <= longest]
    steps, error = lengths[index % len(lengths)], 0.2 * index / (NUM_CHAINS - 1)
    draws = steps if index % 2 else 1
    variance_error = 2 * torch.rand(draws, generator=generator, dtype=torch.float64) - 1
    slope = normal(generator, draws, dim, dim) / math.sqrt(dim)
    return GaussianChain.from_schedule(
        normal(generator, dim),
        random_covariance(generator, dim),
        list(SCHEDULES.values())[index % 3](steps),
        variance=VARIANCES[(index // 3) % 4],
        slope_error=error * slope.expand(steps, dim, dim),
        offset_error=error * normal(generator, draws),
        variance_error=error * variance_error,
    )


@dataclass(frozen=True)
class ChainErrors:
    """A chain with its exact error budgets, in nats and in MMD over all states."""

    chain: GaussianChain
    budget: ErrorBudget
    mmd: MMDBudget

    @property
    def final(self) -> float:
        r""":math:`E_{cumu}` where the chain ends, in nats."""
        return float(self.budget.e_cumu[0])


Numbers = dict[str, float]
Result = tuple[bool | None, Numbers]
"""Whether a claim holds (None: typical, but not a law), and the numbers of its evidence."""


def budget_closes(chains: Sequence[ChainErrors]) -> Result:
    """The error budget closes: cumulative = inherited + fresh − forgotten.

    Proven by the chain rule of KL. Largest gap over {steps:,} steps of {chains} chains:
    {identity_gap:.1e} of the largest term.
    """
    gap = max(item.budget.relative_gap for item in chains)
    steps = sum(item.chain.num_steps for item in chains)
    return gap < 1e-9, {"identity_gap": gap, "steps": steps, "chains": len(chains)}


def amplification_at_least_one(chains: Sequence[ChainErrors]) -> Result:
    """Every step amplifies: μ_t ≥ 1 in E_cumu(t) = μ_t E_cumu(t+1) + E_mod(t).

    μ_t = 1 − E_con(t)/E_cumu(t+1) is at most 1 for every model, because the contraction E_con is a
    divergence. Of {steps:,} steps {above_one} lie above 1; the median is {median:.3g} and
    {share_negative:.0%} are negative.
    """
    mu = torch.cat([item.budget.mu for item in chains])
    mu = mu[mu.isfinite()]
    counts = {"steps": len(mu), "above_one": int((mu > 1).sum()), "share_negative": _share(mu < 0)}
    return bool((mu >= 1).all()), counts | _range(mu)


def standard_output(chains: Sequence[ChainErrors]) -> Result:
    """The output of the noise predictor is standard Gaussian (assumed for μ_t ≥ 1).

    The ideal ε_θ(x_t) = E[ε|x_t] has covariance σ_t²(α_t² S + σ_t² I)⁻¹, below the identity
    wherever the data have any variance. Over all steps and axes its variance runs from
    {smallest:.1e} to {largest:.4g}, with median {median:.2g}.
    """
    spectra = [torch.linalg.eigvalsh(item.chain.forward_cov[1:]) for item in chains]
    sigmas = [item.chain.sigma_sq[1:, None] for item in chains]
    variances = torch.cat([(a / b).flatten() for a, b in zip(sigmas, spectra, strict=True)])
    return bool(variances.median() >= 1), _range(variances)


def upward_trend(chains: Sequence[ChainErrors]) -> Result:
    """The cumulative error rises from noise to data.

    It ends above where it began in {share_of_chains_that_grow:.1%} of the chains, but falls in
    {share_of_steps_that_fall:.0%} of their steps: wherever the contraction exceeds the modular
    error. A step without a modular error can only lower it: with the ideal denoiser the
    {ideal_chain_start:.2f} nats of the prior on a short schedule end as {ideal_chain_end:.2f}.
    """
    finite = [item for item in chains if math.isfinite(item.final)]
    falls = [item.budget.e_cumu < item.budget.inherited for item in finite]
    ideal = GaussianChain.from_schedule(
        torch.ones(2),
        torch.diag(torch.tensor([0.5, 0.1])),
        Schedule.from_betas(torch.linspace(1e-4, 0.02, 100)),
        variance="exact",
    ).budget()
    return None, {
        "share_of_chains_that_grow": sum(i.final > i.budget.e_prior for i in finite) / len(finite),
        "share_of_steps_that_fall": _share(torch.cat(falls)),
        "ideal_chain_start": ideal.e_prior,
        "ideal_chain_end": float(ideal.e_cumu[0]),
    }


def bootstrap_bounds(chains: Sequence[ChainErrors]) -> Result:
    """The bootstrap MMD, which the regularizer sums, bounds the cumulative error from above.

    A bootstrap of {length} steps starts from forward draws and leaves out what is inherited: its
    MMD lies below D_t in {share_below:.0%} of {states:,} states, and at the data it is as little
    as {smallest_ratio_at_data:.1%} of D_0. Summed over all states, its squares lie below the summed
    cumulative error in {share_of_sums_below:.0%} of {chains} chains. What holds: the bootstraps of
    all segments, each times its downstream gain, add up to a bound on D_0, which is an MMD and no
    divergence.
    """
    below, ratios, sums = [], [], []
    for item in chains:
        if item.chain.num_steps <= BOOTSTRAP_LENGTH or item.mmd.discrepancy[0] < 1e-6:
            continue
        bootstrap_sq = bootstrap_mmd_sq(item.chain, BOOTSTRAP_LENGTH)
        bootstrap, errors = bootstrap_sq.sqrt(), item.budget.e_cumu[: len(bootstrap_sq)]
        whole = item.mmd.discrepancy[: len(bootstrap)]
        below.append((bootstrap < whole)[whole > 1e-6])
        ratios.append(float(bootstrap[0] / whole[0]))
        sums.append(bootstrap_sq.sum() < errors.sum())
    states = torch.cat([torch.empty(0, dtype=torch.bool), *below])
    return not bool(states.any()), {
        "length": BOOTSTRAP_LENGTH,
        "share_below": _share(states),
        "states": len(states),
        "smallest_ratio_at_data": min(ratios, default=math.inf),
        "share_of_sums_below": _share(torch.tensor(sums)),
        "chains": len(sums),
    }


def no_mmd_bounds_above(chains: Sequence[ChainErrors]) -> Result:
    """No MMD, however small, bounds the cumulative error (a KL) from above.

    Two Gaussians that differ in one narrow axis lie at MMD² = {mmd_sq:.1e} and KL = {kl:.2f} nats,
    and narrower axes make the first arbitrarily small and the second arbitrarily large. MMD bounds
    KL from below only.
    """
    cov = torch.diag(torch.tensor([1.0, 1e-8], dtype=torch.float64))
    thin = torch.diag(torch.tensor([1.0, 1e-12], dtype=torch.float64))
    mean, widths = torch.zeros(2, dtype=torch.float64), 2 * torch.ones(1, dtype=torch.float64)
    mmd_sq, ratio = float(rbf_mmd_sq(mean, thin, mean, cov, widths)), 1e-4
    return True, {"mmd_sq": mmd_sq, "kl": (ratio - 1 - math.log(ratio)) / 2}


def bracket_holds(chains: Sequence[ChainErrors]) -> Result:
    """max{MMD², −log(1 − MMD²/2)} ≤ E_cumu(t) ≤ E_cumu(T+1) + Σ E_mod.

    Proven. The exact value lies inside in {inside:,} of {states:,} states. The lower limit is
    loose: {median_lower_over_exact:.1%} of the exact value in the median.
    """
    inside, tightness = [], []
    for item in chains:
        limits, budget = item.mmd.discrepancy[:-1].square().flip(0).tolist(), item.budget
        brackets = cumulative_brackets(limits, budget.e_prior, budget.e_mod.flip(0).tolist())
        for bracket, exact in zip(brackets, budget.e_cumu.flip(0).tolist(), strict=True):
            if math.isfinite(exact):
                inside.append(exact in bracket)
            if 1e-6 < exact < math.inf:
                tightness.append(bracket.lower / exact)
    median = median_high(tightness) if tightness else math.nan
    counts = {"inside": sum(inside), "states": len(inside)}
    return all(inside), counts | {"median_lower_over_exact": median}


def mmd_budget_holds(chains: Sequence[ChainErrors]) -> Result:
    """D_0 ≤ Σ G_t F_t + G_T D_T, with measured amplification λ_t.

    Proven by the triangle inequality. D_0 is at most {largest_ratio:.3f} of the bound. λ_t lies
    above 1 in {share_lambda_above_one:.1%} of {steps:,} steps: in MMD a step can amplify.
    """
    bounds = [(float(item.mmd.discrepancy[0]), item.mmd.bound) for item in chains]
    worst = max(distance / bound for distance, bound in bounds if bound > 1e-9)
    amplified = torch.cat([item.mmd.amplification for item in chains])
    amplified = amplified[amplified.isfinite()]
    counts = {"steps": len(amplified), "share_lambda_above_one": _share(amplified > 1)}
    return worst <= 1 + 1e-9, counts | {"largest_ratio": worst}


def quality_follows(chains: Sequence[ChainErrors]) -> Result:
    """The cumulative error at the data is closely related to sample quality.

    In one direction, and proven (Talagrand): the squared Fréchet distance is at most
    2 λ_max(S) E_cumu(1); it reaches {largest_ratio:.2g} of that. Rank correlation over {chains}
    chains: {rank_correlation:.2f}. The converse fails: an error along a narrow axis costs nats but
    hardly any distance.
    """
    finite = [item for item in chains if math.isfinite(item.final) and item.final > 1e-9]
    errors = [item.final for item in finite]
    scaled = [scaled_frechet_distance(item.chain) for item in finite]
    worst = max(distance / (2 * error) for distance, error in zip(scaled, errors, strict=True))
    correlation = float(spearmanr(errors, scaled).statistic)
    numbers = {"largest_ratio": worst, "rank_correlation": correlation, "chains": len(finite)}
    return worst <= 1 + 1e-9, numbers


CLAIMS: dict[Callable[[Sequence[ChainErrors]], Result], Source] = {
    budget_closes: "undrift",
    amplification_at_least_one: "paper",
    standard_output: "paper",
    upward_trend: "paper",
    bootstrap_bounds: "paper",
    no_mmd_bounds_above: "undrift",
    bracket_holds: "undrift",
    mmd_budget_holds: "undrift",
    quality_follows: "paper",
}
"""The claims, each by the function that tests it, and who makes them.

The docstring of a function is the claim, and below it the evidence with its numbers in braces.
"""


@dataclass(frozen=True)
class Claim:
    """A claim, the verdict on it, and the evidence.

    Arguments:
        name: The claim, in words.
        source: Who makes it.
        verdict: Whether it holds.
        evidence: Why, in one or two sentences with numbers.
        numbers: The numbers alone.
    """

    name: str
    source: Source
    verdict: Verdict
    evidence: str
    numbers: Numbers


def evaluate_claims(num_chains: int = NUM_CHAINS) -> list[Claim]:
    """The verdict on each claim; the first is that the error budget closes.

    Arguments:
        num_chains: How many of the 200 chains to use, spread evenly over them; at least 2.

    Raises:
        InvalidInput: If there are fewer or more.

    Example:
        >>> closes, amplifies, *_ = evaluate_claims(8)
        >>> closes.numbers["identity_gap"] < 1e-9, amplifies.verdict
        (True, 'refuted')
    """
    Limits(2, NUM_CHAINS, "[]").check("num_chains", num_chains)
    spread = [round(i * (NUM_CHAINS - 1) / (num_chains - 1)) for i in range(num_chains)]
    chains = [random_chain(index) for index in dict.fromkeys(spread)]
    errors = [ChainErrors(chain, chain.budget(), mmd_budget(chain)) for chain in chains]
    claims = []
    for test, source in CLAIMS.items():
        holds, numbers = test(errors)
        name, _, evidence = (getdoc(test) or "").partition(".\n\n")
        evidence = " ".join(evidence.split()).format(**numbers)
        claims.append(Claim(name, source, VERDICTS[holds], evidence, numbers))
    return claims


def _range(values: Tensor) -> Numbers:
    found = {"smallest": values.min(), "median": values.median(), "largest": values.max()}
    return {name: float(value) for name, value in found.items()}


def _share(condition: Tensor) -> float:
    """Share of true entries; 0 where there are none."""
    return float(condition.double().mean()) if len(condition) else 0.0


def scaled_frechet_distance(chain: GaussianChain) -> float:
    r"""Fréchet distance between samples and data over the largest variance of the data."""
    sampled = chain.sampled_mean[0], chain.sampled_cov[0]
    largest = torch.linalg.eigvalsh(chain.cov)[-1]
    return gaussian_distance(*sampled, chain.mean, chain.cov) / float(largest)


def example_chain() -> tuple[GaussianChain, str]:
    """An example chain, and its description."""
    chain = GaussianChain.from_schedule(
        torch.tensor([0.3, -0.2]),
        torch.diag(torch.tensor([0.5, 0.1])),
        SCHEDULES["cosine"](100),
        variance="large",
        slope_error=-0.05,
    )
    text = (
        "Two dimensions, a cosine schedule with T = 100, large reverse variance, and a denoiser "
        "whose estimate is 5 % too close to the mean. Each step removes most of the error that it "
        "inherits and makes; the rest accumulates."
    )
    return chain, text
