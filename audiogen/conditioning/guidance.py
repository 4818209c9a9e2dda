"""Classifier-free guidance (Ho & Salimans 2022) as pure functions, and the dropping of conditions behind it.

What is guided may be anything that is linear in the score: noise ε, v, velocity or the clean mel.

>>> import torch
>>> guided(torch.tensor([3.0]), torch.tensor([1.0]), 2.0)
tensor([5.])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition
from audiogen.core.rng import SampleRng

ROUTES = ("vector", "tokens", "aligned")


def guided(conditional: Tensor, unconditional: Tensor, scale: float | Tensor, *, rescale: float = 0.0) -> Tensor:
    """unconditional + scale * (conditional - unconditional), any shape with the batch first.

    `scale` is a number or (batch,): 0 unconditional, 1 conditional, above 1 guided. With a negative condition, what the
    model says to that takes the place of `unconditional`. `rescale` in 0..1 mixes in the result brought back to the
    spread of `conditional` (Lin et al. 2024, equations 15 and 16), which takes off what large scales over-drive.
    """
    scale = _per_sample(scale, conditional)
    result = unconditional + scale * (conditional - unconditional)
    if not rescale:
        return result
    over = tuple(range(1, conditional.dim()))
    factor = conditional.std(over, keepdim=True) / result.std(over, keepdim=True).clamp_min(1e-8)
    return result * (rescale * factor + (1 - rescale))


def classifier_guided(
    denoise: Callable[[Tensor, Tensor], Tensor], log_probability: Callable[[Tensor, Tensor], Tensor], scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser D(x, sigma) guided by a classifier of noisy data (Dhariwal & Nichol 2021, algorithm 2).

    `log_probability(x, sigma)` -> (batch,): log p(what is asked for | x) at x = x0 + sigma * noise. As the score is
    (D - x) / sigma^2, the guided one is D + scale * sigma^2 * d log p / dx: at scale 1, with the true classifier, the
    denoiser of the class itself. Needs autograd: not inside torch.inference_mode.
    """

    def steered(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.enable_grad():
            noisy = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(log_probability(noisy, sigma).sum(), noisy)
        return denoise(x, sigma) + scale * _per_sample(sigma, x).square() * slope

    return steered


def scale_at(scale: float, level: float | Tensor, interval: tuple[float, float] | None) -> Tensor:
    """The scale at a noise level: `scale` inside low < level <= high and 1 outside (Kynkäänniemi et al. 2024).

    `level` is a number or (batch,), in the sampler's own measure (sigma, or t in 0..1); None guides at every level.
    Where this gives 1 for the whole batch, the unconditional pass need not be computed at all.
    """
    level = torch.as_tensor(level, dtype=torch.float32)
    if interval is None:
        return torch.full_like(level, scale)
    low, high = interval
    if not low < high:
        raise UserError(f"guidance interval {interval} is empty; give the lower noise level first, e.g. (0.2, 0.8)")
    return torch.where((level > low) & (level <= high), scale, 1.0)


def drop(condition: Condition, probabilities: Mapping[str, float], rng: SampleRng) -> Condition:
    """Training's route dropout: each sample loses each route with that route's own probability, independently.

    A lost route is zeros, the roll's "a score is given" row as well. `rng` has one source a sample, so the choice does
    not depend on batch or process; a route's choice does not depend on which other routes there are.

    >>> batch = Condition(vector=torch.ones(2, 3), aligned=torch.ones(2, 5, 7))
    >>> drop(batch, {"vector": 1.0}, SampleRng(0, ids=[0, 1])).vector.sum()
    tensor(0.)
    """
    for name, probability in probabilities.items():
        if name not in ROUTES:
            raise UserError(f"no condition goes by the route {name!r}{did_you_mean(name, ROUTES)}")
        if not 0.0 <= probability <= 1.0:
            raise UserError(f"dropout of {name} is {probability}; it is a probability, so give 0 to 1")
    kept = {}
    for name in ROUTES:
        route = getattr(condition, name)
        if route is None or not probabilities.get(name, 0.0):
            continue
        if route.shape[0] != len(rng):
            raise ValueError(f"{name} holds {route.shape[0]} samples, rng {len(rng)}: they must be the same")
        keep = rng.fork(f"drop {name}").rand(1, device=route.device).squeeze(1) >= probabilities[name]  # (batch,)
        kept[name] = torch.where(_per_sample(keep, route), route, torch.zeros_like(route))
        if name == "tokens" and condition.mask is not None:
            kept["mask"] = condition.mask & keep.unsqueeze(1)
    return condition._replace(**kept)


def _per_sample(value: float | Tensor, like: Tensor) -> float | Tensor:
    """(batch,) -> (batch, 1, ...), to be multiplied with `like`; numbers pass."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value.to(like.device).reshape(-1, *[1] * (like.dim() - 1))
