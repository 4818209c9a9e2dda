"""Self-attention that knows distances and not places, so that a clip may be longer than those of training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.nn.causal import KeyValueCache, earlier, heads_joined, heads_of


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions (Su et al. 2021, arXiv 2104.09864) and normed queries and keys.

    `reach`: a token looks at most that many tokens to either side, None: everywhere. With a reach no longer than the
    training clips, a long clip holds no distance that training has not shown. `causal`: and to nothing that follows.
    """

    def __init__(self, width: int, heads: int, *, reach: int | None = None, causal: bool = False) -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width={width} must be an even multiple of heads={heads}")
        self.heads, self.reach, self.causal = heads, reach, causal
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def begin(self) -> KeyValueCache:
        """The state before the first token (audiogen/nn/causal.py)."""
        if not self.causal:
            raise ValueError("attention that looks ahead cannot go on token by token: causal=True is needed")
        return KeyValueCache()

    def forward(self, x: Tensor, state: KeyValueCache | None = None) -> Tensor:
        """x (batch, tokens, width) -> like x."""
        q, k, v = heads_of(self.into, x, 3, self.heads)
        tokens, dim = q.shape[-2:]
        first = 0 if state is None else state.tokens
        # Norms keep the logits within sqrt(dim), where half precision is safe.
        q, k = rotate(F.rms_norm(q, (dim,)), first=first), rotate(F.rms_norm(k, (dim,)), first=first)
        if state is not None:
            k, v = state.extend(k, v)
        y = F.scaled_dot_product_attention(q, k, v.to(q.dtype), **self._visible(tokens, k.shape[2], x.device))
        return self.out(heads_joined(y))

    def _visible(self, queries: int, keys: int, device: torch.device) -> dict[str, Any]:
        """What tells `scaled_dot_product_attention` which keys a query sees; a mask only where nothing is faster."""
        within = self.reach is None or keys <= self.reach + 1
        if not self.causal:
            return {} if within else {"attn_mask": near(keys, self.reach, device=device)}
        if within and queries in (1, keys):
            return {"is_causal": queries > 1}
        return {"attn_mask": earlier(queries, keys, reach=self.reach, device=device)}


def rotate(x: Tensor, *, first: int = 0) -> Tensor:
    """Turn (x[i], x[i + dim/2]) at place n by the angle n / 1000^(2 i / dim). x (..., tokens, dim) -> like x.

    `first`: the place of the first token.
    """
    tokens, half = x.shape[-2], x.shape[-1] // 2
    turn = 1000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    places = torch.arange(first, first + tokens, device=x.device, dtype=torch.float32)
    angles = places[:, None] * turn  # (tokens, dim / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def near(tokens: int, reach: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(tokens, tokens) bool: True where two tokens are at most `reach` apart."""
    place = torch.arange(tokens, device=device)
    return (place[:, None] - place).abs() <= reach
