"""The record of a measurement: JSON, ratios and their criterion, merging and its error bars."""

import json
import math
import sys
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from error_state import state
from undrift.exceptions import InvalidInput
from undrift.measurement.cumulative import cumulative_error
from undrift.measurement.merge import combined_p_value, merge_profiles
from undrift.measurement.profile import ErrorProfile
from undrift.measurement.state import ErrorState, with_ratios
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.two_sample import mmd_estimate
from undrift.reporting.evidence import cumulative
from undrift.reporting.findings import verdict


def profile(*states, seed=0, num_samples=100, **how):
    return ErrorProfile(
        with_ratios(states or [state()]),
        num_samples,
        200,
        {"seed": seed, "seconds": 1.0} | how,
        created=f"2030-01-0{1 + seed % 9}",
    )


def uniform_statistic(p_values):
    """Kolmogorov and Smirnov's statistic against the uniform distribution, times the root of n."""
    p = torch.tensor(p_values, dtype=torch.float64).sort().values
    n = len(p)
    ranks = torch.arange(n + 1, dtype=torch.float64) / n
    return math.sqrt(n) * float(torch.maximum(ranks[1:] - p, p - ranks[:-1]).max())


KS_999 = 1.95  # its 99.9 % quantile


# -- the file ----------------------------------------------------------------------------------


def test_a_profile_comes_back_as_it_was(tmp_path):
    states = with_ratios(
        [
            state(2.0, interval=(0.0, 0.1), bandwidth=3.5),
            state(1.0, fresh_sq=-1e-5, fresh_sq_se=2e-5, inherited_sq=4e-3, inherited_sq_se=1e-4),
            state(0.0, p_value=None),
        ]
    )
    how = {"seed": 3, "kernel": {"multipliers": [0.5, 1.0]}, "none": None}
    made = ErrorProfile(states, 10, 20, how, "λ", "2030-01-01")
    path = made.save(tmp_path / "deep" / "profile.json")
    assert ErrorProfile.load(path) == made
    data = json.loads(path.read_text("utf-8"))
    assert data["schema_version"] == 3 and data["states"][0]["error"]["interval"] == [0.0, 0.1]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = profile().save(tmp_path / "p.json")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        profile(impossible=object()).save(path)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def broken(**changes):
    data = profile(state(1.0), state(0.0)).to_dict()
    for key, value in changes.items():
        if key in data:
            data[key] = value
        elif key in data["states"][0]:
            data["states"][0][key] = value
        else:
            data["states"][0]["error"][key] = value
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (broken(schema_version=4), "update undrift"),
        (broken(schema_version=2), "measure again"),
        (broken(schema_version="3"), "update undrift"),
        (broken(kind="undrift.report"), "no error profile"),
        ([], "no error profile"),
        (broken(states=[]), "damaged"),
        (broken(states=[None]), "damaged"),
        (broken(error=None), "error is None"),
        (broken(budget=[1.0]), r"budget is \[1.0\]"),
        (broken(budget={"fresh_sq": 1.0}), "budget.fresh_sq_se is missing"),
        (broken(fresh=1.0), "error.fresh is unknown"),
        (broken(mmd_sq=None), "error.mmd_sq is None"),
        (broken(mmd_sq="big"), "error.mmd_sq is 'big'"),
        (broken(mmd_sq_se=True), "error.mmd_sq_se is True"),
        (broken(interval=[1.0]), "interval"),
        (broken(interval=[1.0, math.nan]), "NaN"),
        (broken(t=0.0), "times do not decrease"),
        (broken(num_samples="many"), "damaged"),
        (broken(criterion={"max": 1}), "criterion is unknown"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(data, words, tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps(data))
    with pytest.raises(InvalidInput, match=words) as caught:
        ErrorProfile.load(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "text").write_bytes(b"\xff\xfe no JSON")
    for path, words in (("none", "no such file"), ("text", "not JSON"), (".", "cannot read")):
        with pytest.raises(InvalidInput, match=words):
            ErrorProfile.load(tmp_path / path)


# -- ratios ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "is_there"),
    [
        ({}, True),
        ({"p_value": 0.05}, True),
        ({"p_value": 0.051}, False),
        ({"p_value": None}, True),
        ({"se": 6e-3}, False),
        ({"mmd_sq": -1e-2, "interval": (0.0, 0.0)}, False),
    ],
)
def test_ratios_findings_and_tests_have_one_criterion_for_an_error(numbers, is_there):
    """The interval excludes 0 and p is at most 0.05: λ is given exactly where a page says so."""
    before = state(1.0, **numbers)
    after = with_ratios([before, state(0.0, inherited_sq=1e-3)])[1]
    assert before.error.is_detected is is_there
    assert (after.amplification is not None) is is_there
    page = cumulative(ErrorProfile((before,), 9, 9).to_dict()["states"][0])
    assert page.is_detected is is_there


