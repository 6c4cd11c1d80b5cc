"""Spaces of features: what they show of a state, frozen, differentiable, on their own scales."""

import pytest
import torch
from diffusers import DDPMScheduler, UniPCMultistepScheduler
from torch import nn

from commands import network
from tiny import TinyNetwork, noise_source, tiny_sampler
from undrift.diffusion.pipelines import as_sampler
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.regularizer.cumulative import CumulativeErrorRegularizer
from undrift.regularizer.population import rounded
from undrift.regularizer.spaces import (
    ImageSpace,
    JointSpace,
    NetworkSpace,
    PixelSpace,
    pooled,
    space_named,
)


def chain(net):
    scheduler = DDPMScheduler(20, prediction_type="v_prediction", timestep_spacing="trailing")
    return as_sampler(net, 10, scheduler)


def images(count, seed=0):
    return torch.randn(count, 1, 8, 8, generator=noise_source(seed))


class Tokens(nn.Module):
    """The outline of a transformer: tokens of a state through a list of blocks."""

    def __init__(self):
        super().__init__()
        self.transformer_blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x, timestep):
        y = x.flatten(2).mT.reshape(len(x), 16, 4)
        for block in self.transformer_blocks:
            y = block(y)
        return y.reshape(x.shape)


def test_the_copy_of_a_network_stays_as_it_was():
    net = network()
    space, x = NetworkSpace(chain(net)), images(3)
    before = space(x, 5.0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, space(x, 5.0), strict=True))
    assert len(before) == 5  # two down, one middle, two up
    assert all(block.shape[0] == 3 and block.shape[2] == 1 for block in before)


