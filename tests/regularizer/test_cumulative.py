"""The regularizers: gradients against a calculation by hand, nulls, strength, state, processes."""

import io
import math
import statistics
import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from error_state import state
from tiny import TinyNetwork, exact_sampler, noise_source, tiny_sampler
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import DDIMSampler
from undrift.diffusion.sampler import draw_noise
from undrift.diffusion.schedule import Schedule
from undrift.exceptions import InvalidInput
from undrift.mmd.estimate import mmd_sq
from undrift.mmd.kernels import EnergyKernel, RBFMixture
from undrift.regularizer.balance import GradientBalance
from undrift.regularizer.bootstrap import chain_noise, integer, rollout_streams
from undrift.regularizer.cumulative import CumulativeErrorRegularizer
from undrift.regularizer.spaces import Pyramid, Space

VARIANTS = ("official", "full", "truncated", "persistent")
DATA = torch.randn(12, 3, generator=noise_source(100))


def make(network, variant, **options):
    known = {"strength": 1.0, "num_states": 4, "num_forward": 8, "length": 3, "num_cohorts": 1}
    known |= {"every": 1, "window": 1.0}
    return CumulativeErrorRegularizer(tiny_sampler(network), variant=variant, **(known | options))


def gradients(network):
    return [p.grad.clone() for p in network.parameters()]


