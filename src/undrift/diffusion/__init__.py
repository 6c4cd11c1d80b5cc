"""Diffusion models as chains: schedule, denoiser, samplers, conversion from and to diffusers."""
