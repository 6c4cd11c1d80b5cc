"""Chains that are exact: Gaussian data, an affine denoiser, as samplers of the library."""

import torch

from undrift.diffusion.sampler import GaussianKernel, Sampler, draw_noise
from undrift.diffusion.schedule import CosineSchedule
from undrift.theory.gaussian_chain import GaussianChain

MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COV = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)


def gaussian_chain(num_steps=20, **errors):
    """The closed form of a chain on two-dimensional Gaussian data."""
    return GaussianChain.from_schedule(MEAN, COV, CosineSchedule(num_steps), **errors)


def gaussian_data(count=60_000, chain=None, seed=7):
    """Independent draws of the chain's data, with shape (count, d)."""
    mean, cov = (MEAN, COV) if chain is None else (chain.mean, chain.cov)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, len(mean), generator=generator, dtype=torch.float64)
    return (mean + noise @ torch.linalg.cholesky(cov).T).float()


class AffineSampler(Sampler):
    """A Gaussian chain with any reverse variance as a sampler, one dimension a channel."""

    def __init__(self, chain):
        super().__init__(tuple(range(chain.num_steps, -1, -1)))
        self.chain = chain
        offset, cov = chain.step(0 * chain.offset, 0 * chain.noise, torch.arange(chain.num_steps))
        self.offset = offset.float()
        values, vectors = torch.linalg.eigh(cov)
        self.root = (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)).float()
        self.gain = chain.gain.float()

    def kernel(self, x_t, t, s):
        mean = x_t @ self.gain[t - 1].T + self.offset[t - 1]
        return GaussianKernel(mean, float("nan"))

    def step(self, x_t, t, s, *, generator=None):
        noise = draw_noise(x_t, generator)
        return self.kernel(x_t, t, s).mean + noise @ self.root[t - 1].T

    def scale(self, t):
        return float(self.chain.alpha[t]), float(self.chain.sigma_sq[t].sqrt())

    def epsilon(self, x_t, t):
        alpha, sigma = self.scale(t)
        x0_hat = x_t @ self.chain.slope[t - 1].float().T + self.chain.offset[t - 1].float()
        return (x_t - alpha * x0_hat) / sigma

    def describe(self):
        return {"sampler": "AffineSampler", "num_inference_steps": self.chain.num_steps}
