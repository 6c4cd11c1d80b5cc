"""Conversion from and to diffusers: the same steps as its pipelines, refusal of other models."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from undrift import CosineSchedule, Denoiser, InvalidInput, measure
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.pipelines import (
    as_sampler,
    check_image_shape,
    check_weights,
    ddpm_scheduler,
    load_pipeline,
    sampler_by_name,
    save_pipeline,
    state_shape,
    weights_digest,
)
from undrift.diffusion.schedule import Schedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.diffusion.solvers import SOLVERS

STEPS = 20


def unet(channels=1, **options):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        norm_num_groups=4,
        **options,
    ).eval()


def pipeline(kind="DDPM", network=None, **options):
    import diffusers

    options = {"num_train_timesteps": STEPS, "beta_end": 0.3} | options
    scheduler = getattr(diffusers, f"{kind}Scheduler")(**options)
    name = kind if kind in ("DDPM", "DDIM") else "DDPM"
    return getattr(diffusers, f"{name}Pipeline")(network or unet(), scheduler)


def by_pipeline(pipe, **options):
    """Images in [0, 1] by the pipeline itself."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    return pipe(4, generator, output_type="np", **options).images


def by_sampler(sampler):
    generator = torch.Generator().manual_seed(3)
    x = sampler.sample((4, 1, 8, 8), generator=generator)
    return (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.fixture
def saved(tmp_path):
    """A pipeline's folder."""
    pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# -- the same chain ----------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [STEPS, 7, 5])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DDPM", {}),
        ("DDPM", {"variance_type": "fixed_large", "clip_sample": False}),
        ("DDPM", {"variance_type": "fixed_small_log", "prediction_type": "v_prediction"}),
        ("DDPM", {"thresholding": True}),
        ("DDPM", {"steps_offset": 1}),
        ("DDIM", {}),
        ("DDIM", {"set_alpha_to_one": False, "clip_sample_range": 2.0}),
        ("DDIM", {"prediction_type": "sample", "rescale_betas_zero_snr": True}),
    ],
)
def test_a_pipeline_s_chain_makes_its_images(kind, options, steps, spacing):
    """By our sampler where it takes the same steps, by diffusers' scheduler where it does not."""
    if options.get("steps_offset") and (spacing, steps) == ("leading", STEPS):
        pipe = pipeline(kind, timestep_spacing=spacing, **options)
        with pytest.raises(InvalidInput, match="beyond the last"):  # diffusers has an IndexError
            as_sampler(pipe, STEPS)
        assert as_sampler(pipe).grid == as_sampler(pipe, 10).grid  # the default that runs
        return
    pipe = pipeline(kind, timestep_spacing=spacing, **options)
    sampler = as_sampler(pipe, None if steps == STEPS else steps)
    made = by_pipeline(pipe, num_inference_steps=steps)
    np.testing.assert_allclose(by_sampler(sampler), made, atol=2e-5)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_a_saved_pipeline_comes_back_as_the_same_chain(kind, tmp_path):
    pipe = pipeline(kind)
    pipe.save_pretrained(tmp_path / "m")
    again = load_pipeline(tmp_path / "m")
    sampler = as_sampler(again)
    assert isinstance(sampler, AncestralSampler if kind == "DDPM" else DDIMSampler)
    assert weights_digest(again.unet) == weights_digest(pipe.unet)
    made = by_pipeline(pipe, num_inference_steps=STEPS)
    np.testing.assert_allclose(by_sampler(sampler), made, atol=1e-5)


def test_what_we_save_diffusers_loads_and_samples_alike(tmp_path):
    from diffusers import DDPMPipeline

    scheduler = ddpm_scheduler(CosineSchedule(STEPS), "v_prediction", "fixed_large", 1.5)
    save_pipeline(unet(), scheduler, tmp_path / "m")
    theirs = DDPMPipeline.from_pretrained(tmp_path / "m")
    sampler = as_sampler(load_pipeline(tmp_path / "m"), 5)
    assert sampler.clip == 1.5 and sampler.variance_type == "fixed_large"
    made = by_pipeline(theirs, num_inference_steps=5)
    np.testing.assert_allclose(by_sampler(sampler), made, atol=1e-5)


def test_samplers_and_denoisers_are_taken_as_they_are():
    denoiser = Denoiser(unet(), CosineSchedule(STEPS), "sample")
    sampler = DDIMSampler(denoiser, 5)
    assert as_sampler(sampler) is sampler
    assert as_sampler(sampler, 5) is sampler
    assert as_sampler(denoiser, 4).grid == (20, 15, 10, 5, 0)
    with pytest.raises(InvalidInput, match="the sampler has 5 steps, not 4"):
        as_sampler(sampler, 4)


