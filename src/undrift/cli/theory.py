"""``undrift theory``: error budgets in closed form, and the paper's claims tested on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undrift.cli.command import session
from undrift.cli.console import say, show, table

if TYPE_CHECKING:
    from undrift.reporting.theory import ChainView
    from undrift.theory.gaussian_chain import GaussianChain


@dataclass
class Config:
    """Test the paper's claims on Gaussian chains, or compute the error budget of your own chain.

    A Gaussian chain is a JSON file {"mean": [d], "cov": [d][d], "betas": [T], "slope": [T][d][d],
    "offset": [T][d], "var": [T]}: entry t - 1 belongs to step t, the denoiser is x0 = slope x_t +
    offset, var is the variance of the denoising step, and the chain starts from N(0, I).

    Arguments:
        gaussian: JSON file with a Gaussian chain; only its error budget is computed, no claims.
        mixture: Also train a small network on eight Gaussians and estimate its error budget.
        output: HTML file to write; an older report in its place is replaced, nothing else is.
        num_chains: Gaussian chains that the claims are tested on, from 2 to 200.
        num_particles: Samples from which the budget of the trained network is estimated.
        num_updates: Training steps of that network.
        seed: Seed of its training and its samples.
    """

    gaussian: str | None = None
    mixture: bool = False
    output: str | None = None
    num_chains: int = 200
    num_particles: int = 2000
    num_updates: int = 3000
    seed: int = 0


POSITIONALS = ()


def run(config: Config) -> Mapping[str, Any]:
    """Compute and print; write the HTML page if `output` is given."""
    from undrift.api.report import check_output
    from undrift.reporting.theory import TheoryPage, step_table, write_theory

    if config.output:
        check_output(Path(config.output), "theory.html")
    result, views, title = _gaussian(config) if config.gaussian else _claims(config)
    if config.mixture:
        result["mixture"], view = _mixture(config)
        views.append(view)
    for claim in result.get("claims", ()):
        show(f"[bold]{claim.verdict:>9}[/bold]  {claim.name}", highlight=False)
        show(f"[dim]{claim.evidence}[/dim]\n", highlight=False)
    for view in views:
        header, body = step_table(view.rows)
        shown = body[::-1][:: max(1, len(body) // 20)][::-1]
        table(f"{view.title}: error budget in nats", header, shown, num_names=0)
        show(view.closure, highlight=False)
    if config.output:
        page = TheoryPage(title, views, result.get("claims", ()), session().command)
        result["report"] = str(write_theory(page, config.output))
        say(f"\nreport  {result['report']}")
    return result


def _gaussian(config: Config) -> tuple[dict[str, Any], list[ChainView], str]:
    """The budget of the chain in the file."""
    from undrift.theory.chain_file import read_chain

    chain = read_chain(str(config.gaussian))
    result, view = _exact("The chain", f"As described by {config.gaussian}.", chain)
    return result, [view], "Error budget of a Gaussian chain"


def _claims(config: Config) -> tuple[dict[str, Any], list[ChainView], str]:
    """The claims over many chains, and one example chain."""
    from undrift.theory.claims import evaluate_claims, example_chain

    claims = evaluate_claims(config.num_chains)
    chain, text = example_chain()
    example, view = _exact("A Gaussian chain", text, chain)
    gap = claims[0].numbers["identity_gap"]
    result = {"identity_gap": max(gap, example["identity_gap"]), "claims": claims}
    return result | {"example": example}, [view], "The theory, exact"


def _exact(title: str, text: str, chain: GaussianChain) -> tuple[dict[str, Any], ChainView]:
    from undrift.mmd.kl_bounds import cumulative_brackets
    from undrift.reporting.theory import ChainView
    from undrift.theory.mmd_budget import mmd_sq_of_states

    budget = chain.budget()
    rows, gap = budget.rows(), budget.relative_gap
    mmd_sq = mmd_sq_of_states(chain)[:-1].flip(0).tolist()
    brackets = cumulative_brackets(mmd_sq, budget.e_prior, [row["e_mod"] for row in rows])
    for row, distance, bracket in zip(rows, mmd_sq, brackets, strict=True):
        row |= {"mmd_sq": distance, "lower": bracket.lower, "upper": bracket.upper}
    closure = f"The budget closes to {gap:.1e} of the largest term of each step."
    result = {"steps": rows, "e_prior": budget.e_prior, "identity_gap": gap}
    return result, ChainView(title, text, rows, closure)


def _mixture(config: Config) -> tuple[dict[str, Any], ChainView]:
    """Train the small network and estimate its budget."""
    from undrift.progress import progress_bar
    from undrift.reporting.nats import PARTS, advice
    from undrift.reporting.theory import ChainView
    from undrift.theory.trained_mixture import trained_budget

    total, visible = config.num_updates, not session().quiet
    with progress_bar("train on eight Gaussians", total, show=visible) as advance:
        steps = trained_budget(
            num_updates=config.num_updates,
            num_particles=config.num_particles,
            seed=config.seed,
            advance=advance,
        )
    rows = [step.row() for step in steps]
    parts = {name: sum(row[f"e_mod_{name}"] for row in rows) for name in PARTS}
    shares = [f"{x / sum(parts.values()):.0%} in the {name}" for name, x in parts.items()]
    largest = max(abs(step.gap_in_errors) for step in steps)
    closure = (
        f"The budget closes within {largest:.2f} standard errors at each of {len(rows)} steps."
    )
    text = (
        "A small network trained on a ring of eight Gaussians, T = "
        f"{rows[0]['t']}. Estimates from {config.num_particles:,} particles; the forgotten error "
        "comes from a second, independent run. The last step adds no noise, so its divergences do "
        f"not exist. Of the modular errors, {', '.join(shares)}. {advice(parts)}"
    )
    result = {"steps": rows, "largest_gap_in_errors": largest, "closes": largest < 3}
    result["advice"] = advice(parts)
    return result, ChainView("A trained network", text, rows, closure)
