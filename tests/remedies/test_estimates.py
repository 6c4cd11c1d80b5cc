"""Estimates in files: the same chain again without data, and refused for any other chain."""

import diffusers
import pytest
import torch
from torch import nn

from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler, DDIMSampler
from undrift.diffusion.schedule import CosineSchedule, LinearSchedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import InvalidInput
from undrift.remedies.estimates import files_of, load_estimate, save_estimate, source_of
from undrift.remedies.moments import moment_map
from undrift.remedies.registry import REMEDIES, apply_remedy, parse
from undrift.remedies.sampler import RemediedSampler

DATA = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
ESTIMATED = {"time_shift": "time_shift:4,variance=data"} | {
    name: name for name, kind in REMEDIES.items() if kind().needs_data
}


class Network(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)
        weights = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.layer.weight, std=0.3, generator=weights)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x, t):
        return self.layer(x)


def chain(name, steps=6, seed=0):
    network = Network(seed)
    if name == "tail_correction":
        scheduler = diffusers.UniPCMultistepScheduler(num_train_timesteps=60)
        return DiffusersSampler(network, scheduler, steps)
    kind = DDIMSampler if name == "band_energy" else AncestralSampler
    return kind(Denoiser(network, CosineSchedule(60), "v_prediction"), steps)


def drawn(sampler):
    with torch.no_grad():
        return sampler.sample((5, 1, 4, 4), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ESTIMATED)
def test_a_chain_with_a_saved_estimate_gives_the_same_samples_bit_for_bit(name, tmp_path):
    first = apply_remedy(chain(name), ESTIMATED[name], DATA)
    save_estimate(first, tmp_path / "estimate.pt", "noise")
    again = apply_remedy(chain(name), ESTIMATED[name], estimate=tmp_path / "estimate.pt")
    assert torch.equal(drawn(again), drawn(first))
    assert again.describe() == first.describe()
    assert source_of(tmp_path / "estimate.pt", again) == "noise"


@pytest.mark.parametrize("name", ESTIMATED)
def test_another_network_or_grid_is_estimated_anew(name):
    """Before that such a chain says so, instead of using what belongs to another."""
    sampler = apply_remedy(chain(name), ESTIMATED[name], DATA)
    for other in (sampler.with_network(Network(seed=5)), sampler.with_steps(4)):
        with pytest.raises(InvalidInput, match="is not estimated"):
            drawn(other)
        own = other.estimated(DATA)
        assert torch.equal(drawn(own), drawn(apply_remedy(other.base, ESTIMATED[name], DATA)))


def test_an_estimate_serves_all_strengths(tmp_path):
    save_estimate(apply_remedy(chain("moments"), "moments", DATA), tmp_path / "estimate.pt")
    half = apply_remedy(chain("moments"), "moments:0.5", DATA)
    again = apply_remedy(chain("moments"), "moments:0.5", estimate=tmp_path / "estimate.pt")
    assert torch.equal(drawn(again), drawn(half))


@pytest.mark.parametrize(
    "other",
    [
        lambda: (chain("moments", seed=1), "band_energy"),
        lambda: (chain("moments", steps=5), "band_energy"),
        lambda: (chain("moments"), "band_energy,levels=1"),
        lambda: (chain("moments"), "moments"),
    ],
    ids=["weights", "steps", "options", "remedy"],
)
def test_an_estimate_of_another_chain_is_refused(other, tmp_path):
    file = tmp_path / "estimate.pt"
    save_estimate(apply_remedy(chain("moments"), "band_energy", DATA), file)
    sampler, remedy = other()
    with pytest.raises(InvalidInput, match="another remedy, chain or network"):
        apply_remedy(sampler, remedy, estimate=file)
    assert files_of(RemediedSampler(sampler, parse(remedy)), tmp_path) == []


def by_level(beta_end):
    denoiser = Denoiser(Network(), LinearSchedule(60, 1e-4, beta_end), "sample")
    return DDIMSampler(denoiser, 6)


def by_timesteps(*timesteps):
    scheduler = diffusers.DDPMScheduler(60)
    return DiffusersSampler(Network(), scheduler, timestep_options={"timesteps": [*timesteps]})


def by_betas(last):
    betas = torch.linspace(1e-3, last, 60).numpy()
    return DiffusersSampler(Network(), diffusers.DDIMScheduler(60, trained_betas=betas), 6)


ALIKE = {
    "levels": (lambda: by_level(0.02), lambda: by_level(0.05)),
    "timesteps": (lambda: by_timesteps(55, 30, 9, 0), lambda: by_timesteps(50, 30, 9, 0)),
    "betas": (lambda: by_betas(0.1), lambda: by_betas(0.2)),
}


@pytest.mark.parametrize("what", ALIKE)
def test_chains_that_are_described_alike_are_told_apart(what, tmp_path):
    make, other = ALIKE[what]
    first = apply_remedy(make(), "moments", DATA)
    save_estimate(first, tmp_path / "estimate.pt")
    load_estimate(RemediedSampler(make(), parse("moments")), tmp_path / "estimate.pt")
    with pytest.raises(InvalidInput, match="another remedy, chain or network"):
        apply_remedy(other(), "moments", estimate=tmp_path / "estimate.pt")


@pytest.mark.parametrize(
    "denoiser",
    [
        Denoiser(lambda x, t: 0.5 * x, CosineSchedule(60), "sample"),
        Denoiser(Network(), CosineSchedule(60), "sample", conditioning={"shift": torch.ones(1)}),
    ],
    ids=["function", "conditioning"],
)
def test_what_has_no_weights_is_not_kept(denoiser, tmp_path):
    estimate = moment_map(DATA, DATA)
    sampler = RemediedSampler(DDIMSampler(denoiser, 6), parse("moments"), estimate)
    with pytest.raises(InvalidInput, match="cannot be told apart"):
        save_estimate(sampler, tmp_path / "estimate.pt")


def test_data_in_another_range_are_refused():
    base, images = chain("moments"), (DATA + 1) / 2
    with pytest.raises(InvalidInput, match="scale them to"):
        apply_remedy(base, "moments", images)
    apply_remedy(base, "moments", images, check_range=False)
    with pytest.raises(InvalidInput, match="give one of them"):
        apply_remedy(base, "moments", DATA, estimate="estimate.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_file_is_one_line(content, tmp_path):
    file, sampler = tmp_path / "estimate.pt", apply_remedy(chain("moments"), "moments", DATA)
    save_estimate(sampler, file)
    if content is None:
        kept = torch.load(file, weights_only=True)
        torch.save(kept | {"estimate": kept["estimate"][:2]}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(InvalidInput, match="is damaged") as caught:
        load_estimate(sampler, file)
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInput, match="no such file"):
        load_estimate(sampler, tmp_path / "other.pt")


def test_nothing_estimated_is_not_saved(tmp_path):
    with pytest.raises(InvalidInput, match="is not estimated"):
        save_estimate(RemediedSampler(chain("moments"), parse("moments")), tmp_path / "e.pt")
    assert not list(tmp_path.iterdir())
