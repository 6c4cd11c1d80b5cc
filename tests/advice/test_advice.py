"""Advice: a model of diffusers gets a better sampler, which diffusers alone runs the same way."""

import json
import runpy
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits

import undrift
from commands import complaint, files, network, result
from undrift import cli
from undrift.advice.candidates import COMPUTED, Candidates
from undrift.advice.folder import SCHEDULER, SCRIPT, Found, script, with_scheduler, write_folder
from undrift.advice.record import AdviceRecord
from undrift.advice.run import Plan
from undrift.advice.trials import FILE as TRIALS
from undrift.data.load import load_data
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.diffusion.solvers import SOLVERS
from undrift.exceptions import InvalidInput
from undrift.measurement.parallel_chains import network_calls
from undrift.mmd.two_sample import mmd_estimate
from undrift.quality.frechet import frechet_estimate
from undrift.remedies.moments import Moments
from undrift.remedies.registry import REMEDIES

QUICK = {"num_samples": 300, "features": "pixels", "remedies": ["none"], "progress": False}


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


def untrained(**options):
    from diffusers import DDPMPipeline, DDPMScheduler

    return DDPMPipeline(network().eval(), DDPMScheduler(1000, clip_sample=False, **options))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A pipeline that diffusers trained and saved, without undrift."""
    from diffusers import DDPMPipeline, DDPMScheduler

    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    unet, scheduler = network(), DDPMScheduler(1000, prediction_type="v_prediction")
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-2)
    for step in range(200):
        torch.manual_seed(step)
        x_0 = images[torch.randint(len(images), (64,))]
        noise, t = torch.randn_like(x_0), torch.randint(1000, (64,))
        out = unet(scheduler.add_noise(x_0, noise, t), t).sample
        (out - scheduler.get_velocity(x_0, noise, t)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("trained") / "pipeline"
    DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def advised(trained, tmp_path_factory):
    """The advice for it at 10 network calls, and its folder."""
    folder = tmp_path_factory.mktemp("advised") / "advice"
    advice = undrift.advise(
        trained, "digits", output=folder, solvers=["ancestral", "dpm-solver++", "unipc"], **QUICK
    )
    return advice, folder


def test_something_better_than_the_present_sampler_is_found_on_held_out_data(advised):
    advice, _ = advised
    change = advice.finalist(advice.in_folder).against_present[advice.metric]
    assert advice.helps and change.interval[1] < 0
    assert change.value < change.reference
    assert advice.present == "DDPMScheduler" and advice.present_calls == 10


def test_diffusers_alone_reproduces_the_number_within_its_error(advised):
    from diffusers import DiffusionPipeline

    advice, folder = advised
    finalist = advice.finalist(advice.in_folder)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=600,
        num_inference_steps=finalist.num_inference_steps,
        generator=noise_source(7),
        output_type="np",
    ).images
    samples = torch.tensor(images).movedim(-1, 1) * 2 - 1
    held_out = Plan(load_data("digits"), None, None, 300, 250, 0).scorer
    found = mmd_estimate(samples, held_out.reference, kernel=held_out.kernel)
    told = finalist.against_present["mmd_sq"]
    assert abs(found.mmd_sq - told.value) < 4 * found.standard_error
    assert found.mmd_sq < told.reference
    told = finalist.against_present["frechet"]
    frechet = frechet_estimate(
        samples.flatten(1), held_out.reference.flatten(1), generator=noise_source()
    )
    assert abs(frechet.value - frechet.bias - told.value) < 4 * frechet.standard_error


def test_diffusers_alone_gives_the_images_of_undrift(advised):
    from diffusers import DiffusionPipeline

    advice, folder = advised
    finalist = advice.finalist(advice.in_folder)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    steps = finalist.num_inference_steps
    sampler = DiffusersSampler(pipeline.unet, pipeline.scheduler, steps)
    expected = (sampler.sample((5, 1, 8, 8), generator=noise_source(3)) / 2 + 0.5).clamp(0, 1)
    images = pipeline(
        batch_size=5, num_inference_steps=steps, generator=noise_source(3), output_type="np"
    ).images
    torch.testing.assert_close(torch.tensor(images), expected.movedim(1, -1))


def test_the_lines_to_paste_give_the_samples_of_every_solver(tmp_path):
    """With each solver of the list, on a grid of its own and on the computed one."""
    pipeline = untrained()
    pipeline.save_pretrained(tmp_path)
    candidates = Candidates(pipeline.unet, pipeline.scheduler, 5)
    found = {each.solver: each for each in candidates.solvers()}
    assert len(found) >= 13
    computed = candidates.on_timesteps(
        found.values(), lambda count: [900, 500, 300, 90, 5][-count:]
    )
    assert {each.grid for each in computed} == {COMPUTED} and len(computed) >= 4
    for each in [*found.values(), *computed]:
        each.scheduler.save_pretrained(tmp_path / SCHEDULER)
        (tmp_path / SCRIPT).write_text(script(each))
        images = runpy.run_path(str(tmp_path / SCRIPT))["images"]
        samples = each.sampler.sample((16, 1, 8, 8), generator=noise_source())
        expected = (samples / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(images, expected)


def test_a_remedy_that_is_estimated_comes_with_its_estimate(advised, tmp_path):
    """The lines to paste need no data, and give the samples of the candidate."""
    pipeline = untrained()
    candidates = Candidates(pipeline.unet, pipeline.scheduler, 5)
    base = next(each for each in candidates.solvers() if each.solver == "unipc")
    remedied = candidates.remedied(base, Moments, load_data("digits", limit=200), 0)[-1]
    record = replace(advised[0], best=remedied.label)
    record = replace(record, finalists=(replace(record.finalists[0], label=remedied.label),))
    write_folder(tmp_path, pipeline, Found(record, candidates.present(), remedied, None))
    images = runpy.run_path(str(tmp_path / SCRIPT))["images"]
    samples = remedied.sampler.sample((16, 1, 8, 8), generator=noise_source())
    torch.testing.assert_close(images, (samples / 2 + 0.5).clamp(0, 1))


def test_what_is_worse_than_the_models_own_scheduler_is_nowhere_in_the_folder(trained, tmp_path):
    """DDIM at 10 calls, for a model that has DPM-Solver++: the pipeline runs it, but worse."""
    from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

    pipeline = DiffusionPipeline.from_pretrained(trained)
    own = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    with_scheduler(pipeline, own).save_pretrained(tmp_path / "model")
    options = QUICK | {"solvers": ["ddim"], "num_samples": 100, "metric": "mmd_sq"}
    advice = undrift.advise(tmp_path / "model", "digits", output=tmp_path / "a", **options)
    change = advice.finalist(advice.best).against_present["mmd_sq"]
    assert change.interval[0] > 0 and advice.finalist(advice.best).in_pipeline
    readme = " ".join((tmp_path / "a" / "README.md").read_text().split())
    assert (
        f"{advice.best}, the best of those that run in its class of pipelines, is worse" in readme
    )
    assert "cannot say it" not in readme and "DPMSolverMultistepScheduler" in advice.in_folder
    config = json.loads((tmp_path / "a" / SCHEDULER / "scheduler_config.json").read_text())
    assert config["_class_name"] == "DPMSolverMultistepScheduler"
    images = runpy.run_path(str(tmp_path / "a" / SCRIPT))["images"]
    samples = DiffusersSampler(pipeline.unet, own, 10).sample(
        (16, 1, 8, 8), generator=noise_source()
    )
    torch.testing.assert_close(images, (samples / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("calls", [5, 10])
def test_all_candidates_call_the_network_equally_often(calls):
    """A solver that calls it twice a step, once in the last, makes an odd number of calls."""
    pipeline = untrained()
    candidates = Candidates(pipeline.unet, pipeline.scheduler, calls)
    every = candidates.solvers()
    every += candidates.on_timesteps(every, lambda count: list(range(900, 0, -90))[-count:])
    data = load_data("digits", limit=60)
    for kind in undrift.remedies.registry.REMEDIES.values():
        every += candidates.remedied(every[0], kind, data, 0)
    for each in every:
        assert network_calls(each.sampler, (1, 8, 8)) == each.network_calls
        short = calls - calls % 2 - 1 if each.solver == "heun" and calls % 2 == 0 else calls
        assert each.network_calls == short, each.label


def test_a_stopped_search_continues_where_it_was(trained, tmp_path, monkeypatch):
    from undrift.quality.scorer import Scorer

    draw, drawn = Scorer.draw, []

    def counted(self, sampler, seed, tick=lambda amount: None):
        drawn.append(seed)
        if len(drawn) == stop:
            raise KeyboardInterrupt
        return draw(self, sampler, seed, tick)

    monkeypatch.setattr(Scorer, "draw", counted)
    options = {**QUICK, "solvers": ["ddim"], "num_samples": 64, "metric": "mmd_sq"}
    stop = -1
    whole = undrift.advise(trained, "digits", **options)
    in_one = len(drawn)
    drawn.clear()
    stop = 4
    with pytest.raises(KeyboardInterrupt):
        undrift.advise(trained, "digits", output=tmp_path / "a", **options)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [TRIALS]
    with pytest.raises(InvalidInput, match="other options"):
        undrift.advise(trained, "digits", output=tmp_path / "a", **options | {"seed": 1})
    stop = -1
    again = undrift.advise(trained, "digits", output=tmp_path / "a", **options)
    assert again == whole and len(drawn) == in_one + 1
    assert AdviceRecord.load(tmp_path / "a" / "advice.json") == again
    assert not (tmp_path / "a" / TRIALS).exists()


def test_the_command_says_what_the_function_found(trained, tmp_path, capsys):
    argv = ["advise", trained, "--data", "digits", "--output", tmp_path / "a", "--quiet"]
    argv += ["--solvers", "ddim", "--remedies", "none", "--num-samples", "64"]
    found = result(capsys, *argv, "--metric", "mmd_sq", "--features", "pixels")
    record = json.loads((tmp_path / "a" / "advice.json").read_text())
    assert found["finalists"] == record["finalists"] and found["helps"] in (True, False)
    assert found["verdict"].startswith("On the held-out half ddim")
    assert found["verdict"] in (tmp_path / "a" / "README.md").read_text()


def test_bad_input_is_told_before_any_work(trained, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("undrift.api.advise.advice_for", lambda *_, **__: pytest.fail("work"))
    with_things = tmp_path / "full"
    with_things.mkdir()
    (with_things / "thesis.txt").write_text("do not touch")
    few = tmp_path / "few.pt"
    torch.save(torch.zeros(20, 1, 8, 8), few)

    def told(*argv):
        return complaint(capfd, tmp_path, "advise", trained, "--output", "new", "--quiet", *argv)

    digits = ("--data", "digits")
    assert "trained with 1000 steps: choose at most 1000" in told(
        *digits, "--num-inference-steps", "1001"
    )
    assert "flow-euler does not serve this model" in told(*digits, "--solvers", "flow-euler")
    assert "did you mean unipc" in told(*digits, "--solvers", "unipcc")
    assert "unknown remedy" in told(*digits, "--remedies", "prayer")
    assert "64 features are too many" in told(
        *digits, "--features", "pixels", "--metric", "frechet", "--num-samples", "100"
    )
    assert "too few to be split" in told("--data", few)
    assert "is there already" in told(*digits, "--output", with_things)
    assert "num-inference-steps is 0" in told(*digits, "--num-inference-steps", "0")
    assert files(with_things) == files(with_things)


def test_a_pipeline_that_does_not_run_a_scheduler_is_told_from_one_that_does():
    """DDPMPipeline gives a generator, which UniPC does not take, and scales no input for Euler."""
    from undrift.advice.folder import runs_in_pipeline

    pipeline = untrained()
    found = {}
    for each in Candidates(pipeline.unet, pipeline.scheduler, 5).solvers():
        found[each.solver] = runs_in_pipeline(pipeline, each)
    yes = {"ancestral", "ddim", "dpm-solver++", "dpm-solver++3", "sde-dpm-solver++"}
    assert {solver for solver, runs in found.items() if runs} == yes
    assert with_scheduler(pipeline, pipeline.scheduler).unet is pipeline.unet


def test_the_help_lists_all_that_can_be_chosen(capsys):
    assert cli.main(["advise", "--help"]) == 0
    text = "".join(capsys.readouterr().out.split())
    names = [*SOLVERS, *REMEDIES, "efficientnet-lite0(or-lite1,-lite2)"]
    assert [name for name in names if name not in text] == []


@pytest.mark.parametrize("name", ["solvers", "remedies"])
def test_a_text_is_no_list_of_names(name):
    with pytest.raises(InvalidInput, match=rf"{name} is a text: give a list of names, \['ddim'\]"):
        undrift.advise("run", **{name: "ddim"})
