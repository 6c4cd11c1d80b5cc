"""The network that a configuration describes, and configurations that are older than an option."""

import re
from dataclasses import asdict, replace

import pytest
import torch

from tiny import TinyNetwork, tiny_sampler
from undrift.exceptions import InvalidInput
from undrift.objectives.published import STRENGTHS
from undrift.regularizer.cumulative import CumulativeErrorRegularizer
from undrift.regularizer.options import VARIANTS, RegularizerConfig, defaults_of
from undrift.training.building import build_network
from undrift.training.checkpoint import StartingPoint, difference, same_run
from undrift.training.config import (
    ModelConfig,
    ObjectiveConfig,
    TrainConfig,
)

SMALL = ModelConfig(block_out_channels=[8, 16, 16], norm_num_groups=8)


def attending(network):
    """Sizes of the feature maps at which a block of either side attends."""
    sizes = set()
    blocks = [*network.down_blocks, *network.up_blocks]
    hooks = [
        attention.register_forward_pre_hook(lambda _, inputs: sizes.add(inputs[0].shape[-1]))
        for block in blocks
        for attention in getattr(block, "attentions", [])
    ]
    network(torch.zeros(1, 3, 32, 32), 1)
    for hook in hooks:
        hook.remove()
    return sizes


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, set()),
        ({"attention": True}, {8}),
        ({"attention_sizes": [16]}, {16}),
        ({"attention_sizes": [32, 8]}, {32, 8}),
        ({"attention": True, "attention_sizes": []}, set()),
    ],
)
def test_the_blocks_attend_that_were_asked_to(options, sizes):
    network = build_network(replace(SMALL, **options), (3, 32, 32))
    assert attending(network) == sizes
    assert bool(network.mid_block.attentions[0] is not None) == bool(sizes)


@pytest.mark.parametrize(("head_dim", "heads"), [(None, 1), (8, 2), (16, 1)])
def test_heads_have_their_channels(head_dim, heads):
    config = replace(SMALL, attention_sizes=[16], attention_head_dim=head_dim)
    network = build_network(config, (3, 32, 32))
    assert network.down_blocks[1].attentions[0].heads == heads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_sizes": [12]}, "no feature map has size 12: choose .* from 32, 16, 8"),
        ({"attention_sizes": [16], "attention_head_dim": 12}, "16 channels do not split into"),
        ({"attention_sizes": [32], "attention_head_dim": 16}, "8 channels do not split into"),
    ],
)
def test_attention_that_does_not_fit_is_refused_in_one_line(options, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        build_network(replace(SMALL, **options), (3, 32, 32))
    assert "\n" not in str(caught.value)


def old(config):
    """A configuration as it was saved before some options were there."""
    saved = asdict(config)
    for group, option in (("model", "attention_sizes"), ("regularizer", "num_inference_steps")):
        del saved[group][option]
    return saved


def test_a_checkpoint_from_before_an_option_has_its_default(tmp_path):
    config = TrainConfig(method="persistent", model=SMALL)
    same_run(old(config), config, tmp_path)
    start = StartingPoint("run", state={"config": old(config)})
    assert start.inherit(TrainConfig()).model == SMALL
    other = replace(config, regularizer=RegularizerConfig(num_inference_steps=50))
    with pytest.raises(InvalidInput, match="num_inference_steps: None there, 50 now"):
        same_run(old(config), other, tmp_path / "step-1")
    with pytest.raises(InvalidInput, match="attention-sizes"):
        start.inherit(replace(config, model=replace(SMALL, attention_sizes=[16])))


def test_options_that_a_method_has_no_use_for_do_not_matter():
    strides, windows = RegularizerConfig(stride=9), RegularizerConfig(window=0.5)
    for method in ("plain", "dream", "official", "full", "persistent"):
        config = TrainConfig(method=method)
        by_stride = difference(asdict(config), replace(config, regularizer=strides))
        by_window = difference(asdict(config), replace(config, regularizer=windows))
        used = method == "persistent"
        assert by_stride == ("regularizer.stride: 3 there, 9 now" if used else None)
        assert (by_window is None) == (method in ("plain", "dream"))
    regularized = TrainConfig(method="regularized")
    assert difference(asdict(TrainConfig(method="persistent")), regularized) is None
    weaker = TrainConfig(method="dream", objective=ObjectiveConfig(strength=0.5))
    found = difference(asdict(TrainConfig(method="dream")), weaker)
    assert found == "objective.strength: None there, 0.5 now"


def test_a_run_tells_what_its_variant_chose_so_that_another_default_makes_another_run():
    config = TrainConfig(method="persistent", batch_size=40)
    chosen = replace(config, regularizer=config.chosen(config.batch_size))
    assert asdict(chosen.regularizer) == asdict(RegularizerConfig()) | {
        "num_states": 20,
        "num_forward": 1024,
        "num_cohorts": 4,
        "every": 2,
        "window": 0.15,
    }
    assert difference(asdict(chosen), config) is None
    assert difference(asdict(config), chosen) is None
    before = replace(chosen, regularizer=replace(chosen.regularizer, every=4))
    assert difference(asdict(before), config) == "regularizer.every: 4 there, 2 now"
    assert asdict(TrainConfig(method="plain").chosen(64)) == asdict(RegularizerConfig())
    assert replace(config, regularizer=RegularizerConfig(num_states=0)).chosen(40).num_states == 0
    larger = difference(asdict(chosen), replace(config, batch_size=80))
    assert larger == "batch_size: 40 there, 80 now"  # not what follows from it


@pytest.mark.parametrize(
    ("variant", "population"), [*((name, 0) for name in sorted(VARIANTS)), ("persistent", 64)]
)
def test_the_library_chooses_what_the_configuration_says(variant, population):
    given = RegularizerConfig(population=population)
    config = TrainConfig(method=variant, batch_size=24, regularizer=given)
    sampler, options = tiny_sampler(TinyNetwork(), 20), {"variant": variant}
    options |= {"population": population} if population else {}
    chosen, own = config.chosen(24), CumulativeErrorRegularizer(sampler, **options)
    num_states, num_forward = own.sizes(24)
    assert (num_states, own.every) == (chosen.num_states, chosen.every)
    if variant == "persistent":
        assert own.rollout.num_cohorts == chosen.num_cohorts == (2 if population else 4)
    assert num_forward == (chosen.num_forward or chosen.num_states)
    said = CumulativeErrorRegularizer(sampler, **options, window=chosen.window)
    assert said.weights == own.weights


def test_the_help_names_the_values_of_the_tables():
    """The help cannot read the tables: it has to be changed with them."""
    text = " ".join(RegularizerConfig.__doc__.split())
    persistent, official = VARIANTS["persistent"], VARIANTS["official"]
    full = VARIANTS["full"]
    assert full == VARIANTS["truncated"]
    assert f"{persistent.window:g} for persistent, {full.window:g} for truncated" in text
    assert f"(default: {persistent.num_forward}; for official, as many as states)" in text
    assert f"(default: {persistent.every}; for official {official.every}, as" in text
    few = defaults_of("persistent", population=512)
    assert few.states == full.states and "truncated, full, and persistent with a population" in text
    assert f"(default: {persistent.num_cohorts}; {few.num_cohorts} with a population" in text
    assert f"by gradient norms; for official {official.strength:g}, as" in text
    text = " ".join(ObjectiveConfig.__doc__.split())
    assert set(re.findall(r"(\w+) \(([\d.]+)\)", text)) == {
        (name, f"{strength:g}") for name, strength in STRENGTHS.items()
    }
