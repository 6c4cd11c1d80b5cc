"""Remedies at sampling time on the trained models of a study: nothing is trained for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from undrift.diffusion.sampler import Sampler
from undrift.measurement.measure import measure
from undrift.quality.scorer import Judge, Row, judgment_file
from undrift.remedies.config import RemedyConfig, apply_remedy
from undrift.study.config import PLAIN, StudyConfig
from undrift.study.jobs import Job
from undrift.training.runs import write_json

NONE = "none"
STATES = 12
MOST_CHAINS = 1000
Judged = Callable[..., tuple[Row, Path]]


class Remedied:
    """Judges and measures the chain of a run with each remedy of a study.

    Only runs at equal steps of the study's first protocol, and only of its remedy methods; profiles
    of its first seed.

    Arguments:
        config: The plan.
        judge: What all models are judged by.
        judged: Gives the judgment of a chain, or the one that is there.
    """

    def __init__(self, config: StudyConfig, judge: Judge, judged: Judged) -> None:
        self.config, self.judge, self.judged = config, judge, judged

    def _concerns(self, job: Job) -> bool:
        methods = self.config.remedy_methods
        if methods is None:
            methods = [PLAIN, self.config.reference]
        is_first = job.protocol == self.config.protocols[0] and job.budget == "steps"
        return bool(self.config.remedies) and is_first and job.method in methods

    def rows(self, job: Job, place: Path, head: Row, chain: Callable[[Path], Sampler]) -> list[Row]:
        """The judgment of the run with each remedy."""
        found = []
        for name, remedy in self.config.remedies.items() if self._concerns(job) else ():

            def remedied(remedy: RemedyConfig = remedy) -> Sampler:
                return self._apply(chain(place), remedy)

            how = {"remedy": asdict(remedy)}
            row, file = self.judged(place, f"remedy-{name}", job.seed, remedied, how)
            grid = file.with_suffix(".png").relative_to(place).as_posix()
            found.append(head | {"remedy": name} | row | {"grid": f"{head['run']}/{grid}"})
        return found

    def profiles(self, job: Job, place: Path, chain: Callable[[Path], Sampler]) -> list[Row]:
        """The cumulative error along the chain, without remedy and with each."""
        if not self._concerns(job) or job.seed != self.config.seeds[0]:
            return []
        head = {"protocol": job.protocol, "method": job.method, "seed": job.seed}
        return [
            head | {"remedy": name} | self._profile(place, name, remedy, job.seed, chain)
            for name, remedy in self._all()
        ]

    def _all(self) -> Iterator[tuple[str, RemedyConfig]]:
        yield NONE, RemedyConfig()
        yield from self.config.remedies.items()

    def _profile(
        self,
        place: Path,
        name: str,
        remedy: RemedyConfig,
        seed: int,
        chain: Callable[[Path], Sampler],
    ) -> Row:
        count = min(self.config.num_samples, MOST_CHAINS)
        how = {"remedy": asdict(remedy), "num_samples": count, "seed": seed, "states": STATES}
        if modules := self.config.num_inference_steps:
            how["num_inference_steps"] = modules
        file = judgment_file(place, f"profile-{name}", how)
        if not file.is_file():
            sampler = self._apply(chain(place), remedy)
            profile = measure(
                sampler,
                self.judge.reference,
                num_samples=count,
                states=denser_near_data(sampler.grid),
                budget=False,
                exposure=False,
                num_permutations=0,
                seed=seed,
                progress=False,
            )
            points = [
                {"t": s.t, "mmd_sq": s.mmd_sq, "mmd_sq_se": s.mmd_sq_se} for s in profile.states
            ]
            write_json(file, {"num_samples": count, "states": points})
        return dict(json.loads(file.read_text()))

    def _apply(self, sampler: Sampler, remedy: RemedyConfig) -> Sampler:
        return apply_remedy(sampler, remedy, self.judge.reference)


def denser_near_data(grid: tuple[float, ...], count: int = STATES) -> list[float]:
    """Times of a grid, first and last among them, closer together where the error gathers.

    Example:
        >>> denser_near_data(tuple(range(50, -1, -1)), 6)
        [50, 32, 18, 8, 2, 0]
    """
    last = len(grid) - 1
    places = {round(last * (1 - (1 - k / (count - 1)) ** 2)) for k in range(count)}
    return [grid[place] for place in sorted(places)]
