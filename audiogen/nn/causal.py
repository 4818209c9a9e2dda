"""What causal attention layers share: which keys a query sees, and the keys and values that generation keeps.

A causal layer is called in two ways. `layer(x)` takes a whole sequence. `layer(x, state)`, with a state from
`layer.begin()`, takes the first tokens of one; called again with that state, it goes on where they ended, and never
computes a key twice. Both give the same numbers (tests/nn/test_transformer.py).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn


def earlier(queries: int, keys: int, *, reach: int | None = None, device: torch.device | str = "cpu") -> Tensor:
    """(queries, keys) bool: True where the key is no later than the query, and at most `reach` tokens before it.

    The queries are the last of the keys.
    """
    place = torch.arange(keys, device=device)
    distance = place[keys - queries :, None] - place
    return (distance >= 0) if reach is None else (distance >= 0) & (distance <= reach)


def heads_of(projection: nn.Linear, x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """x (batch, tokens, width), projected to `parts` x width -> `parts` tensors (batch, heads, tokens, dim)."""
    return rearrange(
        projection(x), "batch tokens (parts heads dim) -> parts batch heads tokens dim", parts=parts, heads=heads
    ).unbind(0)


def heads_joined(y: Tensor) -> Tensor:
    """(batch, heads, tokens, dim) -> (batch, tokens, heads * dim)."""
    return rearrange(y, "batch heads tokens dim -> batch tokens (heads dim)")


def check_heads(width: int, heads: int) -> int:
    """Width of a head. Raises ValueError where the heads do not divide the width."""
    if heads < 1 or width % heads:
        raise ValueError(f"width={width} must be a multiple of heads={heads}")
    return width // heads


class KeyValueCache:
    """Keys and values of all tokens so far. For generation only: no gradient goes through it.

    The room doubles when it is full, so that a token is copied twice on average and not once for every later token.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._kept: Tensor | None = None  # (2, batch, heads, room, dim)

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (batch, heads, new, dim) -> those of all tokens so far, (batch, heads, tokens, dim)."""
        first, self.tokens = self.tokens, self.tokens + k.shape[2]
        if self._kept is None or self._kept.shape[3] < self.tokens:
            batch, heads, _, dim = k.shape
            larger = k.new_empty(2, batch, heads, max(2 * self.tokens, 64), dim)
            if self._kept is not None:
                larger[:, :, :, :first] = self._kept[:, :, :, :first]
            self._kept = larger
        self._kept[0, :, :, first : self.tokens] = k.detach()
        self._kept[1, :, :, first : self.tokens] = v.detach()
        kept = self._kept[:, :, :, : self.tokens]
        return kept[0], kept[1]
