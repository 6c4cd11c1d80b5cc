"""Prompts of text: encoded by the encoders of their pipeline, one row for each."""

from types import SimpleNamespace

import pytest
import torch

from undrift import InvalidInput
from undrift.diffusion.condition import Conditions
from undrift.diffusion.pipelines import as_sampler
from undrift.diffusion.prompts import BATCH, encoded


class Encoder:
    """Encodes a prompt by its length, as a pipeline of diffusers is called."""

    device = torch.device("cpu")

    def encode_prompt(self, prompt, device, num_images_per_prompt, do_classifier_free_guidance,
                      negative_prompt=None, prompt_embeds=None):  # fmt: skip
        assert (num_images_per_prompt, do_classifier_free_guidance) == (1, True)
        assert len(prompt) <= BATCH
        return tuple(
            torch.tensor([float(len(p)) for p in texts]).view(-1, 1, 1).expand(-1, 4, 6)
            for texts in (prompt, negative_prompt)
        )


def written(folder, text):
    (folder / "prompts.txt").write_text(text)
    return folder / "prompts.txt"


def test_each_line_is_a_prompt_however_many_there_are(tmp_path):
    lengths = [1 + i % 7 for i in range(2 * BATCH + 3)]
    file = written(tmp_path, "\n\n".join("x" * n for n in lengths) + "\n")
    found = encoded(Encoder(), file)
    assert found["prompt_embeds"][:, 0, 0].tolist() == lengths
    assert found["negative_prompt_embeds"].shape == (1, 4, 6)
    assert float(found["negative_prompt_embeds"].max()) == 0


def test_a_chain_gets_the_embeddings_of_its_prompt(tmp_path):
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=6, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    pipe = Encoder()
    pipe.unet, pipe.scheduler = network, DDPMScheduler(20)
    file = written(tmp_path, "a\nbbbb\n")
    sampler = as_sampler(pipe, 4, conditions=Conditions(prompts=str(file), guidance=2.0))
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 5)
    with torch.no_grad():
        found = sampler.given(torch.tensor([1, 0])).network(x, t)
        plain, none = (
            network(x, t, torch.tensor(v).view(2, 1, 1).expand(2, 4, 6)).sample
            for v in ([4.0, 1.0], [0.0, 0.0])
        )
    torch.testing.assert_close(found, none + 2 * (plain - none))


def test_a_network_of_sdxl_is_told_the_pooled_prompt_and_the_sizes(tmp_path):
    from diffusers import DDPMScheduler, UNet2DConditionModel

    class TwoEncoders(Encoder):
        vae_scale_factor = 2

        def encode_prompt(self, prompt, device, num_images_per_prompt, do_classifier_free_guidance,
                          negative_prompt=None):  # fmt: skip
            both = super().encode_prompt(prompt, device, 1, True, negative_prompt)
            return (*both, *(embeds[:, 0, :5] for embeds in both))

    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=6, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=5 + 6 * 4,
    )  # fmt: skip
    pipe = TwoEncoders()
    pipe.unet, pipe.scheduler = network, DDPMScheduler(20)
    file = str(written(tmp_path, "a\nbbbb\n"))
    sampler = as_sampler(pipe, 4, conditions=Conditions(prompts=file, guidance=3.0))
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 5)
    sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(2, 6)
    with torch.no_grad():
        found = sampler.given(torch.tensor([1, 0])).network(x, t)
        plain, none = (
            network(
                x, t, torch.tensor(v).view(2, 1, 1).expand(2, 4, 6),
                added_cond_kwargs={
                    "text_embeds": torch.tensor(v).view(2, 1).expand(2, 5), "time_ids": sizes
                },
            ).sample
            for v in ([4.0, 1.0], [0.0, 0.0])
        )  # fmt: skip
    torch.testing.assert_close(found, none + 3 * (plain - none), atol=1e-5, rtol=1e-4)
    alone = {"prompt_embeds": torch.ones(3, 4, 6), "pooled_prompt_embeds": torch.ones(3, 5)}
    with pytest.raises(InvalidInput, match="as SDXL's also needs add_text_embeds and add_time_ids"):
        as_sampler(pipe, 4, conditions=Conditions(prompts=alone))


def test_packed_sequences_are_refused_in_one_line():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    network = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=6, pooled_projection_dim=5,
        axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    pipe = SimpleNamespace(transformer=network, scheduler=FlowMatchEulerDiscreteScheduler())
    for prompts in (None, {"prompt_embeds": torch.ones(3, 4, 6)}):
        with pytest.raises(
            InvalidInput, match=r"FluxTransformer2DModel takes .* packed"
        ) as refused:
            as_sampler(pipe, 4, conditions=Conditions(prompts=prompts))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("pipe", "text", "words"),
    [
        (Encoder(), " \n", "holds no prompt: write one a line"),
        (SimpleNamespace(), "a", "a SimpleNamespace has no text encoder for the prompts"),
        (SimpleNamespace(encode_prompt=lambda prompt: 1 / 0, device="cpu"), "a",
         "does not encode the prompts: division by zero"),
        (SimpleNamespace(encode_prompt=lambda prompt: (1,) * 5, device="cpu"), "a",
         "encode_prompt returns is not known: save the embeddings"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_encoded_are_refused_in_one_line(pipe, text, words, tmp_path):
    with pytest.raises(InvalidInput, match=words) as refused:
        encoded(pipe, written(tmp_path, text))
    assert "\n" not in str(refused.value)
    with pytest.raises(InvalidInput, match="is no file of prompts"):
        encoded(pipe, tmp_path / "none.txt")


def test_a_stable_diffusion_pipeline_encodes_them_itself(tmp_path):
    """With its own tiny CLIP and tokenizer, where transformers is installed."""
    transformers = pytest.importorskip("transformers")
    from diffusers import StableDiffusionPipeline

    (tmp_path / "vocab.json").write_text(
        '{"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "b</w>": 3, "a": 4, "b": 5}'
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=8
    )
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=6, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=8, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=None, text_encoder=transformers.CLIPTextModel(config).eval(), tokenizer=tokenizer,
        unet=None, scheduler=None, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    found = encoded(pipe, written(tmp_path, "a b\nb\n"))
    for row, prompt in enumerate(("a b", "b")):
        theirs, none = pipe.encode_prompt(prompt, "cpu", 1, True)
        torch.testing.assert_close(found["prompt_embeds"][row], theirs[0])
        torch.testing.assert_close(found["negative_prompt_embeds"], none)
    assert not torch.allclose(found["prompt_embeds"][0], found["prompt_embeds"][1])
