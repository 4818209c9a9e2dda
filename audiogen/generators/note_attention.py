"""A recurrent reader of note tokens: location-sensitive attention (Chorowski et al. 2015, as in Tacotron 2) that knows
when each note begins and ends.

    score(n) = w · tanh(W q + U m_n + F f_n + T tau_n)     softmax over the tokens within reach

q is the state of an LSTM that hears the last frames and what was read before; m_n the encoder's token; f_n features of
how much each token was read in the last step and lately; tau_n how far the present frame is from the note's onset and
end. Speech has to find out from q and f where it is in the text; a score says it, and tau tells. `guide_loss` (after
Tachibana et al. 2018) punishes looking at notes that do not sound.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiogen.generators.note_tokens import NoteTokens

TIMING = 6  # features of `timing`
SOUNDING, FRESH = 4, 5  # two of them
KEPT = 0.9  # of what was read before, from step to step; a sum without end would be strange to a model of short clips


class Memory(NamedTuple):
    """What is read; the encoder's tokens and the part of every score that does not change."""

    values: Tensor  # (batch, tokens, width)
    keys: Tensor  # (batch, tokens, alignment width)


class ReaderState(NamedTuple):
    hidden: Tensor  # (batch, width)
    cell: Tensor
    read: Tensor  # (batch, memory width): the sum of the tokens, by their weights
    weights: Tensor  # (batch, tokens), of sum 1
    lately: Tensor  # (batch, tokens): weights of the steps before, fading


def timing(notes: NoteTokens, times: Tensor, *, frame_rate: float) -> Tensor:
    """How times (count,), in frames, lie to each note: (batch, count, tokens, TIMING), within [-1, 1]; 0 for a rest.

    Onset and end at two scales each, 1 while it sounds, and exp(-age / 0.25 s) while it sounds.
    """
    since = (times[:, None] - notes.onset.unsqueeze(1)) / frame_rate  # (batch, count, tokens) seconds
    left = (notes.end.unsqueeze(1) - times[:, None]) / frame_rate
    sounds = ((since >= 0) & (left > 0)).to(since.dtype)
    features = torch.stack((
        torch.tanh(since / 0.05), torch.tanh(since / 0.5), torch.tanh(left / 0.05), torch.tanh(left / 0.5),
        sounds, sounds * torch.exp(-since.clamp(min=0) / 0.25),
    ), dim=-1)
    return features * (notes.pitch > 0)[:, None, :, None]


def distance(notes: NoteTokens, times: Tensor) -> Tensor:
    """Frames from times (count,) to the nearest at which each note sounds, (batch, count, tokens); 0 while it does.

    For the rest: 0 where nothing sounds, infinity elsewhere. For padding: infinity.
    """
    early = notes.onset.unsqueeze(1) - times[:, None]
    late = times[:, None] - (notes.end.unsqueeze(1) - 1)
    away = torch.maximum(early, late).clamp(min=0)
    note = (notes.pitch > 0)[:, None]  # (batch, 1, tokens)
    played = (note & (away == 0)).any(dim=-1, keepdim=True)
    away = torch.where(note, away, torch.where(played, torch.inf, 0.0))
    return away.masked_fill(~notes.mask[:, None], torch.inf)


def within_reach(notes: NoteTokens, times: Tensor, *, reach: float) -> Tensor:
    """(batch, count, tokens) bool: the rest, and the notes at most `reach` frames away from times (count,)."""
    near = distance(notes, times) <= reach
    near[..., 0] = True
    return near


def guide_loss(weights: Tensor, away: Tensor, *, width: float) -> Tensor:
    """Sum over the tokens of weight * (1 - exp(-away² / 2 width²)): (batch, steps), 0 to 1.

    weights (batch, steps, tokens); away likewise, and width, in frames.
    """
    return (weights * -torch.expm1(-away.square() / (2 * width**2))).sum(dim=-1)


class Reader(nn.Module):
    """One step: what was heard -> what is read next."""

    def __init__(self, heard_dim: int, memory_width: int, width: int, alignment_width: int, filters: int = 16) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(heard_dim + memory_width, width)
        self.query = nn.Linear(width, alignment_width)
        self.key = nn.Linear(memory_width, alignment_width, bias=False)
        self.locate = nn.Conv1d(2, filters, 7, padding=3, bias=False)
        self.location = nn.Linear(filters, alignment_width, bias=False)
        self.timing = nn.Linear(TIMING, alignment_width, bias=False)
        self.weigh = nn.Linear(alignment_width, 1, bias=False)

    def remember(self, values: Tensor) -> Memory:
        """values (batch, tokens, memory width)."""
        return Memory(values, self.key(values))

    def start(self, memory: Memory) -> ReaderState:
        """Nothing was read yet."""
        batch, tokens, width = memory.values.shape
        zeros = memory.values.new_zeros
        hidden = self.lstm.hidden_size
        return ReaderState(
            zeros(batch, hidden), zeros(batch, hidden), zeros(batch, width), zeros(batch, tokens), zeros(batch, tokens)
        )

    def forward(self, heard: Tensor, state: ReaderState, memory: Memory, when: Tensor, near: Tensor) -> ReaderState:
        """heard (batch, heard_dim); when (batch, tokens, TIMING), the step's `timing`; near (batch, tokens) bool."""
        hidden, cell = self.lstm(torch.cat((heard, state.read), dim=-1), (state.hidden, state.cell))
        located = self.locate(torch.stack((state.weights, state.lately), dim=1)).transpose(1, 2)
        features = self.query(hidden).unsqueeze(1) + memory.keys + self.location(located) + self.timing(when)
        scores = self.weigh(torch.tanh(features)).squeeze(-1).masked_fill(~near, float("-inf"))
        weights = torch.softmax(scores, dim=-1)  # (batch, tokens); a rest is always near
        read = torch.einsum("bn,bnd->bd", weights, memory.values)
        return ReaderState(hidden, cell, read, weights, KEPT * state.lately + weights)
