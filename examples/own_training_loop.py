"""The regularizer in a training loop of plain PyTorch, in both ways, against none at all."""

import argparse
from functools import partial

import torch

import undrift
from undrift.diffusion.mixture import GaussianMixture
from undrift.theory.trained_mixture import PlaneNetwork  # a small network of points; take your own

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seed", type=int, default=0)
seed = parser.parse_args().seed
data = GaussianMixture.ring().sample(8000, generator=torch.Generator().manual_seed(seed)).float()


def main_term(denoiser: undrift.Denoiser, x_0: torch.Tensor) -> torch.Tensor:
    t, noise = torch.randint(1, 26, (len(x_0),)), torch.randn_like(x_0)
    alpha_t, sigma_t = denoiser.schedule.alpha_sigma(t, x_0)
    return (denoiser(alpha_t * x_0 + sigma_t * noise, t) - x_0).square().mean()


for way in ("plain", "one loss", "two backward passes"):
    torch.manual_seed(seed)  # the same weights, data and noise: the regularizer has its own
    denoiser = undrift.Denoiser(PlaneNetwork(25, width=16), undrift.CosineSchedule(25), "sample")
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=2e-3)
    sampler = undrift.AncestralSampler(denoiser, clip=None)
    regularizer = undrift.CumulativeErrorRegularizer(sampler, seed=seed)
    for x_0 in data[torch.randint(len(data), (500, 256))]:
        optimizer.zero_grad()
        if way == "two backward passes":
            regularizer.backward(denoiser, x_0, partial(main_term, denoiser, x_0))
        else:
            loss = main_term(denoiser, x_0)
            term = regularizer(denoiser, x_0, main_loss=loss) if way == "one loss" else 0.0
            (loss + term).backward()
        optimizer.step()
    final = undrift.measure(sampler, data, num_samples=2000, states=2, budget=False).final
    print(f"{way:<20} D_0² = {final.mmd_sq:.4f} ± {final.mmd_sq_se:.4f}")
