"""How a recurrent decoder looks at what it was given: additive attention (Bahdanau, Cho and Bengio 2015) and
dot-product attention (Luong, Pham and Manning 2015).

    additive   score(q, m) = w · tanh(W q + U m)
    dot        score(q, m) = (W q) · m / sqrt(width)

The weights are the softmax of the scores over the real tokens of the memory; as rows of a picture they show what the
decoder read while it wrote (audiogen/nn/alignment_picture.py).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Memory(NamedTuple):
    """What is looked at, with the part of every score that does not depend on the query."""

    values: Tensor  # (batch, memory tokens, memory_width)
    keys: Tensor  # (batch, memory tokens, width)
    mask: Tensor  # (batch, memory tokens) bool: True where a token is real


class Alignment(nn.Module):
    """Base: `score` is what the two kinds differ in. Every memory must have at least one real token."""

    def __init__(self, memory_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.key = nn.Linear(memory_width, width, bias=False)

    def remember(self, values: Tensor, mask: Tensor) -> Memory:
        """values (batch, memory tokens, memory_width), mask (batch, memory tokens) -> what `forward` takes."""
        return Memory(values, self.key(values), mask)

    def forward(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """query (batch, tokens, query_width) -> what was read (batch, tokens, memory_width), weights (batch, tokens,
        memory tokens)."""
        scores = self.score(query, memory.keys).masked_fill(~memory.mask.unsqueeze(1), float("-inf"))
        weights = scores.softmax(dim=-1)
        return weights @ memory.values, weights

    @abstractmethod
    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """(batch, tokens, query_width), (batch, memory tokens, width) -> (batch, tokens, memory tokens)."""


class AdditiveAttention(Alignment):
    def __init__(self, query_width: int, memory_width: int, width: int) -> None:
        super().__init__(memory_width, width)
        self.query = nn.Linear(query_width, width)
        self.weigh = nn.Linear(width, 1, bias=False)

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        return self.weigh(torch.tanh(self.query(query).unsqueeze(2) + keys.unsqueeze(1))).squeeze(-1)


class DotAttention(Alignment):
    """Their form "general", with the scale of Vaswani et al. 2017, without which wide layers start with one-hot
    weights."""

    def __init__(self, query_width: int, memory_width: int, width: int) -> None:
        super().__init__(memory_width, width)
        self.query = nn.Linear(query_width, width, bias=False)

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        return self.query(query) @ keys.transpose(1, 2) / math.sqrt(self.width)


ALIGNMENTS: dict[str, type[Alignment]] = {"additive": AdditiveAttention, "dot": DotAttention}
