"""Denoisers: three parametrizations of one estimate, over any network."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DiTTransformer2DModel,
    EDMEulerScheduler,
    UNet2DModel,
)

from undrift import measure
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler
from undrift.diffusion.pipelines import as_sampler
from undrift.diffusion.schedule import CosineSchedule, Schedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.objectives.objective import Plain

PREDICTION_TYPES = ["epsilon", "sample", "v_prediction"]
SCHEDULE = CosineSchedule(40)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", [1, 20, 40, torch.tensor([1, 17, 40])], ids=str)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_perfect_network_gives_back_data_and_noise(prediction_type, t):
    x_0, noise = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1)
    alpha_t, sigma_t = SCHEDULE.alpha_sigma(t, x_0)
    x_t = alpha_t * x_0 + sigma_t * noise
    denoiser = Denoiser(
        lambda x, timestep: denoiser.target(x_0, noise, t), SCHEDULE, prediction_type
    )
    prediction = denoiser.predict(x_t, t)
    # at t = T the noise says 1/alpha = 2e4 times less of the data than at 0
    torch.testing.assert_close(prediction.x0_hat, x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.epsilon_hat, noise, rtol=1e-9, atol=1e-9)
    assert torch.equal(denoiser(x_t, t), prediction.x0_hat)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_two_estimates_always_make_up_the_state(prediction_type):
    x_t, output = draw(3, 1, 4, 4), draw(3, 1, 4, 4, seed=1)
    denoiser = Denoiser(lambda x, timestep: output, SCHEDULE, prediction_type)
    prediction = denoiser.predict(x_t, 13)
    again = SCHEDULE.alpha(13) * prediction.x0_hat + SCHEDULE.sigma(13) * prediction.epsilon_hat
    torch.testing.assert_close(again, x_t, rtol=1e-12, atol=1e-12)


def test_the_network_sees_the_timestep_of_diffusers():
    seen = []
    denoiser = Denoiser(lambda x, timestep: seen.append(timestep) or x, SCHEDULE)
    denoiser(draw(3, 1, 2, 2), 40)
    denoiser(draw(3, 1, 2, 2), torch.tensor([1, 2, 40]))
    assert [list(timestep) for timestep in seen] == [[39, 39, 39], [0, 1, 39]]
    assert all(timestep.dtype == torch.long for timestep in seen)


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: (x, "more"), lambda x: SimpleNamespace(sample=x)]
)
def test_the_output_may_be_wrapped(wrap):
    x_t = draw(2, 1, 2, 2)
    denoiser = Denoiser(lambda x, timestep: wrap(3 * x), SCHEDULE, "sample")
    assert torch.equal(denoiser(x_t, 5), 3 * x_t)


def test_twice_the_channels_are_a_learned_variance():
    x_t = draw(2, 3, 2, 2)
    denoiser = Denoiser(lambda x, timestep: torch.cat([2 * x, 7 * x], 1), SCHEDULE, "sample")
    prediction = denoiser.predict(x_t, 5)
    assert torch.equal(prediction.x0_hat, 2 * x_t)
    assert torch.equal(prediction.variance_output, 7 * x_t)


def test_an_output_that_does_not_fit_is_refused():
    denoiser = Denoiser(lambda x, timestep: x[:, :, :1], SCHEDULE)
    with pytest.raises(InvalidInput, match=r"shape \(2, 3, 1, 2\) for states of shape \(2, 3, 2"):
        denoiser(draw(2, 3, 2, 2), 5)


def test_unknown_or_impossible_predictions_are_refused():
    with pytest.raises(InvalidInput, match="unknown prediction type 'x0'"):
        Denoiser(torch.nn.Identity(), SCHEDULE, "x0")
    no_signal = Schedule(torch.tensor([1.0, 0.5, 0.0]))
    with pytest.raises(InvalidInput, match="use v_prediction or sample"):
        Denoiser(torch.nn.Identity(), no_signal)
    assert Denoiser(torch.nn.Identity(), no_signal, "v_prediction")


def test_one_row_of_conditioning_serves_every_batch():
    def network(x, timestep, labels, scale):
        return labels[:, None] * scale * x

    denoiser = Denoiser(
        network, SCHEDULE, "sample", {"labels": torch.tensor([2.0]), "scale": torch.tensor(3.0)}
    )
    for batch in (1, 4):
        x_t = draw(batch, 5)
        assert torch.equal(denoiser(x_t, 7), 6 * x_t)
    other = denoiser.with_network(lambda x, timestep, labels, scale: -network(x, 0, labels, scale))
    assert torch.equal(other(x_t, 7), -6 * x_t)
    assert torch.equal(denoiser(x_t, 7), 6 * x_t)


def test_a_unet_of_diffusers_is_a_network():
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        norm_num_groups=4,
    ).double()
    x_t, t = draw(2, 1, 8, 8), torch.tensor([3, 40])
    denoiser = Denoiser(network, SCHEDULE, "v_prediction")
    with torch.no_grad():
        v_hat = network(x_t, t - 1).sample
        prediction = denoiser.predict(x_t, t)
    alpha_t, sigma_t = SCHEDULE.alpha_sigma(t, x_t)
    velocity = alpha_t * prediction.epsilon_hat - sigma_t * prediction.x0_hat
    torch.testing.assert_close(velocity, v_hat, rtol=1e-12, atol=1e-12)
    assert {name for name, _ in denoiser.named_parameters()} == {
        f"network.{name}" for name, _ in network.named_parameters()
    }


def test_a_class_conditional_transformer_with_learned_variance_is_a_network():
    network = (
        DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=4,
            in_channels=3,
            out_channels=6,
            num_layers=1,
            norm_num_groups=4,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        )
        .double()
        .eval()
    )
    torch.nn.init.normal_(network.proj_out_2.weight)
    x_t, labels = draw(2, 3, 8, 8), torch.tensor([4, 4])
    each = Denoiser(network, SCHEDULE, conditioning={"class_labels": labels})
    one = Denoiser(network, SCHEDULE, conditioning={"class_labels": labels[:1]})
    other = Denoiser(network, SCHEDULE, conditioning={"class_labels": labels - 1})
    with torch.no_grad():
        output = network(x_t, torch.tensor([8, 8]), class_labels=labels).sample
        for denoiser in (each, one):
            prediction = denoiser.predict(x_t, 9)
            torch.testing.assert_close(prediction.epsilon_hat, output[:, :3])
            torch.testing.assert_close(prediction.variance_output, output[:, 3:])
        assert (other.predict(x_t, 9).epsilon_hat - output[:, :3]).abs().max() > 1e-3


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)
        self.seen = []

    def forward(self, x_t, timestep):
        self.seen.append(x_t.dtype)
        return self.inner(x_t)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_in_another_precision_is_called_in_its_own(precision):
    network = Linear().to(precision)
    denoiser = Denoiser(network, CosineSchedule(10), "v_prediction")
    x_t = draw(5, 4).float()
    x0_hat = denoiser(x_t, 3)
    assert network.seen == [precision] and x0_hat.dtype == torch.float32
    exact = Denoiser(network.float(), CosineSchedule(10), "v_prediction")(x_t, 3)
    assert torch.allclose(x0_hat, exact, atol=0.05)


def test_a_denoiser_in_a_wrapper_is_not_taken_for_a_network():
    denoiser = Denoiser(Linear(), CosineSchedule(10), "v_prediction")
    wrapped = torch.compile(denoiser, backend="eager")
    with pytest.raises(InvalidInput, match="the network inside it"):
        Denoiser(wrapped, CosineSchedule(10))
    with pytest.raises(InvalidInput, match="the network inside it"):
        Plain(denoiser)(wrapped, draw(6, 4))
    inside = denoiser.with_network(torch.compile(denoiser.network, backend="eager"))
    assert torch.equal(inside(draw(6, 4), 5), denoiser(draw(6, 4), 5))


# --- networks that are conditioned on the noise level ---

SPREAD, SIGMA_DATA = 0.5, 0.4


class Karras(torch.nn.Module):
    """The exact D(x, σ) of N(0, 0.5²)."""

    def forward(self, x, sigma):
        return SPREAD**2 / (SPREAD**2 + sigma.view(-1, 1, 1, 1) ** 2) * x


class RawKarras(torch.nn.Module):
    """EDM's F of the same data, of which diffusers' EDMEulerScheduler makes D."""

    def __init__(self):
        super().__init__()
        self.scheduler = EDMEulerScheduler(sigma_data=SIGMA_DATA)

    def forward(self, x_in, c_noise):
        sigma = (4 * c_noise).exp().view(-1, 1, 1, 1)
        x = x_in * (sigma**2 + SIGMA_DATA**2).sqrt()
        wanted = Karras()(x, sigma)
        at_zero = self.scheduler.precondition_outputs(x, torch.zeros_like(x), sigma)
        slope = self.scheduler.precondition_outputs(x, torch.ones_like(x), sigma) - at_zero
        return (wanted - at_zero) / slope


KARRAS = {
    "D": (Karras(), "sample", None),
    "noise": (lambda x, sigma: (x - Karras()(x, sigma)) / sigma.view(-1, 1, 1, 1), "epsilon", None),
    "F": (RawKarras(), "sample", SIGMA_DATA),
}


def karras(name, schedule=SCHEDULE):
    network, prediction_type, sigma_data = KARRAS[name]
    return Denoiser(
        network, schedule, prediction_type, time_conditioning="sigma", sigma_data=sigma_data
    )


@pytest.mark.parametrize("t", [1, 20, 40, torch.tensor([1, 17, 40])], ids=str)
@pytest.mark.parametrize("name", KARRAS)
def test_a_network_of_sigma_is_called_at_the_same_state(name, t):
    """Its estimate is the posterior mean of the variance-preserving state."""
    x_t = draw(3, 1, 2, 2)
    alpha_t, sigma_t = SCHEDULE.alpha_sigma(t, x_t)
    expected = alpha_t * SPREAD**2 / (alpha_t**2 * SPREAD**2 + sigma_t**2) * x_t
    for denoiser in (karras(name), karras(name).with_network(KARRAS[name][0])):
        torch.testing.assert_close(denoiser(x_t, t), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", KARRAS)
def test_an_exact_network_of_sigma_has_no_error(name):
    data = SPREAD * torch.randn(2000, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    sampler = AncestralSampler(karras(name, CosineSchedule(200)), clip=None)
    profile = measure(sampler, data, num_samples=500, states=3, budget=False, progress=False)
    for state in profile.states:
        assert abs(state.mmd_sq) < 4 * state.mmd_sq_se
    told = profile.how["sampler"]
    assert (told["time_conditioning"], told["sigma_data"]) == ("sigma", KARRAS[name][2])


def test_times_passed_to_a_network_of_sigma_are_what_its_sampler_says():
    seen = []
    network = RawKarras()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[1][0])))
    denoiser = Denoiser(
        network, SCHEDULE, "sample", time_conditioning="sigma", sigma_data=SIGMA_DATA
    )
    sampler = AncestralSampler(denoiser, 8)
    sampler.sample((1, 1, 2, 2), dtype=torch.float64)
    assert seen == pytest.approx(sampler.timesteps)
    assert sampler.alphas_cumprod is None


def test_a_network_that_names_sigma_is_not_given_timesteps():
    for build in (
        lambda network: Denoiser(network, SCHEDULE, "sample"),
        lambda network: Denoiser(torch.compile(network, backend="eager"), SCHEDULE, "sample"),
        lambda network: as_sampler(network, schedule=SCHEDULE),
        lambda network: DiffusersSampler(network, DDPMScheduler(), 10),
    ):
        with pytest.raises(InvalidInput, match="takes sigma, but would get timesteps"):
            build(Karras())
    Denoiser(lambda x, timestep: Karras()(x, timestep), SCHEDULE, "sample")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time_conditioning": "noise"}, "unknown time conditioning 'noise'"),
        ({"sigma_data": 0.5}, "give time_conditioning='sigma'"),
        ({"sigma_data": 0.5, "time_conditioning": "sigma"}, "and prediction_type='sample'"),
    ],
)
def test_options_of_sigma_that_do_not_fit_are_refused(options, words):
    with pytest.raises(InvalidInput, match=words):
        Denoiser(lambda x, sigma: x, SCHEDULE, **options)
