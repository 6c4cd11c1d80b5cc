"""One scorer: the commands agree on one model, and each score is that of its own function."""

import json

import pytest
import torch

from commands import result, write_run
from undrift.data.images import ImageData
from undrift.data.load import load_data
from undrift.diffusion.pipelines import as_sampler, load_pipeline
from undrift.exceptions import InvalidInput
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernels import PolynomialKernel
from undrift.mmd.two_sample import mmd_estimate
from undrift.quality.feature_choice import choose_features
from undrift.quality.features import extract_features
from undrift.quality.frechet import MOST_RANK, frechet_distance
from undrift.quality.scorer import Scorer
from undrift.remedies.registry import parse
from undrift.remedies.search import halves, tune
from undrift.study.config import StudyConfig
from undrift.study.run import run_study
from undrift.training.config import ChainConfig, TrainConfig


@pytest.mark.parametrize("num_samples", [300, 600])
def test_measure_evaluate_and_a_study_agree_to_the_last_digit(
    num_samples, tmp_path, monkeypatch, capsys
):
    """With 300 samples an even part of the 1,797 digits is compared with, with 600 all of them."""
    monkeypatch.chdir(tmp_path)
    base = TrainConfig(steps=3, batch_size=8, sample_every=0, chain=ChainConfig(num_steps=4))
    plan = StudyConfig(base, steps=2, seeds=[3], num_samples=num_samples)
    run_study(plan, tmp_path / "study", progress=False)
    [row] = json.loads((tmp_path / "study" / "study.json").read_text())["rows"]
    options = ["--num-samples", num_samples, "--seed", 3, "--quiet"]
    run = f"study/{row['run']}"
    evaluated = result(capsys, "evaluate", run, *options)
    final = result(capsys, "measure", run, *options, "--no-budget", "--states", 3)["states"][-1][
        "error"
    ]
    for name in ("mmd_sq", "mmd_sq_se", "p_value", "interval"):
        assert final[name] == evaluated[name] == row[name], name
    for name in ("empirical_mmd_sq", "empirical_mmd_sq_se", "frechet_ratio"):
        assert evaluated[name] == row[name], name
    kept = dict(row["quality"]["classifier"])
    assert kept.pop("is_best_sampler") is True
    scores = evaluated["quality"]["classifier"]
    assert {name: value for name, value in scores.items() if value is not None} == kept


def test_every_score_is_that_of_its_own_function():
    data = load_data("digits", limit=300)
    features = choose_features("classifier", data)
    scorer = Scorer(data, 100, features=features)
    samples = data.images[:100] * 0.9
    found = scorer.scores(samples)
    x, y = extract_features(samples, features), extract_features(data.images, features)
    assert found.frechet == frechet_distance(x, y)
    cubic = mmd_estimate(x.double(), y.double(), kernel=PolynomialKernel())
    assert found.kernel_distance == pytest.approx(cubic.mmd_sq, rel=1e-12)
    assert found.kernel_distance_se == pytest.approx(cubic.standard_error, rel=1e-12)
    assert found.mmd_sq == pytest.approx(
        float(mmd_sq(samples.double(), data.images.double())), abs=1e-6
    )
    # to the data set: the V-statistic in the data, the U-statistic in the samples
    kernel = scorer.kernel
    within = kernel(data.images, data.images).double().mean()
    u = kernel(data.images, data.images).double().fill_diagonal_(0).sum() / (300 * 299)
    assert found.empirical_mmd_sq - found.mmd_sq == pytest.approx(float(within - u), rel=1e-4)
    assert found.pixel_variance_ratio == pytest.approx(
        0.81 * float(data.images[:100].var(0).sum() / data.images.var(0).sum()), rel=1e-5
    )
    json.dumps(found.to_dict(), allow_nan=False)


def test_what_the_sizes_cannot_give_is_known_before_any_sample():
    images = torch.rand(400, 1, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data = ImageData(images, name="noise")
    many = Scorer(data, 400)  # 400 features, 400 samples
    assert "400 samples are too few for 400 features" in many.notes[0]
    assert "no error bar" in many.notes[1]
    few = Scorer(data, 50)
    assert few.bootstraps == 100 and Scorer(data, 400, num_resamples=7).bootstraps == 7
    found = few.scores(images[:50])
    assert found.frechet_se > 0 and found.frechet_interval is None  # it could miss the distance
    assert MOST_RANK < 400
    found = many.scores(images)
    assert found.frechet == pytest.approx(0, abs=1e-6) and found.frechet_se is None
    enough = Scorer(data, 50, features=lambda x: x.flatten(1)[:, :3])
    assert enough.warning is None and enough.scores(images[:50]).frechet_interval is not None
    assert Scorer(data, 50, num_reference=50, features=lambda x: x.flatten(1)[:, :3]).notes == []


def test_tune_scores_the_samples_that_evaluate_scores(tmp_path):
    data = load_data("digits", limit=200)
    sampler = as_sampler(load_pipeline(write_run(tmp_path / "run") / "pipeline"))
    found = tune(
        sampler,
        data,
        parse("snr_t"),
        [0.0],
        refine=0,
        num_samples=50,
        seed=2,
        progress=False,
    )
    [trial] = found.curve
    scorer = Scorer(halves(data, 2)[0], 50)
    assert trial.scores == scorer.scores(scorer.draw(sampler, 2), 2)


def test_images_that_are_not_finite_are_told_of():
    data = load_data("digits", limit=40)
    with pytest.raises(InvalidInput, match="images at t=0 are not finite .1 of 40, the first is"):
        Scorer(data, 40).scores(data.images.clone().index_fill_(0, torch.tensor([3]), torch.nan))
