"""Self-attention that knows distances and not places, so that a clip may be longer than those of training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions (Su et al. 2021, arXiv 2104.09864) and normed queries and keys.

    `reach`: a token looks at most that many tokens to either side, None: everywhere. With a reach no longer than the
    training clips, a long clip holds no distance that training has not shown.
    """

    def __init__(self, width: int, heads: int, *, reach: int | None = None) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width={width} must be an even multiple of heads={heads}")
        self.heads, self.reach = heads, reach
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, tokens, width) -> like x."""
        q, k, v = rearrange(
            self.into(x), "batch tokens (three heads dim) -> three batch heads tokens dim", three=3, heads=self.heads
        )
        tokens, dim = q.shape[-2:]
        # Norms keep the logits within sqrt(dim), where half precision is safe.
        q, k = rotate(F.rms_norm(q, (dim,))), rotate(F.rms_norm(k, (dim,)))
        mask = None if self.reach is None or tokens <= self.reach + 1 else near(tokens, self.reach, device=x.device)
        y = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask)
        return self.out(rearrange(y, "batch heads tokens dim -> batch tokens (heads dim)"))


def rotate(x: Tensor) -> Tensor:
    """Turn (x[i], x[i + dim/2]) at place n by the angle n / 1000^(2 i / dim). x (..., tokens, dim) -> like x."""
    tokens, half = x.shape[-2], x.shape[-1] // 2
    turn = 1000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(tokens, device=x.device, dtype=torch.float32)[:, None] * turn  # (tokens, dim / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def near(tokens: int, reach: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(tokens, tokens) bool: True where two tokens are at most `reach` apart."""
    place = torch.arange(tokens, device=device)
    return (place[:, None] - place).abs() <= reach
