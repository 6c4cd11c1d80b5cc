"""Training of conditional models: class-conditional from nothing, guidance, conditions left out."""

import pytest
import torch

from undrift import InvalidInput
from undrift.data.images import ImageData
from undrift.diffusion.condition import ConditionalNetwork
from undrift.regularizer.options import RegularizerConfig
from undrift.training.checkpoint import StartingPoint
from undrift.training.conditions import conditions_of
from undrift.training.config import ModelConfig, TrainConfig
from undrift.training.dry_run import dry_run
from undrift.training.trainer import Trainer

SMALL = {"block_out_channels": [8], "norm_num_groups": 4, "num_class_embeds": 4}


def images(count=64, classes=3):
    noise = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return ImageData(noise * 2 - 1, "noise", labels=torch.arange(count) % classes)


def trainer(method="plain", **options):
    regularizer = RegularizerConfig(num_inference_steps=4, window=1.0, num_states=8, every=1)
    config = TrainConfig(
        method=method, steps=4, batch_size=32, model=ModelConfig(**SMALL),
        regularizer=regularizer, **options,
    )  # fmt: skip
    return Trainer(config, images())


def losses(made):
    rows = []
    made.run(rows.append)
    return rows


def test_a_run_does_not_go_on_with_other_labels(tmp_path):
    made = trainer()
    path = made.save_checkpoint(tmp_path)
    trainer().load_checkpoint(path)
    relabelled = ImageData(made.data.images, "noise", labels=made.data.labels.flip(0))
    with pytest.raises(InvalidInput, match=r"has changed since .* \(other labels\)"):
        Trainer(made.config, relabelled).load_checkpoint(path)


METHODS = ("persistent", "truncated", "full", "official", "mmd_ddm", "fd_loss")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_chains_trains_a_class_conditional_network(method):
    """Also the embeddings of the classes, which only chains with conditions reach."""
    made = trainer(method)
    before = made.bare_network.class_embedding.weight.detach().clone()
    rows = losses(made)
    change = (made.bare_network.class_embedding.weight.detach() - before).abs().sum(1)
    assert len(rows) == 4 and bool((change[:3] > 0).all()) and float(change[3]) == 0


def test_guidance_belongs_to_the_chain_and_not_to_the_main_loss():
    plain, guided = (trainer("persistent", null_label=3, guidance=g) for g in (None, 4.0))
    first, other = losses(plain)[0], losses(guided)[0]
    assert first["loss"] == other["loss"]
    assert first["regularizer"] != other["regularizer"]


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_share_of_the_rows_is_trained_without_a_condition(share, monkeypatch):
    """As the class for none, which the others are told apart from by nothing else."""
    made, seen = trainer(null_label=3, conditioning_dropout_prob=share), []
    forward = type(made.bare_network).forward

    def watched(self, sample, timestep, class_labels=None, **more):
        seen.append(class_labels)
        return forward(self, sample, timestep, class_labels, **more)

    monkeypatch.setattr(type(made.bare_network), "forward", watched)
    losses(made)
    found = float((torch.cat(seen) == 3).float().mean())
    assert found == pytest.approx(share, abs=0.12) and bool(found) == bool(share)
    change = made.bare_network.class_embedding.weight.grad[3].abs().sum()
    assert (change > 0) == bool(share)


def test_no_condition_is_the_call_with_the_null_row():
    def network(x, timestep, class_labels):
        return x + class_labels.view(-1, 1)

    table, null = {"class_labels": torch.arange(3)}, {"class_labels": torch.tensor([7])}
    found = ConditionalNetwork(network, table, null=null).given(torch.tensor([2, -1, 0]))
    assert found(torch.zeros(3, 1), torch.zeros(3)).flatten().tolist() == [2, 7, 0]
    with pytest.raises(InvalidInput, match="rows without a condition: this model does not name"):
        ConditionalNetwork(network, table).given(torch.tensor([-1]))


def test_a_dry_run_has_conditions_too():
    config = TrainConfig(method="persistent", model=ModelConfig(num_class_embeds=3))
    assert dry_run(config, batch_size=8)["parameters"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conditioning_dropout_prob": 0.1}, "needs a call without a condition: this model does"),
        ({"conditioning_dropout_prob": 1.5}, "choose at least 0 and less than 1"),
        ({"guidance": 2.0}, "guidance needs a call without a condition"),
        ({"null_label": 9}, "choose a class from 0 to 3"),
        ({"method": "persistent"}, "label 4 is out of range: the model has 4 conditions, 0 to 3"),
        ({"method": "persistent", "null_label": 3}, "label 4 is out of range: .* has 3 conditions"),
    ],
)
def test_conditions_that_cannot_be_had_are_refused_before_any_work(options, words):
    labels = torch.arange(64) % 3
    labels[0] = 4 if "method" in options else 0
    data = ImageData(images().images, "noise", labels=labels)
    with pytest.raises(InvalidInput, match=words):
        Trainer(TrainConfig(model=ModelConfig(**SMALL), **options), data)


def test_an_unconditional_network_has_nothing_to_leave_out():
    with pytest.raises(InvalidInput, match="no conditions: leave conditioning_dropout_prob out"):
        Trainer(TrainConfig(conditioning_dropout_prob=0.1), images(64))


def test_prompts_of_text_are_encoded_once_by_the_starting_pipeline(tmp_path):
    calls = []

    class Encoder:
        device = torch.device("cpu")

        def encode_prompt(self, prompt):
            calls.append(prompt)
            return torch.ones(len(prompt), 4, 6)

    (tmp_path / "prompts.txt").write_text("a\nb\n")
    start = StartingPoint("model", pipeline=Encoder())
    config = TrainConfig(prompts=str(tmp_path / "prompts.txt"), guidance=3.0)
    first, second = (conditions_of(config, start) for _ in range(2))
    assert calls == [["a", "b"]] and first.prompts is second.prompts
    assert len(first.prompts["prompt_embeds"]) == 2 and first.guidance == 3.0
