"""Losses of generative adversarial networks, as pure functions of a discriminator's scores (verdicts) or of itself.

    kind              discriminator                               generator
    "non_saturating"  softplus(-D(real)) + softplus(D(fake))      softplus(-D(fake))   Goodfellow et al. 2014
    "hinge"           max(0, 1 - D(real)) + max(0, 1 + D(fake))   -D(fake)             Lim & Ye 2017
    "wgan"            D(fake) - D(real), `gradient_penalty`       -D(fake)             Arjovsky et al. 2017

Means over the batch. A penalty holds the discriminator's slope: `gradient_penalty` (WGAN-GP), `r1_penalty`; spectral
normalisation is a property of its layers (mel_discriminators.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError

KINDS = ("non_saturating", "hinge", "wgan")


def check_kind(kind: str) -> None:
    """Raise `UserError` where no loss is called `kind`."""
    if kind not in KINDS:
        raise UserError(f"no adversarial loss is called {kind!r}{did_you_mean(kind, KINDS)}")


def discriminator_loss(real: Tensor, fake: Tensor, kind: str, *, weight: Tensor | None = None) -> Tensor:
    """Scores of real and made samples, of one shape with the batch first -> scalar. `weight`: see `weighted_mean`."""
    if kind == "non_saturating":
        losses = F.softplus(-real) + F.softplus(fake)
    elif kind == "hinge":
        losses = F.relu(1 - real) + F.relu(1 + fake)
    else:
        check_kind(kind)
        losses = fake - real
    return weighted_mean(losses, weight)


def generator_loss(fake: Tensor, kind: str, *, weight: Tensor | None = None) -> Tensor:
    """Scores of made samples -> scalar."""
    check_kind(kind)
    return weighted_mean(F.softplus(-fake) if kind == "non_saturating" else -fake, weight)


def gradient_penalty(
    score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor, *, target: float = 1.0
) -> Tensor:
    """WGAN-GP (Gulrajani et al. 2017, eq. 3): E (|grad D(x)| - target)^2 at x between real and made samples.

    score: x -> (batch,); real, fake (batch, ...); share (batch,) uniform in [0, 1): how far x is on the way to `fake`.
    """
    share = share.reshape(-1, *[1] * (real.dim() - 1))
    between = torch.lerp(real.detach(), fake.detach(), share)
    return (_slope(score, between) - target).square().mean()


def r1_penalty(score: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018, eq. 9, without gamma): E |grad D(x)|^2 / 2 at real samples. score: x -> (batch,)."""
    return 0.5 * _slope(score, real.detach(), squared=True).mean()


def weighted_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over everything but the batch with weights of the same shape (all 1 where None), then over the batch."""
    values = values.reshape(len(values), -1)
    if weight is None:
        return values.mean()
    weight = weight.reshape(len(values), -1)
    return ((values * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)).mean()


def _slope(score: Callable[[Tensor], Tensor], x: Tensor, *, squared: bool = False) -> Tensor:
    """|grad score| at x, or its square: (batch,), with a graph."""
    x = x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(score(x).sum(), x, create_graph=True)
    square = gradient.flatten(1).square().sum(dim=1)
    return square if squared else (square + 1e-12).sqrt()
