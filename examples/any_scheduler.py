"""Schedulers of diffusers over one network: what the sampler alone adds to the error.

The network is the ideal one of a ring of eight Gaussians, so all error is the sampler's.
"""

import argparse

import torch
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler

from undrift import AncestralSampler, Denoiser, DiffusersSampler, LinearSchedule, measure
from undrift.diffusion.mixture import ForwardProcess, GaussianMixture, IdealDenoiser

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--num-samples", type=int, default=500)
parser.add_argument("--calls", type=int, nargs="+", default=[5, 10, 20], help="of the network")
args = parser.parse_args()

schedule, ring = LinearSchedule(1000), GaussianMixture.ring()
ideal = IdealDenoiser(ForwardProcess(ring, schedule))  # a trained network serves as well
data = ring.sample(20_000, generator=torch.Generator().manual_seed(args.seed + 1)).float()
shared = {**schedule.options, "prediction_type": "sample", "timestep_spacing": "trailing"}


def network(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return ideal(x_t, timestep.long())  # Heun's timesteps are floating-point numbers


for calls in args.calls:
    ancestral = AncestralSampler(Denoiser(network, schedule, "sample"), calls, clip=None)
    dpm_solver = DiffusersSampler(network, DPMSolverMultistepScheduler(**shared), calls)
    heun = DiffusersSampler(network, HeunDiscreteScheduler(**shared), (calls + 1) // 2)
    for name, chain in (("ancestral", ancestral), ("DPM-Solver++", dpm_solver), ("Heun", heun)):
        size = {"num_samples": args.num_samples, "states": 2, "seed": args.seed}
        final = measure(chain, data, **size, budget=False, exposure=False).final
        print(f"{calls:>3} calls  {name:<12}  D_0² = {final.mmd_sq:8.1e} ± {final.mmd_sq_se:.1e}")
