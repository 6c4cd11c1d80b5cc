"""Low-rank adapters: the base is kept, and what is written is what is merged."""

import copy

import pytest
import torch

from undrift import InvalidInput
from undrift.data.images import ImageData
from undrift.training import lora
from undrift.training.config import LoraConfig, TrainConfig
from undrift.training.runs import train
from undrift.training.trainer import Trainer


def attending(folder):
    """A small U-Net with attention, in a pipeline."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8, 8),
        layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(20)).save_pretrained(folder)
    return str(folder)


def images():
    noise = torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return ImageData(noise * 2 - 1, "noise")


def config(folder, **options):
    common = {"steps": 6, "batch_size": 8, "lora": LoraConfig(2), "sample_every": 0}
    return TrainConfig(start_from=attending(folder / "base"), **common | options)


def test_only_adapters_are_trained_and_a_run_resumes(tmp_path):
    pytest.importorskip("peft")
    whole, first, second = (Trainer(config(tmp_path), images()) for _ in range(3))
    before = {n: p.detach().clone() for n, p in whole.bare_network.named_parameters()}
    whole.run()
    first.run(until=3)
    second.load_checkpoint(first.save_checkpoint(tmp_path / "checkpoints"))
    second.run()
    again = dict(second.bare_network.named_parameters())
    for name, value in whole.bare_network.named_parameters():
        assert torch.equal(value, before[name]) == ("lora_" not in name), name
        assert torch.equal(value, again[name])
    assert len(whole.optimizer.state) == sum("lora_" in name for name in before)


def test_the_pipeline_is_the_base_with_its_adapters_as_diffusers_has_them(tmp_path):
    """The merged weights differ from the base by B A, which the written file has."""
    pytest.importorskip("peft")
    import diffusers
    from safetensors.torch import load_file

    run = config(tmp_path, output=str(tmp_path / "run"), method="persistent")
    run.regularizer.num_inference_steps = 4
    run.optimizer.learning_rate = 0.1
    train(run, images(), progress=False)
    base, made = (
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / name).unet.state_dict()
        for name in ("base", "run/pipeline")
    )
    assert base.keys() == made.keys()
    adapters = load_file(tmp_path / "run" / "lora" / "pytorch_lora_weights.safetensors")
    changed = 0
    for name, value in base.items():
        layer = f"unet.{name.removesuffix('.weight')}"
        down = adapters.get(f"{layer}.lora.down.weight", adapters.get(f"{layer}.lora_A.weight"))
        up = adapters.get(f"{layer}.lora.up.weight", adapters.get(f"{layer}.lora_B.weight"))
        delta = up @ down if down is not None else torch.zeros_like(value)
        changed += bool(delta.abs().sum() > 0)
        torch.testing.assert_close(made[name], value + delta, atol=1e-6, rtol=1e-5)
    assert changed == len(adapters) / 2 > 4


def test_diffusers_loads_the_adapters_by_its_own_function(tmp_path):
    """Where a network has load_lora_adapter, as those of text-to-image pipelines have."""
    pytest.importorskip("peft")
    import diffusers

    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8, 8),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=6, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    again = copy.deepcopy(network)
    inputs = torch.randn(2, 1, 4, 4), torch.full((2,), 5), torch.randn(2, 3, 6)
    lora.add_adapters(network, 2, ["to_q", "to_v"])
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    lora.save(network, "unet", tmp_path)
    with torch.no_grad():
        base = again(*inputs).sample
        again.load_lora_adapter(str(tmp_path), prefix="unet", use_safetensors=True)
        adapted = network(*inputs).sample
        assert (adapted - base).abs().max() > 0.01
        torch.testing.assert_close(again(*inputs).sample, adapted, atol=1e-5, rtol=1e-4)
        lora.merge(network)
        torch.testing.assert_close(network(*inputs).sample, adapted, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_adapted_is_refused(tmp_path):
    pytest.importorskip("peft")
    for options, words in (
        ({"trainable": "mid"}, "exclude each other"),
        ({"lora": LoraConfig(2, ["none"])}, "--lora.target-modules none: "),
    ):
        with pytest.raises(InvalidInput, match=words) as refused:
            Trainer(config(tmp_path, **options), images())
        assert "\n" not in str(refused.value)
    with pytest.raises(InvalidInput, match="adapts a trained model: give --start-from"):
        Trainer(TrainConfig(lora=LoraConfig(2)), images())
    trained = Trainer(config(tmp_path), images())
    trained.save_checkpoint(tmp_path / "checkpoints")
    with pytest.raises(InvalidInput, match="trained adapters: start from what it wrote"):
        Trainer(TrainConfig(start_from=str(tmp_path)), images())


def test_without_peft_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("undrift.training.lora.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="pip install 'undrift\\[lora\\]'"):
        Trainer(TrainConfig(start_from="x", lora=LoraConfig(2)), images())
