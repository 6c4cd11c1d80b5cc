"""Conditional chains: conditions come with the data, and chains keep the one they started with."""

import pytest
import torch
from torch import nn

from undrift import CumulativeErrorRegularizer, InvalidInput
from undrift.diffusion.condition import ConditionalNetwork
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.schedule import CosineSchedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.objectives.mmd_ddm import KernelDistanceLoss
from undrift.regularizer.pool import ForwardPool
from undrift.regularizer.spaces import NetworkSpace

MEANS, SPREAD = torch.tensor([-2.0, 0.5, 2.0]), 0.2
SHARES = torch.tensor([0.2, 0.5, 0.3])
SCHEDULE = CosineSchedule(40)


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


def labeled_data(count, seed=9):
    labels = torch.multinomial(SHARES, count, replacement=True, generator=noise_source(seed))
    noise = torch.randn(count, 1, generator=noise_source(seed + 1))
    return MEANS[labels].view(-1, 1) + SPREAD * noise, labels


class OfClass(nn.Module):
    """The exact data estimate of N(m_c, 0.2²), plus an error of each class to be learned."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x, timestep, class_labels):
        t = int(timestep[0]) + 1
        alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        mean, total = MEANS[class_labels].view(-1, 1), alpha**2 * SPREAD**2 + sigma**2
        x_0 = mean + alpha * SPREAD**2 / total * (x - alpha * mean)
        return x_0 + self.shift[class_labels].view(-1, 1)


def chain(network, **options):
    conditional = ConditionalNetwork(network, {"class_labels": torch.arange(3)}, **options)
    denoiser = Denoiser(conditional, SCHEDULE, "sample")
    return AncestralSampler(denoiser, clip=None, variance_type="fixed_large")


def gradients(regularizer, network, calls, seed=0):
    found = []
    for call in range(calls):
        x_0, labels = labeled_data(64, seed + 2 * call)
        value = regularizer(network, x_0, labels=labels)
        if value.requires_grad:
            found.append(torch.autograd.grad(value, [network.shift])[0])
    mean = torch.stack(found).mean(0)
    return mean, torch.stack(found).std(0) / len(found) ** 0.5


OPTIONS = {
    "strength": 1.0,
    "num_states": 32,
    "num_forward": 64,
    "every": 1,
    "window": 0.5,
    "seed": 1,
}


@pytest.mark.parametrize("variant", ["persistent", "truncated", "full"])
def test_an_exact_conditional_model_has_no_gradient_and_an_error_of_a_class_one_back(variant):
    """The network that is trained is bare: the chain has the conditions."""
    found = []
    for error in (0.0, 0.5):
        network = OfClass()
        regularizer = CumulativeErrorRegularizer(chain(network), variant=variant, **OPTIONS)
        network.shift.data[2] = error
        found.append(gradients(regularizer, network, 120))
    (exact, _), (back, spread) = found
    assert back[2] > 5 * spread[2]
    # calls share their chains: the spread between calls does not tell how far a mean is from 0
    assert abs(float(exact[2])) < 0.3 * float(back[2])


def test_the_conditions_of_a_rollout_are_those_of_its_data():
    """With those of other data a rollout from forward draws has an error at once."""
    network, means = OfClass(), []
    for own in (True, False):
        regularizer = CumulativeErrorRegularizer(
            chain(network), variant="truncated", log_every=1, **OPTIONS | {"window": 0.1}
        )
        logged = []
        for call in range(40):
            x_0, labels = labeled_data(64, 2 * call)
            regularizer(network, x_0, labels=labels if own else labels.roll(1))
            logged.append(regularizer.log["regularizer"])
        means.append(torch.tensor(logged))
    right, wrong = means
    assert abs(float(right.mean())) < 4 * float(right.std()) / 40**0.5
    assert float(wrong.mean()) > 5 * float(wrong.std()) / 40**0.5


@pytest.mark.parametrize("gradient_steps", [1, 3])
def test_a_chain_keeps_its_condition_to_the_data(gradient_steps):
    """At the end of its grid each chain is in the class that it started with, one of the data."""
    network = OfClass()
    regularizer = CumulativeErrorRegularizer(
        chain(network).with_steps(10), num_cohorts=3, gradient_steps=gradient_steps, **OPTIONS
    )
    ends = []
    for call in range(40):
        x_0, labels = labeled_data(128, call)
        x_0, labels = x_0[labels != 1], labels[labels != 1]
        regularizer(network, x_0, labels=labels)
        rollout = regularizer.rollout
        for state, own in zip(rollout.states, rollout.labels, strict=True):
            if state.t == 0:
                assert torch.equal(state.x.flatten() > 0, own == 2)
                ends.append(own)
    assert set(torch.cat(ends).tolist()) == {0, 2}
    assert any(not torch.equal(ends[0], other) for other in ends[1:])  # drawn anew


def test_a_restored_regularizer_goes_on_with_its_conditions():
    values = []
    for restored in (False, True):
        network = OfClass()
        regularizer = CumulativeErrorRegularizer(chain(network), **OPTIONS)
        for call in range(12):
            if restored and call == 6:
                state = regularizer.state_dict()
                regularizer = CumulativeErrorRegularizer(chain(network), **OPTIONS)
                regularizer.load_state_dict(state)
            x_0, labels = labeled_data(64, call)
            last = regularizer(network, x_0, labels=labels)
        values.append(float(last.detach()))
    assert values[0] == values[1]


def test_guidance_is_a_part_of_the_rollout():
    """Guided away from class 1, samples of class 2 lie beyond their data: the term sees it."""
    null = {"class_labels": torch.tensor([1])}
    found = []
    for scale in (1.0, 2.0):
        network = OfClass()
        regularizer = CumulativeErrorRegularizer(
            chain(network, null=null, guidance=scale), log_every=1, **OPTIONS
        )
        errors = []
        for call in range(60):
            x_0, labels = labeled_data(64, call)
            regularizer(network, x_0, labels=labels)
            errors.append(regularizer.log["regularizer"] - regularizer.log["regularizer_null"])
        found.append(sum(errors[20:]) / 40)
    assert found[1] > 0.04 > abs(found[0])


def test_pool_keeps_each_label_with_its_datum():
    pool = ForwardPool(10)
    for start in (0, 7, 12, 13, 30):
        rows = torch.arange(start, start + 6)
        pool.add(rows[:, None].float(), rows)
        assert torch.equal(pool.rows.flatten().long(), pool.labels)
    first, _, labels = pool.draw(4, 6, noise_source())
    assert torch.equal(first.flatten().long(), labels)


def test_samples_of_a_loss_have_the_conditions_of_the_data_in_their_shares():
    """Drawn independently of the data: paired ones would pull each sample to its own datum."""
    network = OfClass()
    objective = KernelDistanceLoss(DDIMSampler(chain(network).denoiser, 5, clip=None))
    x_0, labels = labeled_data(64)
    conditional = objective.sampler.network.given(labels)
    (gradient,) = torch.autograd.grad(objective(conditional, x_0), [network.shift])
    assert bool((gradient != 0).all())
    drawn = torch.stack([objective.samples(conditional, x_0) for _ in range(40)])
    near = (drawn - MEANS).abs().argmin(-1)
    shares, own = (torch.bincount(c.flatten(), minlength=3) / c.numel() for c in (near, labels))
    torch.testing.assert_close(shares, own, atol=0.05, rtol=0)
    agree = float((near == labels).float().mean())
    assert agree == pytest.approx(float(own.square().sum()), abs=0.05)


@pytest.mark.parametrize("labels", [None, torch.zeros(63, dtype=torch.int64)])
def test_a_conditional_model_needs_a_label_for_each_datum(labels):
    regularizer = CumulativeErrorRegularizer(chain(OfClass()), **OPTIONS)
    with pytest.raises(InvalidInput, match="give the regularizer the labels of the data"):
        regularizer(OfClass(), labeled_data(64)[0], labels=labels)


def test_features_that_depend_on_the_condition_are_refused():
    with pytest.raises(InvalidInput, match="depend on the condition of a state"):
        NetworkSpace(chain(OfClass()))


@pytest.mark.parametrize("kind", ["ours", "diffusers"])
def test_another_network_of_a_chain_has_the_same_conditions(kind):
    from diffusers import DDIMScheduler

    network, other = OfClass(), OfClass()
    other.shift.data += 1
    sampler = chain(network)
    if kind == "diffusers":
        sampler = DiffusersSampler(sampler.network, DDIMScheduler(40), 5)
    x, labels = torch.zeros(2, 1), torch.tensor([2, 0])
    given = sampler.given(labels)
    for wrapped in (other, SimpleModule(other)):
        found = given.with_network(wrapped).network
        torch.testing.assert_close(found(x, torch.full((2,), 5)),
                                   given.network(x, torch.full((2,), 5)) + 1)  # fmt: skip
    whole = given.with_network(lambda x, timestep: given.network(x, timestep))
    assert not whole.is_conditional  # has them within


class SimpleModule(nn.Module):
    """As DistributedDataParallel has its network."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs, **options):
        return self.module(*inputs, **options)