def test_one_measurement_s_interval_and_p_value_agree():
    """Between both ends of the range where it is open: at p = 0.05 exactly."""
    outcomes = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(60, 2, generator=generator) for _ in range(2))
        found = mmd_estimate(x + 0.15, y, num_permutations=39, generator=generator)
        is_there = found.confidence_interval(0.95)[0] > 0
        assert is_there is (found.p_value <= 0.05)
        outcomes.add(is_there)
    assert outcomes == {True, False}


positive = st.floats(1e-4, 1.0)


@given(st.lists(st.tuples(positive, positive, st.booleans()), min_size=2, max_size=9))
def test_gains_are_products_of_later_amplifications(rows):
    """And undefined wherever one of them is."""
    states = [
        state(len(rows) - i, d**2, 1e-9, inherited_sq=i_sq**2, p_value=0.001 if clear else 0.5)
        for i, (d, i_sq, clear) in enumerate(rows)
    ]
    done = with_ratios(states)
    assert done[0].amplification is None
    for after, (d, _, clear) in zip(done[1:], rows, strict=False):
        assert (after.amplification is not None) == clear
        if clear:
            assert after.amplification == pytest.approx(after.inherited / d)
    for i, record in enumerate(done):
        later = [s.amplification for s in done[i + 1 :]]
        if None in later:
            assert record.downstream_gain is None
        else:
            assert record.downstream_gain == pytest.approx(math.prod(later))


def test_roots_are_never_below_zero_and_no_budget_has_no_gains():
    done = with_ratios([state(1.0), state(0.0, fresh_sq=-1e-5, inherited_sq=-1e-5)])
    assert (done[1].fresh, done[1].inherited, done[1].amplification) == (0.0, 0.0, 0.0)
    assert [s.downstream_gain for s in with_ratios([state(1.0), state(0.0)])] == [None, None]


# -- merging -----------------------------------------------------------------------------------


def test_means_are_weighted_by_sample_size_and_ratios_taken_anew():
    a = profile(state(1.0, 4e-2), state(0.0, 1e-2, inherited_sq=1e-2, delta=1.0), num_samples=300)
    b = profile(
        state(1.0, 8e-2), state(0.0, 5e-2, inherited_sq=9e-2, delta=2.0), num_samples=100, seed=1
    )
    merged = a.merge(b)
    assert merged.num_samples == 400 and merged.num_forward == 400
    assert merged.final.mmd_sq == pytest.approx(2e-2)
    assert merged.final.exposure.delta == pytest.approx(1.25)
    assert merged.final.amplification == pytest.approx(math.sqrt(3e-2 / 5e-2))
    assert merged.final.exposure.eps_norm_gap is None and merged.final.modular is None
    assert merged.seeds == [0, 1] and merged.how["seconds"] == 2.0
    assert [part["seed"] for part in merged.how["merged"]] == [0, 1]


@pytest.mark.parametrize("count", [2, 4, 9])
def test_error_bars_fall_with_the_root_of_the_number_of_profiles(count):
    """What the data share does not fall at all."""
    parts = [
        profile(
            state(
                se=2e-3,
                mmd_sq_data_se=1.2e-3,
                null_sd=1e-3,
                fresh_sq_se=1e-3,
                fresh_sq_data_se=1e-3,
                eps_norm_gap=1.0,
                eps_norm_gap_se=1e-3,
            ),
            seed=i,
        )
        for i in range(count)
    ]
    own, data = math.sqrt(2e-3**2 - 1.2e-3**2), 1.2e-3
    merged = merge_profiles(parts).final
    assert merged.mmd_sq_se == pytest.approx(math.hypot(own / math.sqrt(count), data))
    assert merged.error.mmd_sq_data_se == pytest.approx(data)
    assert merged.budget.fresh_sq_se == pytest.approx(1e-3)  # all of it is shared
    assert merged.exposure.eps_norm_gap_se == pytest.approx(1e-3 / math.sqrt(count))
    alone = [
        replace(p, states=(replace(p.final, error=replace(p.final.error, mmd_sq_data_se=0.0)),))
        for p in parts
    ]
    merged = merge_profiles(alone).final
    assert merged.mmd_sq_se == pytest.approx(2e-3 / math.sqrt(count))
    assert merged.error.null_sd == pytest.approx(1e-3 / math.sqrt(count))


