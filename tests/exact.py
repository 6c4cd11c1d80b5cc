"""The exact network of Gaussian data in the terms of any scheduler of diffusers."""

import diffusers
import torch
from torch import nn

MEANS, SPREAD = torch.tensor([-0.5, 0.1, 0.7]), 0.25


def rows(values, like):
    return values.view(-1, *[1] * (like.ndim - 1))


class Exact(nn.Module):
    """What a network of a kind returns for data N(m_c, 0.25²), c the condition if it has one."""

    def __init__(self, scheduler, *, config=None, distilled=False):
        super().__init__()
        self.scheduler, self.config, self.distilled = scheduler, config, distilled
        named = "FlowMatch" in type(scheduler).__name__
        self.is_flow = named or scheduler.config.get("use_flow_sigmas")

    def forward(self, x, timestep, class_labels=None, encoder_hidden_states=None, **more):
        if encoder_hidden_states is not None:
            class_labels = encoder_hidden_states[:, 0, 0].long()
        if class_labels is None:
            class_labels = torch.ones(len(x), dtype=torch.int64)
        return self.answer(x.double(), timestep.double(), rows(MEANS[class_labels].double(), x)).to(
            x
        )

    def level(self, timestep):
        if hasattr(self.scheduler, "precondition_outputs"):
            return (4 * timestep).exp()
        if self.scheduler.config.get("timestep_type") == "continuous":
            return (4 * timestep).exp()
        if isinstance(self.scheduler, diffusers.CMStochasticIterativeScheduler):
            return (4 * timestep / 1000).exp()
        if self.is_flow:
            return timestep / (1000 - timestep).clamp(min=1e-6)
        table = self.scheduler.alphas_cumprod.double()
        low = timestep.floor().long().clamp(max=len(table) - 2)
        logs = (1 / table - 1).clamp(max=1e12).log() / 2
        return torch.lerp(logs[low], logs[low + 1], timestep - low).exp()

    def answer(self, x, timestep, mean):
        level = rows(self.level(timestep), x)
        alpha = 1 / (1 + level**2).sqrt()
        sigma = alpha * level
        if self.is_flow:
            state = x * (alpha + sigma)
            x_0 = self.estimate(state, alpha, sigma, mean)
            return (state - alpha * x_0) / sigma - x_0
        if hasattr(self.scheduler, "precondition_outputs") or isinstance(
            self.scheduler, diffusers.CMStochasticIterativeScheduler
        ):
            return self.preconditioned(x, level, mean)
        x_0 = self.estimate(x, alpha, sigma, mean)
        epsilon = (x - alpha * x_0) / sigma
        kind = self.scheduler.config.get("prediction_type")
        out = {"v_prediction": alpha * epsilon - sigma * x_0, "sample": x_0}.get(kind, epsilon)
        if str(self.scheduler.config.get("variance_type")).startswith("learned"):
            return torch.cat([out, self.variance(x, timestep)], 1)
        return out

    def estimate(self, state, alpha, sigma, mean):
        """The posterior mean, or the end of the probability flow for a distilled network."""
        total = alpha**2 * SPREAD**2 + sigma**2
        if self.distilled:
            return mean + SPREAD / total.sqrt() * (state - alpha * mean)
        return mean + alpha * SPREAD**2 / total * (state - alpha * mean)

    def preconditioned(self, x, level, mean, data=0.5):
        norm, lowest = (level**2 + data**2).sqrt(), 0.0
        state = x * norm
        if self.distilled:  # boundary conditions at the smallest level
            lowest = float(self.scheduler.config.sigma_min)
            skip = data**2 / ((level - lowest) ** 2 + data**2)
            scale = (level - lowest) * data / norm
            spread = ((SPREAD**2 + lowest**2) / (SPREAD**2 + level**2)).sqrt()
            return (mean + spread * (state - mean) - skip * state) / scale.clamp(min=1e-9)
        x_0 = self.estimate(state, torch.ones_like(level), level, mean)
        return (x_0 - (data / norm) ** 2 * state) * norm / (level * data)

    def variance(self, x, timestep):
        """The share of log-variance at which the step has the exact reverse variance."""
        t, table = int(timestep[0]), self.scheduler.alphas_cumprod.double()
        abar_t = table[t]
        abar_s = table[t - 1] if t else torch.ones((), dtype=torch.float64)
        large = 1 - abar_t / abar_s
        small = (1 - abar_s) / (1 - abar_t) * large
        on_x_0 = abar_s.sqrt() * large / (1 - abar_t)
        posterior = SPREAD**2 * (1 - abar_t) / (abar_t * SPREAD**2 + 1 - abar_t)
        wanted = small + on_x_0**2 * posterior
        small = small.clamp(min=1e-20)
        share = (wanted / small).log() / (large / small).log()
        return torch.full_like(x, 2 * float(share) - 1)
