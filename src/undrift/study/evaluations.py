"""Evaluations of a run of a study: final and intermediate weights, chains, and remedies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import product
from pathlib import Path

from accelerate import PartialState
from torch import Tensor

from undrift.data.grids import image_grid, write_png
from undrift.diffusion.pipelines import load_pipeline, sampler_by_name
from undrift.diffusion.sampler import Sampler
from undrift.exceptions import InvalidInput
from undrift.measurement.measure import measure
from undrift.measurement.parallel_chains import network_calls
from undrift.measurement.reading import load_json, read_record, write_json
from undrift.quality.judges import Judges
from undrift.quality.scorer import Row, judgment_file
from undrift.remedies.registry import apply_remedy
from undrift.remedies.remedy import Remedy, UnfitChain
from undrift.study.config import BASE, Chain, StudyConfig
from undrift.study.jobs import Job
from undrift.study.measured import measured_samples
from undrift.study.own_features import OwnFeatures
from undrift.study.record import Judgment, ProfileState, RemedyProfile, StudyRow
from undrift.training.trainer import Trainer

GRID_IMAGES = 64
STATES = 12
MOST_CHAINS = 1000
OWN_NAMES = {"AncestralSampler": "ancestral", "DDIMSampler": "ddim"}


@dataclass
class Outcome:
    """The result of a run.

    Arguments:
        train_cpu_s: Processor time of its training steps.
        rows: Its rows of the study, one for each chain; none of a base, which belongs to no method.
        checkpoints: Evaluations of intermediate weights.
        remedies: Evaluations of its sampler with remedies.
        profiles: Cumulative error along each of its chains, without remedy and with each.
    """

    train_cpu_s: float
    rows: list[StudyRow] = field(default_factory=list)
    checkpoints: list[StudyRow] = field(default_factory=list)
    remedies: list[StudyRow] = field(default_factory=list)
    profiles: list[RemedyProfile] = field(default_factory=list)


class Evaluations:
    """Evaluates one run, or reads the evaluations that its folder keeps.

    Arguments:
        config: The plan.
        judges: The scorers of all models.
        study: Folder of the study.
        job: The run.
        steps: Its training steps.
    """

    def __init__(
        self, config: StudyConfig, judges: Judges, study: Path, job: Job, steps: int
    ) -> None:
        self.config, self.judges, self.study, self.job = config, judges, study, job
        self.steps, self.run = steps, job.folder(study, steps)

    def of_step(self, trainer: Trainer) -> None:
        """Evaluate the averaged weights every `judge_every` steps, except after the last step."""
        every = self.config.judge_every
        if every and trainer.step % every == 0 and trainer.step < self.steps:
            for chain in self.config.chains:
                sampler = partial(
                    trainer.averaged_sampler, chain.num_inference_steps, chain.sampler
                )
                self._scores(f"step-{trainer.step:08d}", chain, sampler, grid=False)

    def outcome(self, train_cpu_s: float) -> Outcome:
        """All evaluations of a trained run that the study asks for."""
        row = partial(
            StudyRow,
            protocol=self.job.protocol,
            method=self.job.method or BASE,
            seed=self.job.seed,
            budget=self.job.budget,
            steps=self.steps,
            train_cpu_s=train_cpu_s,
            run=self.run.relative_to(self.study).as_posix(),
        )
        checkpoints = [row(step=step, **scores) for step, scores in self._checkpoints()]
        if self.job.method is None:
            return Outcome(train_cpu_s, checkpoints=checkpoints)
        chains = self.config.chains
        remedies = self.config.remedies if self._takes_remedies else {}
        return Outcome(
            train_cpu_s,
            [row(**self._final(chain)) for chain in chains],
            checkpoints,
            [
                row(remedy=name, **scores)
                for (name, how), chain in product(remedies.items(), chains)
                for scores in self._remedied(name, how, chain)
            ],
            list(self._profiles()),
        )

    def _scores(
        self,
        name: str,
        chain: Chain,
        sampler: Callable[[], Sampler],
        *,
        grid: bool = True,
        measured: bool = False,
        **how: object,
    ) -> Row:
        """Error and quality of a sampler's samples, and the file that shows some of them.

        Arguments:
            name: Which of the evaluations of the run.
            chain: The chain.
            sampler: Makes the sampler; called only if the evaluation is not there already.
            grid: Whether to keep a grid of samples with it.
            measured: Whether to measure the chain, and to judge the samples of the measurement.
            how: Settings of this evaluation besides those of all.
        """
        how = self.judges.how() | self._draws(chain) | how
        how |= {"measured": True} if measured else {}
        file = judgment_file(self.run, name, how)
        if not file.is_file() or (measured and not profile_file(file).is_file()):
            drawn_by = sampler()
            draw = partial(self._measured, chain, file) if measured else self.judges.draw
            samples = draw(drawn_by, self.job.seed)
            if grid:
                write_png(image_grid(samples[:GRID_IMAGES]), file.with_suffix(".png"))
            scores = self.judges.scores(samples, self.job.seed) | self._own_error(samples)
            about = about_chain(chain, drawn_by, self.judges.data.image_shape)
            write_json(file, about | scores | {"how": how})
        return self._kept(file)

    def _measured(self, chain: Chain, file: Path, sampler: Sampler, seed: int) -> Tensor:
        """Samples of a chain that is measured on the way."""
        label = str(self.job.method)
        if len(self.config.chains) > 1:
            label = f"{label}, {chain}"
        path, where = profile_file(file), (self.judges, chain, self.run)
        return measured_samples(sampler, *where, path, label=label, seed=seed)

    def _own_error(self, samples: Tensor) -> Row:
        """The error in the features of the base, if the run continues one."""
        if self.own_features is None:
            return {}
        found = self.own_features.error(samples)
        return {"own_mmd_sq": found.mmd_sq, "own_mmd_sq_se": found.standard_error}

    @cached_property
    def own_features(self) -> OwnFeatures | None:
        """The features of the base that the run continues, of images and without conditions."""
        if self.job.base is None:
            return None
        base = self.job.base.folder(self.study, self.config.base.steps)
        sampler = sampler_by_name(load_pipeline(base).to(PartialState().device))
        if sampler.is_conditional or sampler.space is not None:
            return None  # it looks at a condition, which images do not carry, or at codes
        return OwnFeatures(sampler, self.judges.reference)

    def _kept(self, file: Path) -> Row:
        """The scores in a file, and the grid next to it."""
        kept = _kept_record(file)
        del kept["how"]
        scores = {key: tuple(v) if isinstance(v, list) else v for key, v in kept.items()}
        judgments = kept["quality"].items()
        scores["quality"] = {name: read_record(Judgment, found) for name, found in judgments}
        files = {"grid": file.with_suffix(".png"), "profile": profile_file(file)}
        return scores | {
            name: path.relative_to(self.study).as_posix() if path.is_file() else None
            for name, path in files.items()
        }

    def _draws(self, chain: Chain) -> Row:
        """What decides the samples of an evaluation."""
        return {**chain._asdict(), "seed": self.job.seed}

    @property
    def _compared_with(self) -> Row:
        """What decides the images that chains are compared with, and remedies estimated from."""
        judges = self.judges
        return {"num_reference": len(judges.reference), "data": judges.data.fingerprint}

    def _final(self, chain: Chain, *, grid: bool = True) -> Row:
        """Scores of the trained run."""
        measured = self.config.measure and self.job.method is not None
        sampler = partial(self._sampler, chain)
        return self._scores("final", chain, sampler, grid=grid, measured=measured)

    def _sampler(self, chain: Chain, remedy: Remedy | None = None) -> Sampler:
        """A sampler of the trained run."""
        pipeline = load_pipeline(self.run).to(PartialState().device)
        sampler = sampler_by_name(pipeline, *chain).over(self.judges.data.labels)
        return apply_remedy(sampler, remedy, self.judges.reference, check_range=False)

    def _checkpoints(self) -> Iterator[tuple[int, Row]]:
        """Scores of intermediate weights, and of the last ones of a base, by step."""
        if not self.config.judge_every:
            return
        for chain in self.config.chains:
            how = self.judges.how() | self._draws(chain)
            for file in sorted(self.run.glob(judgment_file(self.run, "step-*", how).name)):
                yield int(file.name.split("-")[2]), self._kept(file)
            if self.job.method is None:
                yield self.steps, self._final(chain, grid=False)

    @property
    def _takes_remedies(self) -> bool:
        """Whether remedies are tried: at equal steps by the first protocol, on some methods."""
        methods = self.config.tries_remedies_on
        is_first = self.job.protocol == self.config.protocols[0] and self.job.budget == "steps"
        return bool(self.config.remedies) and is_first and self.job.method in methods

    def _remedied(self, name: str, remedy: Remedy, chain: Chain) -> Iterator[Row]:
        """Scores with a remedy; none where it does not serve the chain."""
        sampler = partial(self._sampler, chain, remedy)
        with suppress(UnfitChain):
            yield self._scores(f"remedy-{name}", chain, sampler, remedy=asdict(remedy))

    def _profiles(self) -> Iterator[RemedyProfile]:
        """The error along each chain of the first seed, without remedy and with each."""
        if self._takes_remedies and self.job.seed == self.config.seeds[0]:
            remedies = {"none": None} | self.config.remedies
            for chain, (name, remedy) in product(self.config.chains, remedies.items()):
                with suppress(UnfitChain):
                    yield self._profile(name, remedy, chain)

    def _profile(self, name: str, remedy: Remedy | None, chain: Chain) -> RemedyProfile:
        job, count = self.job, min(self.config.num_samples, MOST_CHAINS)
        how: Row = {"remedy": asdict(remedy) if remedy else None, "num_samples": count}
        how |= {"states": STATES} | self._draws(chain) | self._compared_with
        file = judgment_file(self.run, f"profile-{name}", how)
        if not file.is_file():
            sampler = self._sampler(chain, remedy)
            profile = measure(
                sampler,
                self.judges.reference,
                num_samples=count,
                states=denser_near_data(sampler.grid),
                budget=False,
                exposure=False,
                num_permutations=0,
                seed=job.seed,
                progress=False,
            )
            states = [ProfileState(s.t, s.mmd_sq, s.mmd_sq_se) for s in profile.states]
            about = name_and_steps(chain, sampler)
            write_json(file, about | {"states": [asdict(state) for state in states]})
        kept = _kept_record(file)
        kept["states"] = [ProfileState(**state) for state in kept["states"]]
        who = (job.protocol, str(job.method), job.seed)
        return RemedyProfile(*who, remedy=name, num_samples=count, **kept)


def profile_file(judgment: Path) -> Path:
    """Where the profile is whose samples were judged: among those of the run.

    Example:
        >>> profile_file(Path("run/judged-final-de7d7744.json")).as_posix()
        'run/profiles/final-de7d7744.json'
    """
    return judgment.parent / "profiles" / judgment.name.removeprefix("judged-")


def _kept_record(file: Path) -> Row:
    """What an evaluation has kept.

    Raises:
        InvalidInput: If it cannot be read.
    """
    kept = load_json(file, "evaluation")
    if not isinstance(kept, dict):
        raise InvalidInput(f"{file} is no evaluation: delete it, and it is made again")
    return kept


def name_and_steps(chain: Chain, sampler: Sampler) -> Row:
    """The name of a sampler and its number of denoising steps, where the plan leaves them open."""
    kind = sampler.describe()["sampler"]
    name = chain.sampler or OWN_NAMES.get(kind, kind)
    return {"sampler": name, "num_inference_steps": len(sampler.grid) - 1}


def about_chain(chain: Chain, sampler: Sampler, image_shape: tuple[int, ...]) -> Row:
    """The same, and how often the network is called for one sample, counted on one."""
    calls = network_calls(sampler, image_shape)
    return {**name_and_steps(chain, sampler), "network_calls": calls}


def denser_near_data(grid: tuple[float, ...], count: int = STATES) -> list[float]:
    """Times of a grid, first and last among them, closer together near the data.

    Example:
        >>> denser_near_data(tuple(range(50, -1, -1)), 6)
        [50, 32, 18, 8, 2, 0]
    """
    last = len(grid) - 1
    places = {round(last * (1 - (1 - k / (count - 1)) ** 2)) for k in range(count)}
    return [grid[place] for place in sorted(places)]