def test_merging_is_associative_in_all_but_the_p_value():
    parts = [
        profile(
            state(mmd_sq=1e-2 * (i + 1), se=1e-3 * (i + 1), mmd_sq_data_se=5e-4, bandwidth=1 + i),
            seed=i,
            num_samples=100 * (i + 1),
        )
        for i in range(4)
    ]
    a, b, c, d = parts
    first = a.merge(b).merge(c.merge(d))
    second = a.merge(b.merge(c), d)
    for one, other in ((first, second), (first, a.merge(b, c, d))):
        x, y = asdict(one.final.error), asdict(other.final.error)
        for name in ("mmd_sq", "mmd_sq_se", "mmd_sq_data_se", "bandwidth"):
            assert x[name] == pytest.approx(y[name], rel=1e-12), name
        assert one.how["merged"] == other.how["merged"]


DATA = {"fingerprint": "a", "labels": "x"}


def test_profiles_that_do_not_belong_together_are_refused():
    one = profile(state(mmd_sq=2e-2), sampler={"clip": 1.0}, data=DATA, weights="w")
    cases = {
        "same seed": replace(one, label="again"),
        "different states": profile(state(1.0), seed=1),
        "different samplers": profile(seed=1, sampler={"clip": None}),
        "different weights": profile(seed=1, weights="v"),
        "different data": profile(seed=1, data={"fingerprint": "b"}),
        "data do not merge": profile(seed=1, data={"fingerprint": "a", "labels": "y"}),
    }
    for words, other in cases.items():
        with pytest.raises(InvalidInput, match=words):
            one.merge(other)
    nameless = replace(one, how={})
    with pytest.raises(InvalidInput, match="hold the same samples"):
        nameless.merge(replace(nameless, label="again"))
    with pytest.raises(InvalidInput, match="same seed"):
        one.merge(profile(seed=1)).merge(profile(state(mmd_sq=3e-2), seed=1))
    assert one.merge() == one


# -- p-values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_combined_p_values_are_uniform_under_the_null(count):
    generator = torch.Generator().manual_seed(count)
    drawn = torch.rand(2000, count, generator=generator, dtype=torch.float64).tolist()
    assert uniform_statistic([combined_p_value(p) for p in drawn]) < KS_999


@pytest.mark.parametrize(("rho", "count"), [(0.3, 2), (0.3, 8), (0.8, 4)])
def test_shared_data_are_allowed_for(rho, count):
    """Correlated tests: Brown's level is right, Fisher's is not."""
    generator = torch.Generator().manual_seed(7)
    shape = (20_000, count)
    shared = torch.randn(shape[0], 1, generator=generator, dtype=torch.float64)
    own = torch.randn(shape, generator=generator, dtype=torch.float64)
    z = math.sqrt(rho) * shared + math.sqrt(1 - rho) * own
    p_values = torch.special.ndtr(-z).tolist()
    right = [combined_p_value(p, [math.sqrt(rho)] * count) <= 0.01 for p in p_values[:10_000]]
    wrong = [combined_p_value(p) <= 0.01 for p in p_values[:10_000]]
    assert sum(right) / 10_000 == pytest.approx(0.01, abs=0.006)
    assert sum(wrong) > 1.5 * sum(right)


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_merged_error_bars_are_true_where_profiles_share_their_data(shift):
    """The scatter of merged estimates over new samples and new data, against what they say."""
    generator = torch.Generator().manual_seed(11)
    n, m, parts, repeats = 60, 30, 4, 250
    kernel, values, said, naive = RBFMixture(bandwidth=2.0), [], [], []
    for _ in range(repeats):
        y = torch.randn(m, 1, generator=generator)
        found = []
        for k in range(parts):
            x = shift + torch.randn(n, 1, generator=generator)
            error, _, _ = cumulative_error(x, y, kernel, num_permutations=0, overlap=1.0)
            found.append(profile(ErrorState(0.0, 1.0, 0.0, error), seed=k))
        merged = merge_profiles(found).final
        values.append(merged.mmd_sq)
        said.append(merged.mmd_sq_se)
        naive.append(sum(p.final.mmd_sq_se**2 for p in found) / parts**2)
    scatter = float(torch.tensor(values, dtype=torch.float64).var())
    claimed = sum(se**2 for se in said) / repeats
    # where nothing differs a single estimate claims 1.6 times its variance too: never below it
    assert 0.8 < claimed / scatter < (1.8 if shift == 0 else 1.4)
    assert sum(naive) / repeats < 0.7 * scatter


