"""Schedulers of diffusers as chains: equal to their own loops, restartable, never changed."""

import copy
from dataclasses import replace
from itertools import pairwise

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.sampler import State
from undrift.diffusion.schedule import Schedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput

KARRAS = {"use_karras_sigmas": True}
# the history of these is empty between all steps: a chain in parts is the chain
SINGLE_STEP = {
    "DDPM": ("DDPMScheduler", {}),
    "DDPM learned": ("DDPMScheduler", {"variance_type": "learned_range"}),
    "DDIM": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler leading": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "Euler karras": ("EulerDiscreteScheduler", KARRAS),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "Heun karras": ("HeunDiscreteScheduler", KARRAS),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "KDPM2 ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM++ 1": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "TCD": ("TCDScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "EDM Euler": ("EDMEulerScheduler", {}),
    "flow Euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flow Heun": ("FlowMatchHeunDiscreteScheduler", {}),
}
MULTI_STEP = {
    "DPM++ 2": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2 karras": ("DPMSolverMultistepScheduler", KARRAS),
    "DPM++ 3": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "SDE-DPM++ 2": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM singlestep": ("DPMSolverSinglestepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}),
    "PNDM Runge-Kutta": ("PNDMScheduler", {"set_alpha_to_one": True}),
    "SA": ("SASolverScheduler", {}),
    "EDM DPM++": ("EDMDPMSolverMultistepScheduler", {}),
    "flow DPM++": (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ),
}
ALL = SINGLE_STEP | MULTI_STEP
NO_TABLE = ("EDM Euler", "EDM DPM++", "flow Euler", "flow Heun")
SHAPE = (3, 2, 4, 4)


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


def make(name):
    kind, options = ALL[name]
    if name not in NO_TABLE:
        options = {"beta_schedule": "scaled_linear", "beta_start": 1e-3, "beta_end": 0.02} | options
    return getattr(diffusers, kind)(**options)


def network(x_t, timestep):
    """Neither linear nor the same at two timesteps."""
    t = timestep.to(x_t).view(-1, 1, 1, 1)
    return torch.tanh(0.8 * x_t + 0.001 * t).roll(1, 1)


def two_headed(x_t, timestep):
    """A network that learns its variance too."""
    return torch.cat([network(x_t, timestep), torch.sin(5 * x_t)], 1)


def model_of(name):
    return two_headed if "learned" in name else network


