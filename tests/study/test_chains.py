"""A study on several chains: every model by each sampler with each number of steps."""

import itertools
from dataclasses import replace

import pytest
from diffusers import UNet2DModel

from commands import result
from undrift.cli import main
from undrift.data.load import load_data
from undrift.exceptions import InvalidInput
from undrift.quality.scorer import Scorer
from undrift.remedies.registry import parse
from undrift.study.check import check, try_building
from undrift.study.config import Chain, StudyConfig
from undrift.study.record import Judgment, StudyRow
from undrift.study.run import run_study
from undrift.study.statistics import (
    best_rows,
    correlations,
    costs,
    paired,
    paired_best,
    paired_remedies,
    score,
    with_best_samplers,
)
from undrift.training.config import (
    ChainConfig,
    MethodConfig,
    ModelConfig,
    RegularizerConfig,
    TrainConfig,
)

SAMPLERS, STEPS = ["ancestral", "heun"], [2, 3]
CHAINS = {(sampler, steps) for sampler in SAMPLERS for steps in STEPS}


def plan(**changes):
    model, chain = ModelConfig(block_out_channels=[8]), ChainConfig(num_steps=6)
    base = TrainConfig(steps=3, batch_size=8, sample_every=0, model=model, chain=chain)
    methods = {"plain": MethodConfig(), "mixflow": MethodConfig("mixflow")}
    config = StudyConfig(
        *(base, methods), steps=2, num_samples=8, samplers=SAMPLERS, num_inference_steps=STEPS
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chains") / "study"
    remedies = {"some": parse("epsilon_scaling:1.05"), "ours": parse("analytic_variance")}
    config = plan(seeds=[0, 1], remedies=remedies, judge_every=1)
    return folder, config, run_study(config, folder, progress=False)


def test_every_model_is_evaluated_on_every_chain_and_trained_once(done):
    folder, config, found = done
    rows = {(row.method, row.seed, row.chain) for row in found.rows}
    assert rows == set(itertools.product(config.methods, config.seeds, CHAINS))
    assert len(found.rows) == len(rows) == 16
    assert len({row.run for row in found.rows}) == len(list(folder.glob("seed-*/*/log.jsonl"))) - 2
    ours = {chain for chain in CHAINS if chain[0] == "ancestral"}  # heun has no Gaussian steps
    served = {("some", chain) for chain in CHAINS} | {("ours", chain) for chain in ours}
    assert {(row.remedy, row.chain) for row in found.remedies} == served
    assert len(found.remedies) == len(config.seeds) * len(served)
    assert {row.chain for row in found.checkpoints if row.method == "base"} == CHAINS
    assert {row.chain for row in found.checkpoints if row.method == "mixflow"} == CHAINS
    profiles = {(row.remedy, (row.sampler, row.num_inference_steps)) for row in found.profiles}
    assert profiles == served | {("none", chain) for chain in CHAINS}
    assert len({row.mmd_sq for row in found.rows}) == 16


def test_network_calls_are_those_of_the_sampler(done):
    _, _, found = done
    calls = {row.chain: row.network_calls for row in [*found.rows, *found.remedies]}
    assert calls == {
        ("ancestral", 2): 2,
        ("ancestral", 3): 3,
        ("heun", 2): 3,  # twice in each step but the last
        ("heun", 3): 5,
    }


@pytest.mark.parametrize(("sampler", "steps"), sorted(CHAINS))
def test_a_row_is_what_undrift_evaluate_prints(sampler, steps, done, capsys):
    folder, _, found = done
    rows = [row for row in found.rows if row.chain == (sampler, steps) and row.seed == 1]
    for row in rows:
        options = ["--sampler", sampler, "--num-inference-steps", steps, "--num-samples", 8]
        printed = result(capsys, "evaluate", folder / row.run, *options, "--seed", 1, "--quiet")
        for name in ("mmd_sq", "mmd_sq_se", "empirical_mmd_sq", "empirical_mmd_sq_se", "p_value"):
            assert printed[name] == getattr(row, name), name
        [(network, own)] = row.quality.items()
        [(judge, scores)] = printed["quality"].items()
        assert network == judge and all(getattr(own, key) == scores[key] for key in scores)


def test_a_change_is_between_models_on_one_chain(done):
    _, config, found = done
    by_key = {(row.method, row.seed, row.chain): row for row in found.rows}
    for change in found.paired:
        chain = change.sampler, change.num_inference_steps
        for seed, value in zip(change.seeds, change.changes, strict=True):
            plain, own = (by_key[m, seed, chain] for m in ("plain", change.method))
            base, changed = (score(r, change.metric, change.network) for r in (plain, own))
            ratio = changed / base
            assert value == pytest.approx(ratio - 1)
    frechet = [c for c in found.paired if c.metric == "frechet"]
    assert {(c.sampler, c.num_inference_steps) for c in frechet} == CHAINS
    remedied = [c for c in found.paired_remedies if c.metric == "frechet"]
    assert {(c.sampler, c.num_inference_steps) for c in remedied} == CHAINS
    assert {(c.sampler, c.num_inference_steps) for c in found.correlations} == CHAINS
    [points] = {c.overall.num_points for c in found.correlations}
    assert points == len(config.seeds) * (3 + 2 * 2)  # the base after each step, each method


def test_only_what_is_missing_is_evaluated(done, monkeypatch):
    folder, config, found = done
    drawn, draw = [], Scorer.draw

    def counted(scorer, sampler, *arguments, **options):
        drawn.append(len(sampler.grid) - 1)
        return draw(scorer, sampler, *arguments, **options)

    monkeypatch.setattr(Scorer, "draw", counted)
    monkeypatch.setattr("undrift.study.worker.train", None)  # nothing is trained
    assert run_study(config, folder, progress=False).rows == found.rows
    assert drawn == []
    run = folder / "seed-0" / "mixflow-2"
    stopped = [f for f in run.glob("judged-final-*.json") if '"heun"' in f.read_text()]
    stopped[0].unlink()
    assert run_study(config, folder, progress=False).rows == found.rows
    assert len(drawn) == 1
    more = replace(config, num_inference_steps=[*STEPS, 6], remedies={}, judge_every=None)
    assert len(run_study(more, folder, progress=False).rows) == 24
    assert drawn[1:] == [6] * 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_inference_steps": [2, 7]}, "7 steps: 7 inference steps asked for: choose 1 to 6"),
        ({"num_inference_steps": [2, 0]}, "num_inference_steps is 0: choose at least 1"),
        ({"num_inference_steps": [2, 2]}, r"num_inference_steps \[2, 2\]: give .* each once"),
        ({"num_inference_steps": []}, r"num_inference_steps \[\]: give at least one"),
        ({"samplers": []}, r"samplers \[\]: give at least one"),
        ({"samplers": ["unipc", "UniPCMultistepScheduler"]}, "each once"),
        ({"samplers": ["magic"]}, "magic, 2 steps: unknown sampler 'magic': choose"),
        ({"num_inference_steps": None}, "heun needs a number of steps: give num_inference_steps"),
        ({"samplers": ["LCMScheduler"]}, "LCMScheduler does not serve this model"),
        ({"samplers": ["VQDiffusionScheduler"]}, "does not serve this model"),
        ({"remedies": {"r": parse("epsilon_scaling:1.05,slope=-0.25")}, "num_inference_steps": 6},
         "ancestral, 6 steps: remedy r: "),
        ({"remedies": {"r": parse("analytic_variance")}, "samplers": ["heun", "unipc"]},
         "remedy r serves no chain of the study: leave it out"),
    ],
)  # fmt: skip
def test_a_chain_that_does_not_fit_is_refused_before_anything(changes, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run_study(plan(**changes), tmp_path / "study", progress=False)
    assert not (tmp_path / "study").exists()


def test_methods_on_the_networks_own_features_start_from_the_base(tmp_path):
    options = RegularizerConfig(num_inference_steps=3, features="network+pixels", population=64)
    methods = {"plain": MethodConfig(), "own": MethodConfig("persistent", options)}
    own = plan(methods=methods, reference="own")
    try_building(own, load_data("digits"))
    scratch = replace(own, protocols=["scratch"], scratch_steps=2)
    with pytest.raises(InvalidInput, match="method own: .* learned nothing yet"):
        run_study(scratch, tmp_path / "study", progress=False)


def test_a_solver_that_refuses_what_the_network_predicts_is_refused_before_anything(monkeypatch):
    from diffusers import UniPCMultistepScheduler

    def refuses(*arguments, **options):
        raise ValueError("prediction_type must be sample")

    monkeypatch.setattr(UniPCMultistepScheduler, "convert_model_output", refuses)
    config = plan(samplers=["ddim", "unipc"])
    check(config)
    with pytest.raises(InvalidInput, match="unipc, 2 steps: the sampler does not fit the model"):
        try_building(config, load_data("digits"))


def test_trying_the_chains_takes_one_step_of_each(monkeypatch):
    calls, call = [], UNet2DModel.forward

    def counted(self, *arguments, **options):
        calls.append(1)
        return call(self, *arguments, **options)

    monkeypatch.setattr(UNet2DModel, "forward", counted)
    try_building(plan(samplers=["ancestral", "unipc", "ddim"]), load_data("digits"))
    assert len(calls) == 6


def test_the_default_chain_is_the_runs_own(tmp_path):
    own = plan(samplers=None, num_inference_steps=None)
    assert own.chains == [Chain()] and plan(num_inference_steps=3).step_counts == [3]
    found = run_study(own, tmp_path, progress=False)
    named = run_study(plan(samplers=["ancestral"], num_inference_steps=6), tmp_path, progress=False)
    assert found.rows == [replace(row, grid=old.grid) for row, old in zip(named.rows, found.rows,
                                                                         strict=True)]  # fmt: skip
    assert {row.chain for row in found.rows} == {("ancestral", 6)}


def judged(frechet, network="net"):
    return {network: Judgment(frechet=frechet)}


def row(method, seed, chain, calls, frechet):
    at = ("branched", method, seed, "steps", 10, 1.0, f"{method}-{seed}")
    return StudyRow(*at, *chain, calls, mmd_sq=frechet / 10, quality=judged(frechet))


def test_the_best_sampler_of_a_seed_is_chosen_on_the_others():
    # of plain, a is lucky with seed 0; b is better with the others
    frechet = {"a": (1.0, 5.0, 5.0), "b": (4.0, 4.0, 2.0)}
    rows = [row("plain", s, (name, 5), 5, v) for name, own in frechet.items()
            for s, v in enumerate(own)]  # fmt: skip
    rows += [row("x", s, ("a", 5), 5, 1.0) for s in range(3)]
    rows += [row("x", s, ("b", 5), 5, 9.0) for s in range(3)]
    rows += [row(m, s, ("c", 3), 6, 0.1) for m in ("plain", "x") for s in range(3)]
    marked = with_best_samplers(rows)
    assert [replace(r, quality=judged(r.quality["net"].frechet)) for r in marked] == rows
    [chosen] = best_rows(marked).values()
    best = {(r.method, r.seed, r.network_calls): r.sampler for r in chosen}
    # others of seed 0: a 5, b 3; of seed 1: a 3, b 3 (the first); of seed 2: a 3, b 4
    assert best == {("plain", 0, 5): "b", ("plain", 1, 5): "a", ("plain", 2, 5): "a"} | {
        ("x", s, 5): "a" for s in range(3)
    } | {(m, s, 6): "c" for m in ("plain", "x") for s in range(3)}
    found = {(c.network_calls, c.metric): c for c in paired_best(marked)}
    assert found[5, "frechet"].changes == pytest.approx([1 / 4 - 1, 1 / 5 - 1, 1 / 5 - 1])
    assert found[6, "frechet"].changes == [0.0] * 3
    assert found[5, "frechet"].sampler is None
    assert paired_best([r for r in marked if r.sampler == "a"]) == []


def test_each_network_chooses_its_best_sampler():
    def both(method, sampler, one, two):
        quality = judged(one, "one") | judged(two, "two")
        return replace(row(method, 0, (sampler, 5), 5, one), quality=quality)

    rows = [both("plain", "a", 2.0, 8.0), both("plain", "b", 4.0, 4.0)]
    rows += [both("x", "a", 3.0, 4.0), both("x", "b", 1.0, 6.0)]
    marked = with_best_samplers(rows)
    samplers = {name: [r.sampler for r in best] for name, best in best_rows(marked).items()}
    assert samplers == {"one": ["a", "b"], "two": ["b", "a"]}
    found = {(c.network, c.metric): c.changes for c in paired_best(marked)}
    assert found["one", "frechet"] == [-0.5] and found["two", "frechet"] == [0.0]
    assert found["one", "mmd_sq"] == pytest.approx([-0.5])
    assert found["two", "mmd_sq"] == pytest.approx([-0.25])


def test_changes_correlations_and_costs_do_not_mix_chains():
    chains = [("a", 5), ("b", 5)]
    rows = [row(m, s, c, 5, (1 + k) * (2 if m == "x" else 1) * (1 + s))
            for k, c in enumerate(chains) for m in ("plain", "x") for s in range(2)]  # fmt: skip
    assert all(change.changes == [1.0, 1.0] for change in paired(rows))
    assert len({(c.sampler, c.metric) for c in paired(rows)}) == 4
    halved = [replace(r, remedy="r", quality=judged(r.quality["net"].frechet / 2)) for r in rows]
    changes = [c for c in paired_remedies(rows, halved) if c.metric == "frechet"]
    assert all(change.mean == -0.5 for change in changes) and len(changes) == 4
    # within each chain quality falls with the error, over both it would rise
    turned = [
        replace(r, seed=10 * k + r.seed, quality=judged(100 * (r.sampler == "b") - r.mmd_sq))
        for k in range(2)
        for r in rows
    ]
    assert [c.overall.rho for c in correlations(turned)] == [pytest.approx(-1)] * 2
    assert [len(cost.relative.ratios) for cost in costs(rows)] == [2, 2]


def test_the_command_prints_a_block_for_each_chain(done, tmp_path, capsys):
    folder, _, _ = done
    file = tmp_path / "plan.yaml"
    file.write_text(
        "base: {steps: 3, batch_size: 8, sample_every: 0, model: {block_out_channels: [8]},"
        " chain: {num_steps: 6}}\nmethods: {plain: {method: plain}, mixflow: {method: mixflow}}\n"
        "steps: 2\nnum_samples: 8\nseeds: [0, 1]\nsamplers: [ancestral, heun]\n"
        "num_inference_steps: [2, 3]\n"
    )
    assert main(["compare", str(file), "--output", str(folder)]) == 0
    told = capsys.readouterr()
    for sampler, steps in CHAINS:
        assert f"{sampler}, {steps} steps: change against plain" in told.out
    assert "the best sampler of each, 3 network calls: change against plain" in told.out
    assert "16 of 16" in told.err and "chains: ancestral, 2 steps; heun, 2 steps" in told.err
