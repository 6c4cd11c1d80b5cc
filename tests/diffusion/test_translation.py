"""A network under a scheduler of another family: the chain of the scheduler's own exact network."""

from types import SimpleNamespace

import diffusers
import pytest
import torch

from exact import MEANS, SPREAD, Exact
from undrift import InvalidInput, measure
from undrift.diffusion.condition import ConditionalNetwork
from undrift.diffusion.pipelines import sampler_by_name
from undrift.diffusion.training_view import DISTILLED
from undrift.objectives.objective import Plain
from undrift.remedies.registry import apply_remedy, parse


def noise_source(seed=0):
    return torch.Generator().manual_seed(seed)


EULER = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
FAMILIES = {
    "noise": diffusers.DDPMScheduler(),
    "velocity": diffusers.DDPMScheduler(prediction_type="v_prediction", beta_end=0.01),
    "data": diffusers.DDPMScheduler(prediction_type="sample"),
    "zero SNR": diffusers.DDIMScheduler(prediction_type="v_prediction", **ZERO),
    "continuous": diffusers.EulerDiscreteScheduler(**EULER),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(),
    "shifted flow": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow, DPM++": diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0
    ),
    "EDM": diffusers.EDMEulerScheduler(),
    "consistency": diffusers.CMStochasticIterativeScheduler(),
    "LCM": diffusers.LCMScheduler(),
}
BETAS = (
    *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "SASolver"),
    *("DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep"),
    *("EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "LMSDiscrete"),
    *("KDPM2AncestralDiscrete", "KDPM2Discrete"),
)
SERVING = (*BETAS, "EDMEuler", "EDMDPMSolverMultistep", "FlowMatchEulerDiscrete")
SERVING += ("FlowMatchHeunDiscrete",)
"""Scheduler classes that serve every network that was trained by denoising."""
OWN = {"consistency": {"CMStochasticIterative"}, "LCM": {"LCM", "TCD"}}
"""Those that serve distilled networks."""
EXPORTED = sorted(name for name in dir(diffusers) if name.endswith("Scheduler"))


def pipeline(family):
    scheduler = FAMILIES[family]
    return SimpleNamespace(unet=Exact(scheduler), scheduler=scheduler)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_class_of_diffusers_serves_a_network_exactly_or_is_refused_in_one_line(family):
    """Translated, every state of the chain is that of the exact network of the class itself."""
    serving = OWN.get(family, set(SERVING))
    for name in EXPORTED:
        if name.removesuffix("Scheduler") not in serving:
            with pytest.raises(InvalidInput) as refused:
                sampler_by_name(pipeline(family), name, 8)
            assert "\n" not in str(refused.value) and name in str(refused.value)
            continue
        sampler = sampler_by_name(pipeline(family), name, 8)
        own = sampler.with_network(Exact(sampler.scheduler))
        own.translation = None
        x = sampler.prior((16, 1, 1, 2), generator=noise_source(1))
        chains = (s.trajectory(x, generator=noise_source(2)) for s in (sampler, own))
        for ours, theirs in zip(*chains, strict=True):
            torch.testing.assert_close(ours.x, theirs.x, rtol=2e-3, atol=2e-3, msg=name)


def test_a_translated_class_is_that_of_a_distilled_network_or_serves_all():
    """A class that a new diffusers exports is refused, and is to be placed above."""
    assert {f"{name}Scheduler" for name in SERVING} <= set(EXPORTED)
    assert not {f"{name}Scheduler" for name in SERVING} & set(DISTILLED)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("noise", "EDMEulerScheduler"),
        ("velocity", "FlowMatchHeunDiscreteScheduler"),
        ("zero SNR", "heun"),
        ("data", "EDMDPMSolverMultistepScheduler"),
        ("continuous", "unipc"),
        ("flow", "ddim"),
        ("shifted flow", "heun"),
        ("EDM", "ancestral"),
        ("EDM", "unipc"),
    ],
)
def test_an_exact_network_has_no_error_under_a_scheduler_of_another_family(family, name):
    sampler = sampler_by_name(pipeline(family), name, 100)
    data = MEANS[1] + SPREAD * torch.randn(3000, 1, 1, 2, generator=noise_source(9))
    final = measure(
        sampler, data, num_samples=400, states=2, budget=False, exposure=False, progress=False
    ).final
    assert abs(final.mmd_sq) < 4 * final.mmd_sq_se + 2e-4
    x_t = sampler.prior((4, 1, 1, 2), generator=noise_source(3))
    for t in sampler.grid[:-1:20]:  # the estimates are those of the state
        alpha, sigma = sampler.scale(t)
        found = sampler.predict(x_t, t)
        total = alpha**2 * SPREAD**2 + sigma**2
        x_0 = MEANS[1] + alpha * SPREAD**2 / total * (x_t - alpha * MEANS[1])
        torch.testing.assert_close(found.x0_hat, x_0, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(alpha * found.x0_hat + sigma * found.epsilon_hat, x_t)


def test_a_translated_chain_is_trained_on_as_its_network_was():
    """Its denoiser is that of the model's own scheduler, whatever the chain."""
    sampler = sampler_by_name(pipeline("EDM"), "ddim", 10)
    found = Plain(sampler).denoiser
    assert (found.time_conditioning, found.sigma_data) == ("sigma", 0.5)
    assert found.network is sampler.network and sampler.with_steps(5).translation is not None
    assert sampler.alphas_cumprod is None and sampler.describe()["translated"]


def test_conditions_and_guidance_are_those_of_the_network():
    scheduler = FAMILIES["noise"]
    table, null = {"class_labels": torch.arange(3)}, {"class_labels": torch.tensor([0])}
    network = ConditionalNetwork(Exact(scheduler), table, null=null, guidance=2.0)
    sampler = sampler_by_name(
        SimpleNamespace(unet=network, scheduler=scheduler), "EDMEulerScheduler", 60
    )
    x = sampler.given(torch.tensor([2]).expand(500)).sample((500, 1), generator=noise_source())
    guided = MEANS[0] + 2 * (MEANS[2] - MEANS[0])
    assert abs(float(x.mean()) - float(guided)) < 0.05


def test_noise_levels_that_a_network_does_not_know_are_refused():
    sampler = sampler_by_name(pipeline("velocity"), "EDMEulerScheduler", 10)
    scheduler = diffusers.EDMEulerScheduler(sigma_max=200.0)
    scheduler.set_timesteps(10)
    with pytest.raises(InvalidInput, match="steps at noise of .* = 200, and the network was"):
        sampler.translation.check(scheduler)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_a_remedy_of_the_network_does_not_serve_a_translated_chain(name):
    """It would take the scheduler's timesteps for those of the network."""
    sampler = sampler_by_name(pipeline("noise"), name, 10)
    with pytest.raises(InvalidInput, match="another family than the network's: choose another"):
        apply_remedy(sampler, parse("epsilon_scaling:1.01"))
    assert apply_remedy(sampler, parse("restart")) is not sampler
