"""Partial training: what is not named keeps its values, in every method, and after a resume."""

import pytest
import torch

from undrift import InvalidInput
from undrift.data.images import ImageData
from undrift.regularizer.options import RegularizerConfig
from undrift.training.config import ModelConfig, TrainConfig
from undrift.training.trainer import Trainer

PATTERN = r"up_blocks|time_embedding\.linear_2\.bias"


def trainer(pattern=PATTERN, method="plain", start=None):
    regularizer = RegularizerConfig(num_inference_steps=4, window=1.0, num_states=4, every=1)
    config = TrainConfig(
        method=method, steps=6, batch_size=8, trainable=pattern, regularizer=regularizer,
        start_from=start, model=ModelConfig(block_out_channels=[8], norm_num_groups=4),
    )  # fmt: skip
    noise = torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Trainer(config, ImageData(noise * 2 - 1, "noise"))


def weights(network):
    return {name: p.detach().clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("method", ["plain", "persistent", "mmd_ddm"])
def test_only_the_named_parameters_change(method):
    made = trainer(method=method)
    before = weights(made.bare_network)
    rows = []
    made.run(rows.append)
    for network in (made.bare_network, made.averaged_network()):
        changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
        assert changed == {n for n in before if "up_blocks" in n or n.endswith("linear_2.bias")}
    moments = made.optimizer.state_dict()["state"]
    assert len(moments) == len(changed)
    assert rows[0]["grad_norm"] > 0


def test_a_resumed_run_is_the_whole_one(tmp_path):
    whole, first, second = trainer(), trainer(), trainer()
    whole.run()
    first.run(until=3)
    second.load_checkpoint(first.save_checkpoint(tmp_path / "checkpoints"))
    second.run()
    for name, value in weights(whole.bare_network).items():
        assert torch.equal(value, weights(second.bare_network)[name])


def test_a_run_with_other_parameters_starts_with_new_moments(tmp_path):
    """Moments are numbered: those of other parameters would be taken for theirs."""
    first = trainer()
    first.run()
    first.save_checkpoint(tmp_path / "checkpoints")
    for pattern, number in ((None, 0), ("mid_block", 0), (PATTERN, len(first.optimizer.state))):
        assert len(trainer(pattern, start=str(tmp_path)).optimizer.state) == number


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("attentions", "--trainable attentions: no parameter has such a name; .*mid_block"),
        ("(", r"--trainable \(: no regular expression"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(pattern, words):
    with pytest.raises(InvalidInput, match=words) as refused:
        trainer(pattern)
    assert "\n" not in str(refused.value)
