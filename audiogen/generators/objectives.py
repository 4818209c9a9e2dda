"""What a diffusion model learns: noise levels, preconditioning and loss weight of four objectives.

Everything is said in the variance-exploding coordinates of Karras et al. 2022 ("EDM", arXiv 2206.00364):

    x_sigma = x0 + sigma * noise                              noise ~ N(0, 1)
    D(x; sigma) = c_skip x + c_out F(c_in x, c_noise)         the estimate of x0 (EDM eq. 7); F is the network

A variance-preserving model sees z = alpha x0 + s noise with alpha^2 + s^2 = 1, a rectified flow (1 - t) x0 + t noise:
both are c_in x_sigma, with sigma = s / alpha and sigma = t / (1 - t). So one sampler serves every objective.

`sigma_data` is the standard deviation of x0. The textbooks' formulas hold for sigma_data = 1, normalised data; with
another value they are applied to x0 / sigma_data, noise level sigma / sigma_data.

`weight(sigma) * (D - x0)^2` equals the squared error of F against the objective's own target (noise, v, velocity...).

An objective is a frozen dataclass; `sigma` is (batch,) wherever it is a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError

# Linear beta(t) from 0.1 to 20: the continuous limit of DDPM's 1000 steps (Song et al. 2021, arXiv 2011.13456, eq. 33).
BETA_MIN, BETA_MAX = 0.1, 20.0


class Preconditioning(NamedTuple):
    """The scalars of EDM eq. 7, each (batch,)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor  # what the network is told of the noise level: in [-1, 1], or ln(sigma) / 4 for EDM


class Objective(Protocol):
    """What every objective offers. `sigma_min` and `sigma_max` bound the noise levels that training draws."""

    sigma_min: float
    sigma_max: float
    sigma_data: float

    def draw_sigma(self, u: Tensor) -> Tensor:
        """u, uniform in [0, 1), any shape -> noise levels of the training distribution, by its inverse CDF."""

    def precondition(self, sigma: Tensor) -> Preconditioning:
        """sigma (batch,) -> the four scalars of D, each (batch,)."""

    def weight(self, sigma: Tensor) -> Tensor:
        """sigma (batch,) -> the factor that makes (D - x0)^2 the objective's own loss, (batch,)."""

    def sigmas(self, steps: int, start: float | None = None) -> Tensor:
        """steps + 1 decreasing noise levels from `start` (default sigma_max) to 0, float32: what a sampler walks along.

        A `start` below sigma_max is for a shallow start: x = guess + start * noise. Raises `UserError` where steps < 1
        or `start` is outside (sigma_min, sigma_max].
        """


@dataclass(frozen=True)
class DDPMEpsilon:
    """The network predicts the noise (Ho et al. 2020, arXiv 2006.11239, eq. 14), at a uniform time."""

    schedule: str = "linear"  # "linear" or "cosine", see `vp_sigma`
    sigma_min: float = 0.01  # the first of DDPM's 1000 steps
    sigma_max: float = 150.0  # the last one
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        _check_schedule(self.schedule)

    def draw_sigma(self, u: Tensor) -> Tensor:
        return _vp_draw(self, u)

    def precondition(self, sigma: Tensor) -> Preconditioning:
        # x0 = x - sigma noise, with the network fed z = x / sqrt(1 + sigma^2).
        return Preconditioning(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=(sigma**2 + self.sigma_data**2).rsqrt(),
            c_noise=2 * vp_time(sigma / self.sigma_data, self.schedule) - 1,
        )

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma**-2

    def sigmas(self, steps: int, start: float | None = None) -> Tensor:
        return _vp_sigmas(self, steps, start)


