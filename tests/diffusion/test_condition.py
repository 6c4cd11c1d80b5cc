"""Conditions by row: exact models have no error, pipelines of diffusers make the same images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import nn

from undrift import Denoiser, InvalidInput, measure, sample, tune
from undrift.data.images import ImageData
from undrift.diffusion.condition import ConditionalNetwork, Conditions, draw_labels
from undrift.diffusion.gaussian import AncestralSampler
from undrift.diffusion.pipelines import as_sampler, sampler_by_name
from undrift.diffusion.schedule import CosineSchedule
from undrift.measurement.parallel_chains import ParallelChains, draw_samples
from undrift.mmd.kernels import RBFMixture
from undrift.mmd.two_sample import mmd_estimate

MEANS = torch.tensor([-0.6, 0.0, 0.8])
SPREAD = 0.2
SHARES = torch.tensor([0.2, 0.5, 0.3])
SCHEDULE = CosineSchedule(60)


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


def labeled_data(count=3000, seed=9):
    labels = torch.multinomial(SHARES, count, replacement=True, generator=noise_source(seed))
    noise = torch.randn(count, 1, 1, 2, generator=noise_source(seed + 1))
    return MEANS[labels].view(-1, 1, 1, 1) + SPREAD * noise, labels


class ExactOfClass(nn.Module):
    """The exact noise estimate of N(m_c, 0.2²) for the class c of each row."""

    def forward(self, x, timestep, class_labels):
        t = int(timestep[0]) + 1
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        mean = alpha * MEANS[class_labels].view(-1, 1, 1, 1)
        return sigma * (x - mean) / (alpha**2 * SPREAD**2 + sigma**2)


def exact_chain(**options):
    network = ConditionalNetwork(ExactOfClass(), {"class_labels": torch.arange(3)}, **options)
    return AncestralSampler(Denoiser(network, SCHEDULE), clip=None, variance_type="fixed_large")


# --- exact models ---


def test_an_exact_conditional_model_has_no_error_in_any_state():
    data, labels = labeled_data()
    profile = measure(exact_chain(), data, labels=labels, num_samples=500, states=4, progress=False)
    for state in profile.states:
        # what 60 steps leave is below 1e-3
        assert abs(state.mmd_sq) < 4 * state.mmd_sq_se + 1e-3
        if state.budget:
            assert abs(state.budget.fresh_sq) < 4 * state.budget.fresh_sq_se + 1e-3
    counts = profile.how["conditions"]["counts"]
    assert counts == torch.bincount(labels).tolist()


def test_fresh_error_is_that_of_data_with_their_own_conditions():
    """With conditions of other data the same exact model has one: the joint is another."""
    data, labels = labeled_data()
    shuffled = labels[torch.randperm(len(labels), generator=noise_source(4))]
    fresh = {}
    for name, known in (("own", labels), ("others", shuffled)):
        profile = measure(
            exact_chain(), data, labels=known, num_samples=1000, states=[8], progress=False
        )
        assert abs(profile.final.mmd_sq) < 4 * profile.final.mmd_sq_se + 1e-3  # one marginal
        budget = profile.final.budget  # of the segment from t = 8, where states show their class
        fresh[name] = budget.fresh_sq / budget.fresh_sq_se
    assert abs(fresh["own"]) < 3 and fresh["others"] > 4


def test_samples_and_conditions_have_the_joint_distribution_of_data_and_labels():
    data, labels = labeled_data()
    sampler = exact_chain().over(labels)
    chains = ParallelChains.from_prior(sampler, (600, 1, 1, 2), 250, seed=1)
    x, own = chains.advance(0), chains.all_labels

    def p_value(of_x, of_data):
        joint = [torch.cat([a.flatten(1), b[:, None]], 1) for a, b in ((x, of_x), (data, of_data))]
        kernel = RBFMixture().fit(joint[1])
        return mmd_estimate(*joint, kernel=kernel, generator=noise_source()).p_value

    assert p_value(own, labels) > 0.01
    shuffled = own[torch.randperm(len(own), generator=noise_source(2))]
    assert p_value(shuffled, labels) < 0.01


def test_data_without_labels_are_compared_with_given_shares():
    data, labels = labeled_data()
    shares = exact_chain().over(torch.tensor([0, 0, 1, 1, 1, 1, 1, 2, 2, 2]))
    profile = measure(shares, data, num_samples=500, states=3, progress=False)
    assert abs(profile.final.mmd_sq) < 4 * profile.final.mmd_sq_se + 1e-3
    assert profile.final.budget is None
    one = measure(exact_chain().over([2]), data, labels=labels, num_samples=400, states=3,
                  progress=False)  # fmt: skip
    assert abs(one.final.mmd_sq) < 4 * one.final.mmd_sq_se + 1e-3
    assert abs(float(draw_samples(exact_chain().over([2]), (400, 1, 1, 2), 0).mean()) - 0.8) < 0.03


def test_labels_do_not_depend_on_the_number_of_chains_or_batches():
    network = exact_chain().network
    assert torch.equal(draw_labels(network, 500, 3)[:40], draw_labels(network, 40, 3))
    found = torch.bincount(draw_labels(network.over([0, 2, 2, 2]), 4000, 0), minlength=3) / 4000
    torch.testing.assert_close(found, torch.tensor([0.25, 0, 0.75]), atol=0.03, rtol=0)


# --- guidance ---


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_is_a_linear_extrapolation_from_the_null_class(scale):
    """Of exact models of classes 1 (as the null class) and 2, of equal spread: its mean moves."""
    null = {"class_labels": torch.tensor([1])}
    sampler = exact_chain(null=null, guidance=scale).over([2])
    x, t = torch.randn(5, 1, 1, 2, generator=noise_source()), torch.full((5,), 30)
    of = {c: ExactOfClass()(x, t, torch.full((5,), c)) for c in (1, 2)}
    found = sampler.given(torch.full((5,), 2)).network(x, t)
    torch.testing.assert_close(found, of[1] + scale * (of[2] - of[1]))
    final = draw_samples(sampler, (500, 1, 1, 2), 0)
    assert abs(float(final.mean()) - scale * 0.8) < 0.03


def unet(**options):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8),
        layers_per_block=1, norm_num_groups=4, add_attention=False,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **options,
    ).eval()  # fmt: skip


def parts(network, scheduler=None, **more):
    return SimpleNamespace(unet=network, scheduler=scheduler or DDPMScheduler(20), **more)


def autoencoder(channels=2):
    torch.manual_seed(1)
    return AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=(4, 4), latent_channels=channels,
        norm_num_groups=2, sample_size=16, scaling_factor=0.5,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def dit(out_channels=4):
    torch.manual_seed(2)
    network = DiTTransformer2DModel(
        sample_size=8, in_channels=2, out_channels=out_channels, num_layers=1,
        num_attention_heads=2, attention_head_dim=4, patch_size=2, num_embeds_ada_norm=1000,
        norm_num_groups=2,
    )  # fmt: skip
    for weight in network.parameters():  # some of them start at 0
        nn.init.normal_(weight, std=0.2, generator=noise_source(3))
    return network.eval()


# --- the same images as diffusers ---


@pytest.mark.parametrize("name", [None, "dpm-solver++", "EulerDiscreteScheduler"])
def test_each_row_of_a_unet_is_its_class_in_the_loop_of_diffusers(name):
    pipe = parts(unet(num_class_embeds=3))
    sampler = sampler_by_name(pipe, name, 5)
    labels = torch.tensor([2, 0, 1, 2])
    x = y = sampler.prior((4, 1, 8, 8), generator=noise_source(1))
    *_, (_, x) = sampler.given(labels).trajectory(x, generator=noise_source(2))
    scheduler = DDPMScheduler(20) if name is None else sampler.scheduler
    scheduler.set_timesteps(5)
    generator = noise_source(2)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(y, t)
        output = pipe.unet(seen, t, class_labels=labels).sample
        options = {} if "Multistep" in type(scheduler).__name__ else {"generator": generator}
        y = scheduler.step(output, t, y, **options).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("out_channels", [2, 4])
def test_a_dit_in_latents_with_guidance_makes_the_images_of_its_pipeline(guidance, out_channels):
    pipe = DiTPipeline(dit(out_channels), autoencoder(), DDIMScheduler(100, clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    made = pipe([7, 900], guidance, noise_source(3), num_inference_steps=5, output_type="np").images
    sampler = as_sampler(pipe, 5, conditions=Conditions(guidance=guidance))
    x = sampler.given(torch.tensor([7, 900])).sample((2, 2, 8, 8), generator=noise_source(3))
    images = (sampler.space.decode(x) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(images, made, atol=1e-5)
    assert images.std() > 0.01


def transformers():
    torch.manual_seed(4)
    sd3 = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=2, out_channels=2, num_layers=1,
        attention_head_dim=4, num_attention_heads=2, joint_attention_dim=6,
        caption_projection_dim=8, pooled_projection_dim=5, pos_embed_max_size=8,
    )  # fmt: skip
    pixart = PixArtTransformer2DModel(
        sample_size=8, in_channels=2, out_channels=4, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, cross_attention_dim=8, caption_channels=6, norm_num_groups=2,
        use_additional_conditions=False,
    )  # fmt: skip
    unet_2d = UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 8),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=6, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    found = {"SD3": sd3, "PixArt": pixart, "UNet2DCondition": unet_2d}
    for network in found.values():
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.2, generator=noise_source(3))
        network.eval()
    return found


def prompts(kind, negative=True):
    draw = noise_source(5)
    names = {"encoder_hidden_states": (3, 4, 6)}
    names |= {"pooled_projections": (3, 5)} if kind == "SD3" else {}
    found = {n: torch.randn(s, generator=draw) for n, s in names.items()}
    if negative:
        found |= {f"negative_{n}": torch.randn(1, *s[1:], generator=draw) for n, s in names.items()}
    return found


@pytest.mark.parametrize("kind", ["SD3", "PixArt", "UNet2DCondition"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_each_row_of_a_model_of_prompts_is_its_prompt_in_the_loop_of_diffusers(kind, guidance):
    network, embeddings = transformers()[kind], prompts(kind)
    is_flow = kind == "SD3"
    scheduler = FlowMatchEulerDiscreteScheduler() if is_flow else DDIMScheduler(clip_sample=False)
    place = "unet" if kind == "UNet2DCondition" else "transformer"
    pipe = SimpleNamespace(**{place: network}, scheduler=scheduler)
    chosen = Conditions(prompts=embeddings, guidance=guidance)
    sampler, labels = as_sampler(pipe, 5, conditions=chosen), torch.tensor([2, 0, 2])
    x = y = sampler.prior((3, 2, 8, 8), generator=noise_source(1))
    with torch.no_grad():
        *_, (_, x) = sampler.given(labels).trajectory(x, generator=noise_source(2))
        scheduler.set_timesteps(5)
        extra = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
        extra = extra if kind == "PixArt" else {}

        def called(y, t, prefix):
            rows = {
                n.removeprefix(prefix): v[labels] if not prefix else v.expand(3, *v.shape[1:])
                for n, v in embeddings.items() if n.startswith("negative_") == bool(prefix)
            }  # fmt: skip
            return network(y, timestep=t.expand(3), **rows, **extra).sample[:, :2]

        for t in scheduler.timesteps:
            plain, none = called(y, t, ""), called(y, t, "negative_")
            y = scheduler.step(none + guidance * (plain - none), t, y).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(x[0], x[1], atol=1e-2)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_prompts_come_from_a_file_under_the_names_of_diffusers_pipelines(suffix, tmp_path):
    from safetensors.torch import save_file

    network, embeddings = transformers()["SD3"], prompts("SD3")
    other = {"encoder_hidden_states": "prompt_embeds", "pooled_projections": "pooled_prompt_embeds"}
    renamed = {}
    for name, values in embeddings.items():
        prefix = "negative_" * name.startswith("negative_")
        renamed[prefix + other[name.removeprefix(prefix)]] = values
    path = tmp_path / f"prompts{suffix}"
    if suffix == ".npz":
        np.savez(path, **{n: v.numpy() for n, v in renamed.items()})
    else:
        (save_file if suffix == ".safetensors" else torch.save)(renamed, path)
    pipe = SimpleNamespace(transformer=network, scheduler=FlowMatchEulerDiscreteScheduler())
    table = [
        as_sampler(pipe, 5, conditions=Conditions(prompts=p, guidance=2.0)).network
        for p in (embeddings, path)
    ]
    assert table[0].table.keys() == table[1].table.keys() == set(other)
    for name in other:
        assert torch.equal(table[0].table[name], table[1].table[name])
        assert torch.equal(table[0].null[name], table[1].null[name])


# --- what cannot be used ---


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda: unet(num_class_embeds=3), {"labels": [0, 3]}, "label 3 is out of range: .*0 to 2"),
        (lambda: unet(num_class_embeds=3), {"labels": [-1]}, "label -1 is out of range"),
        (lambda: unet(num_class_embeds=3), {"labels": []}, "give at least one"),
        (lambda: unet(num_class_embeds=3), {"guidance": 2.0}, "give null_label"),
        (lambda: unet(num_class_embeds=3), {"null_label": 3}, "a class from 0 to 2"),
        (lambda: unet(num_class_embeds=3), {"guidance": float("nan")}, "guidance"),
        (lambda: unet(num_class_embeds=3), {"prompts": {}}, "takes no prompts"),
        (unet, {"labels": [0]}, "a UNet2DModel has no conditions"),
        (unet, {"guidance": 2.0}, "a UNet2DModel has no conditions"),
        (lambda: unet(class_embed_type="timestep"), {}, "takes labels that are no numbers"),
        (lambda: transformers()["UNet2DCondition"], {}, "conditioned on embeddings: give prompts"),
        (lambda: transformers()["SD3"], {"prompts": "none.npz"}, "no such file of embeddings"),
        (lambda: transformers()["SD3"], {"prompts": {"pooled_projections": torch.ones(1, 5)}},
         "hold no encoder_hidden_states"),
        (lambda: transformers()["SD3"], {"prompts": {"images": torch.ones(1)}}, "takes no images"),
        (lambda: transformers()["SD3"],
         {"prompts": prompts("SD3", False) | {"pooled_projections": torch.ones(2, 5)}},
         "3 embeddings, but 2 of pooled_projections"),
        (lambda: transformers()["SD3"],
         {"prompts": prompts("SD3", False) | {"negative_prompt_embeds": torch.ones(1, 4, 6)}},
         "need pooled_projections with and without"),
    ],
)  # fmt: skip
def test_conditions_that_cannot_be_used_are_told_in_one_line(make, options, words):
    with pytest.raises(InvalidInput, match=words) as refusal:
        as_sampler(parts(make()), 5, conditions=Conditions(**options))
    assert "\n" not in str(refusal.value)


def test_files_that_hold_no_embeddings(tmp_path):
    network = transformers()["SD3"]
    for name, content, words in (
        ("a.txt", b"a red ball\n", "has no text encoder for the prompts of .*a.txt: give a file"),
        ("a.npz", b"no", "does not hold embeddings"),
        ("a.safetensors", b"no", "does not hold embeddings"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput, match=words):
            as_sampler(parts(network), 5, conditions=Conditions(prompts=tmp_path / name))


def test_labels_that_do_not_fit_the_data_or_the_model():
    data, labels = labeled_data(50)
    with pytest.raises(InvalidInput, match="50 data but 49 labels"):
        measure(exact_chain(), data, labels=labels[1:], num_samples=20, progress=False)
    with pytest.raises(InvalidInput, match="label 3 is out of range"):
        measure(exact_chain(), data, labels=labels + 1, num_samples=20, progress=False)
    with pytest.raises(InvalidInput, match="have no conditions: use"):
        exact_chain().step(data[:2], 5, 4)
    with pytest.raises(InvalidInput, match="2 conditions for 3 states"):
        exact_chain().given(labels[:2]).step(data[:3], 5, 4)


# --- the commands ---


def test_a_class_conditional_pipeline_is_sampled_by_class(tmp_path):
    from diffusers import DDPMPipeline

    network = unet(num_class_embeds=3)
    nn.init.normal_(network.class_embedding.weight, std=30.0, generator=noise_source(1))
    DDPMPipeline(network, DDPMScheduler(20)).save_pretrained(tmp_path / "m")
    options = {"num_inference_steps": 4, "progress": False}
    two = sample(tmp_path / "m", 6, labels=[2], **options)
    assert torch.equal(two, sample(tmp_path / "m", 6, labels=[2, 2], **options))
    assert not torch.equal(two, sample(tmp_path / "m", 6, labels=[1], **options))
    images = torch.rand(120, 1, 8, 8, generator=noise_source()) * 2 - 1
    data = ImageData(images, "noise", labels=torch.arange(120) % 3)
    profile = measure(
        as_sampler(str(tmp_path / "m"), 4), data, num_samples=30, states=3, progress=False
    )
    assert profile.how["conditions"]["counts"] == [40, 40, 40]
    assert profile.final.budget is not None and profile.how["model"] == "UNet2DModel"
    how = {
        "num_samples": 40,
        "values": [1.0, 1.1],
        "features": "pixels",
        "refine": 0,
        "num_inference_steps": 4,
    }
    ones, all_classes = (
        tune(tmp_path / "m", "epsilon_scaling", data, labels=labels, progress=False, **how)
        for labels in ([1], None)
    )
    assert ones.how["num_search"] + ones.how["num_held_out"] == 40
    found = [trial.value("mmd_sq") for trial in ones.curve]
    assert found != [trial.value("mmd_sq") for trial in all_classes.curve]
    one = data.of_classes([1])
    again = tune(tmp_path / "m", "epsilon_scaling", one, labels=[1], progress=False, **how)
    assert [trial.value("mmd_sq") for trial in again.curve] == found
