"""What noise level and style do to a network: one vector for all its layers, and a path past all of them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoiseAndStyle(nn.Module):
    """noise_level (batch,) or None, vector (batch, vector_dim) or None -> (batch, dim).

    A zero style vector and None are the same thing, no style; so are a noise level of 0 and None.
    """

    def __init__(self, dim: int, vector_dim: int, frequencies: int = 32) -> None:
        super().__init__()
        self.vector_dim = vector_dim
        # From 1/2 to 50 turns over a noise level in [-1, 1]: fine enough to tell 1 % apart, yet smooth out to the
        # levels that training hardly ever draws and where sampling starts.
        self.register_buffer("frequencies", torch.logspace(0, 2, frequencies) * (math.pi / 2), persistent=False)
        self.noise = nn.Sequential(nn.Linear(2 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))
        # Without biases, so that no style adds nothing.
        self.style = nn.Sequential(
            nn.Linear(vector_dim, dim, bias=False), nn.SiLU(), nn.Linear(dim, dim, bias=False)
        ) if vector_dim else None

    def forward(self, noise_level: Tensor | None, vector: Tensor | None, *, like: Tensor) -> Tensor:
        """`like` (batch, ...) gives batch size, device and dtype."""
        if noise_level is None:
            noise_level = like.new_zeros(like.shape[0])
        angles = noise_level[:, None].float() * self.frequencies  # (batch, frequencies)
        embedding = self.noise(torch.cat((angles.sin(), angles.cos()), dim=1).to(like.dtype))
        if vector is not None:
            if vector.shape != (like.shape[0], self.vector_dim):
                needed = (like.shape[0], self.vector_dim)
                raise ValueError(f"style vector {tuple(vector.shape)} where {needed} is needed")
            if self.style is not None:
                # Style vectors have length 1; the layers want components of size 1.
                embedding = embedding + self.style(vector.to(like.dtype) * math.sqrt(self.vector_dim))
        return F.silu(embedding)


class InputGain(nn.Module):
    """A gain on every channel of the input that follows noise level and style, 0 at the start of training.

    Noise, v and velocity are all, to a large part, a multiple of the network's own input that depends on the noise
    level alone. Without this path the layers spend their width on carrying that input unharmed, past norms that take
    its magnitude.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.gain = nn.Linear(dim, channels)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x (batch, channels, frames), modulation (batch, dim) -> like x."""
        return x * self.gain(modulation).unsqueeze(-1)
