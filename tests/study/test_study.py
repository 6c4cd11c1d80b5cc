"""A study: its arithmetic, its plan, and small runs that are interrupted and resumed."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from diffusers import UNet2DModel
from scipy import stats

from undrift.api.study_file import read_plan
from undrift.cli import main
from undrift.data.images import ImageData
from undrift.data.load import load_data
from undrift.diffusion.sampler import Sampler, draw_noise
from undrift.exceptions import InvalidInput
from undrift.quality.feature_choice import choose_features
from undrift.quality.scorer import Scorer
from undrift.remedies.registry import parse
from undrift.study import statistics as study_statistics
from undrift.study import worker
from undrift.study.check import check, check_judges, try_building
from undrift.study.config import StudyConfig
from undrift.study.jobs import Job, jobs
from undrift.study.record import Judgment, MeanInterval, StudyRecord, StudyRow
from undrift.study.resume import same_data
from undrift.study.run import run_study
from undrift.study.statistics import correlations, mean_interval, paired, spearman
from undrift.training.config import (
    ChainConfig,
    MethodConfig,
    ModelConfig,
    ObjectiveConfig,
    RegularizerConfig,
    TrainConfig,
)
from undrift.training.records import read_log
from undrift.training.runs import train
from undrift.training.trainer import Trainer

STUDIES = Path(__file__).parents[2] / "studies"


def plan(**changes):
    base = TrainConfig(steps=4, batch_size=8, sample_every=0, chain=ChainConfig(num_steps=6))
    methods = {
        "plain": MethodConfig(),
        "persistent": MethodConfig("persistent", RegularizerConfig(num_cohorts=2, num_forward=16)),
    }
    config = StudyConfig(base, methods, steps=4, seeds=[0], num_samples=8)
    return replace(config, **changes)


WEAK_FULL = MethodConfig("full", objective=ObjectiveConfig(strength=0.1))


def with_method(method, **options):
    return {"plain": MethodConfig(), "x": MethodConfig(method, RegularizerConfig(**options))}


def test_the_interval_is_students():
    values = [0.3, -0.1, 0.2, 0.05, 0.4]
    low, high = stats.t.interval(0.95, 4, sum(values) / 5, stats.sem(values))
    assert mean_interval(values).interval == pytest.approx([low, high])
    assert mean_interval([0.5]) == MeanInterval(0.5, None, 1)


def test_students_interval_covers_the_mean():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(1000, 5, generator=generator, dtype=torch.float64) + 2
    inside = 0
    for row in draws.tolist():
        low, high = mean_interval(row).interval
        inside += low <= 2 <= high
    assert abs(inside / 1000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 1000)


def row(method, seed, budget, mmd_sq, frechet, steps=10, cost=1.0, run="", chain=("ddim", 5)):
    at = ("branched", method, seed, budget, steps, cost, run)
    quality = {"net": Judgment(frechet=frechet)}
    return StudyRow(*at, *chain, network_calls=chain[1], mmd_sq=mmd_sq, quality=quality)


def test_changes_are_taken_within_a_seed_and_a_budget():
    rows = [
        row("plain", 0, "steps", 2.0, 1.0),
        row("plain", 1, "steps", 4.0, 1.0),
        row("plain", 0, "compute", 1.0, 1.0),
        row("x", 0, "steps", 1.0, 2.0),
        row("x", 1, "steps", 3.0, 1.0),
        row("x", 0, "compute", 1.0, 1.0),
    ]
    found = {(r.budget, r.metric): r for r in paired(rows)}
    assert found["steps", "mmd_sq"].changes == [-0.5, -0.25]
    assert found["steps", "frechet"].mean == 0.5
    assert found["compute", "mmd_sq"].changes == [0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"x": MethodConfig()}}, "needs the method plain"),
        ({"methods": {"plain": MethodConfig("full")}}, "needs the method plain"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "each once"),
        ({"seeds": [1003, 5, 3]}, "seeds 3 and 1003 share their random streams"),
        ({"budgets": ["compute"], "reference": "y"}, "'y' is no method"),
        ({"compute_methods": ["z"]}, "'z' is no method"),
        ({"compute_methods": ["plain"]}, "budgets has no compute"),
        ({"budgets": ["compute"], "compute_methods": ["persistent"]}, "has no plain"),
        ({"budgets": []}, "at least one"),
        ({"protocols": ["branched", "branched"]}, "each once"),
        ({"protocols": ["scratch"]}, "give scratch_steps"),
        ({"methods": {"plain": MethodConfig(), "Plain": MethodConfig("full")}}, "share a folder"),
        ({"methods": {"plain": MethodConfig(), "a/b": MethodConfig("full")}}, "valid run name"),
        ({"methods": {"plain": MethodConfig(), "scratch-x": MethodConfig()}}, "valid run name"),
        ({"base": TrainConfig(method="full")}, "the base is plain"),
        ({"base": TrainConfig(data="nowhere")}, "unknown data"),
        ({"protocols": ["branched"], "scratch_steps": 9}, "protocols has no scratch"),
        ({"reference": "y"}, "'y' is no method"),
        ({"remedies": {"s": parse("snr_t")}, "remedy_methods": []}, "give both"),
        ({"base": TrainConfig(regularizer=RegularizerConfig(strength=5.0))}, "put it under"),
        ({"base": TrainConfig(seed=7)}, "give seeds"),
        ({"base": TrainConfig(resume=True)}, "always resumes"),
        ({"base": TrainConfig(streaming=9)}, "compares on all of the data"),
        ({"base": TrainConfig(steps=0)}, "base: --steps is 0"),
        ({"methods": with_method("plain", stride=2)}, r"x.regularizer.stride has no effect with p"),
        ({"methods": with_method("full", stride=2)}, "stride has no effect with full"),
        (
            {"methods": with_method("official", kernel="energy")},
            "kernel has no effect with official",
        ),
        (
            {"methods": {"plain": MethodConfig(), "x": WEAK_FULL}},
            "objective.strength has no effect",
        ),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"steps": 0}, "at least 1"),
        ({"num_samples": 3}, "at least 4"),
    ],
)
def test_a_plan_that_contradicts_itself_stops_before_anything(changes, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run_study(plan(**changes), tmp_path / "study", progress=False)
    assert not (tmp_path / "study").exists()


class Memory(Sampler):
    """A chain that returns the data themselves, in random order."""

    def __init__(self, images):
        super().__init__((1, 0))
        self.images = images

    def step(self, x_t, t, s, *, generator=None):
        share = torch.special.ndtr(draw_noise(x_t.new_empty(len(x_t)), generator))
        return self.images[(share * len(self.images)).long().clamp(max=len(self.images) - 1)]

    def scale(self, t):
        return 1.0, 0.0

    def epsilon(self, x_t, t):
        return x_t

    def describe(self):
        return {}


def test_a_chain_that_returns_the_data_is_scored_better_than_noise():
    data = load_data("digits", limit=400)
    scorer = Scorer(data, 300, features=choose_features("classifier", data))
    memory, nothing = Memory(data.images), Memory(torch.rand_like(data.images) * 2 - 1)
    found, noise = (scorer.scores(scorer.draw(chain, 0)) for chain in (memory, nothing))
    # a memory repeats data: its distance from the population is at most 1/n, and its error
    assert abs(found.mmd_sq) < 1 / 400 + 4 * found.mmd_sq_se < noise.mmd_sq
    assert found.frechet < noise.frechet / 5
    assert found.pixel_variance_ratio == pytest.approx(1, abs=0.1)


def test_a_memory_has_no_error_against_the_data_set_and_less_than_none_against_its_population():
    data = load_data("digits", limit=60)
    scorer, found = Scorer(data, 200), []
    for seed in range(12):
        row = scorer.scores(scorer.draw(Memory(data.images), seed))
        found.append([row.mmd_sq, row.empirical_mmd_sq, row.empirical_mmd_sq_se**2])
    values = torch.tensor(found, dtype=torch.float64)
    spread = values.std(0)
    error = spread / 12**0.5
    population, data_set, claimed = values.mean(0)
    assert abs(data_set) < 4 * error[1] and population < -10 * error[0]
    assert 0.3 / 60 < scorer.data_set_offset < 1 / 60
    # claimed for samples independent of the data, whose cross term a memory does not have
    assert 0.6 < claimed.sqrt() / spread[1] / math.sqrt(1 + 2 * 200 / 60) < 1.6


def test_the_error_against_the_data_set_is_reported_with_that_against_the_population(tmp_path):
    found = run_study(plan(), tmp_path, progress=False)
    offsets = {row.empirical_mmd_sq - row.mmd_sq for row in found.rows}
    assert max(offsets) == pytest.approx(min(offsets)) and 0 < min(offsets) < 1 / 1797
    assert {row.metric for row in found.paired} >= {"mmd_sq", "empirical_mmd_sq"}


def test_the_base_of_another_start_is_another_plan(tmp_path):
    base = replace(plan().base, output=str(tmp_path / "other"))
    train(base, load_data("digits"), progress=False)
    run_study(plan(), tmp_path / "study", progress=False)
    other = plan(base=replace(plan().base, start_from=str(tmp_path / "other")))
    with pytest.raises(InvalidInput, match=r"another plan \(start_from: None there"):
        run_study(other, tmp_path / "study", progress=False)
    (tmp_path / "study").rename(tmp_path / "moved")  # its branches start from another place now
    assert len(run_study(plan(), tmp_path / "moved", progress=False).rows) == 2


def test_runs_on_other_images_are_not_taken_for_these(tmp_path):
    images = load_data("digits", limit=40).images
    torch.save(images, tmp_path / "images.pt")
    on_file = plan(base=replace(plan().base, data=str(tmp_path / "images.pt")), features="pixels")
    run_study(on_file, tmp_path / "study", progress=False)
    torch.save(-images, tmp_path / "images.pt")
    with pytest.raises(InvalidInput, match="was trained on other images"):
        run_study(on_file, tmp_path / "study", progress=False)


def test_complete_runs_on_other_labels_are_not_taken_for_these(tmp_path):
    digits = load_data("digits", limit=40)
    train(replace(plan().base, steps=1, output=str(tmp_path / "run")), digits, progress=False)
    same_data(tmp_path / "run", digits)
    relabelled = ImageData(digits.images, "digits", labels=digits.labels.flip(0))
    with pytest.raises(InvalidInput, match="was trained on other labels than digits holds now"):
        same_data(tmp_path / "run", relabelled)


def test_a_study_that_is_stopped_early_leaves_the_results_that_were_there(tmp_path):
    whole = run_study(plan(), tmp_path, progress=False)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(plan(), tmp_path, stop, progress=False)
    assert StudyRecord.load(tmp_path / "study.json").rows == whole.rows


def test_models_are_evaluated_with_the_configured_number_of_steps(tmp_path):
    every = run_study(plan(), tmp_path, progress=False)
    same = run_study(plan(num_inference_steps=6), tmp_path, progress=False)
    coarse = run_study(plan(num_inference_steps=2), tmp_path, progress=False)
    errors = [[row.mmd_sq for row in found.rows] for found in (every, same, coarse)]
    assert errors[0] == errors[1] != errors[2]


def test_a_study_is_resumed(tmp_path):
    config = plan(budgets=["steps", "compute"])
    first = run_study(config, tmp_path, progress=False)
    assert {(r.method, r.budget) for r in first.rows} == {
        (method, budget) for method in config.methods for budget in config.budgets
    }
    base = tmp_path / "seed-0" / "base" / "result.json"
    before = base.stat().st_mtime_ns
    (tmp_path / "study.json").unlink()
    again = run_study(config, tmp_path, progress=False)
    assert again.rows == first.rows
    assert base.stat().st_mtime_ns == before
    assert StudyRecord.load(tmp_path / "study.json") == again


def test_both_protocols_are_run_and_compared_apart(tmp_path):
    config = plan(protocols=["branched", "scratch"], scratch_steps=5)
    found = run_study(config, tmp_path, progress=False)
    assert {(r.protocol, r.method, r.steps) for r in found.rows} == {
        (protocol, method, steps)
        for protocol, steps in (("branched", 4), ("scratch", 5))
        for method in config.methods
    }
    assert {r.protocol for r in found.paired} == {"branched", "scratch"}


def test_a_run_of_another_plan_is_not_taken_for_this_one(tmp_path):
    run_study(plan(), tmp_path, progress=False)
    other = plan(base=replace(plan().base, batch_size=4))
    with pytest.raises(InvalidInput, match=r"another plan \(batch_size: 8 there, 4 now\)"):
        run_study(other, tmp_path, progress=False)
    methods = plan().methods | {"persistent": MethodConfig("truncated")}
    with pytest.raises(InvalidInput, match=r"another plan \(.*method: persistent there"):
        run_study(plan(methods=methods), tmp_path, progress=False)


def test_a_run_under_another_default_is_another_plan(tmp_path):
    run_study(plan(), tmp_path, progress=False)
    (file,) = tmp_path.glob("seed-0/persistent-*/versions.json")
    made = json.loads(file.read_text())
    assert made["regularizer"]["window"] == 0.15
    made["regularizer"]["window"] = 0.3
    file.write_text(json.dumps(made))
    with pytest.raises(
        InvalidInput, match=r"another plan \(regularizer.window: 0.3 there, 0.15 now"
    ):
        run_study(plan(), tmp_path, progress=False)


def test_the_sampler_is_built_before_any_training(tmp_path):
    with pytest.raises(InvalidInput, match="7 inference steps"):
        run_study(plan(num_inference_steps=7), tmp_path / "many", progress=False)
    falling = {"falling": parse("epsilon_scaling:1.05,slope=-0.25")}
    with pytest.raises(InvalidInput, match="remedy falling: .*divides"):
        run_study(plan(remedies=falling), tmp_path / "long", progress=False)
    data = load_data("digits")
    try_building(plan(remedies=falling, num_inference_steps=2), data)  # of two steps
    assert not any(tmp_path.iterdir())


def test_a_remedy_is_tried_without_being_estimated(monkeypatch):
    rows, call = [], UNet2DModel.forward

    def counted(self, sample, *args, **options):
        rows.append(len(sample))
        return call(self, sample, *args, **options)

    monkeypatch.setattr(UNet2DModel, "forward", counted)
    try_building(plan(remedies={"a": parse("analytic_variance")}), load_data("digits"))
    assert sum(rows) == 1 + 6  # the first step of the chain, and one for each time


def test_a_scorer_draws_without_dropout():
    data = load_data("digits", limit=40)
    config = replace(plan().base, model=ModelConfig(dropout=0.5))
    sampler = Trainer(config, data).averaged_sampler()
    found = []
    for mode in (True, False):
        sampler.denoiser.network.train(mode)
        found.append(Scorer(data, 8).draw(sampler, 0))
        assert sampler.denoiser.network.training is mode
    assert torch.equal(*found)


@pytest.fixture(scope="module")
def fully_evaluated(tmp_path_factory):
    """A study with all optional evaluations."""
    neutral = {"nothing": parse("epsilon_scaling:1"), "some": parse("snr_t:0.1")}
    folder = tmp_path_factory.mktemp("study")
    return folder, run_study(plan(judge_every=2, remedies=neutral), folder, progress=False)


def test_intermediate_weights_are_evaluated_without_changing_the_run(fully_evaluated, tmp_path):
    _, found = fully_evaluated
    steps = {(r.method, r.step) for r in found.checkpoints}
    assert steps == {("base", 2), ("base", 4), ("plain", 2), ("persistent", 2)}
    bare = run_study(plan(), tmp_path, progress=False)
    values = [[row.mmd_sq, row.quality] for row in bare.rows]
    assert values == [[row.mmd_sq, row.quality] for row in found.rows]
    assert bare.checkpoints == [] and bare.remedies == []
    assert found.correlations == []  # six evaluations are too few


def test_a_remedy_without_effect_changes_nothing(fully_evaluated):
    _, found = fully_evaluated
    changes = {(r.method, r.remedy, r.metric): r.mean for r in found.paired_remedies}
    for method in ("plain", "persistent"):
        assert changes[method, "nothing", "frechet"] == pytest.approx(0, abs=1e-4)
        assert abs(changes[method, "some", "frechet"]) > 1e-4
    profiles = {(p.method, p.remedy): p.states for p in found.profiles}
    assert len(profiles) == 6
    for a, b in zip(profiles["plain", "none"], profiles["plain", "nothing"], strict=True):
        assert a.mmd_sq == pytest.approx(b.mmd_sq, abs=1e-5)
    assert profiles["plain", "none"][-1].t == 0


def test_the_error_along_a_chain_ends_at_that_of_its_samples_after_a_change_of_the_plan(tmp_path):
    small = replace(plan().base, model=ModelConfig(block_out_channels=[8]))
    config = plan(base=small, methods={"plain": MethodConfig()}, remedy_methods=["plain"])
    config = replace(config, remedies={"moments": parse("moments")})
    for count in (20, 32):
        found = run_study(replace(config, num_reference=count), tmp_path, progress=False)
        ends = {profile.remedy: profile.states[-1].mmd_sq for profile in found.profiles}
        [plain], [remedied] = found.rows, found.remedies
        expected = {"none": plain.mmd_sq, "moments": remedied.mmd_sq}
        assert ends == pytest.approx(expected, rel=1e-5), count


def test_grids_of_samples_of_all_methods_are_kept(fully_evaluated):
    folder, found = fully_evaluated
    assert all((folder / row.grid).is_file() for row in [*found.rows, *found.remedies])
    assert (folder / "data.png").is_file()


def test_a_method_that_fails_is_recorded_and_the_others_continue(tmp_path, monkeypatch):
    train = worker.train

    def fails(config, *arguments, **options):
        if config.method == "persistent":
            raise InvalidInput("the loss is nan at step 3")
        return train(config, *arguments, **options)

    monkeypatch.setattr(worker, "train", fails)
    found = run_study(plan(budgets=["steps", "compute"]), tmp_path, progress=False)
    assert [(r.method, r.budget) for r in found.rows] == [("plain", "steps")]
    assert "loss is nan" in found.failures[0].reason
    # at equal compute nothing is left to compare with
    assert {(f.method, f.budget) for f in found.failures[1:]} == {
        ("plain", "compute"),
        ("persistent", "compute"),
    }


def test_equal_compute_gives_the_cheaper_method_more_steps():
    config = plan(budgets=["compute"], steps=100)
    costs = {Job(0, "branched", "plain"): 10.0, Job(0, "branched", "persistent"): 25.0}
    steps = [Job(0, "branched", m, "compute").steps(config, costs) for m in ("plain", "persistent")]
    assert steps == [250, 100]


def test_a_run_at_equal_steps_is_kept_where_only_its_cost_was_asked_for(tmp_path):
    found = run_study(plan(budgets=["compute"]), tmp_path, progress=False)
    assert {row.budget for row in found.rows} == {"steps", "compute"}


def test_costs_are_relative_to_plain_within_a_seed():
    rows = [
        row(m, seed, "steps", 1.0, 1.0, cost=cost * (1 + seed))
        for seed in (0, 1)
        for m, cost in (("plain", 1.0), ("x", 1.5))
    ]
    [plain, x] = study_statistics.costs(rows)
    assert plain.relative.ratios == [1, 1]
    assert x.relative.mean == pytest.approx(1.5)


def test_no_change_is_taken_against_nothing():
    plain, other = row("plain", 0, "steps", -1e-5, 2.0), row("x", 0, "steps", 1e-5, 1.0)
    found = study_statistics.changes([other], lambda row: plain, "method")
    assert [(change.method, change.metric) for change in found] == [("x", "frechet")]


def test_rank_correlation_is_spearmans_and_within_groups_its_own():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 30, generator=generator).round(decimals=1).tolist()
    assert spearman(x, y, [0] * 30) == pytest.approx(stats.spearmanr(x, y).statistic)
    # each seed falls, all seeds together rise
    points = [
        row("a", seed, "steps", seed + k / 10, seed * 9 - k, run=f"{seed}{k}")
        for seed in range(4)
        for k in range(8)
    ]
    [found] = correlations(points)
    assert found.overall.rho > 0.8 and found.within_seed.rho == pytest.approx(-1)
    low, high = found.overall.interval
    assert low <= found.overall.rho <= high
    assert correlations(points[:7]) == []
    few = [point for point in points if point.seed == 0 or point.run[1] in "0123456"]
    [found] = correlations(few)  # groups of seven are left out
    assert found.overall.num_points == 29 and found.within_seed.num_points == 8


def test_more_checkpoints_of_the_same_runs_do_not_narrow_the_interval():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, generator=generator)
    y = x + torch.randn(12, generator=generator)
    points = [row("a", 0, "steps", float(x[k]), float(y[k]), run=str(k)) for k in range(12)]
    once, often = (correlations(copies)[0].overall for copies in (points, points * 20))
    assert often.rho == pytest.approx(once.rho)
    assert often.interval == pytest.approx(once.interval)


def test_a_network_in_which_a_method_is_trained_cannot_judge(tmp_path):
    own = with_method("persistent", features="efficientnet-lite1+pixels", population=64)
    judges = ["classifier", "efficientnet-lite1"]
    wanted = "^features: efficientnet-lite1 cannot judge method x, which is trained in it"
    with pytest.raises(InvalidInput, match=wanted):
        run_study(plan(methods=own, features=judges), tmp_path / "study", progress=False)
    assert not (tmp_path / "study").exists()
    data = load_data("digits", limit=20)
    for fine in (None, "pixels", ["classifier", "efficientnet-lite2"]):
        check_judges(plan(methods=own, features=fine), data)


def test_each_of_several_networks_judges_as_it_does_alone(tmp_path):
    config = plan(methods={"plain": MethodConfig()}, num_samples=50)
    alone = run_study(replace(config, features="pixels"), tmp_path, progress=False)
    both = run_study(replace(config, features=["classifier", "pixels"]), tmp_path, progress=False)
    [[one], [two]] = alone.rows, both.rows
    assert list(two.quality) == list(both.judged_by["networks"]) == ["classifier", "pixels"]
    assert two.quality["pixels"] == one.quality["pixels"] != two.quality["classifier"]
    assert two.mmd_sq == one.mmd_sq and one.quality["pixels"].sliced > 0
    assert two.own_mmd_sq == one.own_mmd_sq is not None
    # the error in the features of pixels is the error in pixels
    assert one.quality["pixels"].feature_mmd_sq == pytest.approx(one.mmd_sq, abs=1e-5)
    assert two.frechet_ratio == fmean(own.frechet_ratio for own in two.quality.values())
    assert StudyRecord.load(tmp_path / "study.json").rows == both.rows


def test_the_record_says_whether_an_unbiased_score_is_distinguishable_from_nothing():
    rows = [
        replace(r, quality={"net": Judgment(frechet=1.0, kernel_distance=value)})
        for seed, value in enumerate((0.1, -0.2, 0.3))
        for r in [row("x", seed, "steps", 1.0 + seed / 10, 1.0)]
    ]
    found = {(mean.metric, mean.network): mean for mean in study_statistics.means(rows)}
    assert found.keys() == {("mmd_sq", None), ("kernel_distance", "net")}
    low, high = found["kernel_distance", "net"].interval
    assert low < 0 < high and found["kernel_distance", "net"].num_seeds == 3
    assert found["mmd_sq", None].mean == pytest.approx(1.1)
    assert found["mmd_sq", None].interval[0] > 0


def test_a_scorer_says_which_features_it_uses():
    data = load_data("digits", limit=200)
    assert Scorer(data, 10).how()["features"] == {"features": "pixels"}
    classifier = choose_features("classifier", data)
    assert Scorer(data, 10, features=classifier).how()["features"] == dict(classifier.how)


def test_large_data_are_scored_by_an_even_part():
    data = load_data("digits", limit=100)
    few = Scorer(data, 10)
    assert len(few.reference) == 40 and torch.equal(few.reference[1], data.images[2])
    assert Scorer(data, 50).reference is data.images


def test_no_two_runs_of_a_plan_share_random_streams_unless_they_are_compared(tmp_path):
    config = plan(seeds=[0, 999, 1001], protocols=["branched", "scratch"], scratch_steps=4)
    check(config)
    owners = {(job.training(config, tmp_path, 4).seed, job.seed) for job in jobs(config)}
    assert len({seed for seed, _ in owners}) == len(owners) == 6
    check(plan(seeds=[0, 1000], protocols=["scratch"], scratch_steps=4))


def test_methods_share_the_data_and_the_noise_of_the_main_term(tmp_path):
    base = replace(plan().base, log_every=1)
    config = plan(base=base, protocols=["branched", "scratch"], scratch_steps=4)
    run_study(config, tmp_path, progress=False)
    for prefix in ("", "scratch-"):
        plain, regularized = (
            [row["loss"] for row in read_log(tmp_path / "seed-0" / f"{prefix}{name}-4")]
            for name in ("plain", "persistent")
        )
        assert plain[:2] == regularized[:2]  # the first term changes the weights after two steps
        assert plain[2:] != regularized[2:] and len(plain) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: {plain: {method: plain}, plain: {method: full}}", "given twice"),
        ("methods: {plain: {method: magic}}", "methods.plain: method: expected plain,"),
        ("methods: {plain: {method: plain}, x: }", "methods.x: give options by name"),
        ("methods: [plain]", "methods: give names"),
        ("base: {regulariser: {}}", "unknown option base.regulariser; did you mean regularizer?"),
        ("remedies: {x: {remedy: snr}}", "remedies.x: unknown remedy 'snr': did you mean snr_t?"),
        ("remedies: {x: {remedy: epsilon_scaling, strength: -1}}", "above 0"),
        ("remedy_methods: [plain]", "go together"),
        ("remedies: {x: {remedy: snr_t, hgih: 5}}", "unknown option hgih; did you mean high?"),
        ("base: {model: \udcff}", "is not YAML"),
        ("seeds: 3", "seeds: expected integers in brackets, got 3"),
        ("steps: [", "is not YAML"),
        ("just text", "holds no options"),
        ("stesp: 3", "unknown option stesp; did you mean steps?"),
    ],
)
def test_an_invalid_study_file_is_refused_in_one_line(text, message, tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert main(["compare", str(file), "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_studies_of_the_results_page_are_plans_without_contradiction(file):
    config = read_plan(str(file))
    check(config)
    at = {"steps": config.methods, "compute": config.compute_methods or config.methods}
    rows = sum(len(at[budget]) for budget in config.budgets)
    rows *= len(config.seeds) * len(config.protocols)
    assert sum(job.method is not None for job in jobs(config)) == rows >= 6


def test_there_are_studies():
    assert {"digits", "digits-all", "fashion-mnist", "patches", "search"} <= {
        file.stem for file in STUDIES.glob("*.yaml")
    }