def loop(scheduler, model, n, x, generator):
    """The loop of diffusers' documentation, with the state after each call."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(n)
    options = {}
    if "generator" in scheduler.step.__code__.co_varnames:
        options["generator"] = generator
    states = [x]
    for t in scheduler.timesteps:
        x_in = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(x_in, t.expand(len(x))), t, x, **options).prev_sample
        states.append(x)
    return states


def boundaries(name, states, n):
    """The states at which a step of the grid begins."""
    if name == "PNDM":  # its second call improves the result of the first
        return [states[0], states[1], *states[3:]]
    if name == "PNDM Runge-Kutta":  # three steps of four calls
        return [*states[:12:4], *states[12:]]
    order = 2 if len(states) > n + 1 else 1
    return [*states[:-1:order], states[-1]]


@pytest.mark.parametrize("name", ALL)
def test_a_chain_equals_the_plain_loop_at_every_boundary(name):
    scheduler, n = make(name), 7
    sampler = DiffusersSampler(model_of(name), scheduler, n)
    x = sampler.prior(SHAPE, generator=noise_source(1))
    states = loop(scheduler, model_of(name), n, x, noise_source(2))
    found = list(sampler.trajectory(x, generator=noise_source(2)))
    expected = boundaries(name, states, n)
    assert [t for t, _ in found] == list(sampler.grid)
    assert len(found) == len(expected) == n + 1
    for (t, x_t), want in zip(found, expected, strict=True):
        assert torch.equal(x_t, want), t
    assert torch.isfinite(found[-1].x).all()
    assert (found[-1].x - found[-2].x).abs().max() > 0


@pytest.mark.parametrize("name", SINGLE_STEP)
def test_a_chain_in_parts_is_the_chain(name):
    sampler = DiffusersSampler(model_of(name), make(name), 6)
    x = sampler.prior(SHAPE, generator=noise_source(1))
    whole = dict(sampler.trajectory(x, generator=noise_source(2)))
    generator = noise_source(2)
    for t, s in pairwise(sampler.grid):
        x = sampler.step(x, t, s, generator=generator)
        assert torch.equal(x, whole[s]), s


# --- the history of a solver is part of its state ---


@pytest.mark.parametrize("name", ALL)
def test_a_state_can_be_advanced_twice(name):
    """Each advance gives the next state of the trajectory, and leaves the history as it was."""
    sampler = DiffusersSampler(model_of(name), make(name), 6)
    x, generator = sampler.prior(SHAPE, generator=noise_source(1)), noise_source(2)
    whole = list(sampler.trajectory(x, generator=noise_source(2)))
    state = State(sampler.grid[0], x)
    for expected in whole[1:]:
        before = generator.get_state()
        for _ in range(2):
            generator.set_state(before)
            after = sampler.advance(state, expected.t, generator=generator)
            assert after.t == expected.t
            assert torch.equal(after.x, expected.x)
        state = after


@pytest.mark.parametrize("name", ALL)
def test_a_state_may_go_to_any_later_time(name):
    sampler = DiffusersSampler(model_of(name), make(name), 6)
    x = sampler.prior(SHAPE, generator=noise_source(1))
    whole, generator = list(sampler.trajectory(x, generator=noise_source(2))), noise_source(2)
    state = State(sampler.grid[0], x)
    for position in (2, 5, 6):
        state = sampler.advance(state, sampler.grid[position], generator=generator)
        assert torch.equal(state.x, whole[position].x)


DIFFERENTIABLE = ("UniPC", "DPM++ 2", "DPM++ 3", "DEIS", "DPM singlestep", "Heun", "DDIM")


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_through_a_chain_are_those_of_finite_differences(name):
    """By the first state and by a parameter of the network, of which the history depends too."""

    def end(x_T, weight):
        sampler = DiffusersSampler(lambda x, timestep: torch.tanh(weight * x), make(name), 3)
        *_, (_, x_0) = sampler.trajectory(x_T)
        return x_0

    x_T = torch.randn(2, 3, generator=noise_source(3), dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    # diffusers' DPM-Solver++ casts states to float32, whose rounding the differences have to exceed
    tolerance = {"eps": 1e-3, "atol": 1e-2, "rtol": 1e-3} if name.startswith("DPM++") else {}
    assert torch.autograd.gradcheck(end, (x_T, weight), **tolerance)


@pytest.mark.parametrize("name", ["UniPC", "DPM++ 2", "DEIS", "LMS", "PNDM"])
def test_a_detached_state_has_no_graph_in_its_history_either(name):
    sampler = DiffusersSampler(network, make(name), 5)
    x_T = sampler.prior(SHAPE, generator=noise_source(1)).requires_grad_()
    state = list(sampler.trajectory(x_T, stop=sampler.grid[2]))[-1]
    s, cut = sampler.grid[3], state.detach()
    assert sampler.advance(replace(state, x=cut.x), s).x.requires_grad  # by its history
    after = sampler.advance(cut, s).x
    assert not after.requires_grad
    torch.testing.assert_close(after, sampler.advance(state, s).x, rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_with_steps_is_the_sampler_with_so_many(name):
    sampler = DiffusersSampler(model_of(name), make(name), 9).with_steps(4)
    built = DiffusersSampler(model_of(name), make(name), 4)
    assert sampler.grid == built.grid and sampler.describe() == built.describe()
    ours, theirs = (s.sample(SHAPE, generator=noise_source(1)) for s in (sampler, built))
    assert torch.equal(ours, theirs)


# --- laws, on Gaussian data of standard deviation c in each scaling ---

C = 0.5


class Ideal:
    """The ideal network of N(0, c²) in the parametrization of a scheduler."""

    def __init__(self, sampler):
        self.sampler, self.scheduler = sampler, sampler.scheduler
        self.noise_level = dict(zip(self.timesteps(), self.ratios(), strict=False))

    def timesteps(self):
        return [float(t) for t in self.scheduler.timesteps]

    def ratios(self):
        """σ/α at each call."""
        if hasattr(self.scheduler, "alphas_cumprod") and self.kind() != "flow_prediction":
            table = self.scheduler.alphas_cumprod.double()
            levels = ((1 - table) / table).sqrt().log()
            for t in self.timesteps():
                low = min(int(t), len(table) - 2)
                yield float(torch.lerp(levels[low], levels[low + 1], t - low).exp())
        else:
            yield from map(float, self.scheduler.sigmas)

    def kind(self):
        return self.scheduler.config.get("prediction_type", "flow_prediction")

    def __call__(self, x_in, timestep):
        level = self.noise_level[float(timestep[0])]
        if hasattr(self.scheduler, "precondition_outputs"):
            data = self.scheduler.config.sigma_data
            x_t = x_in * (level**2 + data**2) ** 0.5
            x0_hat = C**2 / (C**2 + level**2) * x_t
            skip = data**2 / (level**2 + data**2)
            return (x0_hat - skip * x_t) * (level**2 + data**2) ** 0.5 / (level * data)
        if self.kind() == "flow_prediction":
            signal = 1 - level
            total = signal**2 * C**2 + level**2
            return (level - signal * C**2) / total * x_in
        alpha, sigma = 1 / (1 + level**2) ** 0.5, level / (1 + level**2) ** 0.5
        total = alpha**2 * C**2 + sigma**2
        if self.kind() == "v_prediction":
            return alpha * sigma * (1 - C**2) / total * x_in
        return sigma / total * x_in


def ideal_sampler(scheduler, n, **options):
    sampler = DiffusersSampler(network, scheduler, n, **options)
    sampler.network = Ideal(sampler)
    return sampler


# LCM and TCD jump to data and back by design: they are exact for distilled networks only
SOLVERS = [name for name in ALL if name not in ("LCM", "TCD", "DDPM learned")]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_chain_ends_in_the_data_from_wherever_it_starts(name):
    """Each start is a true forward draw; without history the first steps are of lower order."""
    sampler = ideal_sampler(make(name), 100)
    x_0 = C * torch.randn(20_000, 1, generator=noise_source(3))
    for start in (sampler.grid[0], sampler.grid[40], sampler.grid[-2]):
        x = sampler.forward(x_0, start, generator=noise_source(4))
        *_, (_, x) = sampler.trajectory(x, start=start, generator=noise_source(5))
        # 4 standard errors of 20,000 samples are 2 %; the rest is 100 steps of first order
        assert float(x.std()) == pytest.approx(C, rel=0.1), start


DRAWS = ("DDPM", "Euler ancestral", "KDPM2 ancestral", "SDE-DPM++ 2", "SA")


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in DRAWS])
def test_a_solver_that_starts_in_the_middle_is_as_good_as_one_with_history(name):
    """The flow maps a standard deviation to that of the data; a start late on has little to err."""
    sampler, errors = ideal_sampler(make(name), 40), []
    for step in (0, 20, 30, 36):
        alpha, sigma = sampler.scale(sampler.grid[step])
        x = torch.full((1, 1), (alpha**2 * C**2 + sigma**2) ** 0.5)
        *_, (_, x) = sampler.trajectory(x, start=sampler.grid[step])
        errors.append(abs(float(x) / C - 1))
    assert max(errors[1:]) < errors[0] + 0.01
    assert errors[0] < 0.1


@pytest.mark.parametrize("name", SOLVERS)
def test_the_prior_is_the_forward_marginal_at_the_first_time(name):
    sampler = ideal_sampler(make(name), 20)
    alpha, sigma = sampler.scale(sampler.grid[0])
    prior = sampler.prior((40_000, 1), generator=noise_source(6))
    if name == "Euler leading":  # starts from unit variance, whatever the level of its first step
        assert float(prior.std()) == pytest.approx((1 + sigma**2) ** 0.5, rel=0.02)
    else:
        assert float(prior.std()) == pytest.approx(
            (alpha**2 * C**2 + sigma**2) ** 0.5, rel=0.02 + (name == "DDPM") * 0.01
        )


@pytest.mark.parametrize("name", ALL)
def test_the_forward_process_is_that_of_add_noise(name):
    scheduler = make(name)
    sampler = DiffusersSampler(network, scheduler, 9)
    scheduler.set_timesteps(9)
    x_0 = torch.randn(SHAPE, generator=noise_source(7))
    noise = torch.randn(SHAPE, generator=noise_source(8))
    order = 2 if len(scheduler.timesteps) > 12 else 1
    order = 4 if name == "PNDM Runge-Kutta" else order
    for t, timestep in zip(sampler.grid[:2], scheduler.timesteps[: 2 * order : order], strict=True):
        theirs, rows = copy.deepcopy(scheduler), timestep.expand(len(x_0))
        if hasattr(theirs, "add_noise"):
            expected = theirs.add_noise(x_0, noise, rows)
        else:
            expected = theirs.scale_noise(x_0, timestep if order == 2 else rows, noise)
        x_t = sampler.forward(x_0, t, generator=noise_source(8))
        torch.testing.assert_close(x_t, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(sampler.forward(x_0, 0), x_0)
    assert sampler.scale(0) == (1.0, 0.0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SOLVERS)
def test_epsilon_is_the_posterior_mean_of_the_noise(name, prediction_type):
    kind, options = ALL[name]
    if "flow" not in name:
        options = options | {"prediction_type": prediction_type}
    sampler = ideal_sampler(getattr(diffusers, kind)(**options), 12)
    x_t = torch.randn(SHAPE, generator=noise_source(9))
    for t in sampler.grid[:-1]:
        alpha, sigma = sampler.scale(t)
        state = x_t * (alpha**2 * C**2 + sigma**2) ** 0.5
        expected = sigma / (alpha**2 * C**2 + sigma**2) * state
        # diffusers calls the network at a timestep that it rounded: Karras' grid is off by a half
        tolerance = 2e-4 if "karras" not in name or "Euler" in name else 0.2
        torch.testing.assert_close(sampler.epsilon(state, t), expected, rtol=tolerance, atol=2e-4)


def test_epsilon_from_data_prediction():
    scheduler = DDIMScheduler(prediction_type="sample")
    sampler = DiffusersSampler(lambda x, timestep: 0.3 * x, scheduler, 10)
    x_t = torch.randn(SHAPE, generator=noise_source(9))
    alpha, sigma = sampler.scale(501)
    torch.testing.assert_close(sampler.epsilon(x_t, 501), (1 - 0.3 * alpha) / sigma * x_t)


# --- our own samplers are the same chains ---


@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range"])
def test_our_ancestral_chain_is_that_of_ddpm_scheduler(variance_type):
    scheduler = DDPMScheduler(200, variance_type=variance_type, timestep_spacing="trailing")
    model = two_headed if "learned" in variance_type else network
    theirs = DiffusersSampler(model, scheduler, 25)
    denoiser = Denoiser(model, Schedule.from_diffusers(scheduler))
    ours = AncestralSampler(denoiser, 25, variance_type=variance_type)
    assert ours.grid == theirs.grid
    x = theirs.prior(SHAPE, generator=noise_source(1))
    chains = (sampler.trajectory(x, generator=noise_source(2)) for sampler in (ours, theirs))
    for (t, x_t), (same_t, y_t) in zip(*chains, strict=True):
        assert t == same_t
        torch.testing.assert_close(x_t, y_t, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_our_ddim_chain_is_that_of_ddim_scheduler(eta):
    scheduler = DDIMScheduler(200, timestep_spacing="trailing")
    theirs = DiffusersSampler(network, scheduler, 25, step_options={"eta": eta})
    ours = DDIMSampler(Denoiser(network, Schedule.from_diffusers(scheduler)), 25, eta=eta)
    x = theirs.prior(SHAPE, generator=noise_source(1))
    (*_, (_, y)) = theirs.trajectory(x, generator=noise_source(2))
    (*_, (_, x)) = ours.trajectory(x, generator=noise_source(2))
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


# --- times, options, refusals ---


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_times_fall_from_noise_to_data(name, n):
    n += 3 * (name == "PNDM Runge-Kutta")
    sampler = DiffusersSampler(network, make(name), n)
    assert len(sampler.grid) == n + 1
    assert sampler.grid[-1] == 0
    assert all(t > s for t, s in pairwise(sampler.grid))
    scales = [sampler.scale(t) for t in sampler.grid]
    assert all(b * c > d * a for (a, b), (c, d) in pairwise(scales))
    if name in NO_TABLE:
        assert all(sampler.scale(t)[1] == pytest.approx(t, rel=1e-5) for t in sampler.grid)
    else:
        assert 0 < sampler.grid[0] <= 1001


def test_steps_that_diffusers_rounds_together_are_one():
    scheduler = diffusers.DPMSolverMultistepScheduler(100, **KARRAS)
    sampler = DiffusersSampler(network, scheduler, 30)
    scheduler.set_timesteps(30)
    values = [int(t) for t in scheduler.timesteps]
    assert len(set(values)) < 30
    assert sampler.grid == (*sorted({t + 1 for t in values}, reverse=True), 0)
    x = sampler.prior(SHAPE, generator=noise_source(1))
    states = loop(scheduler, network, 30, x, None)
    for t, x_t in sampler.trajectory(x):
        assert torch.equal(x_t, states[values.index(t - 1) if t else -1])


@pytest.mark.parametrize("name", ALL)
def test_the_given_scheduler_is_never_changed(name):
    scheduler = make(name)
    before = copy.deepcopy(vars(scheduler))
    sampler = DiffusersSampler(model_of(name), scheduler, 5)
    x = sampler.prior(SHAPE, generator=noise_source(1))
    prepared = copy.deepcopy(vars(sampler.scheduler))
    for t, x_t in sampler.trajectory(x, generator=noise_source(2)):
        if t:
            sampler.forward(x_t, t, generator=noise_source(3))
            sampler.epsilon(x_t, t)
    for kept, owner in ((before, scheduler), (prepared, sampler.scheduler)):
        assert vars(owner).keys() == kept.keys()
        for key, value in vars(owner).items():
            assert str(value) == str(kept[key]), key


def test_a_learned_variance_that_a_scheduler_does_not_use_is_left_out():
    x = torch.randn(SHAPE, generator=noise_source(1)) * 80
    plain, learned = (
        DiffusersSampler(model, EulerDiscreteScheduler(), 6) for model in (network, two_headed)
    )
    for (_, x_t), (_, y_t) in zip(plain.trajectory(x), learned.trajectory(x), strict=True):
        assert torch.equal(x_t, y_t)


def test_conditioning_and_options_reach_network_and_scheduler():
    def model(x, timestep, labels):
        assert labels.shape == (3,)
        return x * labels.view(-1, 1, 1, 1)

    sampler = DiffusersSampler(
        model,
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        4,
        conditioning={"labels": torch.tensor([0.5])},
        timestep_options={"mu": 1.0},
    )
    x = sampler.sample(SHAPE, generator=noise_source(1))
    shrink = 1.0
    for t, s in pairwise(sampler.grid):
        shrink *= 1 + 0.5 * (s - t)
    expected = shrink * sampler.prior(SHAPE, generator=noise_source(1))
    torch.testing.assert_close(x, expected)
    assert sampler.grid[0] == 1
    own = DiffusersSampler(network, DDPMScheduler(), timestep_options={"timesteps": [900, 20]})
    assert own.grid == (901, 21, 0)


def test_a_description_is_plain_data():
    import json

    sampler = DiffusersSampler(network, make("DPM++ 2 karras"), 5, step_options={"eta": 0.5})
    described = json.loads(json.dumps(sampler.describe()))
    assert described["sampler"] == "DPMSolverMultistepScheduler"
    assert described["num_inference_steps"] == 5
    assert described["prediction_type"] == "epsilon"
    assert described["scheduler"]["use_karras_sigmas"] is True


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("IPNDMScheduler", {}, "no forward process"),
        ("ScoreSdeVeScheduler", {}, "no forward process"),
        ("DDIMInverseScheduler", {}, "no forward process"),
        ("DPMSolverMultistepInverseScheduler", {}, "does not run from noise to data"),
        ("RePaintScheduler", {}, "needs more than a state to step from: original_image, mask"),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "`mu` must be passed"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "from noise to data"),
    ],
)
def test_what_is_no_chain_is_refused_in_one_line(kind, options, message):
    with pytest.raises(InvalidInput, match=message) as refusal:
        DiffusersSampler(network, getattr(diffusers, kind)(**options))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("n", [0, -3, 2000])
def test_a_wrong_number_of_steps_is_refused(n):
    with pytest.raises(InvalidInput, match=f"{n} .*steps"):
        DiffusersSampler(network, DDPMScheduler(), n)


def test_an_object_that_is_no_scheduler_is_refused():
    with pytest.raises(InvalidInput, match="object has no forward process"):
        DiffusersSampler(network, object(), 10)


def test_no_step_starts_from_data_or_from_off_the_grid():
    sampler = DiffusersSampler(network, DDPMScheduler(), 10)
    for t in (0, 500.5):
        with pytest.raises(
            InvalidInput, match=f"no denoising step of the sampler starts from time {t}"
        ):
            sampler.epsilon(torch.zeros(SHAPE), t)
    with pytest.raises(InvalidInput, match=r"time 0.5 is not on the sampler's grid"):
        list(sampler.trajectory(torch.zeros(SHAPE), start=0.5))


def test_runge_kutta_steps_need_half_steps():
    """With all training steps they have none: the default is that of the pipelines."""
    scheduler = diffusers.PNDMScheduler()
    with pytest.raises(InvalidInput, match="which 501 steps do not leave: choose 4 to 500"):
        DiffusersSampler(network, scheduler, 501)
    assert len(DiffusersSampler(network, scheduler).grid) == 51


def test_a_chain_of_pndm_from_the_middle_starts_without_runge_kutta():
    """From a time of its first steps it is the chain that skips them, on the same grid."""
    full, short = (
        DiffusersSampler(network, diffusers.PNDMScheduler(skip_prk_steps=skip), 10)
        for skip in (False, True)
    )
    x = torch.randn(SHAPE, generator=noise_source())
    for start in full.grid[1:5]:
        *_, a = full.trajectory(x, start=start)
        *_, b = short.trajectory(x, start=start)
        assert torch.equal(a.x, b.x) and torch.isfinite(a.x).all()
    assert all(not key.startswith("_internal") for key in a.history)


EXPORTED = sorted(name for name in dir(diffusers) if name.endswith("Scheduler"))
CHAINS = {
    *("CMStochasticIterative", "CogVideoXDDIM", "DDIM", "DDIMParallel", "DDPM", "DDPMParallel"),
    *("DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "EDMDPMSolverMultistep"),
    *("EDMEuler", "EulerAncestralDiscrete", "EulerDiscrete", "FlowMapEulerDiscrete"),
    *("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM", "HeunDiscrete"),
    *("KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "MiniMaxH3", "PNDM"),
    *("SASolver", "TCD", "UnCLIP", "UniPCMultistep"),
}
"""The classes that are chains at their defaults; all others of diffusers are refused."""


def test_every_chain_is_a_class_that_diffusers_exports():
    assert {f"{name}Scheduler" for name in CHAINS} <= set(EXPORTED)


@pytest.mark.parametrize("kind", EXPORTED)
def test_every_scheduler_of_diffusers_is_its_own_loop_or_refused_in_one_line(kind):
    """At its defaults, in few steps and in as many as it takes by itself.

    A class that a new diffusers exports is to be placed: in CHAINS, or it has to be refused.
    """
    is_chain = kind.removesuffix("Scheduler") in CHAINS
    for n in (6, None):
        try:
            scheduler = getattr(diffusers, kind)()
            sampler = DiffusersSampler(network, scheduler, n)
        except ImportError as needed:  # torchsde, which undrift does not install
            assert "torchsde" in str(needed) and not is_chain
            return
        except TypeError as needed:  # a class without defaults
            assert "required positional argument" in str(needed) and kind in str(needed)
            return
        except InvalidInput as refusal:
            assert "\n" not in str(refusal)
            assert not is_chain or (n is None and "give num_inference_steps" in str(refusal))
            assert kind in str(refusal) or "schedule ends without signal" in str(refusal)
            continue
        assert is_chain and len(sampler.grid) > 1
        if n is None:
            continue
        x = sampler.prior(SHAPE, generator=noise_source(1))
        states = iter(loop(scheduler, network, n, x, noise_source(2)))
        for state in sampler.trajectory(x, generator=noise_source(2)):
            assert any(torch.equal(state.x, theirs) for theirs in states), state.t  # in their order
        assert next(states, None) is None and torch.isfinite(state.x).all()
