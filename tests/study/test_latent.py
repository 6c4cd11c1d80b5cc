"""A study of a latent model: chains of codes, judged as images."""

from dataclasses import replace

import diffusers
import pytest
import torch

import undrift
from studies import load_study
from undrift.remedies.registry import parse
from undrift.study.config import StudyConfig
from undrift.study.run import run_study
from undrift.training.config import MethodConfig, TrainConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A pipeline whose states have two channels and half of the size of its images, of one."""
    build, folder = load_study("kinds"), tmp_path_factory.mktemp("latent")
    torch.manual_seed(0)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    network = build.unet(2, sample_size=4)
    diffusers.LDMPipeline(build.autoencoder(), network, scheduler).save_pretrained(folder)
    return str(folder)


def test_a_study_of_a_latent_model_judges_the_images_that_its_chains_decode_to(model, tmp_path):
    base = TrainConfig(start_from=model, steps=2, batch_size=8, sample_every=0)
    methods = {"plain": MethodConfig()}
    config = StudyConfig(base, methods, steps=2, num_samples=24, samplers=["unipc"])
    remedies = {"scaled": parse("epsilon_scaling:1.1")}
    config = replace(config, num_inference_steps=3, features="pixels", remedies=remedies)
    found = run_study(replace(config, remedy_methods=["plain"]), tmp_path, progress=False)
    [row], [remedied] = found.rows, found.remedies
    assert row.network_calls == remedied.network_calls == 3
    assert row.own_mmd_sq is None  # its base sees codes, the samples are images
    data = undrift.load_data("digits")
    for each, remedy in ((row, None), (remedied, "epsilon_scaling:1.1")):
        options = {"num_samples": 24, "features": "pixels", "progress": False, "remedy": remedy}
        chain = {"sampler": "unipc", "num_inference_steps": 3}
        again = undrift.evaluate(tmp_path / row.run, data, **options, **chain)
        assert each.mmd_sq == pytest.approx(again["mmd_sq"], rel=1e-4)
