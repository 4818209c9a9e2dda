"""Which style is this noisy mel of? The classifier behind classifier guidance, in the space of style vectors.

Styles are points in the space of text embeddings, so the classifier says where the style lies and how sure it is of
every coordinate: p(vector | x, sigma) is a diagonal Gaussian. Unlike a softmax over names it knows mixtures of styles
and styles that prompts name in other words, and its gradient says in which direction the style lies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiogen.generators.networks.gated import GatedConfig, GatedNetwork

FEATURES = 64
SPREAD = (-3.0, 1.0)  # range of the natural logarithm of a coordinate's deviation


class StyleClassifier(nn.Module):
    """x (batch, channels, frames) and its noise level -> log p(vector | x)."""

    def __init__(self, config: GatedConfig, *, channels: int, vector_dim: int) -> None:
        super().__init__()
        self.network = GatedNetwork(config, channels_in=channels, channels_out=2 * FEATURES)
        nn.init.normal_(self.network.out.weight, std=0.05)  # zero would stop all gradients at the pooling
        self.head = nn.Linear(2 * FEATURES, 2 * vector_dim)

    def log_probability(self, x: Tensor, noise_level: Tensor, vector: Tensor, mask: Tensor | None = None) -> Tensor:
        """-> (batch,), the mean over the coordinates. `mask` (batch, 1, frames): 1 in frames that count."""
        mean, log_spread = self(x, noise_level, mask)
        error = (vector - mean) * torch.exp(-log_spread)
        return (-0.5 * error.square() - log_spread - 0.5 * math.log(2 * math.pi)).mean(dim=1)

    def forward(self, x: Tensor, noise_level: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """-> mean and log deviation of the style vector, (batch, vector_dim) each."""
        frames = self.network(x, noise_level)  # (batch, 2 * FEATURES, frames)
        values, gates = frames.chunk(2, dim=1)
        weight = torch.sigmoid(gates) if mask is None else torch.sigmoid(gates) * mask
        pooled = (values * weight).sum(dim=2) / weight.sum(dim=2).clamp(min=1e-4)
        loudest = values.masked_fill(mask == 0, -1e4).amax(dim=2) if mask is not None else values.amax(dim=2)
        mean, log_spread = self.head(torch.cat((pooled, loudest), dim=1)).chunk(2, dim=1)
        low, high = SPREAD
        return mean, low + (high - low) * torch.sigmoid(log_spread)
