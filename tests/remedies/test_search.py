"""Tuning: the search finds what is known, the held-out half says what may be said."""

import json
import math

import pytest
import torch
from torch import nn

from commands import complaint, files, result
from undrift import cli
from undrift.data.images import ImageData
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.schedule import LinearSchedule
from undrift.exceptions import FINITE, InvalidInput
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernels import RBFMixture
from undrift.quality.frechet import frechet_distance
from undrift.remedies.difference import frechet_change, mmd_change
from undrift.remedies.registry import REMEDIES, parse
from undrift.remedies.search import StrengthSearch, _sections, halves, tune

SPREAD = 0.04
SHAPE = (1, 2, 4)


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=400):
    """What the chain makes whose estimate of the noise is right: its own data, by construction."""
    drawn = chain().sample((count, *SHAPE), generator=noise_source(99))
    return ImageData(drawn.clamp(-1, 1), name="gaussian")


class Ideal(nn.Module):
    """The ideal estimate of the noise of N(0, SPREAD), times a factor; counts its calls."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor, self.calls = nn.Parameter(torch.tensor(factor)), 0

    def forward(self, x_t, timestep):
        self.calls += 1
        abar = LinearSchedule(50).alpha_bar(int(timestep[0]) + 1)
        return self.factor * math.sqrt(1 - abar) / (abar * SPREAD + 1 - abar) * x_t


def chain(factor=1.0, kind=DDIMSampler, steps=25, **options):
    denoiser = Denoiser(Ideal(factor), LinearSchedule(50))
    return kind(denoiser, steps, clip=None, **options)


def tuned(sampler, text, values=None, **options):
    options = {"num_samples": 400, "batch_size": 400, "progress": False} | options
    return tune(sampler, images(), parse(text), values, **options)


@pytest.mark.parametrize("metric", ["mmd_sq", "frechet"])
def test_the_search_finds_what_the_noise_is_off_by(metric):
    found = tuned(chain(0.95), "epsilon_scaling", [0.85, 0.9, 0.97, 1.05], metric=metric, refine=6)
    assert found.best.strength == pytest.approx(0.95, abs=0.015)
    assert found.remedy.text == f"epsilon_scaling:{found.best.strength:g}"
    assert found.helps and "better than no remedy" in found.verdict
    for change in found.changes.values():
        assert change.interval[1] < 0 and change.best < 0.5 * change.none
    values = {trial.strength: trial.value(metric) for trial in found.curve}
    assert list(values) == sorted(values) and len(values) == 4 + 1 + 6
    assert min(values.values()) == found.best.value(metric)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_claimed_where_nothing_is_to_be_gained(seed):
    found = tuned(chain(), "epsilon_scaling", [0.99, 1.01], refine=1, seed=seed)
    assert not found.helps
    verdicts = ("leave the remedy out", "not distinguishable", "worse than no remedy")
    assert any(words in found.verdict for words in verdicts)


def test_a_remedy_that_only_harms_is_left_out():
    found = tuned(chain(), "epsilon_scaling", [0.7, 1.4], refine=0)
    assert found.remedy is None and not found.changes
    assert found.best.strength == 1 and "leave the remedy out" in found.verdict


def test_the_analytic_variance_has_no_neutral_strength_and_is_estimated_once():
    sampler = chain(kind=AncestralSampler, steps=10)
    found = tuned(sampler, "analytic_variance,tolerance=0", [0.5, 1.0], refine=0)
    assert [trial.strength for trial in found.curve] == [None, 0.5, 1.0]
    fit = 4 * 10  # 1000 draws in batches of 250 at each time
    assert sampler.denoiser.network.calls == fit + 10 * (3 + 2)
    assert found.remedy.remedy == "analytic_variance" and found.remedy.tolerance == 0


def test_equal_seeds_tune_alike_and_others_do_not():
    a, b, c = (
        tuned(chain(0.95), "epsilon_scaling", [0.95], refine=0, seed=seed).to_dict()
        for seed in (0, 0, 1)
    )
    assert a == b
    assert a["curve"] != c["curve"]


def test_no_remedy_is_tried_even_where_no_strength_of_it_does_nothing():
    values = [0.0, 0.01]
    found = tuned(chain(), "snr_t,high=0.05,weighting=constant", values, refine=0)
    none, *others = found.curve
    assert none.strength is None and [trial.strength for trial in others] == values
    assert others[0].scores.mmd_sq != none.scores.mmd_sq
    alone = tuned(chain(), "snr_t", values, refine=0).curve[0]
    assert alone.strength == 0 and alone.scores == none.scores


def test_a_strength_at_which_the_sampler_diverges_is_recorded_and_never_the_best():
    found = tuned(chain(0.95), "snr_t,high=1e30,weighting=constant", [1e30], refine=0)
    blown = found.curve[-1]
    assert blown.strength == 1e30 and blown.scores is None and blown.to_dict()["frechet"] is None
    assert found.best is found.curve[0] and found.best.strength is None
    json.dumps(found.to_dict())
    huge = tuned(chain(0.95), "snr_t,high=1e17,weighting=constant", [1e17], refine=0)
    assert all(trial is huge.best or trial.scores is None for trial in huge.curve)


def test_a_sampler_that_diverges_on_the_held_out_half_only_is_reported(monkeypatch):
    draw = StrengthSearch.draw

    def blowing(self, remedy, scorer, seed):
        x = draw(self, remedy, scorer, seed)
        return x if scorer is self.scorer else 1e30 * x

    monkeypatch.setattr(StrengthSearch, "draw", blowing)
    found = tuned(chain(0.95), "epsilon_scaling", [0.95], refine=0)
    assert found.remedy.remedy == "epsilon_scaling" and not found.helps
    assert "diverged" in found.verdict
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_verdict_has_data_and_noise_that_the_search_never_saw(monkeypatch):
    seen, changes, seeds = [], StrengthSearch.changes, []
    draw = StrengthSearch.draw

    def noted(self, best, held_out):
        seen.append((self.scorer.reference, held_out.reference, len(seeds)))
        return changes(self, best, held_out)

    def drawn(self, remedy, scorer, seed):
        seeds.append(seed)
        return draw(self, remedy, scorer, seed)

    monkeypatch.setattr(StrengthSearch, "changes", noted)
    monkeypatch.setattr(StrengthSearch, "draw", drawn)
    tuned(chain(0.95), "epsilon_scaling", [0.95], refine=0)
    ((search, held_out, before),) = seen
    rows = {tuple(x.flatten().tolist()) for x in search}
    assert not rows & {tuple(x.flatten().tolist()) for x in held_out}
    assert len(set(seeds[before:])) == 1 and not set(seeds[:before]) & set(seeds[before:])


def test_many_features_have_a_frechet_change_only_where_it_is_searched_by(monkeypatch):
    for module in ("quality.scorer", "remedies.search"):
        monkeypatch.setattr(f"undrift.{module}.MOST_RANK", 7)  # the images have 8 pixels
    found = tuned(chain(0.95), "epsilon_scaling", [0.95], refine=0)
    assert all(t.scores.frechet > 0 and t.scores.frechet_se is None for t in found.curve)
    assert list(found.changes) == ["mmd_sq"] and found.helps
    found = tuned(chain(0.95), "epsilon_scaling", [0.95], refine=0, metric="frechet")
    assert set(found.changes) == {"mmd_sq", "frechet"} and found.helps


def test_features_that_are_too_many_for_the_samples_have_no_frechet_change():
    def lifted(x):
        return torch.cat([x.flatten(1).sin(), *[(k * x.flatten(1)).cos() for k in range(1, 26)]], 1)

    with pytest.raises(InvalidInput, match="208 features are too many for the Fréchet distance"):
        tuned(chain(0.95), "epsilon_scaling", [0.95], refine=0, metric="frechet", features=lifted)
    found = tuned(chain(0.95), "epsilon_scaling", [0.95], refine=0, features=lifted)
    assert list(found.changes) == ["mmd_sq"] and found.how["warning"] is not None


# --- the search ---------------------------------------------------------------------------------


def sections(function, start, name="snr_t", count=12):
    known = {value: function(value) for value in start}
    for probe in _sections(known, REMEDIES[name].limits.get("strength", FINITE), count):
        assert probe not in known
        known[probe] = function(probe)
    return min(known, key=known.get), known


@pytest.mark.parametrize("minimum", [0.3, -0.71, 0.0])
def test_golden_sections_close_in_on_a_minimum(minimum):
    best, known = sections(lambda x: (x - minimum) ** 2, [-1.0, 0.0, 1.0])
    assert best == pytest.approx(minimum, abs=0.02)
    assert len(known) <= 15


@pytest.mark.parametrize("minimum", [7.0, -7.0])
def test_the_search_continues_past_an_end(minimum):
    assert sections(lambda x: (x - minimum) ** 2, [-1.0, 0.0, 1.0])[0] == pytest.approx(
        minimum, abs=0.3
    )


def test_windows_are_whole_and_never_negative():
    best, known = sections(lambda x: (x - 5) ** 2, [0.0, 2.0, 8.0], "time_shift")
    assert best == 5 and all(value % 1 == 0 for value in known)
    best, known = sections(lambda x: x, [0.0, 2.0, 8.0], "time_shift")
    assert best == 0 and min(known) == 0


def test_the_halves_share_no_image_and_follow_the_seed():
    data = images(41)
    search, held_out = (half.images for half in halves(data, 0))
    rows = {tuple(x.flatten().tolist()) for x in search}
    assert len(search) == 20 and len(held_out) == 21
    assert not rows & {tuple(x.flatten().tolist()) for x in held_out}
    assert not torch.equal(halves(data, 1)[0].images, search)


# --- the difference -----------------------------------------------------------------------------


def pair(seed, n=150, m=120):
    generator = noise_source(seed)
    none = torch.randn(n, 2, generator=generator)
    return 1.15 * none, none, torch.randn(m, 2, generator=generator)


def test_both_ends_of_a_change_are_the_distances_themselves():
    best, none, y = pair(0)
    kernel = RBFMixture(bandwidth=3.0)
    change = mmd_change(best, none, y, kernel)
    assert change.best == pytest.approx(float(mmd_sq(best, y, kernel=kernel)), abs=1e-6)
    assert change.none == pytest.approx(float(mmd_sq(none, y, kernel=kernel)), abs=1e-6)
    change = frechet_change(best, none, y)
    assert change.best == pytest.approx(frechet_distance(best, y), abs=0.1)  # less its bias
    assert change.difference == pytest.approx(change.best - change.none)


def test_the_frechet_distance_of_a_change_is_freed_of_its_bias():
    generator, ends = noise_source(0), []
    for _ in range(30):
        x, y = torch.randn(2, 200, 16, generator=generator)
        change = frechet_change(0.95 * x, x, y)
        ends.append([change.best, change.none, frechet_distance(0.95 * x, y)])
    best, none, plain = torch.tensor(ends).mean(0).tolist()
    truth = 16 * 0.05**2
    assert best == pytest.approx(truth, abs=0.06) and none == pytest.approx(0, abs=0.06)
    assert plain > 10 * truth


def test_a_chain_that_only_shrinks_is_not_called_better():
    generator, smaller = noise_source(1), 0
    for _ in range(10):
        x, y = torch.randn(2, 200, 24, generator=generator)
        shrunk = 0.96 * x
        smaller += frechet_distance(shrunk, y) < frechet_distance(x, y)  # as its bias is
        change = frechet_change(shrunk, x, y)
        assert not (change.is_distinguishable and change.difference < 0)
    assert smaller >= 8


@pytest.mark.parametrize("which", ["mmd_sq", "frechet"])
def test_the_error_bar_of_a_change_is_its_spread(which):
    kernel = RBFMixture(bandwidth=3.0)
    found = [
        mmd_change(*pair(seed), kernel) if which == "mmd_sq" else frechet_change(*pair(seed))
        for seed in range(40)
    ]
    spread = torch.tensor([change.difference for change in found]).std()
    claimed = torch.tensor([change.standard_error**2 for change in found]).mean().sqrt()
    assert float(claimed / spread) == pytest.approx(1, abs=0.3)
    alone = torch.tensor([change.none for change in found]).std()
    assert claimed < alone  # common noise cancels


def test_no_change_has_no_error():
    _, none, y = pair(0)
    change = mmd_change(none, none, y, RBFMixture(bandwidth=3.0))
    assert change.difference == 0 and change.standard_error == 0
    assert not change.is_distinguishable


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("snr_t:0.1", {}, "has a strength"),
        ("snr_t", {"values": []}, "at least one value"),
        ("epsilon_scaling", {"values": [0.0, 1.0]}, "above 0"),
        ("snr_t", {"refine": -1}, "refine is -1: choose at least 0"),
        ("snr_t", {"metric": "fid"}, "choose mmd_sq, frechet"),
        ("snr_t", {"num_samples": 10}, "num_samples is 10: choose at least 40"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(text, options, words):
    with pytest.raises(InvalidInput, match=words):
        tuned(chain(), text, **options)
    with pytest.raises(InvalidInput, match="too few to be split"):
        tune(chain(), images(20), parse("snr_t"), progress=False)


# --- the command line ---------------------------------------------------------------------------

TUNE = ["tune", "run", "--features", "pixels", "--num-samples", "40", "--quiet"]


def test_tune_prints_its_curve_and_keeps_it(place, capsys):  # noqa: F811
    options = ["--remedy", "snr_t,high=0.01", "--range=-0.1,0.1", "--num-values", "2"]
    found = result(capsys, *TUNE, *options, "--refine", "1")
    assert found["kind"] == "undrift.tuning" and len(found["curve"]) == 4
    assert {"strength", "mmd_sq", "mmd_sq_se", "frechet", "frechet_se"} <= found["curve"][0].keys()
    kept = json.loads((place / found["saved"]).read_text())
    assert kept["curve"] == found["curve"] and kept["how"]["command"].startswith("undrift tune")
    assert (place / found["plot"]).read_bytes().startswith(b"\x89PNG")
    before = files(place)
    assert cli.main([*TUNE, *options, "--refine", "0"]) == 0
    out, _ = capsys.readouterr()
    assert "verdict" in out and "-0.1" in out and "(best)" in out and "[bold]" not in out
    assert all(files(place)[path] == content for path, content in before.items())


@pytest.mark.parametrize("command", ["sample", "measure", "evaluate"])
def test_every_command_takes_a_remedy_and_says_so(command, place, capsys):  # noqa: F811
    count = "--num-images" if command == "sample" else "--num-samples"
    argv = [command, "run", count, "24", "--quiet"]
    argv += ["--features", "pixels"] if command == "evaluate" else []
    argv += ["--states", "2"] if command == "measure" else []
    how = []
    for text in ("epsilon_scaling:1.02", "analytic_variance"):
        found = result(capsys, *argv, "--remedy", text)
        how.append(found["sampler"] if command == "sample" else found["how"]["sampler"])
    assert how[0]["remedies"] == [{"remedy": "epsilon_scaling", "strength": 1.02, "slope": 0.0}]
    assert how[1]["remedies"][0]["remedy"] == "analytic_variance"
    assert len(how[1]["remedies"][0]["variances"]) == 5
    if command == "evaluate":
        assert found["label"] == "run, analytic_variance"


CASES = [
    ("tune run", "remedy is missing"),
    ("tune run --remedy snr_t:1", "snr_t:1 has a strength"),
    ("tune run --remedy none", "remedy is missing: choose"),
    ("tune run --remedy snr", "unknown remedy 'snr'"),
    ("tune run --remedy snr_t --values 1 --range 0,1", "exclude each other"),
    ("tune run --remedy snr_t --range 1,0", "--range takes the lowest"),
    ("tune run --remedy snr_t --range 0,1 --num-values 1", "--num-values is 1"),
    ("tune run --remedy time_shift --values 1.5", "whole number"),
    ("tune run --remedy snr_t --num-samples 3", "--num-samples is 3"),
    ("tune run --remedy snr_t --refine -1", "--refine is -1"),
    ("tune run --remedy snr_t --output run", "run is a folder: give a file in it"),
    ("tune nowhere --remedy snr_t", "no such folder"),
    ("tune run --remedy analytic_variance --features pixels --sampler euler", "has not"),
    ("sample run --remedy epsilon", "unknown remedy 'epsilon'"),
    ("sample run/pipeline --remedy analytic_variance", "sample a run of undrift train"),
    ("evaluate run/pipeline --remedy analytic_variance", "give --data"),
    ("measure run --remedy time_shift:4 --sampler heun,", "unknown sampler"),
]


@pytest.mark.parametrize(("command", "words"), CASES, ids=[case[0] for case in CASES])
def test_bad_input_is_refused_in_one_line(command, words, place, capfd):  # noqa: F811
    assert words in complaint(capfd, place, *command.split())
