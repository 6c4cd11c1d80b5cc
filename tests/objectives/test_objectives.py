"""Training methods against calculations of their own, on models where each term is known."""

import math

import pytest
import torch

from tiny import TinyNetwork, noise_source
from undrift.diffusion.denoiser import Denoiser, estimates
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.schedule import CosineSchedule, LinearSchedule, Schedule, SigmoidSchedule
from undrift.exceptions import InvalidInput
from undrift.objectives.consistent import ConsistentDiffusion
from undrift.objectives.continuous import ContinuousSchedule
from undrift.objectives.dream import Dream
from undrift.objectives.fokker_planck import ScoreFokkerPlanck
from undrift.objectives.input_perturbation import InputPerturbation
from undrift.objectives.mixflow import MixFlow
from undrift.objectives.objective import Plain
from undrift.objectives.scheduled_sampling import ScheduledSampling

KINDS = ("epsilon", "sample", "v_prediction")
ALL = (Plain, InputPerturbation, Dream, ScheduledSampling, ConsistentDiffusion, ScoreFokkerPlanck)
TERMS = (ConsistentDiffusion, ScoreFokkerPlanck)


class Known(torch.nn.Module):
    """A network of any kind whose estimate of the data is given, times a gain to be learned.

    `x0_hat(x, alpha, sigma)` is called with noise levels that broadcast to the states.
    """

    def __init__(self, x0_hat, schedule, kind="sample", gain=1.0):
        super().__init__()
        self.x0_hat, self.kind = x0_hat, kind
        self.gain = torch.nn.Parameter(torch.tensor(gain, dtype=torch.float64))
        self.between = ContinuousSchedule(schedule)

    def forward(self, x, timestep):
        abar = self.between.alpha_bar((timestep.double() + 1) / self.between.num_steps)
        alpha, sigma = (a.view(-1, *[1] * (x.ndim - 1)) for a in (abar.sqrt(), (1 - abar).sqrt()))
        x0_hat = self.gain * self.x0_hat(x, alpha, sigma)
        epsilon = (x - alpha * x0_hat) / sigma
        v = alpha * epsilon - sigma * x0_hat
        return {"epsilon": epsilon, "sample": x0_hat, "v_prediction": v}[self.kind]


class Linear(torch.nn.Module):
    """One number times the state."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, timestep):
        return self.factor * x


def gaussian(variance):
    """The ideal estimate of data N(0, variance)."""
    return lambda x, alpha, sigma: alpha * variance * x / (alpha**2 * variance + sigma**2)


def two_peaks(x, alpha, sigma, v=0.04):
    """The ideal estimate of data N(±1, v) in each dimension."""
    spread = alpha**2 * v + sigma**2
    return (alpha * v * x + sigma**2 * torch.tanh(alpha * x / spread)) / spread


def denoiser(network, schedule, kind="sample"):
    return Denoiser(network, schedule, kind)


def draws(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=noise_source(seed), dtype=torch.float64)


def at(t, count):
    return torch.full((count,), t)


def best_factor(objective, t, x_0):
    """The factor with the least loss, from the loss' gradient at two factors."""
    network, slopes = Linear(), []
    for factor in (0.0, 1.0):
        network.factor.data.fill_(factor)
        loss = objective(network, x_0, t=at(t, len(x_0)), generator=noise_source(3))
        slopes.append(float(torch.autograd.grad(loss, network.factor)[0]))
        objective.load_state_dict(start := getattr(objective, "start", objective.state_dict()))
        objective.start = start
    return slopes[0] / (slopes[0] - slopes[1])


def objective_of(kind, model, **options):
    """Any objective over a chain whose modules add no clipping."""
    return kind(AncestralSampler(model, clip=None), **options)


# --- the interface