def test_a_path_or_a_bare_network_with_its_schedule_is_a_model(tmp_path):
    pipe = pipeline(clip_sample_range=1.5)
    pipe.save_pretrained(tmp_path / "run" / "pipeline")
    x = torch.randn(2, *state_shape(pipe.unet), generator=torch.Generator().manual_seed(0))
    expected = as_sampler(pipe).step(x, 1, 0)
    for found in (
        as_sampler(str(tmp_path / "run")),
        as_sampler(tmp_path / "run" / "pipeline"),
        as_sampler(pipe.unet, schedule=pipe.scheduler),
    ):
        assert found.clip == 1.5 and torch.equal(found.step(x, 1, 0), expected)
    bare = as_sampler(pipe.unet, 4, Schedule.from_diffusers(pipe.scheduler))
    assert bare.grid == (20, 15, 10, 5, 0) and bare.denoiser.prediction_type == "epsilon"
    for model in (pipe, bare, bare.denoiser):
        with pytest.raises(InvalidInput, match="a schedule belongs to a bare network, not to a"):
            as_sampler(model, schedule=CosineSchedule(STEPS))


# -- other samplers ----------------------------------------------------------------------------


class IdealPixels(nn.Module):
    """The ideal noise estimate for pixels that are independent, with variance 1/4."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x_t, timestep):
        t = int(timestep.flatten()[0]) + 1
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return sigma * x_t / (alpha**2 / 4 + sigma**2) + self.anchor


@pytest.mark.parametrize(
    ("name", "steps"), [("dpm-solver++", 20), ("ddim", 50), ("unipc", 20), ("heun", 20)]
)
def test_other_samplers_of_an_ideal_model_end_at_the_data(name, steps):
    """Measured like any chain: no error at the end, beyond what few steps leave."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(1000, clip_sample=False)
    ideal = IdealPixels(as_sampler_schedule(scheduler))
    pipe = type("Pipe", (), {"unet": ideal, "scheduler": scheduler})()
    sampler = sampler_by_name(pipe, name, steps)
    generator = torch.Generator().manual_seed(0)
    data = 0.5 * torch.randn(4000, 1, 2, 2, generator=generator)
    profile = measure(sampler, data, num_samples=500, states=4, progress=False)
    assert profile.how["sampler"]["num_inference_steps"] == len(sampler.grid) - 1
    assert abs(profile.final.mmd_sq) < 3 * profile.final.mmd_sq_se + 2e-4
    assert profile.final.fresh is not None


def as_sampler_schedule(scheduler):
    from undrift import Schedule

    return Schedule.from_diffusers(scheduler)


def test_samplers_by_name():
    pipe = pipeline(variance_type="fixed_large", clip_sample_range=2.0)
    assert isinstance(sampler_by_name(pipe), AncestralSampler)
    ddim = sampler_by_name(pipe, "ddim", 5, eta=0.5)
    assert isinstance(ddim, DDIMSampler) and (ddim.eta, ddim.clip) == (0.5, 2.0)
    assert sampler_by_name(pipe, "ancestral", 4).variance_type == "fixed_large"
    assert ddim.spacing == "leading"  # as the pipeline has it
    for name in ("dpm-solver++", "heun", "euler", "unipc", "DEISMultistepScheduler"):
        sampler = sampler_by_name(pipe, name, 6)
        assert isinstance(sampler, DiffusersSampler) and sampler.network is pipe.unet
    multi = pipeline("DPMSolverMultistep")
    assert isinstance(as_sampler(multi, 5), DiffusersSampler)
    assert isinstance(sampler_by_name(multi, "ancestral", 5), AncestralSampler)


