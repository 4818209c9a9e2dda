"""Causal self-attention with a learned vector for every distance (Music Transformer, Huang et al. 2018, 1809.04281).

    softmax((Q Kᵀ + S) / sqrt(dim)) V,   S[i, j] = q_i · E[i - j]

Written out (Shaw et al. 2018) S takes a vector for every pair: memory O(tokens² dim). `skew` reads it off Q Eᵀ, whose
columns are distances, in O(tokens²).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.nn.causal import KeyValueCache, check_heads, earlier, heads_joined, heads_of


class RelativeAttention(nn.Module):
    """Distances above `max_distance` share the vector of that distance, so any length may be read."""

    def __init__(self, width: int, heads: int, *, max_distance: int) -> None:
        super().__init__()
        dim = check_heads(width, heads)
        self.heads, self.max_distance = heads, max_distance
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.distances = nn.Parameter(torch.randn(heads, max_distance + 1, dim) / math.sqrt(dim))

    def begin(self) -> KeyValueCache:
        """The state before the first token (audiogen/nn/causal.py)."""
        return KeyValueCache()

    def forward(self, x: Tensor, state: KeyValueCache | None = None) -> Tensor:
        """x (batch, tokens, width) -> like x."""
        q, k, v = heads_of(self.into, x, 3, self.heads)
        if state is not None:
            k, v = state.extend(k, v)
        scale = 1 / math.sqrt(q.shape[-1])
        # Hidden keys get -inf here, so that one mask says both what is seen and what its distance adds.
        bias = (self.relative_logits(q, k.shape[2]) * scale).masked_fill(
            ~earlier(q.shape[2], k.shape[2], device=x.device), float("-inf")
        )
        return self.out(heads_joined(F.scaled_dot_product_attention(q, k, v, attn_mask=bias)))

    def relative_logits(self, q: Tensor, keys: int) -> Tensor:
        """q (batch, heads, queries, dim), the last of `keys` tokens -> S (batch, heads, queries, keys).

        Places with a key after the query hold numbers without meaning.
        """
        distance = torch.arange(keys - 1, -1, -1, device=q.device).clamp(max=self.max_distance)
        return skew(q @ self.distances[:, distance].transpose(1, 2))


def skew(by_distance: Tensor) -> Tensor:
    """(..., queries, keys) with columns for the distances keys - 1 ... 0 -> columns for keys 0 ... keys - 1.

    The queries are the last of the keys. For three of each, with numbers for distances and - for what has no meaning:

        2 1 0      . 2 1 0      .  2  1      0  -  -
        2 1 0  ->  . 2 1 0  ->  0  .  2  ->  1  0  -     pad a column, read the same memory in rows of `queries`,
        2 1 0      . 2 1 0      1  0  .      2  1  0     leave the first row away
                                2  1  0
    """
    queries, keys = by_distance.shape[-2:]
    padded = F.pad(by_distance, (1, 0)).reshape(*by_distance.shape[:-2], keys + 1, queries)
    return padded[..., 1:, :].reshape(*by_distance.shape[:-2], queries, keys)
