"""Transformers over note events, with a choice of attention.

transformer        rotary positions (Su et al. 2021): the plain one, to compare with
music_transformer  relative attention (Huang et al. 2018): a learned vector for every distance
transformer_xl     segments that remember the one before (Dai et al. 2019): the memory of one, the reach of `layers`
reformer           hashed attention (Kitaev et al. 2020): a token sees those that are like it

The output layer shares its weights with the embedding (Press and Wolf 2017). The blocks: audiogen/nn/transformer.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from audiogen.composers.note_model import NoteModel, token_losses
from audiogen.composers.note_sampler import NoteSampling
from audiogen.core.errors import UserError
from audiogen.core.interfaces import TokenBatch
from audiogen.core.rng import SampleRng
from audiogen.nn.transformer import Transformer, TransformerConfig, TransformerState

NETWORK = TransformerConfig(
    width=160, layers=4, heads=4, attention="rotary", max_distance=384, memory=64, buckets=8, chunk=48, rounds=2,
    dropout=0.1,
)


@dataclass(frozen=True)
class TransformerComposerConfig:
    styles: tuple[str, ...] = ()
    task: Literal["all"] = "all"
    network: TransformerConfig = NETWORK
    sampling: NoteSampling = NoteSampling()

    def __post_init__(self) -> None:
        if self.task != "all":
            raise UserError(f"task {self.task!r} needs a sequence-to-sequence composer; a Transformer writes all")
        if self.network.context_width:
            raise UserError(f"context_width={self.network.context_width}: this composer is given nothing to look at")


class TransformerComposer(NoteModel):
    """Embedding -> causal blocks -> a turn -> tied output layer."""

    config_type = TransformerComposerConfig
    presets: ClassVar[dict[str, Any]] = {
        name: TransformerComposerConfig(network=replace(NETWORK, attention=attention))
        for name, attention in (
            ("transformer", "rotary"), ("music_transformer", "relative"), ("transformer_xl", "segment"),
            ("reformer", "lsh"),
        )
    }

    def __init__(self, config: TransformerComposerConfig = TransformerComposerConfig()) -> None:
        super().__init__(config)
        width = config.network.width
        self.embed = nn.Embedding(self.vocabulary.size, width)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.network = Transformer(config.network)
        # A fresh network mostly passes its input on: without a turn in between, the shared weights would begin with
        # each token foretelling itself.
        self.turn = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(self.vocabulary.size))

    def loss(self, batch: TokenBatch, rng: SampleRng) -> dict[str, Tensor]:
        return token_losses(self._logits(batch.tokens[:, :-1], rng if self.training else None), batch)

    def forward(self, tokens: Tensor, source: Tensor | None = None, source_lengths: Tensor | None = None) -> Tensor:
        """tokens (batch, length) int64 -> logits (batch, length, vocabulary) of the token after each."""
        return self._logits(tokens, None)

    def begin(
        self, batch: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> TransformerState:
        return self.network.begin()

    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """tokens (batch, n) -> logits (batch, n, vocabulary). The state moves on, and is the one that is returned."""
        return self._out(self.network(self._in(tokens), state)), state

    def _logits(self, tokens: Tensor, rng: SampleRng | None) -> Tensor:
        x = self._in(tokens)
        if self.config.network.attention != "segment":
            return self._out(self.network(x, rng=rng))
        # A segment after another gives what all at once would (each token looks equally far back), in memory that
        # grows with the length and not with its square; in training no gradient crosses from one into another.
        state = self.network.begin()
        parts = x.split(self.config.network.memory, dim=1)
        return self._out(torch.cat([self.network(part, state, rng=rng) for part in parts], dim=1))

    def _in(self, tokens: Tensor) -> Tensor:
        return self.embed(tokens) * self.config.network.width**0.5

    def _out(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.turn(x), self.embed.weight, self.bias)
