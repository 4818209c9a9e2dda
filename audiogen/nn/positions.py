"""Places and distances as sines and cosines (Vaswani et al. 2017, section 3.5)."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoids(places: Tensor, dim: int) -> Tensor:
    """places (tokens,) -> (tokens, dim): sines of place / 10000^(2 i / dim), then cosines. `dim` must be even."""
    if dim % 2:
        raise ValueError(f"dim={dim} must be even: half are sines, half cosines")
    turn = 10_000.0 ** (-torch.arange(dim // 2, device=places.device, dtype=torch.float32) / (dim // 2))
    angles = places.float()[:, None] * turn
    return torch.cat((angles.sin(), angles.cos()), dim=1)
