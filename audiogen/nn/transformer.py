"""A causal Transformer: pre-norm blocks (Xiong et al. 2020) around a choice of attention, and of something to look at.

    x ─ + attention(norm x) ─ + cross-attention(norm x, given) ─ + feed-forward(norm x) ─ ... ─ norm

Vectors in, vectors out: what they stand for (notes, codec tokens) is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.nn.attention import RotaryAttention
from audiogen.nn.cross_attention import CrossAttention, Given
from audiogen.nn.dropout import drop_channels
from audiogen.nn.lsh_attention import LSHAttention
from audiogen.nn.positions import sinusoids
from audiogen.nn.relative_attention import RelativeAttention
from audiogen.nn.segment_attention import SegmentAttention

ATTENTIONS = ("rotary", "relative", "segment", "lsh")


@dataclass(frozen=True)
class TransformerConfig:
    width: int = 192
    layers: int = 4
    heads: int = 4
    attention: str = "rotary"  # "relative": Music Transformer, "segment": Transformer-XL, "lsh": Reformer
    reach: int | None = None  # rotary: tokens that a token looks back, None: all
    max_distance: int = 512  # relative: distances that are told apart
    memory: int = 128  # segment: tokens that a token looks back, in each layer
    buckets: int = 16  # lsh: a token looks at its own bucket,
    chunk: int = 64  # lsh: at so many tokens of it at most,
    rounds: int = 2  # lsh: so many times over, with other rotations
    context_width: int = 0  # of a sequence that every block looks at; 0: there is none
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise UserError(f"attention={self.attention!r} must be one of {', '.join(ATTENTIONS)}")
        if min(self.width, self.layers, self.heads) < 1 or self.width % (2 * self.heads):
            raise UserError(f"width={self.width} must be an even multiple of heads={self.heads}, with layers >= 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout} must be at least 0 and below 1")


def causal_attention(config: TransformerConfig) -> nn.Module:
    """The attention layer that `config.attention` names."""
    if config.attention == "relative":
        return RelativeAttention(config.width, config.heads, max_distance=config.max_distance)
    if config.attention == "segment":
        return SegmentAttention(config.width, config.heads, memory=config.memory)
    if config.attention == "lsh":
        return LSHAttention(
            config.width, config.heads, buckets=config.buckets, chunk=config.chunk, rounds=config.rounds
        )
    return RotaryAttention(config.width, config.heads, reach=config.reach, causal=True)


@dataclass
class TransformerState:
    """How far a sequence has come: every layer's own state, what is given, and the number of tokens so far."""

    layers: list[Any]
    given: list[Given | None]
    tokens: int = 0


class Transformer(nn.Module):
    """Blocks and a last norm. Hashed attention knows no distances, so there places are added to the input."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(config.width)

    def begin(self, context: Tensor | None = None, mask: Tensor | None = None) -> TransformerState:
        """The state before the first token. `context` (batch, context tokens, context_width) and its `mask` (batch,
        context tokens), True where a token is real: what the blocks look at."""
        self._check(context)
        return TransformerState([block.attention.begin() for block in self.blocks], self._given(context, mask))

    def forward(
        self,
        x: Tensor,
        state: TransformerState | None = None,
        *,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        rng: SampleRng | None = None,
    ) -> Tensor:
        """x (batch, tokens, width) -> like x; no token has seen a later one.

        With a `state` from `begin`, the tokens follow those that went through it, and the state moves on; the context
        is then the state's. `rng` draws dropout and the hashes' rotations; None: no dropout, and rotations that stay.
        """
        if state is None:
            self._check(context)
        given = self._given(context, mask) if state is None else state.given
        first = 0 if state is None else state.tokens
        if self.config.attention == "lsh":
            places = torch.arange(first, first + x.shape[1], device=x.device)
            x = x + sinusoids(places, x.shape[2]).to(x.dtype)
        for index, block in enumerate(self.blocks):
            own = rng.fork(f"block {index}") if rng is not None and block.draws else None
            x = block(x, None if state is None else state.layers[index], given[index], own)
        if state is not None:
            state.tokens += x.shape[1]
        return self.norm(x)

    def _check(self, context: Tensor | None) -> None:
        if (context is None) != (self.config.context_width == 0):
            raise ValueError(f"context_width={self.config.context_width}: "
                             + ("a context is needed" if context is None else "no context can be used"))

    def _given(self, context: Tensor | None, mask: Tensor | None) -> list[Given | None]:
        return [None if context is None else block.cross.given(context, mask) for block in self.blocks]


class Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.dropout, self.hashed = config.dropout, config.attention == "lsh"
        self.draws = self.hashed or config.dropout > 0
        self.before_attention, self.attention = nn.LayerNorm(width), causal_attention(config)
        self.before_cross = self.cross = None
        if config.context_width:
            self.before_cross = nn.LayerNorm(width)
            self.cross = CrossAttention(width, config.heads, context_width=config.context_width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, state: Any, given: Given | None, rng: SampleRng | None) -> Tensor:
        """x (batch, tokens, width) -> like x."""
        options = {"rng": None if rng is None else rng.fork("rotations")} if self.hashed else {}
        x = x + drop_channels(self.attention(self.before_attention(x), state, **options), self.dropout, rng)
        if given is not None:
            x = x + drop_channels(self.cross(self.before_cross(x), given), self.dropout, rng)
        return x + drop_channels(self.feed_forward(x), self.dropout, rng)