@dataclass(frozen=True)
class VPrediction:
    """The network predicts v = alpha noise - s x0 (Salimans & Ho 2022, arXiv 2202.00512, section 4), at a uniform time.

    Preconditioning and weight are EDM's with the network's sign turned; what differs is the noise levels trained on.
    """

    schedule: str = "cosine"  # "cosine" or "linear", see `vp_sigma`
    sigma_min: float = 0.002
    sigma_max: float = 150.0
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        _check_schedule(self.schedule)

    def draw_sigma(self, u: Tensor) -> Tensor:
        return _vp_draw(self, u)

    def precondition(self, sigma: Tensor) -> Preconditioning:
        # x0 = alpha z - s v with z = alpha x, alpha = 1 / sqrt(1 + sigma^2), s = sigma alpha.
        total = sigma**2 + self.sigma_data**2
        return Preconditioning(
            c_skip=self.sigma_data**2 / total,
            c_out=-sigma * self.sigma_data * total.rsqrt(),
            c_in=total.rsqrt(),
            c_noise=2 * vp_time(sigma / self.sigma_data, self.schedule) - 1,
        )

    def weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def sigmas(self, steps: int, start: float | None = None) -> Tensor:
        return _vp_sigmas(self, steps, start)


@dataclass(frozen=True)
class EDM:
    """Karras et al. 2022 (arXiv 2206.00364), table 1, last column: ln(sigma) is normal, noise levels by rho = 7."""

    log_mean: float = -0.5  # of ln(sigma / sigma_data): the paper's P_mean -1.2 at its sigma_data 0.5
    log_std: float = 1.2  # P_std
    rho: float = 7.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 1.0

    def draw_sigma(self, u: Tensor) -> Tensor:
        sigma = self.sigma_data * torch.exp(self.log_mean + self.log_std * torch.special.ndtri(u))
        return sigma.clamp(self.sigma_min, self.sigma_max)

    def precondition(self, sigma: Tensor) -> Preconditioning:
        total = sigma**2 + self.sigma_data**2
        return Preconditioning(
            c_skip=self.sigma_data**2 / total,
            c_out=sigma * self.sigma_data * total.rsqrt(),
            c_in=total.rsqrt(),
            c_noise=sigma.log() / 4,
        )

    def weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2  # lambda(sigma)

    def sigmas(self, steps: int, start: float | None = None) -> Tensor:
        start = _check_walk(self, steps, start)
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        high, low = start ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return _to_zero((high + ramp * (low - high)) ** self.rho)  # eq. 5


@dataclass(frozen=True)
class RectifiedFlow:
    """The network predicts the velocity noise - x0 of the line x_t = (1 - t) x0 + t noise, t = sigma / (1 + sigma).

    Liu et al. 2022 (arXiv 2209.03003), eq. 1; logit-normal t: Esser et al. 2024 (arXiv 2403.03206), eq. 19. An Euler
    step of the flow in t and one in sigma are the same step, so `sample_euler` is the flow's own sampler.
    """

    # How t is drawn in training: "uniform" or "logit_normal". The latter hardly ever draws t > 0.99, where sampling
    # starts; with 8 steps that shows.
    time: str = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    sigma_min: float = 0.001
    sigma_max: float = 1000.0  # t = 0.999
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        if self.time not in ("logit_normal", "uniform"):
            raise UserError(f"rectified flow: time={self.time!r} must be 'logit_normal' or 'uniform'")

    def _time(self, sigma: Tensor | float) -> Tensor | float:
        return sigma / (self.sigma_data + sigma)

    def draw_sigma(self, u: Tensor) -> Tensor:
        if self.time == "uniform":
            low, high = self._time(self.sigma_min), self._time(self.sigma_max)
            t = low + u * (high - low)
            return self.sigma_data * t / (1 - t)
        # logit(t) = ln(t / (1 - t)) = ln(sigma / sigma_data): a logit-normal t is a log-normal sigma.
        sigma = self.sigma_data * torch.exp(self.logit_mean + self.logit_std * torch.special.ndtri(u))
        return sigma.clamp(self.sigma_min, self.sigma_max)

    def precondition(self, sigma: Tensor) -> Preconditioning:
        # x0 = x_t - t velocity with x_t = (1 - t) x.
        t = self._time(sigma)
        return Preconditioning(
            c_skip=1 - t, c_out=-self.sigma_data * t, c_in=1 / (self.sigma_data + sigma), c_noise=2 * t - 1
        )

    def weight(self, sigma: Tensor) -> Tensor:
        return (self.sigma_data * self._time(sigma)) ** -2

    def sigmas(self, steps: int, start: float | None = None) -> Tensor:
        t = _uniform_times(self._time(_check_walk(self, steps, start)), steps)
        return _to_zero(self.sigma_data * t / (1 - t))