# -- for people --------------------------------------------------------------------------------


@pytest.fixture
def measured():
    states = [
        state(20.0, 1e-5, 2e-5, p_value=0.4, interval=(0.0, 5e-5)),
        state(5.0, 4e-3, 1e-4, fresh_sq=1e-4, interval=(3.8e-3, 4.2e-3)),
        state(0.0, 1.15e-2, 5e-4, fresh_sq=9e-4, inherited_sq=4e-3, interval=(1e-2, 1.3e-2)),
    ]
    sampler = {"sampler": "DDIMSampler", "num_inference_steps": 20}
    return replace(profile(*states, sampler=sampler), label="<plain>")


def test_a_profile_is_one_short_line(measured):
    assert repr(measured) == (
        "ErrorProfile('<plain>', DDIMSampler, 20 steps, D₀² = 0.0115 ± 0.0005, p = 0.005)"
    )
    assert repr(profile()).startswith("ErrorProfile('model', D₀² = ")


def test_a_profile_is_a_sequence_of_its_states(measured):
    assert len(measured) == 3 and tuple(measured) == measured.states
    assert [s.fresh for s in measured] == [None, 1e-2, 3e-2]


def test_the_summary_is_the_same_text_in_jupyter(measured, monkeypatch):
    """There rich would show the table itself and leave the text empty."""
    expected = measured.summary()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert measured.summary() == expected


def test_the_summary_and_the_notebook_show_every_state(measured):
    lines = measured.summary().splitlines()
    assert "<plain>" in lines[0] and "×10⁻²" in measured.summary()
    rows = [line.split() for line in lines[-3:]]
    assert rows[0] == ["20", "0.001", "±", "0.002", "0.400", "–", "–", "–", "–"]
    ratio = math.sqrt(4e-3 / 4e-3)
    assert rows[2][4:] == ["0.005", "0.0300", f"{math.sqrt(4e-3):.4f}", f"{ratio:.2f}", "1.00"]
    page = measured._repr_html_()
    assert "&lt;plain&gt;" in page and "<plain>" not in page
    assert all(f">{cell}</td>" in page for cell in ("20", "0.400", "0.0300", "–"))


def test_the_plot_is_on_the_axes_that_it_is_given(measured):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure, axes = pyplot.subplots()
    assert measured.plot(axes) is axes
    (line,) = axes.lines
    assert list(line.get_xdata()) == [20.0, 5.0, 0.0] and axes.xaxis.get_inverted()
    assert list(line.get_ydata()) == [1e-5, 4e-3, 1.15e-2]
    edges = axes.collections[0].get_paths()[0].vertices
    assert edges[:, 1].max() == 1.3e-2  # the measurement's own interval at the end
    measured.merge(replace(measured, how={"seed": 1})).plot(axes)  # twice: noise stays left
    assert len(axes.lines) == 2 and axes.xaxis.get_inverted()
    other = measured.plot()
    assert other is not axes and other.figure is not figure
    pyplot.close("all")


def test_a_data_frame_has_a_row_for_each_state(measured, monkeypatch):
    pytest.importorskip("pandas")
    frame = measured.to_pandas()
    assert list(frame.index) == [20.0, 5.0, 0.0]
    assert list(frame["error.mmd_sq"]) == [s.mmd_sq for s in measured]
    assert math.isnan(frame["budget.fresh"][20.0]) and frame["budget.fresh"][0.0] == 3e-2
    assert not any(name.startswith(("kl", "modular")) for name in frame)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InvalidInput, match="pip install pandas"):
        measured.to_pandas()


def test_reports_take_profiles_as_objects_or_as_plain_data(measured, tmp_path):
    path = measured.report(tmp_path)
    assert path == tmp_path / "report.html" and "&lt;plain&gt;" in path.read_text("utf-8")
    assert verdict([measured]) == verdict([measured.to_dict()])
    assert "the cumulative error grows along the chain" in verdict([measured])[0]
