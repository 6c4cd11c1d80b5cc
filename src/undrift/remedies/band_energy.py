r"""Band energy: each frequency band of each new state gets the energy of the forward process.

With m the mean image of the data and :math:`P_j` the projection onto band j of Haar wavelets
(:mod:`undrift.remedies.haar`), the forward process has at time s the energy

.. math:: E_j(s) = E_{q_s} \|P_j (x_s - \alpha_s m)\|^2
                 = \alpha_s^2\, E \|P_j (x_0 - m)\|^2 + \sigma_s^2\, \mathrm{rank}\, P_j

in band j. States of a chain have another one, :math:`\hat E_j(s)`. After each denoising step the
remedy scales each band about the mean,

.. math:: x_s \leftarrow \alpha_s m + \sum_j g_j(s)^{\lambda}\, P_j (x_s - \alpha_s m), \qquad
          g_j(s) = (E_j(s) / \hat E_j(s))^{1/2}.

Frequency regulation searches for such weights. Here they are measured: :math:`\hat E_j(s)` is the
mean over calibration chains of the very sampler, one step after the other, so that each weight is
measured with all weights before it in effect (at :math:`\lambda = 1`).

A weight that is not distinguishable from 1 is noise. With :math:`\ell = \log g_j^2` and its
standard error e the remedy takes :math:`\ell\, (1 - (1.96\, e / \ell)^2)_+`, the nonnegative
garrote, which is 0 where the 95 % interval of :math:`\ell` has 0 in it and nearly :math:`\ell`
far from there.

References:
    | Frequency Regulation for Exposure Bias Mitigation in Diffusion Models (Yu & Zhan, 2025)
    | Better Subset Regression Using the Nonnegative Garrote (Breiman, 1995)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from undrift.exceptions import InvalidInput, Limits
from undrift.remedies.remedy import Remedy, Strengths
from undrift.seeds import drawn_seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from undrift.diffusion.sampler import GaussianKernel, RandomSource, Sampler, State


class Energies(NamedTuple):
    r"""The estimate: the weights :math:`g_j(s)` of each time, and what they refer to.

    Arguments:
        mean: m, the mean image of the data.
        gains: The weights of all bands by the time s, from the highest frequencies on.
        bounds: Least and greatest value of the data, to which samples are clamped.
        num_data: Calibration chains.
    """

    mean: Tensor
    gains: dict[float, list[float]]
    bounds: tuple[float, float]
    num_data: int


@dataclass(frozen=True)
class BandEnergy(Remedy):
    r"""Scales each frequency band of each new state to the energy that the forward process has.

    Arguments:
        strength: :math:`\lambda`, the power of the measured weights.
        levels: Levels of Haar wavelets, as far as both sides can be halved; with 0, and of states
            that are no images, there is one band with all of the energy.

    Example:
        >>> import torch
        >>> from undrift import AncestralSampler, CosineSchedule, Denoiser, apply_remedy
        >>> schedule = CosineSchedule(10)
        >>> denoiser = Denoiser(lambda x_t, t: 0.5 * x_t, schedule, "sample")
        >>> data = torch.randn(500, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> sampler = apply_remedy(AncestralSampler(denoiser, clip=None), BandEnergy(), data)
        >>> x = sampler.sample((500, 1, 4, 4), generator=torch.Generator().manual_seed(1))
        >>> round(float(x.var()), 1)
        1.0
    """

    levels: float = 3.0

    remedy = "band_energy"
    estimate_type = Energies
    strengths = Strengths(
        "power of the measured weights",
        default=1.0,
        grid=(0.0, 0.5, 1.0, 1.5),
        neutral=0.0,
    )
    limits: ClassVar = {"levels": Limits(0, is_whole=True)}

    @property
    def needs_data(self) -> bool:
        """Always: the energies of the forward process are those of the data and of its noise."""
        return True

    def estimate(
        self, base: Sampler, data: Tensor, num_data: int, generator: torch.Generator
    ) -> Energies:
        """The weights, measured step by step on ``num_data`` chains of the base."""
        from undrift.diffusion.network import evaluating
        from undrift.measurement.parallel_chains import BATCH_SIZE, ParallelChains
        from undrift.remedies.haar import band_sizes

        seed, shape = drawn_seed(generator), data.shape[1:]
        found = Energies(data.mean(0), {}, (float(data.min()), float(data.max())), num_data)
        of_data, sizes = self._energy(data - found.mean), band_sizes(shape, self._levels(shape))
        full = replace(self, strength=1.0)
        with evaluating(base.network):
            chains = ParallelChains.from_prior(
                base, (num_data, *shape), BATCH_SIZE, seed, device=data.device
            )
            for s in base.grid[1:]:
                t, (alpha, sigma) = chains.t, base.scale(s)
                of_chain = self._energy(chains.advance(s) - alpha * found.mean)
                forward = alpha**2 * of_data + sigma**2 * sizes
                found.gains[s] = measured_gains(forward, of_chain)
                chains.batches = [full._after(base, t, b, found) for b in chains.batches]
        return found

    def _levels(self, shape: tuple[int, ...]) -> int:
        from undrift.remedies.haar import most_levels

        return min(int(self.levels), most_levels(shape))

    def _energy(self, x: Tensor) -> Tensor:
        """The energy of each band of each state, with shape (B, bands), in float64 on the CPU."""
        import torch

        from undrift.remedies.haar import bands

        levels = self._levels(x.shape[1:])
        parts = [bands(rows, levels).double().square().flatten(2).sum(2) for rows in x.split(500)]
        return torch.cat(parts, dim=1).mT.cpu()

    def _weights(self, s: float, estimate: Energies) -> list[float]:
        if s not in estimate.gains:
            raise InvalidInput(
                f"the band energies at time {s:g} are not measured: use apply_remedy on the chain "
                "with these steps"
            )
        return [gain**self.value for gain in estimate.gains[s]]

    def _scaled(self, x: Tensor, mean: Tensor, weights: list[float]) -> Tensor:
        """States with their bands scaled about a mean."""
        from undrift.remedies.haar import bands

        parts = bands(x - mean, len(weights) - 1)
        return mean + (parts * parts.new_tensor(weights).view(-1, *[1] * x.ndim)).sum(0)

    def _corrected(self, chain: Sampler, x: Tensor, s: float, estimate: Energies) -> Tensor:
        """The states at time s with their bands scaled; ``x`` itself where no weight differs."""
        weights = self._weights(s, estimate)
        if all(weight == 1 for weight in weights):
            return x
        scaled = self._scaled(x, chain.scale(s)[0] * estimate.mean.to(x), weights)
        return scaled if s > 0 else scaled.clamp(*estimate.bounds)

    def _after(self, chain: Sampler, t: float, after: State, estimate: Energies) -> State:
        """A state that was just reached from time t, corrected."""
        from undrift.remedies.sampler import moved

        return moved(chain, t, after, self._corrected(chain, after.x, after.t, estimate))

    def kernel(
        self, chain: Sampler, x_t: Tensor, t: float, s: float, estimate: Energies | None
    ) -> GaussianKernel | None:
        """The density of one denoising step, or None where its noise differs between the bands."""
        kernel, weights = chain.kernel(x_t, t, s), self._weights(s, self.needed(estimate))
        if kernel is None or all(weight == 1 for weight in weights):
            return kernel
        is_point = isinstance(kernel.variance, float) and kernel.variance == 0
        if not is_point:
            return None
        return replace(kernel, mean=self._corrected(chain, kernel.mean, s, self.needed(estimate)))

    def advance(
        self,
        chain: Sampler,
        state: State,
        s: float,
        estimate: Energies | None,
        generator: RandomSource | None,
    ) -> State:
        """One denoising step and the correction, from which a solver's history continues."""
        after = chain.advance(state, s, generator=generator)
        return self._after(chain, state.t, after, self.needed(estimate))

    def record(self, base: Sampler, estimate: Energies | None) -> dict[str, Any]:
        """The options, the number of calibration chains, and the weights at each time."""
        own: dict[str, Any] = {"num_data": 0, "weights": []}
        if estimate is not None:
            rounded = [[float(f"{g:.6g}") for g in gains] for gains in estimate.gains.values()]
            own = {"num_data": estimate.num_data, "weights": rounded}
        return super().record(base, estimate) | own


def measured_gains(forward: Tensor, chain: Tensor) -> list[float]:
    r"""The weights :math:`g_j` of all bands, 1 where the energies are not distinguishable.

    One row alone has no known error: all weights are 1 then.

    Arguments:
        forward: Energies whose mean over the rows is the wanted one, with shape :math:`(M, J)`.
        chain: Energies of states of the chain, with shape :math:`(N, J)`.

    Example:
        >>> import torch
        >>> energies = torch.tensor([[3.0, 1.0], [5.0, 2.0]], dtype=torch.float64)
        >>> measured_gains(energies, energies)
        [1.0, 1.0]
    """
    import torch

    from undrift.reporting.numbers import Z_95

    if min(len(forward), len(chain)) < 2:
        return [1.0] * forward.shape[1]
    (wanted, e), (found, f) = ((x.mean(0), x.std(0) / len(x) ** 0.5) for x in (forward, chain))
    log = torch.where((wanted > 0) & (found > 0), (wanted / found).log(), 0.0)
    error = torch.hypot(e / wanted, f / found)
    share = (1 - (Z_95 * error / log).square()).nan_to_num(0.0).clamp(min=0)
    gains: list[float] = (share * log / 2).exp().tolist()
    return gains
