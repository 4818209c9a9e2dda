"""Causal self-attention that remembers the segment before (Transformer-XL, Dai et al. 2019, arXiv 1901.02860).

A token looks at the `memory` tokens before it, whether they lie in its own segment or in one that was read before. So
where a text is cut changes no number, n layers see n x memory tokens back, and neither training nor generation ever
holds more than a segment and its memory. Distances enter as in section 3.3 of the paper:

    logit[i, j] = ((q_i + u) · k_j + (q_i + v) · W_R R[i - j]) / sqrt(dim),   R: sinusoids

(The paper lets the last token of a segment look further back than the first; with `same_length`, as in its published
code, and here, all look back equally far.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from audiogen.nn.causal import check_heads, earlier, heads_joined, heads_of
from audiogen.nn.positions import sinusoids
from audiogen.nn.relative_attention import skew


@dataclass
class SegmentMemory:
    """The last tokens read. In training their inputs: no gradient goes into them, but their keys and values are made
    anew, so the layer learns to remember. Otherwise keys and values themselves, which are the same thing made once."""

    hidden: Tensor | None = None  # (batch, tokens, width)
    keys: Tensor | None = None  # (batch, heads, tokens, dim)
    values: Tensor | None = None


class SegmentAttention(nn.Module):
    def __init__(self, width: int, heads: int, *, memory: int) -> None:
        super().__init__()
        dim = check_heads(width, heads)
        if memory < 1:
            raise ValueError(f"memory={memory} must be at least 1 token")
        self.heads, self.memory = heads, memory
        self.query = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.distance = nn.Linear(width, width, bias=False)  # W_R
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, dim))  # u
        self.place_bias = nn.Parameter(torch.zeros(heads, 1, dim))  # v
        self.out = nn.Linear(width, width)

    def begin(self) -> SegmentMemory:
        """The state before the first token (audiogen/nn/causal.py)."""
        return SegmentMemory()

    def forward(self, x: Tensor, state: SegmentMemory | None = None) -> Tensor:
        """x (batch, tokens, width) -> like x. With a state: one segment after another."""
        q, = heads_of(self.query, x, 1, self.heads)
        k, v = self._remembered(x, state)
        queries, keys = q.shape[2], k.shape[2]
        far = torch.arange(keys - 1, -1, -1, device=x.device)
        r = self.distance(sinusoids(far, x.shape[-1]).to(x.dtype))
        r = rearrange(r, "keys (heads dim) -> heads dim keys", heads=self.heads)
        bias = (skew((q + self.place_bias) @ r) / math.sqrt(q.shape[-1])).masked_fill(
            ~earlier(queries, keys, reach=self.memory, device=x.device), float("-inf")
        )
        return self.out(heads_joined(F.scaled_dot_product_attention(q + self.content_bias, k, v, attn_mask=bias)))

    def _remembered(self, x: Tensor, state: SegmentMemory | None) -> tuple[Tensor, Tensor]:
        """Keys and values of memory and segment, (batch, heads, memory + tokens, dim); the state moves on."""
        if state is None:
            return heads_of(self.keys_values, x, 2, self.heads)
        if self.training:
            seen = x if state.hidden is None else torch.cat((state.hidden, x), dim=1)
            state.hidden = seen[:, -self.memory :].detach()
            return heads_of(self.keys_values, seen, 2, self.heads)
        k, v = heads_of(self.keys_values, x, 2, self.heads)
        if state.keys is not None:
            k, v = torch.cat((state.keys, k), dim=2), torch.cat((state.values, v), dim=2)
        state.keys, state.values = k[:, :, -self.memory :].detach(), v[:, :, -self.memory :].detach()
        return k, v