@pytest.mark.parametrize("kind", KINDS)
def test_plain_is_the_mean_squared_error_of_the_forward_draw(kind):
    schedule, network = CosineSchedule(30), TinyNetwork()
    x_0 = torch.randn(50, 3, generator=noise_source(1))
    loss = Plain(denoiser(network, schedule, kind))(network, x_0, generator=noise_source(2))
    source = noise_source(2)
    t = torch.randint(1, 31, (50,), generator=source)
    epsilon = torch.randn(50, 3, generator=source)
    abar = schedule.alphas_cumprod[t][:, None]
    alpha, sigma = abar.sqrt().float(), (1 - abar).sqrt().float()
    target = {"epsilon": epsilon, "sample": x_0, "v_prediction": alpha * epsilon - sigma * x_0}
    said = network(alpha * x_0 + sigma * epsilon, t - 1)
    assert float(loss.detach()) == float((said - target[kind]).detach().square().mean())


@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_every_method_serves_every_kind_and_resumes_exactly(objective, kind):
    network = TinyNetwork()
    model = denoiser(network, LinearSchedule(200), kind)
    x_0 = torch.randn(16, 3, generator=noise_source(1))
    whole, resumed = (objective_of(objective, model, seed=4) for _ in range(2))
    for _ in range(2):
        whole(network, x_0)
    resumed.load_state_dict(whole.state_dict())
    losses = [method(network, x_0) for method in (whole, resumed)]
    assert torch.equal(*losses) and whole.log == resumed.log
    gradients = [torch.autograd.grad(loss, [*network.parameters()]) for loss in losses]
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b) and bool(a.isfinite().all()) and float(a.abs().max()) > 0
    assert float(whole(network, x_0)) != float(losses[0])  # new draws


def test_steps_and_noise_of_the_main_term_are_the_same_for_all():
    seen, network = {}, TinyNetwork()
    x_0 = torch.randn(16, 3, generator=noise_source(1))
    for kind in ALL:
        objective = objective_of(kind, denoiser(network, LinearSchedule(200)), seed=4)
        pair, seen[kind] = objective.pair, []

        def noted(model, x_0, t, epsilon, pair=pair, into=seen[kind]):
            into.append(torch.cat([t[:, None], epsilon], 1))
            return pair(model, x_0, t, epsilon)

        objective.pair = noted
        before = torch.get_rng_state()
        for _ in range(3):
            objective(network, x_0)
        assert torch.equal(torch.get_rng_state(), before)
    for kind in ALL:
        assert all(map(torch.equal, seen[kind], seen[Plain]))
    assert not torch.equal(*seen[Plain][:2])