def test_a_solver_is_its_class_with_its_own_options_whatever_the_scheduler_of_the_model_has():
    """The order and the algorithm are the solver's, all other options those of the model."""
    import diffusers

    options = {"solver_order": 1, "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}
    pipe = pipeline("DPMSolverMultistep", **options)
    served = [name for name in SOLVERS if not name.startswith(("flow", "edm", "ancestral", "ddim"))]
    config = {k: v for k, v in pipe.scheduler.config.items() if not k.startswith("_")}
    for name in served:
        class_name, own = SOLVERS[name]
        made = getattr(diffusers, class_name).from_config(config, **own)
        expected = DiffusersSampler(pipe.unet, made, 6)
        found = sampler_by_name(pipe, name, 6)
        assert own.items() <= dict(found.scheduler.config).items()
        images = (
            each.sample((2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
            for each in (found, expected)
        )
        torch.testing.assert_close(*images)


@pytest.mark.parametrize(
    ("name", "eta", "words"),
    [
        ("nonsense", None, "unknown sampler 'nonsense': choose ancestral"),
        ("UNet2DModel", None, "unknown sampler"),
        ("NoSuchScheduler", None, "unknown sampler"),
        (None, 0.5, "eta belongs to the sampler ddim"),
        ("ancestral", 0.0, "eta belongs"),
        ("ddim", 1.5, "from 0 to 1"),
    ],
)
def test_samplers_that_there_are_not(name, eta, words):
    with pytest.raises(InvalidInput, match=words):
        sampler_by_name(pipeline(), name, 5, eta)


# -- what is no pipeline -----------------------------------------------------------------------


def damaged(folder, how):
    """A pipeline folder with one thing wrong."""
    index, weights = folder / "model_index.json", folder / "unet"
    if how == "no index":
        index.unlink()
    elif how == "index no JSON":
        index.write_text("{")
    elif how == "index of nothing":
        index.write_text("[]")
    elif how == "unknown class":
        index.write_text(json.dumps({"_class_name": "NoSuchPipeline"}))
    elif how == "weights cut off":
        file = weights / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
    elif how == "no weights":
        (weights / "diffusion_pytorch_model.safetensors").unlink()
    elif how == "weights do not fit":
        config = json.loads((weights / "config.json").read_text())
        config["block_out_channels"] = [8, 16]
        (weights / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no index", "no model folder"),
        ("index no JSON", "not JSON"),
        ("index of nothing", "names a pipeline"),
        ("unknown class", "does not load as a pipeline"),
        ("weights cut off", "does not load as a pipeline"),
        ("no weights", "does not load as a pipeline"),
        ("weights do not fit", "does not load as a pipeline"),
    ],
)
def test_damaged_folders_are_refused_in_one_line_without_other_output(how, words, saved, capfd):
    with pytest.raises(InvalidInput, match=words) as caught:
        load_pipeline(damaged(saved, how))
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_loading_says_nothing_and_leaves_diffusers_as_it_was(saved, capfd):
    from diffusers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_pipeline(saved)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_paths_that_are_not_there(tmp_path, monkeypatch):
    """``runs/x`` is a path if there is a folder ``runs``, else it may be a name on the hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("nothing", "runs/nothing", "./a/b", str(tmp_path / "a"), "a/b/c"):
        with pytest.raises(InvalidInput, match="no such folder"):
            load_pipeline(path)
    with pytest.raises(InvalidInput, match=r"no folder owner/name, .*offline mode") as refused:
        load_pipeline("owner/name")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 350


def test_the_hub_without_a_network_is_one_line_with_the_cause(tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline

    def unreachable(name, **options):
        try:
            raise ConnectionError("Name or service not known")
        except ConnectionError as cause:
            raise OSError("Cannot load model: check the root cause\nin the stacktrace") from cause

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", unreachable)
    with pytest.raises(InvalidInput, match=r"\(Name or service not known\): give a folder, or a"):
        load_pipeline("owner/name")


def test_pickled_weights_are_read_only_when_asked_for(tmp_path):
    pipe = pipeline()
    pipe.save_pretrained(tmp_path / "m", safe_serialization=False)
    assert list(tmp_path.glob("m/unet/*.bin"))
    with pytest.raises(InvalidInput, match=r"unet/.*\.bin is pickled.*--allow-pickle") as caught:
        load_pipeline(tmp_path / "m")
    assert "\n" not in str(caught.value)
    found = load_pipeline(tmp_path / "m", allow_pickle=True)
    assert weights_digest(found.unet) == weights_digest(pipe.unet)


def test_half_precision_is_kept_where_it_is_asked_for(saved):
    found = load_pipeline(saved, dtype=torch.float16)
    assert found.unet.dtype == torch.float16
    exact, half = (as_sampler(p, 5) for p in (load_pipeline(saved), found))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x_half, x_exact = (
        sampler.step(x, *sampler.grid[:2], generator=torch.Generator().manual_seed(1))
        for sampler in (half, exact)
    )
    assert x_half.dtype == torch.float32
    torch.testing.assert_close(x_half, x_exact, atol=1e-2, rtol=1e-2)


def test_models_that_cannot_be_sampled_from():
    with pytest.raises(InvalidInput, match="cannot sample from a Linear"):
        as_sampler(nn.Linear(2, 2))
    latent = pipeline()
    latent.vae = nn.Identity()
    with pytest.raises(InvalidInput, match="an? Identity does not say the size of its codes"):
        as_sampler(latent)


# -- weights and shapes ------------------------------------------------------------------------


def test_weights_are_named_where_they_are_not_finite():
    network = unet()
    check_weights(network)
    dict(network.named_parameters())["conv_out.bias"].data[0] = float("nan")
    with pytest.raises(InvalidInput, match=r"in conv_out\.bias"):
        check_weights(network)
    check_weights(lambda x_t, t: x_t)


def test_the_digest_is_that_of_names_and_values():
    network = unet()
    digest = weights_digest(network)
    assert weights_digest(unet()) == digest != weights_digest(network.double())
    network.float().conv_in.bias.data[0] += 1e-6
    assert weights_digest(network) != digest
    assert weights_digest(nn.Linear(1, 1).bfloat16()).startswith("sha256:")
    assert weights_digest(lambda x_t, t: x_t) is None


def test_shapes_are_what_the_network_says():
    assert state_shape(unet(3)) == (3, 8, 8) and state_shape(nn.Identity()) is None
    sampler = as_sampler(pipeline())
    check_image_shape(sampler, (1, 8, 8))
    check_image_shape(sampler.with_network(nn.Identity()), (1, 9, 9))
    with pytest.raises(InvalidInput, match=r"\(1, 8, 8\), the data have \(3, 8, 8\)"):
        check_image_shape(sampler, (3, 8, 8))