OBJECTIVES: dict[str, type[Objective]] = {
    "ddpm_epsilon": DDPMEpsilon,
    "v": VPrediction,
    "edm": EDM,
    "rectified_flow": RectifiedFlow,
}


def make_objective(name: str, **fields) -> Objective:
    """`OBJECTIVES[name](**fields)`, with an error that names the nearest objective."""
    if name not in OBJECTIVES:
        raise UserError(f"no objective is called {name!r}{did_you_mean(name, OBJECTIVES)}")
    return OBJECTIVES[name](**fields)


def denoiser(objective: Objective, network: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x, sigma) of EDM eq. 7 from the network F(c_in x, c_noise). x (batch, ...), sigma (batch,) -> like x."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        c_skip, c_out, c_in, c_noise = objective.precondition(sigma)
        f = network(per_item(c_in, x) * x, c_noise)
        return torch.addcmul(per_item(c_skip, x) * x, per_item(c_out, x), f.to(x.dtype))

    return denoise


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """values (batch,) -> (batch, 1, ..., 1), to multiply `like` (batch, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def vp_sigma(t: Tensor, schedule: str) -> Tensor:
    """Noise level s / alpha of a variance-preserving process of unit data at time t in [0, 1).

    "cosine": alpha = cos(pi t / 2) (Salimans & Ho 2022, section 4); "linear": the continuous DDPM (EDM table 1, "VP").
    """
    if schedule == "cosine":
        return torch.tan(t * (math.pi / 2))
    return torch.expm1(t**2 * ((BETA_MAX - BETA_MIN) / 2) + t * BETA_MIN).sqrt()


def vp_time(sigma: Tensor, schedule: str) -> Tensor:
    """The inverse of `vp_sigma`."""
    if schedule == "cosine":
        return torch.atan(sigma) * (2 / math.pi)
    slope = BETA_MAX - BETA_MIN
    # The root of slope t^2 / 2 + BETA_MIN t = ln(1 + sigma^2), in the form that does not cancel at small sigma.
    log = 2 * torch.log1p(sigma**2)
    return log / (BETA_MIN + (BETA_MIN**2 + slope * log).sqrt())


def _vp_draw(objective: DDPMEpsilon | VPrediction, u: Tensor) -> Tensor:
    low, high = (
        vp_time(torch.tensor(sigma / objective.sigma_data, dtype=torch.float64), objective.schedule).item()
        for sigma in (objective.sigma_min, objective.sigma_max)
    )
    return objective.sigma_data * vp_sigma(low + u * (high - low), objective.schedule)


def _vp_sigmas(objective: DDPMEpsilon | VPrediction, steps: int, start: float | None) -> Tensor:
    """"Trailing" steps: the first is the noisiest level itself (Lin et al. 2023, arXiv 2305.08891, table 2)."""
    start = _check_walk(objective, steps, start)
    first = vp_time(torch.tensor(start / objective.sigma_data, dtype=torch.float64), objective.schedule).item()
    return _to_zero(objective.sigma_data * vp_sigma(_uniform_times(first, steps), objective.schedule))


def _uniform_times(first: float, steps: int) -> Tensor:
    """first, first (1 - 1/steps), ..., first / steps; float64."""
    return first * (1 - torch.arange(steps, dtype=torch.float64) / steps)


def _to_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)]).to(torch.float32)


def _check_schedule(schedule: str) -> None:
    if schedule not in ("linear", "cosine"):
        raise UserError(f"noise schedule {schedule!r} must be 'linear' or 'cosine'")


def _check_walk(objective: Objective, steps: int, start: float | None) -> float:
    if steps < 1:
        raise UserError(f"{steps} sampling steps: at least 1 is needed")
    start = objective.sigma_max if start is None else float(start)
    if not objective.sigma_min < start <= objective.sigma_max:
        raise UserError(
            f"a start at noise level {start:g} is outside this model's range: choose one above {objective.sigma_min:g} "
            f"and up to {objective.sigma_max:g}"
        )
    return start