def test_a_resumed_run_takes_the_copy_that_was_saved():
    first, later = NetworkSpace(chain(network())), network()
    with torch.no_grad():
        later.conv_out.weight.zero_()
        for parameter in later.mid_block.parameters():
            parameter.mul_(2)
    second = NetworkSpace(chain(later))
    second.load_state_dict(first.state_dict())
    pairs = zip(first(images(2), 3.0), second(images(2), 3.0), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_features_are_differentiable_by_the_state_and_not_by_the_copy():
    space, x = NetworkSpace(chain(network())), images(2).requires_grad_()
    sum(block.square().sum() for block in space(x, 5.0)).backward()
    assert float(x.grad.abs().sum()) > 0
    assert not any(parameter.requires_grad for parameter in space.model.network.parameters())


def test_samples_are_shown_at_the_last_time_of_the_grid():
    told = []

    class Told(type(network())):
        def forward(self, x, timestep, **options):
            told.append(float(timestep[0]))
            return super().forward(x, timestep, **options)

    net = network()
    net.__class__ = Told
    sampler = chain(net)
    NetworkSpace(sampler)(images(2), 0)
    assert told == [sampler.grid[-2] - 1]


def test_tokens_of_a_transformer_are_pooled_over_all_of_them():
    space, x = NetworkSpace(chain(Tokens())), images(3)
    first, _ = space(x, 5.0)
    y = space.model.network.transformer_blocks[0](x.flatten(2).mT.reshape(3, 16, 4))
    expected = torch.cat([y.mean(1), y.square().mean(1).sqrt()], 1)
    assert torch.allclose(first[..., 0], expected, atol=1e-5)


def test_the_encoder_is_the_first_stages_and_nothing_behind_them_is_computed():
    sampler, x = chain(network()), images(2)
    whole, first = NetworkSpace(sampler), NetworkSpace(sampler, depth="encoder")
    seen = []
    for name, stage in first.model.network.named_children():
        stage.register_forward_hook(lambda *_, name=name: seen.append(name))
    blocks = first(x, 5.0)
    assert len(blocks) == 3 and all(map(torch.equal, blocks, whole(x, 5.0)))
    assert "mid_block" in seen and "conv_out" not in seen
    assert len(first.model.network.up_blocks) == 2 and not any("up" in name for name in seen)
    tokens = chain(Tokens())
    (half,) = NetworkSpace(tokens, depth="encoder")(x, 5.0)
    assert torch.equal(half, NetworkSpace(tokens)(x, 5.0)[0])


def test_pooling_keeps_means_and_mean_squares():
    activation = torch.randn(2, 3, 8, 8, generator=noise_source())
    features = pooled(activation, 2).reshape(2, 2, 3, 4)
    assert torch.allclose(features[:, 0].mean(-1), activation.mean((2, 3)), atol=1e-6)
    squares = features[:, 1].square().mean(-1)
    assert torch.allclose(squares, activation.square().mean((2, 3)), atol=1e-5)
    assert pooled(activation[..., :1, :1], 2).shape == (2, 6)


def test_several_spaces_have_the_blocks_of_each_in_order():
    sampler, x = chain(network()), images(2)
    pixels, *features = JointSpace([PixelSpace(), NetworkSpace(sampler)])(x, 5.0)
    assert torch.equal(pixels[:, 0], x.flatten(1))
    assert all(map(torch.equal, features, NetworkSpace(sampler)(x, 5.0)))


class Shown(nn.Module):
    """A network of images whose features are the images."""

    def forward(self, images):
        return images.flatten(1)


def test_an_image_network_sees_samples_as_they_are_and_the_estimate_of_data_behind_noise():
    net, x = network(), images(3)
    sampler = chain(net)
    space = ImageSpace(Shown(), sampler)
    (of_samples,), (of_states,) = space(x, 0), space(x, 5.0)
    assert torch.equal(of_samples[..., 0], x.flatten(1))
    expected = sampler.predict(x, 5.0).x0_hat.detach()
    assert torch.allclose(of_states[..., 0], expected.flatten(1), atol=1e-6)
    with torch.no_grad():
        net.conv_out.weight.add_(1.0)
    assert torch.equal(space(x, 5.0)[0], of_states)  # the starting model's, not the trained one's
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(space(x, 5.0)[0].square().sum(), x)
    assert float(gradient.abs().min()) > 0
    with pytest.raises(InvalidInput, match="need the starting model"):
        ImageSpace(Shown())(x, 5.0)


def test_spaces_by_name_share_one_frozen_model():
    space = space_named(("efficientnet-lite1", "network", "pixels"), chain(network()))
    image, own, pixels = space.spaces
    assert image.model is own.model and isinstance(pixels, PixelSpace)
    with torch.no_grad():
        blocks = space(images(2), 0)
    assert [block.shape[1] for block in blocks[::6]] == [1280, 1]
    again = space_named(("efficientnet-lite1", "network", "pixels"), chain(network()))
    again.load_state_dict(space.state_dict())
    alone = space_named(("efficientnet-lite2",), chain(network()), only_samples=True)
    assert alone.model is None and alone(images(2), 0)[0].shape == (2, 1280, 1)


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (tiny_sampler(TinyNetwork()), "TinyNetwork has no blocks"),
        (tiny_sampler(lambda x, t: x), "need a torch module"),
    ],
)
def test_a_network_without_stages_costs_one_line(sampler, words):
    with pytest.raises(InvalidInput, match=words):
        NetworkSpace(sampler)


def test_a_population_is_of_the_chain_that_is_sampled():
    """Cohorts follow a multistep solver; each time of its chain has a population of its states."""
    net, data = network(), images(40, seed=3).clamp(-1, 1)
    scheduler = UniPCMultistepScheduler(20, prediction_type="v_prediction")
    regularizer = CumulativeErrorRegularizer(
        DiffusersSampler(net, scheduler, 5),
        strength=1.0,
        population=64,
        num_states=6,
        num_forward=20,
        num_cohorts=1,
        every=1,
        window=0.4,
    )
    made, values = {}, []
    for _ in range(4):
        values.append(float(regularizer(net, data).detach()))
        state = regularizer.rollout.states[0]
        made.setdefault(state.t, []).append(state.x)
    assert set(made) == {regularizer.sampler.grid[-2], 0} and 0 not in values
    for t, states in made.items():
        (block,) = regularizer.comparison.populations[t].blocks
        assert torch.equal(block.queue, rounded(block.units(torch.cat(states).flatten(1)[:, None])))
        assert len(block.forward) == 20
