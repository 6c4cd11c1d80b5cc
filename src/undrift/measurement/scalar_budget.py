r"""Estimates of the scalar error budget (:mod:`undrift.measurement.scalar_state`), with error bars.

For each state the rows :math:`i = 1, \dots, N` hold the sampler's states :math:`x_i` and forward
draws :math:`y_i` of one choice of data and noise for all states. The segment from t' to t is run
from both with the same noise. Three expectations are needed at each state.

- *Sampled*, :math:`E_{p_t} S`: the mean over :math:`x_i`.
- *Forward*, :math:`E_{q_t} S`: the mean over all n data of :math:`E[S(y) | x_0]`, which is known:
  no noise, only the data.
- *Rolled*, :math:`E_{K q_{t'}} S`: the mean over the ends of the second pass, with control variates
  whose expectations are known: :math:`S(y)` at both ends of the segment, and :math:`S(x_0)`. Their
  coefficients are those of least squares. For a short segment they remove nearly all of its noise.

A mean :math:`\bar S` of an energy enters as its logarithm, with influence
:math:`(S_i - \bar S) / \bar S` of row i. Errors are differences, so the influences of a chain, of
the forward draw that shares its noise, and of its datum are added before they are squared: all
correlations of common random numbers, of repeated data and between e and the inherited error are
in the standard errors. The part due to the data, which other chains on the same data share, comes
from the influences of the data alone: what is left of the rolled mean after its control variates
has no correlation with the statistic of its datum and counts as noise.

A forward draw is measured about the mean of the *other* data: about the mean of all, its own datum
included, its energy would be too small by 2/n of the data's part against samples of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undrift.diffusion.sampler import Sampler
from undrift.measurement.effective_time import EnergyTable
from undrift.measurement.forward_draws import PairedDraws
from undrift.measurement.scalar_state import EffectiveTime, ScalarError
from undrift.measurement.statistics import Statistics


@dataclass(frozen=True)
class Influences:
    r"""Estimates, and how much each row and each datum contributes to their deviations.

    Arguments:
        value: The estimates, with shape :math:`(K,)`.
        chains: Influence of each chain, with shape :math:`(N, K)`, mean 0.
        draws: Influence of each forward draw, likewise.
        data: Influence of each datum through known expectations, with shape :math:`(n, K)`.
    """

    value: Tensor
    chains: Tensor
    draws: Tensor
    data: Tensor

    def __sub__(self, other: Influences) -> Influences:
        pairs = zip(self._all, other._all, strict=True)
        return Influences(*(a - b for a, b in pairs))

    @property
    def _all(self) -> tuple[Tensor, ...]:
        return self.value, self.chains, self.draws, self.data


class ScalarBudget:
    """The scalar errors of a chain, state by state.

    Arguments:
        draws: Forward draws of one choice of data and noise, as many as there are chains.
        sampler: The chain.
    """

    def __init__(self, draws: PairedDraws, sampler: Sampler) -> None:
        self.draws, self.sampler = draws, sampler
        data = draws.data
        self.statistics = Statistics.of(data)
        self.center = data.mean(0)
        self.is_energy = self.statistics.is_energy
        own = len(data) / (len(data) - 1) if draws.is_population else 1.0
        squares = self.statistics.values(data - self.center)
        self.of_data = torch.where(self.is_energy, squares * own**2, squares * own)
        self.table = EnergyTable.of(sampler, self.of_data[:, self.is_energy].mean(0))
        self.before: tuple[float, Influences] | None = None

    def at(self, t: float, states: Tensor, rolled: Tensor | None = None) -> tuple[ScalarError, ...]:
        r"""The errors at the next state.

        Arguments:
            t: Its time.
            states: The sampler's states, with shape :math:`(N, *)`.
            rolled: The ends of a segment from the forward draws at the state before, with the noise
                that the sampler's states got, row by row, with shape :math:`(N, *)`.
        """
        sampled, forward = self._sampled(states, t), self._forward(t)
        error, before, self.before = sampled - forward, self.before, None
        self.before = t, error
        parts = {"error": error}
        if rolled is not None and before is not None:
            ends = self._rolled(rolled, before[0], t)
            parts |= {"inherited": sampled - ends, "fresh": ends - forward}
        found = {name: part.value for name, part in parts.items()}
        for name, part in parts.items():
            found[f"{name}_se"] = self._covariance(part, part).sqrt()
            data_se = self._data_covariance(part, part).sqrt()
            found[f"{name}_data_se"] = data_se.minimum(found[f"{name}_se"])
        if len(parts) > 1 and before is not None:
            pair = parts["inherited"], before[1]
            found |= {"covariance": self._covariance(*pair)}
            found |= {"data_covariance": self._data_covariance(*pair)}
        times = self._band_times(t, error.value, found["error_se"])
        known = torch.stack([values.isfinite() for values in found.values()]).all(0)
        rows = {name: values.tolist() for name, values in found.items()}
        return tuple(
            _timed(ScalarError(**{name: values[k] for name, values in rows.items()}), *times[k])
            if known[k]
            else ScalarError(None, None, None)
            for k in range(len(known))
        )

    def effective_time(self) -> EffectiveTime | None:
        """The time that the last states look like, by all bands; None where no band tells.

        So it is where the fit is at an end of the schedule: the energies lie beyond it.
        """
        assert self.before is not None
        (t, error), of = self.before, self.is_energy
        errors, variances = error.value[of], self._covariance(error, error)[of]
        known = errors.isfinite() & (variances > 0)
        weights = torch.where(known, 1 / variances, 0.0)
        logs = torch.where(known, self.table.logs, 0.0)
        table = EnergyTable(self.table.times, logs)
        now = torch.tensor([t], dtype=torch.float64)
        time = table.best(table.at(now)[0][0] + torch.where(known, errors, 0.0), weights)
        pull = weights * table.at(time)[1][0]
        norm = (pull * table.at(time)[1][0]).sum()
        own = torch.where(known, self._contributions(error)[:, of], 0.0) @ pull / norm
        data = torch.where(known, error.data[:, of], 0.0) @ pull / norm / len(error.data)
        se = float(own.square().sum().sqrt())
        first, last = float(table.times[0]), float(table.times[-1])
        if not (first < float(time) < last and se < last - first):
            return None
        return EffectiveTime(float(time), se, min(float(data.square().sum().sqrt()), se))

    def _band_times(self, t: float, errors: Tensor, se: Tensor) -> list[tuple[float, float]]:
        """Effective time and its standard error of each energy; not numbers where there is none."""
        now = torch.tensor([t], dtype=torch.float64)
        of, times = self.is_energy, torch.full((2, len(errors)), torch.nan, dtype=torch.float64)
        found = self.table.nearest(self.table.at(now)[0][0] + errors[of], t)
        slopes = self.table.at(found.nan_to_num())[1].diagonal()
        error = se[of] / slopes.abs()
        is_short = error < float(self.table.times[-1] - self.table.times[0])
        times[0, of], times[1, of] = torch.where(is_short, found, torch.nan), error
        return [(float(time), float(error)) for time, error in times.T]

    def _scale(self, t: float) -> tuple[float, float]:
        return (1.0, 0.0) if t == 0 else self.sampler.scale(t)

    def _sampled(self, states: Tensor, t: float) -> Influences:
        values = self.statistics.values(states - self._scale(t)[0] * self.center)
        mean, chains = self._with_logs(values.mean(0), values - values.mean(0))
        return Influences(mean, chains, torch.zeros_like(chains), torch.zeros_like(self.of_data))

    def _expected(self, t: float) -> Tensor:
        """Expectation of the statistics of a forward draw given each datum, (n, K)."""
        alpha, sigma = self._scale(t)
        return torch.where(self.is_energy, alpha**2 * self.of_data + sigma**2, alpha * self.of_data)

    def _forward(self, t: float) -> Influences:
        values = self._expected(t)
        mean, data = self._with_logs(values.mean(0), self._of_data(values))
        none = torch.zeros(len(self.draws), len(mean), dtype=mean.dtype)
        return Influences(mean, none, none, data)

    def _rolled(self, rolled: Tensor, start: float, t: float) -> Influences:
        values = self._about_others(rolled, t)
        ends = [self._about_others(self.draws.at(s), s) for s in (start, t)]
        controls = torch.stack([*ends, self.of_data[self.draws.rows]], -1)
        known = torch.stack([*map(self._expected, (start, t)), self.of_data], -1)
        weights = _coefficients(values, controls)
        mean = values.mean(0) - ((controls.mean(0) - known.mean(0)) * weights).sum(-1)
        rows = values - (controls * weights).sum(-1)
        plain = self.is_energy & (mean <= 0)  # never of a resolved energy
        mean = torch.where(plain, values.mean(0), mean)
        data = self._of_data((known * weights).sum(-1))
        mean, draws, data = self._with_logs(mean, rows - rows.mean(0), data)
        return Influences(mean, torch.zeros_like(draws), draws, data)

    def _about_others(self, states: Tensor, t: float) -> Tensor:
        """Statistics of forward draws, or of ends from them, about the mean of the other data."""
        alpha, _ = self._scale(t)
        deviations = states - alpha * self.center
        if self.draws.is_population:
            own = (self.draws.x_0 - self.center) / (len(self.draws.data) - 1)
            deviations = torch.add(deviations, own, alpha=alpha)
        return self.statistics.values(deviations)

    def _of_data(self, values: Tensor) -> Tensor:
        """Influence of each datum, none where the data set is the target itself."""
        return (values - values.mean(0)) * self.draws.is_population

    def _with_logs(self, mean: Tensor, *influences: Tensor) -> tuple[Tensor, ...]:
        """The logarithms of energies, and the influences on them."""
        scale = torch.where(self.is_energy, mean, 1.0)
        logs = torch.where(self.is_energy, mean.log(), mean)
        return (logs, *(influence / scale for influence in influences))

    def _covariance(self, a: Influences, b: Influences) -> Tensor:
        """Covariances of estimates, with shape (K,)."""
        first, second = (self._contributions(x) for x in (a, b))
        return (first * second).sum(0)

    def _contributions(self, influences: Influences) -> Tensor:
        """Contributions of independent units: data with all chains that share their noise."""
        units, count = self.draws.units, len(self.draws)
        total = torch.zeros(int(units.max()) + 1, len(influences.value), dtype=torch.float64)
        if self.draws.is_population:
            total = influences.data / len(influences.data)
        rows = (influences.chains + influences.draws) / count
        contributions: Tensor = total.index_add(0, units, rows)
        return contributions

    def _data_covariance(self, a: Influences, b: Influences) -> Tensor:
        """The part of the covariances that other chains on the same data share, (K,)."""
        return (a.data * b.data).sum(0) / len(a.data) ** 2


def _timed(error: ScalarError, time: float, se: float) -> ScalarError:
    """The error of a statistic with its effective time, if it has one."""
    if not math.isfinite(time):
        return error
    assert error.error_se and error.error_data_se is not None
    data_se = se * error.error_data_se / error.error_se
    return replace(error, effective_time=time, effective_time_se=se, effective_time_data_se=data_se)


def _coefficients(values: Tensor, controls: Tensor) -> Tensor:
    """Least-squares coefficients of each statistic on its control variates, with shape (K, J)."""
    values, controls = values - values.mean(0), controls - controls.mean(0)
    spread = controls.square().mean(0).sqrt()
    scaled = controls / torch.where(spread > 0, spread, 1.0)
    gram = torch.einsum("nkj,nkl->kjl", scaled, scaled)
    moment = torch.einsum("nkj,nk->kj", scaled, values)
    solved = (torch.linalg.pinv(gram, rtol=1e-9, hermitian=True) @ moment[..., None])[..., 0]
    return torch.where(spread > 0, solved / torch.where(spread > 0, spread, 1.0), 0.0)
