"""Gaussian data, a denoiser that is known exactly: measured errors beside their closed form."""

import argparse

import torch

from undrift import AncestralSampler, CosineSchedule, Denoiser, measure
from undrift.theory.gaussian_chain import GaussianChain
from undrift.theory.mmd_budget import mmd_sq_of_states

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--num-samples", type=int, default=1000)
parser.add_argument("--slope-error", type=float, default=0.0, help="0 is the ideal denoiser")
args = parser.parse_args()

mean, cov = torch.tensor([0.3, -0.2]), torch.tensor([[0.5, 0.2], [0.2, 0.3]])
schedule = CosineSchedule(20)
chain = GaussianChain.from_schedule(mean, cov, schedule, slope_error=args.slope_error)


def network(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    step = int(timestep[0])  # as diffusers counts, from 0: the module of t = step + 1
    return x_t @ chain.slope[step].float().T + chain.offset[step].float()


sampler = AncestralSampler(Denoiser(network, schedule, "sample"), clip=None)
noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(args.seed + 1))
data = mean + noise @ torch.linalg.cholesky(cov).T

profile = measure(
    sampler, data, num_samples=args.num_samples, states=[20, 12, 6, 3, 1, 0], seed=args.seed
)
exact = mmd_sq_of_states(chain, [state.t for state in profile.states]).tolist()
print(f"{'t':>3}  {'D² measured':>12} ± {'se':<9}  {'D² exact':>9}  standard errors apart")
for state, truth in zip(profile.states, exact, strict=True):
    apart = (state.mmd_sq - truth) / state.mmd_sq_se
    print(f"{state.t:>3}  {state.mmd_sq:12.2e} ± {state.mmd_sq_se:.3e}  {truth:9.2e}  {apart:+.2f}")
