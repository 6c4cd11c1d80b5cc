"""A fine-tune on the chain of the best solver trains on the search half alone."""

import json
import runpy

import torch

import undrift
from commands import network
from undrift.advice.candidates import Candidates
from undrift.advice.run import Plan
from undrift.data.load import load_data
from undrift.remedies.band_energy import BandEnergy
from undrift.remedies.registry import apply_remedy
from undrift.remedies.sampler import RemediedSampler


def untrained(**options):
    from diffusers import DDPMPipeline, DDPMScheduler

    return DDPMPipeline(network().eval(), DDPMScheduler(1000, clip_sample=False, **options))


def test_a_fine_tune_follows_the_chain_of_the_best_and_never_sees_the_held_out_half(tmp_path):
    from diffusers import DiffusionPipeline

    options = {
        "features": "pixels",
        "remedies": ["none"],
        "progress": False,
        "solvers": ["dpm-solver++"],
        "num_samples": 64,
        "metric": "mmd_sq",
    }
    untrained(prediction_type="v_prediction").save_pretrained(tmp_path / "model")
    advice = undrift.advise(
        tmp_path / "model", "digits", output=tmp_path / "a", fine_tune=4, **options
    )
    tuned = advice.finalists[-1]
    assert tuned.label == f"fine-tuned, {advice.best}"
    assert tuned.against_best["mmd_sq"].difference != 0
    made = json.loads((tmp_path / "a" / "fine-tune" / "versions.json").read_text())
    search = Plan(load_data("digits"), None, "mmd_sq", 64, 250, 0).search
    assert made["data"]["fingerprint"] == search.fingerprint
    start, end = (
        DiffusionPipeline.from_pretrained(tmp_path / "a" / part) for part in ("", "fine-tuned")
    )
    assert type(end.scheduler).__name__ == "DPMSolverMultistepScheduler"
    first, last = (torch.cat([p.flatten() for p in m.unet.parameters()]) for m in (start, end))
    assert 0 < (last - first).norm() / first.norm() < 0.1


def test_the_fine_tuned_model_comes_with_the_chain_that_it_was_judged_on(tmp_path):
    """A solver that its pipeline does not run, with a remedy, estimated for the new network."""
    from undrift.advice.fine_tune import FineTune
    from undrift.advice.folder import Found, write_folder
    from undrift.advice.record import AdviceRecord, Comparison, Finalist

    pipeline = untrained(prediction_type="v_prediction")
    data = load_data("digits", limit=100)
    candidates = Candidates(pipeline.unet, pipeline.scheduler, 5)
    base = candidates.solvers(["unipc3"])[0]
    best = candidates.remedied(base, BandEnergy, data, 0)[-1]
    tuned = FineTune(8, tmp_path, 0).candidate(pipeline, best, data, progress=False)
    bare = base.sampler.with_network(tuned.sampler.network)
    anew = apply_remedy(bare, best.remedy, data.images, seed=0)
    kept = RemediedSampler(bare, anew.remedy, best.sampler.estimate)

    def images(sampler):
        samples = sampler.sample((16, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        return (samples / 2 + 0.5).clamp(0, 1)

    assert (images(anew) - images(kept)).abs().max() > 1e-4
    change = Comparison(1.0, 2.0, -1.0, 0.1, (-1.2, -0.8))
    finalists = [
        Finalist(each.label, 5, 5, False, {"mmd_sq": change}, {"mmd_sq": change})
        for each in (best, tuned)
    ]
    present = candidates.present()
    told = ("m", 5, "mmd_sq", present.grid, 5, best.label, present.label, tuple(finalists), ())
    write_folder(tmp_path / "a", pipeline, Found(AdviceRecord(*told), present, best, None, tuned))
    for folder, sampler in ((tmp_path / "a", best.sampler), (tmp_path / "a/fine-tuned", anew)):
        found = runpy.run_path(str(folder / "sample.py"))["images"]
        torch.testing.assert_close(found, images(sampler))
    readme = (tmp_path / "a" / "README.md").read_text()
    assert "`fine-tuned/sample.py` samples it so. Its pipeline has the model's own" in readme


def test_the_fine_tuned_chain_is_that_of_the_candidate(tmp_path):
    from undrift.advice.fine_tune import START, FineTune
    from undrift.diffusion.pipelines import load_pipeline, sampler_by_name

    pipeline = untrained(prediction_type="v_prediction")
    candidates = Candidates(pipeline.unet, pipeline.scheduler, 10)
    every = candidates.solvers(["unipc3", "sde-dpm-solver++", "heun"])
    for each in every[::2]:
        FineTune(4, tmp_path, 0)._write_start(pipeline, each)
        kind, steps = type(each.scheduler).__name__, each.num_inference_steps
        found = sampler_by_name(load_pipeline(tmp_path / START), kind, steps)
        assert found.timesteps == each.sampler.timesteps, each.label
        for name in ("solver_order", "algorithm_type"):
            assert found.scheduler.config.get(name) == each.scheduler.config.get(name)
