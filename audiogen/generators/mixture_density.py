"""Mixture density output (Bishop 1994): a network's numbers -> a mixture of Gaussians over frames of mel.

    p(x) = sum_k w_k N(x; mean_k, S_k (I + V_k V_k^T) S_k),   S_k = diag(spread_k)

Weights, means and spreads follow the network's input; the directions V_k (dim, rank) are learned once. They say which
bins move together (a louder frame is louder in all its harmonics), which spreads alone cannot; with rank 0 every
component is diagonal. I + V V^T has no eigenvalue below 1, so its factors never fail, and its determinant and inverse
cost one (rank, rank) Cholesky factor for all frames together (matrix determinant lemma, Woodbury identity).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

LOG_SPREAD = (-4.0, 1.5)  # range of the natural logarithm of a spread, in deviations of the data


class Mixture(NamedTuple):
    """A mixture for each step: (..., components) and (..., components, dim)."""

    logits: Tensor
    mean: Tensor
    log_spread: Tensor


def log_likelihood(x: Tensor, mixture: Mixture, directions: Tensor) -> Tensor:
    """ln p(x), nats: x (..., dim), directions (components, dim, rank) -> (...)."""
    dim, rank = directions.shape[1:]
    error = (x.unsqueeze(-2) - mixture.mean) * torch.exp(-mixture.log_spread)  # (..., components, dim)
    square = error.square().sum(-1)
    log_det = 2 * mixture.log_spread.sum(-1)  # (..., components)
    if rank:
        identity = torch.eye(rank, dtype=directions.dtype, device=directions.device)
        factor = torch.linalg.cholesky(identity + directions.mT @ directions)  # (components, rank, rank)
        along = torch.einsum("...kd,kdr->...kr", error, directions)
        # |error|^2 - along^T (I + V^T V)^-1 along; the difference of both is at least 0 but for rounding.
        inner = torch.einsum("krs,...ks->...kr", torch.linalg.inv(factor), along)
        square = (square - inner.square().sum(-1)).clamp(min=0)
        log_det = log_det + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_normal = -0.5 * (square + log_det + dim * math.log(2 * math.pi))
    return torch.logsumexp(torch.log_softmax(mixture.logits, dim=-1) + log_normal, dim=-1)


def mixture_mean(mixture: Mixture) -> Tensor:
    """E[x], (..., dim)."""
    return (torch.softmax(mixture.logits, dim=-1).unsqueeze(-1) * mixture.mean).sum(-2)


def draw(
    mixture: Mixture, directions: Tensor, *, which: Tensor, noise: Tensor, temperature: float | Tensor = 1.0
) -> Tensor:
    """A sample x (batch, dim) of mixtures (batch, components, dim).

    which (batch,) uniform in [0, 1) chooses the component; noise (batch, dim + rank) standard normal moves it from its
    mean. `temperature`, a number or (batch,): below 1 the choice is sharpened and the move is smaller (Graves 2013, eq.
    61 and 62), 0 gives the mean of the likeliest component.
    """
    temperature = torch.as_tensor(temperature, dtype=mixture.mean.dtype, device=mixture.mean.device).reshape(-1, 1)
    weights = torch.softmax(mixture.logits / temperature.clamp(min=1e-4), dim=-1)
    below = weights.cumsum(-1)[:, :-1]  # (batch, components - 1)
    chosen = (which[:, None] >= below).sum(-1)  # (batch,)
    rows = torch.arange(len(chosen), device=chosen.device)
    dim = mixture.mean.shape[-1]
    along = torch.einsum("bdr,br->bd", directions[chosen], noise[:, dim:])
    move = torch.exp(mixture.log_spread[rows, chosen]) * (noise[:, :dim] + along)
    return mixture.mean[rows, chosen] + temperature * move


class MixtureDensity(nn.Module):
    """hidden (..., width), centre (..., dim) -> `Mixture`; each mean is an offset from the centre."""

    def __init__(self, width: int, dim: int, *, components: int, rank: int) -> None:
        super().__init__()
        self.components, self.dim = components, dim
        self.out = nn.Linear(width, components * (1 + 2 * dim))
        # Small but not zero: the likelihood depends on V V^T, whose gradient at V = 0 is 0.
        self.directions = nn.Parameter(0.05 * torch.randn(components, dim, rank))
        low, high = LOG_SPREAD
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias[components * (1 + dim) :] = math.log(-low / high)  # the sigmoid's place of a spread of 1

    @property
    def noise_dim(self) -> int:
        """Normal numbers that `draw` wants a step."""
        return self.dim + self.directions.shape[-1]

    def forward(self, hidden: Tensor, centre: Tensor) -> Mixture:
        sizes = (self.components, self.components * self.dim, self.components * self.dim)
        logits, offset, log_spread = self.out(hidden).float().split(sizes, dim=-1)
        shape = (*hidden.shape[:-1], self.components, self.dim)
        low, high = LOG_SPREAD
        # A soft clamp, so that the gradient never dies at the ends.
        log_spread = low + (high - low) * torch.sigmoid(log_spread.reshape(shape))
        return Mixture(logits, centre.unsqueeze(-2) + offset.reshape(shape), log_spread)

    def log_likelihood(self, x: Tensor, mixture: Mixture) -> Tensor:
        """ln p(x), nats: x (..., dim) -> (...)."""
        return log_likelihood(x, mixture, self.directions.float())

    def draw(self, mixture: Mixture, *, which: Tensor, noise: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """See `draw`."""
        return draw(mixture, self.directions.float(), which=which, noise=noise, temperature=temperature)
