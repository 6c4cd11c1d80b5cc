"""Denoisers: three parametrizations of one estimate, over any network."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.schedule import CosineSchedule, Schedule
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
