"""Attention from one sequence to another (Vaswani et al. 2017): what is written looks at what is given."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.nn.causal import check_heads, heads_joined, heads_of


class Given(NamedTuple):
    """Keys and values of a context, (batch, heads, context tokens, dim), made once for all that is written to it."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None  # (batch, context tokens) bool: True where a token is real


class CrossAttention(nn.Module):
    """`context_width`: of the given sequence. A context without a single real token adds nothing."""

    def __init__(self, width: int, heads: int, *, context_width: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.keys_values = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width, bias=False)

    def given(self, context: Tensor, mask: Tensor | None = None) -> Given:
        """context (batch, context tokens, context_width), mask (batch, context tokens) True where real."""
        return Given(*heads_of(self.keys_values, context, 2, self.heads), mask)

    def forward(self, x: Tensor, given: Given) -> Tensor:
        """x (batch, tokens, width) -> like x."""
        q, = heads_of(self.query, x, 1, self.heads)
        if given.mask is None:
            return self.out(heads_joined(F.scaled_dot_product_attention(q, given.keys, given.values)))
        seen = given.mask[:, None, None, :]
        some = seen.any(dim=-1, keepdim=True)  # a softmax over nothing is NaN: such rows see all, then are zeroed
        y = F.scaled_dot_product_attention(q, given.keys, given.values, attn_mask=seen | ~some)
        return self.out(heads_joined(y * some))
