"""How tokens are drawn from a model of notes: temperature, top-k, top-p, under the masks of a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from audiogen.composers.event_grammar import Grammar
from audiogen.composers.events import PAD
from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.nn import nucleus

if TYPE_CHECKING:
    from audiogen.composers.note_model import NoteModel

DRAWS = 1024  # uniform numbers that a sequence draws at once


@dataclass(frozen=True)
class NoteSampling:
    """What a user may choose when music is drawn."""

    temperature: float = 1.0  # 0: always the likeliest token
    top_k: int = 0  # only the k likeliest tokens; 0: all
    top_p: float = 0.95  # only the likeliest tokens that together have this probability (Holtzman et al. 2020)
    in_key: bool = True  # only pitches of the key (in minor with the raised sixth and seventh)

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise UserError(f"temperature={self.temperature} must be from 0 (the likeliest) to 10")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k} must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")


def probabilities(logits: Tensor, allowed: Tensor, sampling: NoteSampling) -> Tensor:
    """logits and mask (batch, vocabulary) -> probabilities (batch, vocabulary) float64, 0 where nothing may be drawn.

    The grammar's mask comes first, then temperature, top-k and top-p, each over what the one before has left
    (audiogen/nn/nucleus.py).
    """
    return nucleus.probabilities(
        logits.double().masked_fill(~allowed, -torch.inf), temperature=sampling.temperature, top_k=sampling.top_k,
        top_p=sampling.top_p,
    )


@torch.inference_mode()
def sample_tokens(
    model: NoteModel, grammars: Sequence[Grammar], begun: Sequence[Sequence[int]], *, rng: SampleRng,
    sampling: NoteSampling, source: Tensor | None = None, source_lengths: Tensor | None = None,
) -> list[list[int]]:
    """-> one sequence for each grammar, from `begun` (a style token at least) to its end token.

    The grammars have not seen `begun`: they follow it here. Sequence i draws from row i of `rng` alone, as many numbers
    as it has tokens of its own, so that it does not depend on the rest of the batch.
    """
    batch = len(grammars)
    if not (len(begun) == len(rng) == batch and all(begun)):
        raise ValueError(f"{batch} grammars, {len(begun)} beginnings, {len(rng)} sources: as many of each, none empty")
    device = next(model.parameters()).device
    sequences = [list(tokens) for tokens in begun]
    for grammar, tokens in zip(grammars, begun, strict=True):
        grammar.follow(tokens)
    state = model.begin(batch, source, source_lengths)
    at, drawn, draws = min(map(len, sequences)), [0] * batch, []
    new = torch.tensor([tokens[:at] for tokens in sequences])
    while True:
        logits, state = model.step(new.to(device), state)
        chances = None
        tokens = []
        for row, (grammar, sequence) in enumerate(zip(grammars, sequences, strict=True)):
            if at < len(sequence):  # given
                tokens.append(sequence[at])
                continue
            if grammar.done:
                tokens.append(PAD)
                continue
            if chances is None:
                # A row that is done or still follows what was given is not drawn from; any mask will do for it.
                idle = torch.ones(logits.shape[-1], dtype=torch.bool)
                masks = [g.allowed() if at >= len(s) and not g.done else idle
                         for g, s in zip(grammars, sequences, strict=True)]
                chances = probabilities(logits[:, -1].cpu(), torch.stack(masks), sampling).cumsum(-1)
            if drawn[row] >= DRAWS * len(draws):
                draws.append(rng.rand(DRAWS).double())
            where = draws[drawn[row] // DRAWS][row, drawn[row] % DRAWS] * chances[row, -1]
            token = int(torch.searchsorted(chances[row], where, right=True))
            drawn[row] += 1
            grammar.take(token)
            sequence.append(token)
            tokens.append(token)
        if all(grammar.done for grammar in grammars):
            return sequences
        new, at = torch.tensor(tokens)[:, None], at + 1