@pytest.mark.parametrize("objective", ALL)
@pytest.mark.parametrize("end", [1, 1000])
def test_the_ends_of_the_schedule_do_no_harm(objective, end):
    table = CosineSchedule(1000).alphas_cumprod.clone()
    table[-1] = 0.0  # no signal at all
    network = TinyNetwork()
    method = objective_of(objective, denoiser(network, Schedule(table), "v_prediction"))
    loss = method(network, torch.randn(8, 3, generator=noise_source()), t=at(end, 8))
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, [*network.parameters()]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: InputPerturbation(m, strength=-0.1), "strength of InputPerturbation is -0.1"),
        (lambda m: Dream(m, strength=math.inf), "strength of Dream is inf: choose at least 0"),
        (lambda m: ConsistentDiffusion(m, strength=math.nan), "strength of ConsistentDiffusion"),
        (lambda m: ConsistentDiffusion(m, interval=0), "interval of a branch is 0: choose above 0"),
        (lambda m: ScoreFokkerPlanck(m, log_every=0), "log_every is 0: choose at least 1"),
        (lambda m: ScoreFokkerPlanck(m, back=0.2), "steps 0.2 and 0.0005 of the differences"),
        (lambda m: ScheduledSampling(AncestralSampler(m), length=-1), "length of the rollout is -"),
        (
            lambda m: ScheduledSampling(AncestralSampler(m, variance_type="learned")),
            "needs a fixed reverse variance, not 'learned'",
        ),
    ],
)
def test_options_without_meaning_are_refused_in_one_line(make, message):
    with pytest.raises(InvalidInput, match=message) as error:
        make(denoiser(TinyNetwork(), LinearSchedule(20)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("objective", TERMS)
def test_terms_log_both_gradients_and_warn_when_they_do_nothing(objective):
    network = TinyNetwork()
    model = denoiser(network, LinearSchedule(100))
    x_0 = torch.randn(8, 3, generator=noise_source(1))
    method = objective_of(objective, model, strength=2.0)
    loss, log = method(network, x_0), dict(method.log)
    assert float(loss) == pytest.approx(log["main"] + 2 * log["term"])
    plain = Plain(model)(network, x_0)
    assert log["main"] == float(plain)
    parameters = [*network.parameters()]
    parts = [torch.autograd.grad(y, parameters) for y in (plain, loss)]
    norms = [
        torch.cat([g.flatten() for g in part]).norm()
        for part in (parts[0], [b - a for a, b in zip(*parts, strict=True)])
    ]
    assert log["grad_norm_main"] == pytest.approx(float(norms[0]), rel=1e-5)
    assert log["grad_norm_term"] == pytest.approx(float(norms[1]), rel=1e-3)
    weak = objective_of(objective, model, strength=1e-9, log_every=100)
    with pytest.warns(UserWarning, match=f"term of {objective.__name__} .* has no effect; raise"):
        for _ in range(101):
            weak(network, x_0)


# --- input perturbation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [5, 25])
def test_input_perturbation_has_the_optimum_of_its_derivation(kind, t):
    schedule, gamma, variance = CosineSchedule(30), 0.6, 2.0
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    objective = InputPerturbation(denoiser(Linear(), schedule, kind), strength=gamma)
    spread = alpha**2 * variance + sigma**2 * (1 + gamma**2)
    shared = {"epsilon": sigma, "sample": alpha * variance}
    shared["v_prediction"] = alpha * sigma - sigma * alpha * variance
    found = best_factor(objective, t, draws(400_000, 1, scale=variance**0.5))
    assert found == pytest.approx(shared[kind] / spread, abs=0.006)


@pytest.mark.parametrize("t", [15, 25])
def test_input_perturbation_is_the_plain_loss_on_a_rescaled_schedule(t):
    schedule, gamma = CosineSchedule(30), 0.6
    abar = schedule.alphas_cumprod
    total = abar + (1 - abar) * (1 + gamma**2)
    rescaled = Schedule(abar / total)
    x_0 = draws(400_000, 1, scale=1.4)
    perturbed = InputPerturbation(denoiser(Linear(), schedule, "epsilon"), strength=gamma)
    plain = Plain(denoiser(Linear(), rescaled, "epsilon"))
    stretch = math.sqrt(float(total[t]) * (1 + gamma**2))  # of the state, and of the target
    found, expected = best_factor(perturbed, t, x_0), best_factor(plain, t, x_0) / stretch
    assert found == pytest.approx(expected, abs=0.004)
    assert abs(found - best_factor(Plain(perturbed.denoiser), t, x_0)) > 0.02


def test_no_perturbation_is_plain():
    network, x_0 = TinyNetwork(), torch.randn(16, 3, generator=noise_source(1))
    model = denoiser(network, LinearSchedule(200))
    losses = [float(m(network, x_0)) for m in (InputPerturbation(model, strength=0), Plain(model))]
    assert losses[0] == losses[1]


# --- MixFlow


@pytest.mark.parametrize("kind", KINDS)
def test_mixflow_has_the_optimum_of_its_derivation(kind):
    """The least-squares factor of targets on states, averaged over the times that are shown."""
    schedule, gamma, variance, t = CosineSchedule(100), 0.5, 2.0, 40
    objective = MixFlow(denoiser(Linear(), schedule, kind), strength=gamma)
    shown = torch.linspace(t, t + gamma * (100 - t), 4001, dtype=torch.float64).round().long()
    alpha, sigma = schedule.alpha_sigma(shown, draws(1))
    of_target = {"epsilon": sigma, "sample": alpha * variance}
    of_target["v_prediction"] = alpha * sigma - sigma * alpha * variance
    best = of_target[kind].mean() / (alpha**2 * variance + sigma**2).mean()
    found = best_factor(objective, t, draws(400_000, 1, scale=variance**0.5))
    assert found == pytest.approx(float(best), abs=0.006)


def test_mixflow_draws_late_times_by_their_law():
    """Data times have the law Beta(2, 1): P(r <= x) = x^2."""
    objective = MixFlow(denoiser(Linear(), CosineSchedule(1000)))
    uniform = torch.randint(1, 1001, (40_000,), generator=noise_source(0))
    r = 1 - (objective.emphasized(uniform).double() - 0.5) / 1000
    levels = torch.linspace(0, 1, 1001, dtype=torch.float64)
    below = (r[:, None] <= levels).double().mean(0)
    assert float((below - levels**2).abs().max()) < 1.63 / 200 + 0.002  # Kolmogorov, 1 in 100


def test_mixflow_shows_no_state_of_a_later_time():
    class Shown(MixFlow):
        def noisy(self, x_0, t, epsilon):
            times.append(t)
            return super().noisy(x_0, t, epsilon)

    times = []
    objective = Shown(denoiser(Linear(), CosineSchedule(50)), strength=0.8)
    told = torch.arange(1, 51).repeat(200)
    objective.pair(objective.denoiser, draws(len(told), 1), told, draws(len(told), 1, seed=1))
    shown = times[0]
    assert bool((shown >= told).all()) and bool((shown <= told + 0.8 * (50 - told) + 0.5).all())
    assert float((shown - told)[told == 10].float().mean()) == pytest.approx(0.4 * 40, rel=0.1)


# --- DREAM


def test_dream_equals_that_of_diffusers_for_noise_networks():
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_dream_and_update_latents

    theirs = DDPMScheduler(100)
    schedule = Schedule.from_diffusers(theirs)
    weight = torch.randn(3, 3, 1, 1, generator=noise_source(5))

    class Network(torch.nn.Module):
        def forward(self, x, timestep, condition=None):
            out = torch.nn.functional.conv2d(x, weight) + timestep.view(-1, 1, 1, 1) / 100
            return type("Output", (), {"sample": out})()

    x_0 = torch.randn(6, 3, 4, 4, generator=noise_source(1))
    epsilon = torch.randn(6, 3, 4, 4, generator=noise_source(2))
    t = torch.tensor([1, 7, 30, 60, 99, 100])
    network = Network()
    for p in (0.5, 1.0, 10.0):
        objective = Dream(denoiser(network, schedule, "epsilon"), strength=p)
        ours = objective.pair(objective.denoiser, x_0, t, epsilon)
        noisy = theirs.add_noise(x_0, epsilon, t - 1)
        expected = compute_dream_and_update_latents(
            network, theirs, t - 1, epsilon, noisy, epsilon, None, p
        )
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dream_is_one_method_for_all_kinds(kind):
    schedule, t = CosineSchedule(40), torch.tensor([1, 10, 20, 39])
    x_0, epsilon = draws(4, 3), draws(4, 3, seed=1)
    alpha, sigma = schedule.alpha_sigma(t, x_0)
    x_t = alpha * x_0 + sigma * epsilon
    x0_hat = 0.8 * gaussian(0.5)(x_t, alpha, sigma)
    model = denoiser(Known(gaussian(0.5), schedule, kind, gain=0.8), schedule, kind)
    delta = epsilon - (x_t - alpha * x0_hat) / sigma
    for p in (0.0, 1.0):
        x, target = Dream(model, strength=p).pair(model, x_0, t, epsilon)
        torch.testing.assert_close(x, x_t + sigma * sigma**p * delta)
        implied = estimates(target, x, alpha, sigma, kind)
        torch.testing.assert_close(implied.epsilon_hat, epsilon + sigma**p * delta)
        torch.testing.assert_close(implied.x0_hat, x_0)
    x, _ = Dream(model, strength=0).pair(model, x_0, t, epsilon)
    torch.testing.assert_close(x, alpha * x0_hat + sigma * epsilon)  # its own estimate, noised


@pytest.mark.parametrize("kind", KINDS)
def test_dream_is_plain_for_a_network_that_knows_the_data_or_a_large_exponent(kind):
    schedule, x_0 = CosineSchedule(40), draws(64, 3)
    perfect = Known(lambda x, alpha, sigma: x_0, schedule, kind)
    wrong = Known(gaussian(0.5), schedule, kind, gain=0.5)
    for network, p, t in ((perfect, 1.0, 20), (wrong, 2000.0, 20), (wrong, 1.0, 20)):
        model = denoiser(network, schedule, kind)
        dream, plain = (
            m(model, x_0, t=at(t, 64)) for m in (Dream(model, strength=p), Plain(model))
        )
        same = math.isclose(float(dream), float(plain), rel_tol=1e-9, abs_tol=1e-12)
        assert same == (network is perfect or p > 1)


# --- scheduled sampling


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollout_of_nothing_is_plain(kind):
    network, x_0 = TinyNetwork(), torch.randn(16, 3, generator=noise_source(1))
    model = denoiser(network, LinearSchedule(200), kind)
    rolled = ScheduledSampling(AncestralSampler(model), length=0)
    assert float(rolled(network, x_0)) == float(Plain(model)(network, x_0))


@pytest.mark.parametrize(
    "make",
    [
        lambda m: AncestralSampler(m),
        lambda m: AncestralSampler(m, variance_type="fixed_large", clip=None),
        lambda m: AncestralSampler(m, 10),
        lambda m: DDIMSampler(m),
        lambda m: DDIMSampler(m, eta=0.5, clipped_epsilon=True),
        lambda m: DDIMSampler(m, 20, eta=1.0, clip=None),
    ],
)
def test_rows_move_by_the_modules_of_the_sampler(make):
    schedule = CosineSchedule(40)
    model = denoiser(Known(gaussian(2.0), schedule, "v_prediction"), schedule, "v_prediction")
    sampler = make(model)
    objective = ScheduledSampling(sampler, length=3)
    step = 40 // (len(sampler.grid) - 1)
    x_0, epsilon = draws(400, 2), draws(400, 2, seed=1)
    for noise in (0.0, 1.0):
        objective.draw = lambda like, noise=noise: torch.full_like(like, noise)
        x, _ = objective.pair(model, x_0, at(12, 400), epsilon)
        expected = []
        for k in range(4):
            state = schedule.alpha(12 + k * step) * x_0 + schedule.sigma(12 + k * step) * epsilon
            for t in range(12 + k * step, 12, -step):
                kernel = sampler.kernel(state, t, t - step)
                state = kernel.mean + math.sqrt(kernel.variance) * noise
            expected.append(state)
        gaps = (x - torch.stack(expected)).abs().sum(-1)
        assert float(gaps.detach().amin(0).max()) < 1e-6  # each row is at one of the four lengths
        lengths = gaps.argmin(0).bincount(minlength=4)
        assert float((lengths - 100).square().sum() / 100) < 16.3  # 3 df, p = 0.001


def test_rollouts_begin_on_the_schedule():
    network, x_0 = TinyNetwork(), torch.randn(64, 3, generator=noise_source(1))
    objective = ScheduledSampling(
        AncestralSampler(denoiser(network, LinearSchedule(100))), length=7
    )
    objective(network, x_0, t=at(98, 64))
    assert set(network.timesteps) == {97, 98, 99} and network.with_graph == 1


@pytest.mark.parametrize("kind", KINDS)
def test_scheduled_sampling_shrinks_the_estimate_even_of_a_perfect_model(kind):
    schedule, t, length = CosineSchedule(20), 8, 2
    network = Known(gaussian(1.0), schedule, kind)  # data N(0, 1): the large variance is true
    model = denoiser(network, schedule, kind)
    sampler = AncestralSampler(model, clip=None, variance_type="fixed_large")
    objective = ScheduledSampling(sampler, length=length)
    x_0, epsilon = draws(200_000, 1), draws(200_000, 1, seed=1)
    x, target = objective.pair(model, x_0, at(t, len(x_0)), epsilon)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    implied = estimates(target, x, alpha, sigma, kind).x0_hat
    torch.testing.assert_close(implied, x_0)
    rho_sq = [schedule.alpha_bar(t + k) / schedule.alpha_bar(t) for k in range(length + 1)]
    shrinkage = sum(rho_sq) / len(rho_sq)
    assert shrinkage < 0.9
    assert float((x * x).mean()) == pytest.approx(1, abs=0.02)
    assert float((x * x_0).mean()) == pytest.approx(alpha * shrinkage, abs=0.01)


# --- consistent diffusion


def silenced(objective):
    """The objective with branches that follow their mean."""
    objective.draw = torch.zeros_like
    return objective


def drift(objective, model, x_t, t):
    """D(x') − D(x) of both branches, by the term's own parts."""
    start = model(x_t, t)
    grid = objective.levels(t)
    ends = objective.branches(model, x_t, start, grid)
    return [end - start for end in objective._estimate(model, ends, grid[-1].repeat(2)).chunk(2)]


@torch.no_grad()
@pytest.mark.parametrize("schedule", [LinearSchedule(100), SigmoidSchedule(1000)])
def test_the_ideal_estimate_is_a_martingale_to_first_order_in_the_steps(schedule):
    t = at(int((schedule.alphas_cumprod > 0.5).sum()), 5)  # as much noise as signal
    model = denoiser(Known(gaussian(4.0), schedule), schedule)
    x_t, gaps = draws(5, 2, scale=2), {}
    for gain in (1.0, 0.6):
        model.network.gain.data.fill_(gain)
        gaps[gain] = [
            float(
                drift(
                    silenced(ConsistentDiffusion(model, interval=0.3, num_steps=n)), model, x_t, t
                )[0].norm()
            )
            for n in (4, 8, 16, 32)
        ]
    ratios = [math.log2(a / b) for a, b in zip(gaps[1.0], gaps[1.0][1:], strict=False)]
    assert ratios == pytest.approx([1, 1, 1], abs=0.1)
    assert gaps[0.6][-1] > 20 * gaps[1.0][-1]
    assert gaps[0.6][-1] == pytest.approx(gaps[0.6][-2], rel=0.1)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_consistency_term_is_unbiased(kind):
    schedule = LinearSchedule(100)
    model = denoiser(Known(gaussian(4.0), schedule, kind, gain=0.5), schedule, kind)
    x_t, t = torch.full((40_000, 2), 2.0, dtype=torch.float64), at(25, 40_000)
    expected = drift(silenced(ConsistentDiffusion(model, interval=1e-9)), model, x_t[:1], t[:1])
    assert float(expected[0].abs().max()) < 1e-8  # nothing happens in no time
    objective = ConsistentDiffusion(model, interval=0.6)
    low = objective.levels(t)
    assert bool((low[0] - low[-1] <= 0.6).all()) and float((low[0] - low[-1]).mean()) == (
        pytest.approx(0.3, abs=0.01)
    )
    row = int((low[0] - low[-1] - 0.2).abs().argmin())  # one length of branch for all
    fixed = low[:, row : row + 1].expand(-1, len(t))
    objective.levels = silent_levels = lambda t: fixed[:, : len(t)]
    silent = silenced(ConsistentDiffusion(model, interval=0.6))
    silent.levels = silent_levels
    mean = drift(silent, model, x_t[:1], t[:1])[0]  # the estimate is linear in the noise
    first, second = drift(objective, model, x_t, t)
    product = (first * second).mean(1)
    error = float(product.std()) / math.sqrt(len(t))
    assert abs(float(product.mean() - mean.square().mean())) < 4 * error
    assert float(mean.square().mean()) > 5 * error
    assert float(product.min()) < 0 < float(first.square().mean() - 2 * mean.square().mean())


@torch.no_grad()
def test_the_consistency_term_is_zero_for_the_ideal_denoiser_of_a_mixture():
    schedule = LinearSchedule(100)

    signs, noise, values = draws(40_000, 1).sign(), draws(40_000, 1, seed=1), {}
    for gain in (1.0, 0.5):
        model = denoiser(Known(two_peaks, schedule, "v_prediction", gain), schedule, "v_prediction")
        objective = ConsistentDiffusion(model, interval=0.5, num_steps=20)
        x_t = schedule.alpha(20) * signs + schedule.sigma(20) * noise
        first, second = drift(objective, model, x_t, at(20, 40_000))
        product = first * second
        values[gain] = float(product.mean() / (product.std() / 200))
        assert float(product.mean()) < 0.2 * float(first.square().mean())
    assert abs(values[1.0]) < 4 < 10 < values[0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_the_consistency_term_has_its_published_weight_beside_the_main_term(kind):
    schedule, t = LinearSchedule(100), at(30, 64)
    model = denoiser(Known(gaussian(0.7), schedule, kind, gain=0.5), schedule, kind)
    objective = ConsistentDiffusion(model)
    x_0 = draws(64, 3)
    objective(model, x_0, t=t, epsilon=draws(64, 3, seed=1))
    x_t = schedule.alpha(30) * x_0 + schedule.sigma(30) * draws(64, 3, seed=1)
    again = ConsistentDiffusion(model)
    with again.aside(x_0):
        first, second = drift(again, model, x_t, t)
    ratio = schedule.sigma(30) / schedule.alpha(30)
    published = (4 + 1 / ratio**2) * (model(x_t, t) - x_0).square()
    expected = float((first * second).mean() / published.mean())
    assert objective.log["term"] / objective.log["main"] == pytest.approx(expected, rel=1e-6)


def test_gradients_go_through_the_three_estimates_only():
    network = TinyNetwork()
    objective = ConsistentDiffusion(denoiser(network, LinearSchedule(100)))
    objective(network, torch.randn(8, 3, generator=noise_source()))
    assert len(network.timesteps) == 6  # the main term, four of five steps, both ends at once
    assert network.with_graph == 2


# --- score Fokker–Planck


def residual(model, x, tau, **options):
    return ScoreFokkerPlanck(model, **options).residual(model, x, torch.full((len(x),), tau))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [0.123, 0.567])
def test_the_residual_of_the_exact_score_vanishes_in_second_order(kind, tau):
    schedule = LinearSchedule(40)
    variance = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    model = denoiser(Known(gaussian(variance), schedule, kind), schedule, kind)
    x = draws(6, 3)
    gaps = [float(residual(model, x, tau, back=h, ahead=h / 2).norm()) for h in (8e-4, 4e-4, 2e-4)]
    slopes = [math.log2(a / b) for a, b in zip(gaps, gaps[1:], strict=False)]
    assert slopes == pytest.approx([2, 2], abs=0.05)


@pytest.mark.parametrize("schedule", [LinearSchedule(1000), CosineSchedule(1000)])
def test_at_the_steps_themselves_the_residual_is_small_beside_its_parts(schedule):
    model = denoiser(Known(gaussian(0.25), schedule), schedule)
    objective = ScoreFokkerPlanck(model)
    for t in (10, 100, 500, 850):
        x, tau = draws(6, 3), torch.full((6,), t / 1000, dtype=torch.float64)
        half = [objective.score(model, x, tau + h) for h in (1e-5, -1e-5)]
        whole = (half[0] - half[1]) / 2e-5
        assert float(objective.residual(model, x, tau).norm() / whole.norm()) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_the_residual_of_a_wrong_score_is_its_closed_form(kind):
    schedule, variance, c, tau = LinearSchedule(40), 0.5, 0.8, 0.4321
    between = ContinuousSchedule(schedule)
    at_tau = torch.tensor([tau], dtype=torch.float64)
    abar, beta = float(between.alpha_bar(at_tau)), float(between.beta(at_tau))
    spread = abar * variance + 1 - abar

    def scaled(x, alpha, sigma):  # of the score −c x / spread
        return (x - sigma**2 * c * x / (alpha**2 * variance + sigma**2)) / alpha

    model = denoiser(Known(scaled, schedule, kind), schedule, kind)
    x = draws(6, 3)
    found = residual(model, x, tau, back=1e-4, ahead=5e-5)
    torch.testing.assert_close(found, beta * c * (1 - c) * x / spread**2, rtol=1e-3, atol=1e-5)


def test_the_residual_of_a_mixture_vanishes_and_tells_a_wrong_one():
    schedule = LinearSchedule(40)

    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]  # one dimension: probes are exact
    sizes = [
        float(residual(denoiser(Known(two_peaks, schedule, gain=gain), schedule), x, 0.3).norm())
        for gain in (1.0, 0.97)
    ]
    assert sizes[0] < 0.01 * sizes[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_fokker_planck_term_has_its_published_weight_beside_the_main_term(kind):
    schedule, t, d = LinearSchedule(100), at(30, 16), 3
    model = denoiser(Known(gaussian(0.7), schedule, kind, gain=0.5), schedule, kind)
    x_0, epsilon = draws(16, d), draws(16, d, seed=1)
    objective, again = ScoreFokkerPlanck(model), ScoreFokkerPlanck(model)
    objective(model, x_0, t=t, epsilon=epsilon)
    sigma, tau = schedule.sigma(30), t.double() / 100
    x_t = schedule.alpha(30) * x_0 + sigma * epsilon
    g_sq = float(again.continuous.beta(tau)[0])
    rest = again.residual(model, x_t, tau).flatten(1).square().sum(1)
    score = again.score(model, x_t, tau)
    published = g_sq / 2 * (score + epsilon / sigma).square().sum(1)
    expected = float((g_sq * rest / d**2).mean() / published.mean())
    assert objective.log["term"] / objective.log["main"] == pytest.approx(expected, rel=1e-6)


def test_the_term_is_left_out_where_it_cannot_be_trusted():
    schedule, network = CosineSchedule(1000), TinyNetwork()
    objective = ScoreFokkerPlanck(denoiser(network, schedule, "v_prediction"))
    betas = objective.continuous.beta(torch.arange(1001) / 1000)
    for t in (9, 10, 500, 890, 990):
        objective(network, torch.randn(8, 3, generator=noise_source()), t=at(t, 8))
        used = t >= 10 and float(betas[t]) <= 20
        assert (objective.log["term"] > 0) == used and used == (t in (10, 500, 890))


def test_attention_can_be_differentiated_twice():
    from undrift.training.building import build_network
    from undrift.training.config import ModelConfig

    options = ModelConfig(block_out_channels=[8, 8], norm_num_groups=4, attention=True)
    network = build_network(options, (1, 8, 8))
    objective = ScoreFokkerPlanck(denoiser(network, LinearSchedule(100), "epsilon"))
    loss = objective(network, torch.randn(2, 1, 8, 8, generator=noise_source()), t=at(50, 2))
    loss.backward()
    assert objective.log["grad_norm_term"] > 0


# --- the schedule between its steps


@pytest.mark.parametrize("schedule", [LinearSchedule(50), CosineSchedule(50), SigmoidSchedule(7)])
def test_between_its_steps_a_schedule_falls_and_has_its_derivative(schedule):
    between = ContinuousSchedule(schedule)
    table = between.alpha_bar(torch.arange(schedule.num_steps + 1).double() / schedule.num_steps)
    torch.testing.assert_close(table, schedule.alphas_cumprod, rtol=1e-9, atol=0)
    tau = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    assert bool((between.alpha_bar(tau).diff() < 0).all())
    h = 1e-6
    ahead, back = (between.alpha_bar(tau + step).log() for step in (h, -h))
    torch.testing.assert_close((back - ahead) / (2 * h), between.beta(tau), rtol=1e-4, atol=1e-4)
    abar = between.alpha_bar(tau)
    steps = between.step(((1 - abar) / abar).sqrt())
    expected = (tau * schedule.num_steps).clamp(min=1)
    torch.testing.assert_close(steps, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("beta_end", [0.06, 0.1, 0.3])
def test_a_schedule_that_ends_almost_without_signal_has_a_finite_rate(beta_end):
    schedule = LinearSchedule(1000, 1e-4, beta_end)
    between = ContinuousSchedule(schedule)
    tau = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert bool(between.alpha_bar(tau).isfinite().all()) and bool((between.beta(tau) > 0).all())
    torch.testing.assert_close(
        between.alpha_bar(tau), schedule.alphas_cumprod, rtol=1e-6, atol=1e-290
    )


@pytest.mark.parametrize("t", [0, 51])
def test_steps_that_the_chain_has_not_are_refused(t):
    denoiser = Denoiser(TinyNetwork(), LinearSchedule(50), "v_prediction")
    x_0 = torch.randn(4, 3, generator=noise_source())
    with pytest.raises(InvalidInput, match="from 1 to 50, the timestep of diffusers"):
        Plain(denoiser)(denoiser, x_0, t=torch.full((4,), t))


def test_the_diffusion_coefficient_is_that_of_the_published_process():
    tau = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    beta = ContinuousSchedule(LinearSchedule(1000)).beta(tau)
    torch.testing.assert_close(beta, 0.1 + 19.9 * tau, rtol=0.02, atol=0.01)
