"""From noise to data: each sampler is one pure function of a denoiser, in the coordinates of `objectives`.

    denoise(x, sigma): x (batch, ...), sigma (batch,) -> an estimate of x0, like x
    x: the start, (batch, ...), distributed as x0 + sigmas[0] * noise; from pure noise, sigmas[0] * noise
    sigmas: (steps + 1,) decreasing, usually ending at 0 (`objective.sigmas(steps)`)

All solve the probability-flow ODE  dx / dsigma = (x - D(x; sigma)) / sigma  (Karras et al. 2022, arXiv 2206.00364,
eq. 1 and 3 with sigma as time), except the ancestral ones, which put noise back after every step and so need `rng`.

| name     | evaluations   | order | random |                                                              |
|----------|---------------|-------|--------|--------------------------------------------------------------|
| euler    | steps         | 1     | no     | rectified flow's own; the same step as DDIM at eta 0         |
| ddim     | steps         | 1     | eta>0  | Song, Meng & Ermon 2021                                      |
| ddpm     | steps         | -     | yes    | Ho et al. 2020: needs many steps, forgives denoiser errors   |
| dpmpp_2m | steps         | 2     | no     | Lu et al. 2022: the best picture for few evaluations         |
| heun     | 2 steps - 1   | 2     | no     | Karras et al. 2022                                           |

A step costs one or two network evaluations and at most three passes over x; nothing is written in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng

Denoiser = Callable[[Tensor, Tensor], Tensor]


def sample_euler(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, rng: SampleRng | None = None) -> Tensor:
    """Euler's method in sigma; `steps` evaluations. `rng` is not used. -> like x."""
    for sigma, below in _steps(sigmas):
        # x + (below - sigma) (x - D) / sigma, which is a straight line from x to D.
        x = torch.lerp(denoise(x, _level(x, sigma)), x, below / sigma)
    return x


def sample_ddim(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, *, rng: SampleRng | None = None, eta: float = 0.0
) -> Tensor:
    """DDIM (Song, Meng & Ermon 2021, arXiv 2010.02502, eq. 12 and 16); `steps` evaluations. -> like x.

    eta 0 is deterministic and never touches `rng`; eta 1 is `sample_ddpm`.
    """
    for sigma, below in _steps(sigmas):
        fresh = eta * below * math.sqrt(1 - (below / sigma) ** 2)  # eq. 16, divided by alpha of the lower level
        kept = math.sqrt(below**2 - fresh**2)
        x = torch.lerp(denoise(x, _level(x, sigma)), x, kept / sigma)
        if fresh > 0:
            x = x + fresh * _noise(x, rng, "ddim with eta > 0")
    return x


def sample_ddpm(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, rng: SampleRng | None = None) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, eq. 6-7); `steps` evaluations; needs `rng`. -> like x."""
    for sigma, below in _steps(sigmas):
        # q(x_below | x_sigma, x0) = N(x0 + (below/sigma)^2 (x_sigma - x0), below^2 (1 - (below/sigma)^2))
        ratio = (below / sigma) ** 2
        x = torch.lerp(denoise(x, _level(x, sigma)), x, ratio)
        if below > 0:
            x = x + below * math.sqrt(1 - ratio) * _noise(x, rng, "ddpm")
    return x


def sample_dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, rng: SampleRng | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2); `steps` evaluations. `rng` is not used.

    -> like x. The first step, and the last where it goes to 0 (an infinite step in log sigma), are of first order.
    """
    previous, last_h = None, 0.0
    for sigma, below in _steps(sigmas):
        denoised = denoise(x, _level(x, sigma))
        estimate = denoised
        if below > 0:
            h = math.log(sigma / below)  # in lambda = -log sigma
            if previous is not None:
                estimate = torch.lerp(previous, denoised, 1 + h / (2 * last_h))  # eq. 12's D_i: linear extrapolation
            last_h = h
        x = torch.lerp(estimate, x, below / sigma)  # exp(-h) x + (1 - exp(-h)) D_i
        previous = denoised
    return x


def sample_heun(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, rng: SampleRng | None = None) -> Tensor:
    """Heun's method (Karras et al. 2022, algorithm 1); 2 steps - 1 evaluations where sigmas end at 0.

    `rng` is not used. -> like x.
    """
    for sigma, below in _steps(sigmas):
        slope = (x - denoise(x, _level(x, sigma))) / sigma
        ahead = torch.add(x, slope, alpha=below - sigma)
        if below > 0:
            slope_ahead = (ahead - denoise(ahead, _level(x, below))) / below
            ahead = torch.add(x, slope + slope_ahead, alpha=(below - sigma) / 2)
        x = ahead
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpmpp_2m": sample_dpmpp_2m,
    "heun": sample_heun,
    "euler": sample_euler,
}


def find_sampler(name: str) -> Callable[..., Tensor]:
    """`SAMPLERS[name]`, with an error that names the nearest sampler."""
    if name not in SAMPLERS:
        raise UserError(f"no sampler is called {name!r}{did_you_mean(name, SAMPLERS)}")
    return SAMPLERS[name]


def evaluations(name: str, steps: int) -> int:
    """How many network evaluations `steps` steps down to 0 cost."""
    find_sampler(name)
    return 2 * steps - 1 if name == "heun" else steps


def _steps(sigmas: Tensor) -> list[tuple[float, float]]:
    """[(sigma_0, sigma_1), (sigma_1, sigma_2), ...]; read once, so that no step waits for the device."""
    levels = sigmas.tolist()
    return list(zip(levels[:-1], levels[1:], strict=True))


def _level(x: Tensor, sigma: float) -> Tensor:
    return x.new_full((x.shape[0],), sigma)


def _noise(x: Tensor, rng: SampleRng | None, name: str) -> Tensor:
    if rng is None:
        raise UserError(f"the {name} sampler draws noise at every step: give it an rng")
    return rng.randn(*x.shape[1:], device=x.device).to(x.dtype)
