r"""The Gaussian chain: every error of the theory in closed form.

Data :math:`N(m, S)`, the forward process :math:`x_t = \sqrt{1-\beta_t}\,x_{t-1} + \sqrt{\beta_t}\,
\epsilon`, a denoiser :math:`\hat x_0 = A_t x_t + b_t` that is affine in the state, and denoising
steps with the kernel

.. math:: K_t(\cdot \mid x_t) = N(c_0 \hat x_0 + c_1 x_t,\; V_t), \qquad
          c_0 = \frac{\alpha_{t-1}\beta_t}{\sigma_t^2}, \quad
          c_1 = \frac{\sqrt{1-\beta_t}\,\sigma_{t-1}^2}{\sigma_t^2}

keep every distribution Gaussian: the forward marginals :math:`q_t`, the sampled marginals
:math:`p_t`, and both conditionals between neighbors. With natural logarithms (nats),

.. math::
    E_{mod}(t)  &= E_{p_t} KL(K_t(\cdot|x_t) \,\|\, q(\cdot|x_t)) \\
    E_{cumu}(t) &= KL(p_{t-1} \,\|\, q_{t-1}), \qquad E_{cumu}(T+1) = KL(p_T \,\|\, q_T) \\
    E_{con}(t)  &= E_{p_{t-1}} KL(p(\cdot|x_{t-1}) \,\|\, q(\cdot|x_{t-1})) \\
    E_{cumu}(t) &= E_{cumu}(t+1) + E_{mod}(t) - E_{con}(t)

The last line is the error budget (docs/theory, section 2). Nothing here uses it: each of the three
errors is computed from its own definition, so the budget is a check.

Tables run upwards: entry :math:`i` of a table of steps belongs to the step from state
:math:`i + 1` to state :math:`i`, entry :math:`i` of a table of states to state :math:`i`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from undrift.diffusion.schedule import Schedule
from undrift.exceptions import InvalidInput
from undrift.theory.checks import as_covariance, as_float64, as_step_covariances, as_vector
from undrift.theory.error_budget import ErrorBudget

ReverseVariance = Literal["small", "large", "optimal", "exact"]


class GaussianChain:
    r"""Gaussian data, an affine denoiser and Gaussian denoising steps: exact, in float64.

    Arguments:
        mean: Mean of the data, with shape :math:`(d,)`.
        cov: Covariance of the data, positive definite, with shape :math:`(d, d)`.
        betas: Forward variances, with shape :math:`(T,)`.
        slope: :math:`A_t`, with shape :math:`(T, d, d)`.
        offset: :math:`b_t`, with shape :math:`(T, d)`.
        var: Reverse variances: one per step :math:`(T,)`, one per dimension :math:`(T, d)`, or
            full covariances :math:`(T, d, d)`. 0 makes a step deterministic.
        prior_mean: Mean of :math:`p_T`; 0 when None.
        prior_cov: Covariance of :math:`p_T`; the identity when None.

    Raises:
        InvalidInput: If a shape does not fit, a number is not finite, a covariance is not positive
            definite, a beta lies outside of (0, 1) or a variance is negative.

    Example:
        >>> from undrift.diffusion.schedule import CosineSchedule
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> chain = GaussianChain.from_schedule(
        ...     0 * eye[0], 0.5 * eye, CosineSchedule(50), variance="large", slope_error=-0.05)
        >>> budget = chain.budget()
        >>> budget.relative_gap < 1e-9, bool((budget.mu <= 1).all())
        (True, True)
    """

    def __init__(
        self,
        mean: Tensor,
        cov: Tensor,
        betas: Tensor,
        slope: Tensor,
        offset: Tensor,
        var: Tensor,
        *,
        prior_mean: Tensor | None = None,
        prior_cov: Tensor | None = None,
    ) -> None:
        self.mean = as_vector("mean", mean, "dimension")
        self.betas = as_vector("betas", betas, "step")
        if not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise InvalidInput("betas must lie between 0 and 1, both excluded")
        self.num_steps, self.dim = steps, dim = len(self.betas), len(self.mean)
        self.cov = as_covariance("cov", cov, dim)
        self.slope = as_float64("slope", slope, (steps, dim, dim))
        self.offset = as_float64("offset", offset, (steps, dim))
        self.noise = as_step_covariances(var, steps, dim)
        prior_mean = torch.zeros(dim) if prior_mean is None else prior_mean
        self.prior_mean = as_float64("prior mean", prior_mean, (dim,))
        prior_cov = torch.eye(dim) if prior_cov is None else prior_cov
        self.prior_cov = as_covariance("prior covariance", prior_cov, dim)
        self._spectrum, self._basis = torch.linalg.eigh(self.cov)

    @classmethod
    def from_schedule(
        cls,
        mean: Tensor,
        cov: Tensor,
        schedule: Schedule,
        *,
        grid: tuple[int, ...] | None = None,
        variance: ReverseVariance = "small",
        slope_error: float | Tensor = 0.0,
        offset_error: float | Tensor = 0.0,
        variance_error: float | Tensor = 0.0,
    ) -> GaussianChain:
        r"""The chain of the ideal denoiser, with errors of a chosen size.

        .. math:: \hat x_0 = m + (1 + e_{slope}) A^*_t (x_t - \alpha_t m)
                  + e_{offset} \sqrt{\mathrm{diag}\,S}, \qquad V_t = (1 + e_{var}) V

        Arguments:
            mean: Mean of the data, with shape :math:`(d,)`.
            cov: Covariance of the data, with shape :math:`(d, d)`.
            schedule: The noise schedule.
            grid: Descending times that the sampler visits, down to 0; every step when None. A
                segment of the grid is then one step of the chain.
            variance: ``"small"`` (:math:`\tilde\beta_t`, 0 at the last step), ``"large"``
                (:math:`\beta_t`), ``"optimal"`` (the isotropic variance with the least modular
                error) or ``"exact"`` (the covariance of the true reverse conditional).
            slope_error: Relative error of the slope: a number, or one per step with shape
                :math:`(T,)`, or a matrix per step with shape :math:`(T, d, d)`.
            offset_error: Error of the offset in standard deviations of the data: a number, or one
                per step with shape :math:`(T,)`.
            variance_error: Relative error of the reverse variance, a number or one per step.
        """
        grid = schedule.time_grid() if grid is None else grid
        table = schedule.alphas_cumprod[torch.tensor(grid[::-1])]
        betas = (table[:-1] - table[1:]) / table[:-1]
        steps, dim, eye = len(betas), len(mean), torch.eye(len(mean), dtype=torch.float64)
        mean, cov = mean.double(), cov.double()
        any_denoiser = eye.expand(steps, dim, dim), mean.expand(steps, dim)
        ideal = cls(mean, cov, betas, *any_denoiser, torch.zeros(steps))
        slope_error = torch.as_tensor(slope_error, dtype=torch.float64)
        if slope_error.ndim < 3:
            slope_error = slope_error.expand(steps)[:, None, None] * eye
        slope = (eye + slope_error) @ ideal.ideal_slope
        offset_error = torch.as_tensor(offset_error, dtype=torch.float64).expand(steps)
        offset = mean - ideal.alpha[1:, None] * _apply(slope, mean)
        offset = offset + offset_error[:, None] * cov.diagonal().sqrt()
        factor = 1 + torch.as_tensor(variance_error, dtype=torch.float64).expand(steps)
        noise = factor[:, None, None] * ideal.reverse_variance(variance)
        return cls(mean, cov, betas, slope, offset, noise)

    @cached_property
    def alpha(self) -> Tensor:
        r""":math:`\alpha_t` of every state, with shape :math:`(T+1,)`."""
        logs = torch.log1p(-self.betas).cumsum(0) / 2
        return torch.cat([torch.ones(1, dtype=torch.float64), logs.exp()])

    @cached_property
    def sigma_sq(self) -> Tensor:
        r""":math:`\sigma_t^2` of every state, summed without cancellation."""
        values = [0.0]
        for beta in self.betas.tolist():
            values.append((1 - beta) * values[-1] + beta)
        return torch.tensor(values, dtype=torch.float64)

    @cached_property
    def _forward_spectrum(self) -> Tensor:
        """Eigenvalues of the forward covariances in the data's eigenbasis, (T + 1, d)."""
        return torch.outer(self.alpha.square(), self._spectrum) + self.sigma_sq[:, None]

    @cached_property
    def _reverse_spectrum(self) -> Tensor:
        r"""Eigenvalues of the true reverse conditional's covariance, (T, d)."""
        forward = self._forward_spectrum
        return self.betas[:, None] * forward[:-1] / forward[1:]

    @cached_property
    def forward_mean(self) -> Tensor:
        r"""Means of :math:`q_t`, with shape :math:`(T+1, d)`."""
        return self.alpha[:, None] * self.mean

    @cached_property
    def forward_cov(self) -> Tensor:
        r"""Covariances of :math:`q_t`, with shape :math:`(T+1, d, d)`."""
        return self._in_basis(self._forward_spectrum)

    @cached_property
    def ideal_slope(self) -> Tensor:
        r""":math:`A^*_t = \alpha_t S (\alpha_t^2 S + \sigma_t^2 I)^{-1}`, with shape (T, d, d)."""
        alpha, forward = self.alpha[1:, None], self._forward_spectrum[1:]
        return self._in_basis(alpha * self._spectrum / forward)

    @cached_property
    def ideal_offset(self) -> Tensor:
        r""":math:`b^*_t = m - \alpha_t A^*_t m`, with shape :math:`(T, d)`."""
        return self.mean - self.alpha[1:, None] * _apply(self.ideal_slope, self.mean)

    @cached_property
    def gain(self) -> Tensor:
        r"""Jacobian :math:`M_t = c_0 A_t + c_1 I` of the step's mean, with shape (T, d, d)."""
        eye = torch.eye(self.dim, dtype=torch.float64)
        keep = (1 - self.betas).sqrt() * self.sigma_sq[:-1] / self.sigma_sq[1:]
        gain: Tensor = self._pull[:, None, None] * self.slope + keep[:, None, None] * eye
        return gain

    @cached_property
    def _pull(self) -> Tensor:
        r""":math:`c_0`, the weight of the estimate of the data, (T,)."""
        return self.alpha[:-1] * self.betas / self.sigma_sq[1:]

    def reverse_variance(self, variance: ReverseVariance) -> Tensor:
        """Reverse covariances of one rule, with shape :math:`(T, d, d)`; see `from_schedule`."""
        exact = self._reverse_spectrum
        if variance == "exact":
            return self._in_basis(exact)
        rules = {
            "small": self.betas * self.sigma_sq[:-1] / self.sigma_sq[1:],
            "large": self.betas,
            "optimal": 1 / (1 / exact).mean(1),
        }
        if variance not in rules:
            known = ", ".join([*rules, "exact"])
            raise InvalidInput(f"unknown reverse variance {variance!r}: choose {known}")
        return rules[variance][:, None, None] * torch.eye(self.dim, dtype=torch.float64)

    @cached_property
    def _sampled(self) -> tuple[Tensor, Tensor]:
        states = [(self.prior_mean, self.prior_cov)]
        for i in reversed(range(self.num_steps)):
            states.append(self.step(*states[-1], i))
        means, covs = zip(*reversed(states), strict=True)
        return torch.stack(means), torch.stack(covs)

    @property
    def sampled_mean(self) -> Tensor:
        r"""Means of :math:`p_t`, with shape :math:`(T+1, d)`."""
        return self._sampled[0]

    @property
    def sampled_cov(self) -> Tensor:
        r"""Covariances of :math:`p_t`, with shape :math:`(T+1, d, d)`."""
        return self._sampled[1]

    def step(self, mean: Tensor, cov: Tensor, index: int | Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean and covariance after denoising steps, each applied to a separate Gaussian.

        Arguments:
            mean: Means, with shape :math:`(n, d)`, or :math:`(d,)` for a single step.
            cov: Covariances, with shape :math:`(n, d, d)`, or :math:`(d, d)`.
            index: The n entries of the tables of steps, t − 1 for step t; or one number.
        """
        gain = self.gain[index]
        moved = _apply(gain, mean) + (self._pull[:, None] * self.offset)[index]
        spread = gain @ cov @ gain.mT + self.noise[index]
        return moved, (spread + spread.mT) / 2

    @cached_property
    def kl(self) -> Tensor:
        r""":math:`KL(p_t \,\|\, q_t)` of every state, in nats, with shape :math:`(T+1,)`."""
        whitener = self._whitener(self._forward_spectrum)
        ratio = whitener @ self.sampled_cov @ whitener.mT
        shift = whitener @ (self.sampled_mean - self.forward_mean).unsqueeze(-1)
        return kl_to_standard_normal(ratio, (shift**2).sum((-2, -1)))

    @cached_property
    def modular_error(self) -> Tensor:
        r""":math:`E_{mod}(t)` in nats, with shape :math:`(T,)`; infinite without noise."""
        whitener = self._whitener(self._reverse_spectrum)
        bias = self._pull[:, None, None] * (self.slope - self.ideal_slope)
        shift = _apply(bias, self.sampled_mean[1:])
        shift = shift + self._pull[:, None] * (self.offset - self.ideal_offset)
        second = bias @ self.sampled_cov[1:] @ bias.mT + shift.unsqueeze(-1) * shift.unsqueeze(-2)
        misfit = (whitener @ second @ whitener.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
        return kl_to_standard_normal(whitener @ self.noise @ whitener.mT, misfit)

    @cached_property
    def contraction(self) -> Tensor:
        r""":math:`E_{con}(t)` in nats, with shape :math:`(T,)`; infinite without noise.

        The sampled chain backwards, :math:`p(x_t|x_{t-1}) = N(\mu + G(x_{t-1} - \mu'), C)`, by
        Bayes' rule in information form: :math:`C = (P_t^{-1} + M^\top V^{-1} M)^{-1}`.
        """
        eye, beta = torch.eye(self.dim, dtype=torch.float64), self.betas[:, None, None]
        chol_noise, silent = torch.linalg.cholesky_ex(self.noise)
        chol, flat = torch.linalg.cholesky_ex(self.sampled_cov[1:])
        impossible = (silent > 0) | (flat > 0)
        chol_noise = torch.where(impossible[:, None, None], eye, chol_noise)
        chol = torch.where(impossible[:, None, None], eye, chol)
        signal = torch.linalg.solve_triangular(chol_noise, self.gain @ chol, upper=False)
        precision = torch.linalg.cholesky(eye + signal.mT @ signal)
        half = torch.linalg.solve_triangular(precision, chol.mT, upper=False)
        back = torch.cholesky_solve(signal.mT, precision)
        back = chol @ torch.linalg.solve_triangular(chol_noise, back, upper=False, left=False)
        drift = back - (1 - beta).sqrt() * eye
        mean, new = self.sampled_mean[1:], self.sampled_mean[:-1]
        shift = ((mean - (1 - beta[..., 0]).sqrt() * new) ** 2).sum(-1)
        spread = (drift @ self.sampled_cov[:-1] @ drift.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
        value = kl_to_standard_normal(half.mT @ half / beta, (spread + shift) / self.betas)
        return torch.where(impossible, math.inf, value)

    def budget(self) -> ErrorBudget:
        """The error budget of every step."""
        return ErrorBudget(
            e_prior=float(self.kl[-1]),
            e_cumu=self.kl[:-1],
            e_mod=self.modular_error,
            e_con=self.contraction,
        )

    def _in_basis(self, spectrum: Tensor) -> Tensor:
        """Symmetric matrices with these eigenvalues in the data's eigenbasis."""
        return torch.einsum("ij,...j,kj->...ik", self._basis, spectrum, self._basis)

    def _whitener(self, spectrum: Tensor) -> Tensor:
        """Matrices that turn Gaussians with these eigenvalues into standard ones."""
        return torch.einsum("...i,ji->...ij", spectrum.rsqrt(), self._basis)


def kl_to_standard_normal(cov: Tensor, mean_sq: Tensor) -> Tensor:
    r"""Kullback–Leibler divergence :math:`KL(N(m, R) \,\|\, N(0, I))`.

    .. math:: \tfrac12 \sum_i (\lambda_i - \log(1 + \lambda_i)) + \tfrac12 \|m\|^2, \qquad
              \lambda = \mathrm{eig}(R - I)

    Any two Gaussians come to this form by whitening with the second. It keeps full
    precision for nearly equal ones: every term is positive and of second order.

    Arguments:
        cov: :math:`R`, with shape :math:`(*, d, d)`.
        mean_sq: :math:`\|m\|^2`, with shape :math:`(*)`.

    Returns:
        Divergence in nats, with shape :math:`(*)`; infinite where :math:`R` is singular.

    Example:
        >>> float(kl_to_standard_normal(torch.eye(2), torch.tensor(2.0)))
        1.0
    """
    cov = (cov + cov.mT) / 2
    excess = torch.linalg.eigvalsh(cov - torch.eye(cov.shape[-1], dtype=cov.dtype))
    near = (excess - torch.log1p(excess)).sum(-1)
    # Far from the identity the diagonal of the factor is more accurate for small variances.
    chol, failed = torch.linalg.cholesky_ex(cov)
    log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    far = cov.diagonal(dim1=-2, dim2=-1).sum(-1) - cov.shape[-1] - log_det
    spread = torch.where(excess.abs().amax(-1) < 0.5, near, far)
    singular = (failed > 0) | (1 + excess[..., 0] <= 1e-14 * (1 + excess[..., -1]))
    return torch.where(singular, math.inf, (spread + mean_sq) / 2)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("...ij,...j->...i", matrix, vector)