def assert_same(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def main_term(network, x_0=DATA):
    return (network(x_0, torch.zeros(len(x_0), dtype=torch.long)) - x_0).square().mean()


# by hand: nothing of samplers, kernels or mmd_sq is used below


def kernel_sum(x, y, bandwidth):
    sq_dist = ((x[:, None] - y[None]) ** 2).sum(-1)
    return sum(torch.exp(-sq_dist / (m * bandwidth)) for m in (0.25, 0.5, 1, 2, 4))


def unbiased_without_reference(x, y):
    n, m = len(x), len(y)
    bandwidth = ((y[:, None] - y[None]) ** 2).sum() / (m * (m - 1))
    k_xx, k_xy = kernel_sum(x, x, bandwidth) / 5, kernel_sum(x, y, bandwidth) / 5
    return (k_xx.sum() - k_xx.diagonal().sum()) / (n * (n - 1)) - 2 * k_xy.mean()


def released_loss(x, y):
    both = torch.cat([x, y]).detach()
    total = ((both[:, None] - both[None]) ** 2).sum()
    bandwidth = total / (len(both) ** 2 - len(both))
    blocks = kernel_sum(x, x, bandwidth), kernel_sum(y, y, bandwidth), kernel_sum(x, y, bandwidth)
    return blocks[0].mean() + blocks[1].mean() - 2 * blocks[2].mean()


def ddim_module(network, schedule, x, t, s):
    timestep = torch.full((len(x),), t - 1)
    x0_hat = network(x, timestep)
    epsilon_hat = (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)
    return schedule.alpha(s) * x0_hat + schedule.sigma(s) * epsilon_hat


def value_by_hand(network, variant, seed, length=3):
    """The value of a first call with 4 states against 8 draws (4 for the released loss)."""
    sampler, streams = tiny_sampler(network), rollout_streams(seed)
    grid, schedule, noise = sampler.grid, sampler.schedule, streams["noise"]
    order = torch.randperm(12 if variant != "official" else 8, generator=noise)
    data = DATA if variant != "official" else DATA[-8:]
    starts, targets = data[order[:4]], data[order[4:]]
    if variant == "persistent":
        begin, end = 0, 1
        x = draw_noise(starts, chain_noise(streams, 4))
    else:
        modules = len(grid) - 1
        end = integer(1, modules - (variant == "official"), streams["choice"])
        length = integer(1, length, streams["choice"]) if variant == "official" else length
        begin = max(0, end - length)
        epsilon = draw_noise(starts, chain_noise(streams, 4))
        x = schedule.alpha(grid[begin]) * starts + schedule.sigma(grid[begin]) * epsilon
    for i in range(begin, end):
        if variant in ("truncated", "persistent") and i == end - 1:
            x = x.detach()
        x = ddim_module(network, schedule, x, grid[i], grid[i + 1])
    t = grid[end]
    y = targets
    if t:
        epsilon = torch.randn(targets.shape, generator=noise)
        y = schedule.alpha(t) * targets + schedule.sigma(t) * epsilon
    return (released_loss if variant == "official" else unbiased_without_reference)(x, y), t


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradient_are_those_computed_by_hand(variant, seed):
    network = TinyNetwork()
    sizes = {"num_states": 4, "num_forward": None if variant == "official" else 8}
    regularizer = make(network, variant, seed=seed, strength=2.5, **sizes)
    regularizer(network, DATA).backward()
    ours = gradients(network)
    network.zero_grad()
    value, t = value_by_hand(network, variant, seed)
    (2.5 * value).backward()
    assert regularizer.log["regularizer_t"] == t
    assert_same(ours, gradients(network), rtol=2e-4, atol=2e-7)
    assert max(float(g.abs().max()) for g in ours) > 1e-4


def test_the_variants_differ_in_their_gradients():
    found = []
    for variant in ("full", "truncated"):
        network = TinyNetwork()
        make(network, variant, seed=0)(network, DATA).backward()
        found.append(gradients(network)[0])
    assert not torch.allclose(*found, rtol=0.05)


def test_the_released_variant_never_ends_at_data():
    network = TinyNetwork()
    regularizer, times = make(network, "official"), set()
    for _ in range(300):
        with torch.no_grad():
            regularizer(network, DATA)
        times.add(regularizer.log["regularizer_t"])
    assert times == set(regularizer.sampler.grid[1:-1])


def logged_values(variant, calls, **options):
    sampler = exact_sampler()
    regularizer = CumulativeErrorRegularizer(
        sampler,
        variant=variant,
        strength=1.0,
        num_states=24,
        log_every=1,
        **({"every": 1, "window": 1.0} | options),
    )
    generator, values = noise_source(7), []
    with torch.no_grad():
        for _ in range(calls):
            regularizer(sampler.denoiser.network, torch.randn(88, 4, generator=generator))
            log = regularizer.log
            values.append((log["regularizer"], log["regularizer_null"]))
    return [torch.tensor(column) for column in zip(*values, strict=True)]


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_an_exact_model_has_no_error_in_the_mean(variant):
    """One lap of both cohorts is one independent observation: 20 calls."""
    for column in logged_values(variant, 800, num_forward=64, num_cohorts=2, length=4):
        laps = column.reshape(-1, 20).mean(1)
        assert abs(float(laps.mean())) < 3 * float(laps.std()) / math.sqrt(len(laps))
        assert float(laps.std()) > 0


def test_the_released_loss_of_an_exact_model_is_its_floor():
    values, floors = logged_values("official", 600)
    difference = values - floors
    assert abs(float(difference.mean())) < 3 * float(difference.std()) / math.sqrt(600)
    # the floor is (1/n + 1/m)(5 − E k); the squared distance of two states is twice a chi² of 4
    mean_k = sum((1 + 4 / (m * 8)) ** -2 for m in (0.25, 0.5, 1, 2, 4))
    assert float(floors.mean()) == pytest.approx(2 / 24 * (5 - mean_k), rel=0.05)


def test_an_error_is_seen_above_the_floor():
    network = TinyNetwork()
    regularizer = make(network, "full", num_states=64, num_forward=512, log_every=1)
    generator, above = noise_source(1), []
    for _ in range(80):
        regularizer(network, torch.randn(600, 3, generator=generator))
        above.append(regularizer.log["regularizer"] - regularizer.log["regularizer_null"])
    assert statistics.mean(above) > 4 * statistics.stdev(above) / math.sqrt(80)


def test_the_logged_value_has_the_part_without_gradient():
    network = TinyNetwork()
    regularizer = make(network, "truncated", log_every=1)
    draws = []
    forward = regularizer.sampler.forward

    def recorded(x_0, t, *, generator=None):
        draws.append(forward(x_0, t, generator=generator))
        return draws[-1]

    regularizer.sampler.forward = recorded
    value = regularizer(network, DATA).item()
    reference = RBFMixture().fit(draws[1])(draws[1], draws[1])
    off_diagonal = float(reference.sum() - reference.diagonal().sum()) / (8 * 7)
    assert regularizer.log["regularizer"] == pytest.approx(value + off_diagonal, abs=1e-6)
    null = float(mmd_sq(draws[2], draws[1]))
    assert regularizer.log["regularizer_null"] == pytest.approx(null, abs=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_logged_changes_nothing(variant):
    values = []
    for log_every in (1, 7):
        network = TinyNetwork()
        regularizer = make(network, variant, log_every=log_every)
        values.append([regularizer(network, DATA).item() for _ in range(10)])
    assert values[0] == values[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_backward_passes_give_the_gradient_of_the_sum(variant):
    network, other = TinyNetwork(), TinyNetwork()
    for p in (*network.parameters(), *other.parameters()):
        p.grad = torch.full_like(p, 0.25)
    ours, theirs = (make(n, variant, strength=40.0) for n in (network, other))
    for _ in range(3):
        loss = main_term(network)
        (loss + ours(network, DATA)).backward()
        main = theirs.backward(other, DATA, lambda: main_term(other))
        assert main.item() == loss.item() and not main.requires_grad
        assert_same(gradients(other), gradients(network), rtol=1e-5, atol=1e-6)
    plain = TinyNetwork()
    (3 * main_term(plain)).backward()
    rest = [g - 0.25 - p for g, p in zip(gradients(network), gradients(plain), strict=True)]
    assert max(float(g.abs().max()) for g in rest) > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_graph_of_the_rollout_is_gone_when_the_main_term_is_built(variant):
    class Held:
        def __init__(self, tensor):
            self.tensor = tensor

    alive, sizes = weakref.WeakSet(), []

    def pack(tensor):
        held = Held(tensor)
        alive.add(held)
        sizes.append(len(alive))
        return held

    network = TinyNetwork()

    def main():
        assert max(sizes) > 3 and not alive
        return main_term(network)

    with saved_tensors_hooks(pack, lambda held: held.tensor):
        make(network, variant).backward(network, DATA, main)


def test_a_frozen_parameter_stays_out():
    network = TinyNetwork()
    network.outer.requires_grad_(False)
    make(network, "full").backward(network, DATA, lambda: main_term(network))
    assert network.outer.grad is None and network.inner.grad.abs().sum() > 0


def descend(regularizer, network, calls, mode, lr=1e-3):
    """Train both terms; yields both norms as they really are, λ included."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    generator = noise_source(3)
    for _ in range(calls):
        x_0 = torch.randn(16, 3, generator=generator)
        optimizer.zero_grad()
        if mode == "backward":
            regularizer.backward(network, x_0, lambda x=x_0: main_term(network, x))
            yield regularizer.log["grad_norm_main"], regularizer.log["grad_norm_regularizer"]
        else:
            main = main_term(network, x_0)
            term = regularizer(network, x_0, main)
            parts = [
                torch.autograd.grad(part, [*network.parameters()], retain_graph=True)
                for part in (main, term)
            ]
            (main + term).backward()
            yield tuple(math.sqrt(sum(float(g.square().sum()) for g in part)) for part in parts)
        optimizer.step()


@pytest.mark.parametrize("mode", ["backward", "call"])
@pytest.mark.parametrize("variant", ["truncated", "persistent"])
def test_the_balance_keeps_the_share(variant, mode):
    network = TinyNetwork()
    regularizer = make(network, variant, strength=GradientBalance(share=0.4), num_cohorts=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norms = [*descend(regularizer, network, 500, mode)][100:]
    main, reg = (sum(n**2 for n in column) for column in zip(*norms, strict=True))
    tolerance = 0.15 if mode == "backward" else 0.6
    assert math.sqrt(reg / main) == pytest.approx(0.4, rel=tolerance)


@pytest.mark.parametrize("mode", ["backward", "call"])
def test_a_term_that_does_nothing_is_a_warning(mode):
    network = TinyNetwork()
    regularizer = make(network, "truncated", strength=1e-6, log_every=10)
    with pytest.warns(UserWarning, match="it has no effect; raise its strength") as caught:
        list(descend(regularizer, network, 250, mode))
    assert len(caught) == 1
    strong = make(TinyNetwork(), "truncated", strength=3.0, log_every=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(descend(strong, TinyNetwork(), 250, mode))


def test_in_a_call_norms_are_measured_at_first_and_then_now_and_then():
    network = TinyNetwork()
    regularizer = make(network, "truncated", strength=GradientBalance(every=5))
    measured = []
    for term in range(1, 18):
        regularizer(network, DATA, main_term(network))
        measured += [term] if "grad_norm_main" in regularizer.log else []
    assert measured == [1, 2, 3, 4, 5, 6, 11, 16]


def test_norms_that_are_not_finite_do_not_count():
    balance = GradientBalance(share=1.0)
    balance.update(2.0, 1.0)
    balance.update(math.inf, 1.0)
    balance.update(1.0, math.nan)
    assert balance.strength == pytest.approx(2.0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("balanced", [True, False])
def test_a_saved_regularizer_goes_on_bitwise(variant, balanced):
    def build(network):
        strength = GradientBalance() if balanced else 3.0
        options = {"num_cohorts": 3, "every": 2, "log_every": 3}
        return make(network, variant, strength=strength, **options)

    network = TinyNetwork()
    first = build(network)
    batches = torch.randn(40, 7, 3, generator=noise_source(5))
    for x_0 in batches[:17]:
        first.backward(network, x_0, lambda x=x_0: main_term(network, x))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = build(network)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for x_0 in batches[17:]:
        found = []
        for regularizer in (first, second):
            network.zero_grad()
            regularizer.backward(network, x_0, lambda x=x_0: main_term(network, x))
            found.append(gradients(network))
        assert_same(*found, rtol=0, atol=0)
        assert first.log == second.log


def test_a_regularizer_that_was_never_called_can_be_saved():
    network = TinyNetwork()
    first, second = (make(network, "persistent", num_cohorts=5) for _ in range(2))
    second.load_state_dict(first.state_dict())
    assert [first(network, DATA).item() for _ in range(9)] == [
        second(network, DATA).item() for _ in range(9)
    ]


def test_weights_have_mean_one_and_their_shape():
    network = TinyNetwork()
    grid = tiny_sampler(network).grid
    uniform = make(network, "full").weights
    assert uniform == [0.0] + [1.0] * 10
    weights = make(network, "full", weighting="exponential", rho=2.0).weights[1:]
    assert statistics.mean(weights) == pytest.approx(1)
    for (t, w), (s, v) in zip(
        zip(grid[1:], weights, strict=True), zip(grid[2:], weights[1:], strict=False), strict=False
    ):
        assert math.log(v / w) == pytest.approx(2.0 * (t - s) / grid[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_window_holds_all_steps_and_weights(variant):
    network = TinyNetwork()
    regularizer = make(network, variant, window=0.4, weighting="exponential")
    assert regularizer.weights[:7] == [0.0] * 7
    assert statistics.mean(regularizer.weights[7:]) == pytest.approx(1)
    times = set()
    for _ in range(80):
        regularizer(network, DATA)
        times.add(regularizer.log["regularizer_t"])
    assert times == set(regularizer.sampler.grid[7 : 10 if variant == "official" else 11])


def test_measured_gains_are_interpolated_over_gaps():
    from undrift.measurement.profile import ErrorProfile

    gains = {100: None, 80: 0.5, 50: None, 40: 1.5, 0: 1.0}
    states = tuple(state(t, 0.0, 1.0, p_value=1.0, downstream_gain=g) for t, g in gains.items())
    table = ErrorProfile(states, 10, 10).gains()
    assert table == {80: 0.5, 40: 1.5, 0: 1.0}
    raw = {90: 0.5, 80: 0.5, 70: 0.75, 60: 1.0, 50: 1.25, 40: 1.5}
    raw |= {30: 1.375, 20: 1.25, 10: 1.125, 0: 1.0}
    weights = make(TinyNetwork(), "full", weighting=table).weights
    assert weights[1:] == pytest.approx([g / statistics.mean(raw.values()) for g in raw.values()])


def test_the_value_is_weighted():
    values = {}
    for weighting in ("uniform", {100: 0.0, 0: 3.0}):
        network = TinyNetwork()
        regularizer = make(network, "full", weighting=weighting)
        values[str(weighting)] = [regularizer(network, DATA).item() for _ in range(8)]
        times = regularizer.sampler.grid
    by_time = dict(zip(times, regularizer.weights, strict=True))
    regularizer = make(network, "full")
    for plain, weighted in zip(*values.values(), strict=True):
        regularizer(network, DATA)
        weight = by_time[regularizer.log["regularizer_t"]]
        assert weighted == pytest.approx(weight * plain, rel=1e-6)


def test_it_sits_out_all_but_every_kth_call_and_sees_all_data():
    network = TinyNetwork()
    regularizer = make(network, "truncated", every=3, log_every=1)
    for call in range(1, 10):
        network.timesteps = []
        value = regularizer(network, torch.full((1, 3), float(call)) + DATA[:1])
        assert (float(value.detach()) != 0) == (call >= 6 and call % 3 == 0)  # 4 data at least
        assert bool(regularizer.log) == bool(network.timesteps) == bool(value)
    offsets = regularizer.pool.data[:, 0] - DATA[0, 0]
    assert offsets.tolist() == pytest.approx(range(1, 10), abs=1e-5)


def test_a_first_batch_of_one_is_no_trouble():
    network = TinyNetwork()
    for variant in VARIANTS:
        regularizer = CumulativeErrorRegularizer(
            tiny_sampler(network), variant=variant, strength=1.0, every=1
        )
        for datum in torch.randn(9, 1, 3, generator=noise_source()):
            value = regularizer(network, datum)
        assert math.isfinite(float(value)) and float(value) != 0


def test_cohorts_have_their_size_although_the_pool_is_filling():
    network = TinyNetwork()
    regularizer = CumulativeErrorRegularizer(
        tiny_sampler(network), strength=1.0, num_states=50, every=1
    )
    for _ in range(10):
        regularizer(network, DATA)
        assert {len(state.x) for state in regularizer.rollout.states} == {50}


def test_default_sizes_are_shares_of_the_batch():
    network = TinyNetwork()
    found = {}
    for variant in VARIANTS:
        regularizer = CumulativeErrorRegularizer(
            tiny_sampler(network), variant=variant, strength=1.0
        )
        found[variant] = regularizer.sizes(64)
    assert found == {
        "official": (64, 64),
        "full": (16, 1024),
        "truncated": (16, 1024),
        "persistent": (32, 1024),
    }


def test_a_feature_map_takes_the_place_of_the_states():
    matrix = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], requires_grad=True)

    class Mapped(Space):
        def __call__(self, x_t, t):
            return [(x_t @ matrix)[:, None]]

    network = TinyNetwork()
    mapped = make(network, "full", space=Mapped())
    mapped.backward(network, DATA, lambda: main_term(network))
    kernel = RBFMixture(feature_map=lambda x: x @ matrix.detach())
    other = TinyNetwork()
    make(other, "full", kernel=kernel).backward(other, DATA, lambda: main_term(other))
    assert_same(gradients(network), gradients(other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": RBFMixture(feature_map=torch.nn.Identity())}, "give the feature map as space"),
        ({"kernel": RBFMixture("pooled")}, "give 'mean' or 'median', not 'pooled'"),
        ({"kernel": EnergyKernel(), "averaging": "moving"}, "needs the kernel rbf or laplace"),
        ({"population": 1}, "population is 1"),
        ({"num_forward": 3}, "num_forward of the regularizer with a population is 3: .*at least 4"),
    ],
)
def test_what_a_population_cannot_use_is_refused_when_it_is_built(options, message):
    with pytest.raises(InvalidInput, match=message):
        make(TinyNetwork(), "persistent", **({"population": 16} | options))


@pytest.mark.parametrize("averaging", ["queue", "moving"])
@pytest.mark.parametrize("num_forward", [4, 64])
def test_the_null_floor_of_a_population_of_few_data_is_a_number(averaging, num_forward):
    options = {"population": 16, "averaging": averaging, "log_every": 1, "num_states": 8}
    regularizer = make(network := TinyNetwork(), "full", num_forward=num_forward, **options)
    nulls = []
    for batch in DATA.split(2):
        regularizer.backward(network, batch, lambda: main_term(network))
        nulls += [regularizer.log["regularizer_null"]] if regularizer.log else []
    assert len(nulls) >= 3 and all(map(math.isfinite, nulls))


def test_autocast_leaves_the_kernel_alone():
    class Shift(torch.nn.Module):  # no product that autocast would round
        def __init__(self):
            super().__init__()
            self.by = torch.nn.Parameter(torch.full((3,), 0.1))

        def forward(self, x, timestep):
            return x + self.by

    values = []
    for enabled in (False, True):
        network = Shift()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            make(network, "full", num_forward=8).backward(
                network, DATA + 3, lambda n=network: n.by.sum()
            )
        values.append(gradients(network))
    assert_same(*values)


def test_states_that_explode_are_told_in_words():
    network = TinyNetwork()
    with torch.no_grad():
        network.outer.fill_(math.nan)
    with pytest.raises(InvalidInput, match=r"states at t = \d+ hold NaN or infinity"):
        make(network, "persistent")(network, DATA)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "best"}, "unknown variant 'best'"),
        ({"windw": 0.2}, "unknown option of the regularizer 'windw': did you mean window"),
        ({"features": "pyramid"}, "unknown option of the regularizer 'features'"),
        ({"num_states": 1}, "num_states of the regularizer is 1"),
        ({"num_forward": 0}, "num_forward of the regularizer is 0"),
        ({"num_cohorts": 0}, "num_cohorts of the regularizer is 0"),
        ({"stride": 0}, "stride of the regularizer is 0"),
        ({"every": 0}, "every of the regularizer is 0"),
        ({"length": 0}, "length of the regularizer is 0"),
        ({"strength": -1.0}, "strength of the regularizer is -1"),
        ({"strength": math.nan}, "strength of the regularizer is nan"),
        ({"window": 0.0}, "window of the regularizer is 0.0"),
        ({"window": 1.5}, "window of the regularizer is 1.5"),
        ({"weighting": "best"}, "unknown weighting 'best'"),
        ({"weighting": {}}, "a table of weights needs"),
        ({"weighting": {5: -1.0}}, "not negative"),
        ({"weighting": {5: 0.0}}, "one has to be positive"),
        ({"weighting": "exponential", "rho": math.inf}, "rho of the exponential weights is inf"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        CumulativeErrorRegularizer(tiny_sampler(TinyNetwork()), **options)


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": math.nan}, {"decay": 1.0}])
def test_a_balance_without_meaning_is_refused(options):
    with pytest.raises(InvalidInput):
        GradientBalance(**options)


def test_a_balance_needs_the_main_term():
    network = TinyNetwork()
    with pytest.raises(InvalidInput, match="needs the main term"):
        make(network, "full", strength=None)(network, DATA)


class RecordingSampler(DDIMSampler):
    """Keeps the forward draws that it made."""

    def forward(self, x_0, t, *, generator=None):
        self.draws.append(super().forward(x_0, t, generator=generator))
        return self.draws[-1]


def check_against_one_process(variant, mode, wrapped, network, x_0):
    """The gradient of this process is that of one that has the states and draws of both."""
    from accelerate.utils import gather

    sampler = RecordingSampler(tiny_sampler(network).denoiser, 10, clip=None)
    regularizer = CumulativeErrorRegularizer(
        sampler,
        variant=variant,
        strength=2.0,
        num_states=8,
        num_forward=16,
        num_cohorts=1,
        every=1,
        window=1.0,
    )
    sampler.draws, begin = [], 0
    if variant == "persistent":  # from the second call on its states are known before
        regularizer(wrapped, x_0).backward()
        begin, starts = 1, regularizer.rollout.states[0].x
        sampler.draws.clear()
    network.zero_grad()
    if mode == "backward":
        regularizer.backward(wrapped, x_0, lambda: 0 * main_term(wrapped, x_0))
    else:
        regularizer(wrapped, x_0).backward()
    end = sampler.grid.index(int(regularizer.log["regularizer_t"]))
    draws = sampler.draws[0]
    if variant == "full":
        begin, starts, draws = max(0, end - 5), sampler.draws[0], sampler.draws[1]
    x, y, alone = gather(starts), draws, TinyNetwork()
    assert x.shape == (8, 3) and y.shape == (16, 3)
    assert not torch.allclose(x[:4], x[4:])
    for i in range(begin, end):
        x = ddim_module(alone, sampler.schedule, x, *sampler.grid[i : i + 2])
    (2 * unbiased_without_reference(x, y)).backward()
    assert_same(gradients(network), gradients(alone), rtol=1e-4, atol=1e-7)


def in_each_process():
    """Run in two processes: one kernel over both, gradients as if one had done all."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import gather

    AcceleratorState._reset_state(reset_partial_state=True)
    network = TinyNetwork()
    regularizer = CumulativeErrorRegularizer(
        tiny_sampler(network), variant="truncated", num_states=8, every=1
    )  # built before the processes know of each other
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    wrapped = accelerator.prepare(network)
    x_0 = torch.randn(12, 3, generator=noise_source(accelerator.process_index))
    for variant, mode in (("persistent", "backward"), ("persistent", "call"), ("full", "call")):
        check_against_one_process(variant, mode, wrapped, network, x_0)
    shared = []
    for _ in range(8):
        regularizer(wrapped, x_0, main_term(wrapped, x_0))
        shared += [regularizer.log["regularizer_t"], regularizer.log["lambda"]]
        shared.append(torch.randn((), generator=regularizer.streams["noise"]).item())
    both = gather(torch.tensor(shared, dtype=torch.float64)).reshape(2, -1)
    assert torch.equal(*both) and len(both[0].unique()) > 16


def test_two_processes_make_one_kernel_and_one_gradient():
    from accelerate import debug_launcher

    debug_launcher(in_each_process, num_processes=2)


def test_a_pyramid_sees_noise_alike_at_all_levels_and_brightness_most_at_the_top():
    noise = torch.randn(4000, 2, 8, 8, generator=noise_source())
    pyramid = Pyramid()
    variances = pyramid(noise, 0)[0].flatten(1).var(0)
    assert variances.shape == (2 * (64 + 16 + 4 + 1),)
    assert variances.min() > 0.85 and variances.max() < 1.15
    brighter = (pyramid(noise + 0.1, 0)[0] - pyramid(noise, 0)[0]).flatten(1)
    sizes = [0.1] * 128 + [0.2] * 32 + [0.4] * 8 + [0.8] * 2
    torch.testing.assert_close(brighter.mean(0), torch.tensor(sizes))
    odd = torch.arange(6.0).view(1, 1, 2, 3)  # the last column belongs to no block of 2x2
    torch.testing.assert_close(pyramid(odd, 0)[0][0, -1, 0], torch.tensor((0 + 1 + 3 + 4) / 2))


def test_a_pipeline_is_regularized_as_its_chain_is():
    from diffusers import DDIMScheduler

    values = []
    scheduler = DDIMScheduler(num_train_timesteps=100, prediction_type="sample", clip_sample=False)
    for as_pipeline in (True, False):
        network = TinyNetwork()
        denoiser = Denoiser(network, Schedule.from_diffusers(scheduler), "sample")
        pipeline = SimpleNamespace(unet=network, scheduler=scheduler)
        model = pipeline if as_pipeline else DDIMSampler(denoiser, clip=None, spacing="leading")
        regularizer = CumulativeErrorRegularizer(
            model, variant="full", strength=1.0, num_inference_steps=10, every=1, num_states=4
        )
        assert len(regularizer.sampler.grid) == 11
        for _ in range(3):
            value = regularizer(network, DATA)
        value.backward()
        values.append((value.detach(), *gradients(network)))
        assert values[-1][1].abs().max() > 0
    assert_same(*values, rtol=1e-5, atol=1e-8)


def test_what_has_no_network_is_refused_in_one_line():
    sampler = exact_sampler()
    sampler.network = None
    for model, message in (
        (sampler, "shows no network that could be trained"),
        (3, "cannot sample from a"),
    ):
        with pytest.raises(InvalidInput, match=message) as caught:
            CumulativeErrorRegularizer(model)
        assert "\n" not in str(caught.value)
