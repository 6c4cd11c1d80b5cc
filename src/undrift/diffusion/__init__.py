"""Diffusion models as chains: schedule, denoiser, samplers, and diffusers' pipelines in and out."""
