"""LSTM and GRU over note events (Hochreiter and Schmidhuber 1997; Cho et al. 2014), a language model of music.

As in Eck and Schmidhuber 2002 and PerformanceRNN (Oore et al. 2018), on the bar-structured events of events.py. The
output layer shares its weights with the embedding (Press and Wolf 2017): a third fewer parameters, and rare tokens
learn from both ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from audiogen.composers.note_model import NoteModel
from audiogen.composers.note_sampler import NoteSampling
from audiogen.core.errors import UserError


@dataclass(frozen=True)
class RecurrentConfig:
    styles: tuple[str, ...] = ()
    task: Literal["all"] = "all"
    cell: Literal["lstm", "gru"] = "lstm"
    embedding: int = 128
    width: int = 256
    layers: int = 2
    dropout: float = 0.2
    sampling: NoteSampling = NoteSampling()

    def __post_init__(self) -> None:
        if self.cell not in ("lstm", "gru"):
            raise UserError(f"cell {self.cell!r} is none: lstm or gru")
        if self.task != "all":
            raise UserError(f"task {self.task!r} needs a sequence-to-sequence composer; a recurrent one writes all")
        if min(self.embedding, self.width, self.layers) < 1 or not 0 <= self.dropout < 1:
            raise UserError(f"{self}: sizes must be 1 or more, and dropout from 0 to below 1")


class RecurrentComposer(NoteModel):
    """Embedding -> recurrent layers -> tied output layer."""

    config_type = RecurrentConfig
    presets: ClassVar[dict[str, Any]] = {
        "lstm": RecurrentConfig(cell="lstm"),
        "gru": RecurrentConfig(cell="gru"),
    }

    def __init__(self, config: RecurrentConfig = RecurrentConfig()) -> None:
        super().__init__(config)
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[config.cell]
        self.embed = nn.Embedding(self.vocabulary.size, config.embedding)
        nn.init.normal_(self.embed.weight, std=config.embedding**-0.5)
        self.drop = nn.Dropout(config.dropout)
        self.body = kind(
            config.embedding, config.width, config.layers, batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.narrow = nn.Linear(config.width, config.embedding)
        self.bias = nn.Parameter(torch.zeros(self.vocabulary.size))

    def begin(
        self, batch: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Zeros: (hidden, cell) of an LSTM, (hidden,) of a GRU, (layers, batch, width) each."""
        zeros = self.bias.new_zeros(self.config.layers, batch, self.config.width)
        return (zeros, zeros) if self.config.cell == "lstm" else (zeros,)

    def step(self, tokens: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """tokens (batch, n) -> logits (batch, n, vocabulary) and the state after them."""
        x = self.drop(self.embed(tokens))
        if tokens.shape[1] == 1 and not self.training:
            x, after = self._one(x[:, 0], state)
        else:
            x, after = self.body(x, state if len(state) == 2 else state[0])
            after = after if len(state) == 2 else (after,)
        x = self.narrow(self.drop(x))
        return nn.functional.linear(x, self.embed.weight, self.bias), after

    def _one(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One token, x (batch, embedding) -> (batch, 1, width), by the cells: `nn.LSTM` packs its weights anew in every
        call on a CPU, which takes longer than the token."""
        layers = []
        for layer in range(self.config.layers):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = [getattr(self.body, f"{name}_l{layer}") for name in names]
            before = tuple(part[layer] for part in state)
            after = torch.lstm_cell(x, before, *weights) if len(state) == 2 else (torch.gru_cell(x, *before, *weights),)
            x = after[0]
            layers.append(after)
        return x[:, None], tuple(torch.stack(parts) for parts in zip(*layers, strict=True))
