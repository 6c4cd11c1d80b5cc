r"""The advice for a model: search on one half of the data, judgment on the other.

1. Every solver on every time grid that has a name, by successive halving on the search half.
2. A chain of first order is measured on the best of these grids, and the solvers are tried on the
   grid that is computed from its budget; and every remedy at a few strengths on the best solver.
3. The best few, and the best that a scheduler's configuration can say, against the scheduler that
   the model has, on the held-out half with other noise. Their order is that of the search: the best
   of it is the one that is judged, so that its interval has not been selected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from undrift.advice.allocation import contributions, equal_contributions
from undrift.advice.candidates import Candidate, Candidates
from undrift.advice.fine_tune import FineTune
from undrift.advice.folder import Found, runs_in_pipeline
from undrift.advice.judgment import Judgment, is_enough
from undrift.advice.record import AdviceRecord, Finalist, is_refuted
from undrift.advice.search import Search
from undrift.advice.trials import Trials
from undrift.data.images import ImageData
from undrift.diffusion.batch_size import MOST
from undrift.diffusion.network import device_of
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.measurement.cost import seconds_per_call
from undrift.measurement.measure import measure
from undrift.measurement.reading import read_record
from undrift.mmd.two_sample import MIN_SAMPLES
from undrift.progress import announce, duration, progress_bar
from undrift.quality.features import FeatureMap
from undrift.quality.scorer import Scorer
from undrift.remedies.remedy import Remedy
from undrift.remedies.search import halves
from undrift.seeds import stream_seed

logger = logging.getLogger("undrift")
FINALISTS = 4
"""Candidates that are judged on the held-out half, at least."""
SHORT = 10.0
"""Seconds up to which no cost is announced."""


@dataclass
class Plan:
    """The data and the sizes of a search.

    Arguments:
        data: All images.
        features: The feature map; None for pixels.
        metric: What candidates are compared by; when None the Fréchet distance of the features
            where there are samples and images enough for it, else D₀² in them.
        num_samples: Samples of each candidate on the held-out half.
        batch_size: Chains that go through the network at once.
        seed: Seed of the split and of all noise.

    Raises:
        InvalidInput: If the images are too few to be split, or the samples for the metric.
    """

    data: ImageData
    features: FeatureMap | None
    metric: str | None
    num_samples: int
    batch_size: int | None
    seed: int

    def __post_init__(self) -> None:
        """Split the data, and choose the metric."""
        self.search, held_out = halves(self.data, self.seed)
        self.scorer = Scorer(
            held_out, self.num_samples, features=self.features, batch_size=self.batch_size
        )
        enough = is_enough(self.scorer)
        if self.metric == "frechet" and not enough:
            raise InvalidInput(
                f"{self.scorer.dim} features are too many for the Fréchet distance of "
                f"{self.num_samples} samples and {len(held_out)} held-out images: take half as "
                "many features as the fewer of them, or search by feature_mmd_sq"
            )
        otherwise = "mmd_sq" if self.features is None else "feature_mmd_sq"
        self.metric = self.metric or ("frechet" if enough else otherwise)

    @property
    def search_samples(self) -> int:
        """Samples of the last round of the search, and of the measured budget."""
        return max(self.num_samples // 2, 2 * MIN_SAMPLES)

    def how(self) -> dict[str, Any]:
        """All that the scores depend on besides the candidates."""
        return {
            **self.scorer.how(),
            "metric": self.metric,
            "num_search": len(self.search),
            "num_held_out": len(self.scorer.data),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "images": dict(self.data.how),
        }

    def searching(
        self, trials: Trials, tick: Callable[[int], None] = lambda amount: None
    ) -> Search:
        """The search on the search half."""
        return Search(
            self.search,
            self.features,
            str(self.metric),
            self.num_samples,
            self.batch_size,
            self.seed,
            trials,
            tick,
        )


def advice_for(
    pipeline: Any,  # noqa: ANN401
    candidates: Candidates,
    solvers: Sequence[Candidate],
    remedies: Sequence[type[Remedy]],
    plan: Plan,
    trials: Trials,
    model: str,
    *,
    fine_tune: FineTune | None = None,
    progress: bool = True,
) -> Found:
    """Search, and judge the best.

    Arguments:
        pipeline: The pipeline of the model.
        candidates: Makes candidates of its network.
        solvers: Solvers on time grids.
        remedies: The remedies to try.
        plan: Data and sizes.
        trials: Keeps what is found.
        model: Name of the model.
        fine_tune: A fine-tune on the chain of the best, which is judged too.
        progress: Whether to draw a progress bar on stderr.
    """
    present = candidates.present()

    @cache
    def in_pipeline(candidate: Candidate) -> bool:
        return runs_in_pipeline(pipeline, candidate)

    total = _planned(plan, plan.searching(trials), len(solvers), remedies)
    _announce(plan, present, total, progress)
    with progress_bar(f"advising {model}", total, show=progress) as tick:
        search = plan.searching(trials, tick)
        leading = search.best(solvers, FINALISTS)
        said = _said(leading, solvers, in_pipeline, search)
        further = _computed(candidates, solvers, leading[0], plan, trials, tick)
        for kind in remedies:
            further += candidates.remedied(leading[0], kind, plan.search, plan.seed)
        best = [*leading[: FINALISTS - 1], *search.best(further, 2), *([said] if said else [])]
        last = len(search.scorers) - 1
        best = sorted(dict.fromkeys(best), key=lambda each: search.value(each, last))
        judgment = Judgment(plan.scorer, search.metric, plan.seed, tick)
        rows: list[Any] = trials.result(
            "finalists",
            lambda: [asdict(each) for each in judgment.finalists(present, best, in_pipeline)],
        )
    tuned = None
    if fine_tune is not None:
        fits = in_pipeline(best[0])
        tuned = fine_tune.candidate(pipeline, best[0], plan.search, progress=progress)
        rows = rows + trials.result(
            tuned.label,
            lambda: [
                asdict(each)
                for each in judgment.finalists(present, [best[0], tuned], lambda _: fits)[1:]
            ],
        )
    finalists = tuple(read_record(Finalist, row) for row in rows)
    in_folder = present
    if said is not None and not is_refuted(finalists, said.label, search.metric):
        in_folder = said
    record = AdviceRecord(
        model=model,
        network_calls=candidates.network_calls,
        metric=search.metric,
        present=present.grid,
        present_calls=present.network_calls,
        best=best[0].label,
        in_folder=in_folder.label,
        finalists=finalists,
        tried=search.tried(),
        left_out=candidates.left_out,
        how=plan.how() | {"present": present.sampler.describe()},
    )
    return Found(record, present, best[0], said, tuned)


def _computed(
    candidates: Candidates,
    solvers: Sequence[Candidate],
    leading: Candidate,
    plan: Plan,
    trials: Trials,
    tick: Callable[[int], None],
) -> list[Candidate]:
    """The solvers on the grid that is computed from the budget of a chain on the best grid."""
    chain = candidates.first_order(leading)
    if chain is None or candidates.network_calls < 3:
        return []
    name = "budget"
    measured = trials.result(name, lambda: _budget(chain, plan))
    tick(2 * plan.search_samples)
    return candidates.on_timesteps(
        solvers, lambda count: equal_contributions(measured["times"], measured["parts"], count)
    )


def _budget(chain: Sampler, plan: Plan) -> dict[str, list[float]]:
    """Times of the states of a chain, and the contribution of each segment."""
    profile = measure(
        chain,
        plan.search.images,
        num_samples=plan.search_samples,
        states="all",
        exposure=False,
        batch_size=plan.batch_size,
        check_range=False,
        seed=stream_seed(plan.seed, "budget"),
        progress=False,
    )
    times = [float(state.t) for state in profile.states]
    return {"times": times, "parts": contributions(profile.states)}


def _said(
    leading: Sequence[Candidate],
    every: Sequence[Candidate],
    in_pipeline: Callable[[Candidate], bool],
    search: Search,
) -> Candidate | None:
    """The best candidate that the pipeline can run by its configuration, if there is any."""
    for each in leading:
        if in_pipeline(each):
            return each
    fitting = [each for each in every if in_pipeline(each)]
    return search.best(fitting, 1)[0] if fitting else None


def _planned(plan: Plan, search: Search, num_solvers: int, remedies: Sequence[type[Remedy]]) -> int:
    """Samples that all rounds draw, about: how many candidates fit is known on the way."""
    strengths = sum(len(kind.strengths.grid) for kind in remedies)
    held_out = (FINALISTS + 3) * plan.num_samples
    searches = search.planned(num_solvers, FINALISTS) + search.planned(strengths + 6, 2)
    return searches + 2 * plan.search_samples + held_out


def _announce(plan: Plan, present: Candidate, total: int, progress: bool) -> None:
    """Write the cost and its estimated time, if it is long."""
    device = device_of(present.sampler.network) or "cpu"
    images, calls = plan.search.images[:2].to(device), present.network_calls
    per_call = seconds_per_call(present.sampler, images, plan.batch_size or MOST)
    seconds = total * calls * per_call
    if progress and seconds > SHORT:
        announce(
            f"advising: about {total:,} images of {calls} network calls each, about "
            f"{duration(seconds)}"
        )
