"""Encoder and decoder with attention over note events: one thing is written while another is looked at.

    source ─ bidirectional LSTM ─ memory ──────────.
                                                attention
    target ─ LSTM ─ (asks) ────────────────────────'│
               └─────────────────────────────────── + ─ LSTM ─ next token

Attention is additive (Bahdanau, Cho and Bengio 2015) or a dot product (Luong, Pham and Manning 2015). As in GNMT (Wu et
al. 2016) the decoder's lowest layer asks, and what was read goes into the layer above: then no layer waits for its own
answer, and a whole sequence is trained at once. Tasks (note_tasks.py): chords -> melody, melody -> accompaniment, first
bars -> the next ones.

Scheduled sampling (Bengio et al. 2015): with a chance that grows along the training, the decoder is given a token that
it draws itself in place of the true one, and so learns to go on from its own mistakes. No gradient goes through a drawn
token; so the tokens are drawn first, one after another, and then learned from all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from audiogen.composers.events import BAR, BLOCKS, PREFIX, Vocabulary
from audiogen.composers.note_model import NoteModel, token_losses
from audiogen.composers.note_sampler import NoteSampling
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt, TokenBatch
from audiogen.core.rng import SampleRng
from audiogen.core.score import Score
from audiogen.nn.alignment import ALIGNMENTS, Memory
from audiogen.nn.alignment_picture import READABLE, save_alignment
from audiogen.nn.dropout import drop_channels


@dataclass(frozen=True)
class Seq2SeqConfig:
    styles: tuple[str, ...] = ()
    task: Literal["chords_to_melody", "melody_to_accompaniment", "continuation"] = "chords_to_melody"
    attention: Literal["additive", "dot"] = "additive"
    embedding: int = 128
    width: int = 192  # of the decoder's layers; the encoder has half of it in each direction
    attention_width: int = 64
    dropout: float = 0.1
    own_tokens: float = 0.25  # scheduled sampling: the largest share of tokens that the decoder draws itself,
    own_tokens_from: int = 200  # none before this step of the training,
    own_tokens_full: int = 1000  # and all of the share from this one on
    sampling: NoteSampling = NoteSampling()

    def __post_init__(self) -> None:
        if self.task == "all":
            raise UserError("task 'all' gives a sequence-to-sequence composer nothing to look at: choose "
                            "chords_to_melody, melody_to_accompaniment or continuation")
        if self.attention not in ALIGNMENTS:
            raise UserError(f"attention {self.attention!r} is none: {' or '.join(ALIGNMENTS)}")
        if min(self.embedding, self.width // 2, self.attention_width) < 1 or self.width % 2:
            raise UserError(f"embedding={self.embedding}, width={self.width} and attention_width="
                            f"{self.attention_width} must be at least 1, and the width even")
        if not (0 <= self.dropout < 1 and 0 <= self.own_tokens <= 1):
            raise UserError(f"dropout={self.dropout} must be from 0 to below 1, own_tokens={self.own_tokens} to 1")
        if not 0 <= self.own_tokens_from <= self.own_tokens_full:
            raise UserError(f"own_tokens_from={self.own_tokens_from} must not be after "
                            f"own_tokens_full={self.own_tokens_full}")


class Decoding(NamedTuple):
    """The state between two tokens: the memory, and (hidden, cell) of both layers, (1, batch, width) each."""

    memory: Memory
    lower: tuple[Tensor, Tensor]
    upper: tuple[Tensor, Tensor]


class Seq2SeqComposer(NoteModel):
    config_type = Seq2SeqConfig
    presets: ClassVar[dict[str, Any]] = {
        "chords_to_melody": Seq2SeqConfig(task="chords_to_melody", attention="additive"),
        "melody_to_accompaniment": Seq2SeqConfig(task="melody_to_accompaniment", attention="dot"),
        "continuation": Seq2SeqConfig(task="continuation", attention="dot"),
    }

    def __init__(self, config: Seq2SeqConfig = Seq2SeqConfig()) -> None:
        super().__init__(config)
        width, embedding = config.width, config.embedding
        self.embed = nn.Embedding(self.vocabulary.size, embedding)
        nn.init.normal_(self.embed.weight, std=embedding**-0.5)
        self.encoder = nn.LSTM(embedding, width // 2, batch_first=True, bidirectional=True)
        self.start = nn.Linear(width, 4 * width)  # hidden and cell of both decoder layers
        self.lower = nn.LSTM(embedding, width, batch_first=True)
        self.attention = ALIGNMENTS[config.attention](width, width, config.attention_width)
        self.upper = nn.LSTM(2 * width, width, batch_first=True)
        self.narrow = nn.Linear(2 * width, embedding)  # Luong et al., equation 5
        self.bias = nn.Parameter(torch.zeros(self.vocabulary.size))
        kinds = torch.zeros(self.vocabulary.size, dtype=torch.long)
        for number, block in enumerate((*BLOCKS, self.vocabulary.style)):
            kinds[block.start : block.stop] = number
        self.register_buffer("kinds", kinds, persistent=False)  # of every token, the kind that it is of

    # ------------------------------------------------------------------ the network

    def begin(
        self, batch: int, source: Tensor | None = None, source_lengths: Tensor | None = None
    ) -> Decoding:
        """`source` (batch, source length) int64 is needed; `source_lengths` (batch,): its tokens before padding."""
        return self._encode(batch, source, source_lengths, None)

    def step(self, tokens: Tensor, state: Decoding) -> tuple[Tensor, Decoding]:
        """tokens (batch, n) -> logits (batch, n, vocabulary) and the state after them."""
        logits, state, _ = self._decode(tokens, state, None)
        return logits, state

    def _in(self, tokens: Tensor) -> Tensor:
        # The output layer wants rows of length 1; at that size the recurrent layers hardly hear them, and attention
        # does not begin to learn (tests: a copy stays at chance).
        return self.embed(tokens) * self.config.embedding**0.5

    def _encode(
        self, batch: int, source: Tensor | None, lengths: Tensor | None, rng: SampleRng | None
    ) -> Decoding:
        if source is None or source.shape[0] != batch or source.shape[1] < 1:
            raise ValueError(f"a source of {batch} sequences is needed, not "
                             + ("none" if source is None else str(tuple(source.shape))))
        if lengths is None:
            lengths = source.new_full((batch,), source.shape[1])
        x = drop_channels(self._in(source), self.config.dropout, rng)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, (last, _) = self.encoder(packed)
        values, _ = pad_packed_sequence(out, batch_first=True, total_length=source.shape[1])  # (batch, source, width)
        mask = torch.arange(source.shape[1], device=source.device) < lengths.to(source.device)[:, None]
        # last (2, batch, width / 2): where either direction ended
        start = self.start(last.transpose(0, 1).flatten(1)).tanh().chunk(4, dim=-1)
        first, second, third, fourth = (part.unsqueeze(0).contiguous() for part in start)
        return Decoding(self.attention.remember(values, mask), (first, second), (third, fourth))

    def _decode(self, tokens: Tensor, state: Decoding, rng: SampleRng | None) -> tuple[Tensor, Decoding, Tensor]:
        """-> logits, state, weights (batch, tokens, source length)."""
        rate = self.config.dropout
        x = drop_channels(self._in(tokens), rate, rng)
        asked, lower = _run(self.lower, x, state.lower)
        read, weights = self.attention(asked, state.memory)
        above, upper = _run(self.upper, drop_channels(torch.cat((asked, read), dim=-1), rate, rng), state.upper)
        out = drop_channels(self.narrow(torch.cat((above, read), dim=-1)).tanh(), rate, rng)
        logits = nn.functional.linear(out, self.embed.weight, self.bias)
        return logits, Decoding(state.memory, lower, upper), weights

    # ------------------------------------------------------------------ training

    def loss(self, batch: TokenBatch, rng: SampleRng) -> dict[str, Tensor]:
        """As every composer's; "own": the share of tokens that the decoder was given from itself."""
        given = batch.tokens[:, :-1]
        seen = self.scheduled(given, batch, rng) if self.training else given
        masks = rng.fork("dropout") if self.training else None
        state = self._encode(len(given), batch.source, batch.source_lengths, masks)
        logits, _, _ = self._decode(seen, state, masks)
        real = torch.arange(given.shape[1], device=given.device) < (batch.lengths - 1)[:, None]
        return token_losses(logits, batch) | {"own": ((seen != given) & real).sum() / real.sum()}

    def own_share(self, step: int) -> float:
        """The chance of an own token at a step of the training: 0, then a line, then `own_tokens`."""
        config = self.config
        if step < config.own_tokens_from:
            return 0.0
        rise = max(config.own_tokens_full - config.own_tokens_from, 1)
        return config.own_tokens * min((step - config.own_tokens_from) / rise, 1.0)

    @torch.no_grad()
    def scheduled(self, tokens: Tensor, batch: TokenBatch, rng: SampleRng) -> Tensor:
        """tokens (batch, length) -> the same with some of them drawn by the decoder, in order, each given those before.

        Coins and draws are keyed by (seed, step, sample). An own token counts only where it is of the true one's kind:
        what follows another kind (a pitch, where a bar begins) is no music to learn from. The prefix is what a person
        gives, and stays.
        """
        share = self.own_share(rng.step)
        if share == 0.0 or tokens.shape[1] <= PREFIX:
            return tokens
        length = tokens.shape[1]
        coins = rng.fork("coins").rand(length, device=tokens.device) < share
        coins[:, :PREFIX] = False
        draws = rng.fork("own tokens").rand(length, device=tokens.device)
        state = self._encode(len(tokens), batch.source, batch.source_lengths, None)
        seen = tokens.clone()
        places = coins.any(dim=0).nonzero()[:, 0].tolist()
        done = 0
        for place in places:  # up to the next place where any coin fell, all at once
            logits, state, _ = self._decode(seen[:, done:place], state, None)
            done = place
            chances = logits[:, -1].double().softmax(-1).cumsum(-1)
            own = torch.searchsorted(chances, draws[:, place : place + 1].double() * chances[:, -1:], right=True)[:, 0]
            own = own.clamp(max=chances.shape[1] - 1)
            fits = coins[:, place] & (self.kinds[own] == self.kinds[tokens[:, place]])
            seen[:, place] = torch.where(fits, own, tokens[:, place])
        return seen

    # ------------------------------------------------------------------ what it looked at

    def compose_and_show(
        self, prompt: Prompt, picture: str | Path, *, seconds: float, rng: Any = 0, sampling: NoteSampling | None = None
    ) -> Score:
        """As `compose`; and `picture`, a PNG, shows what was looked at (columns) while each token was written (rows).

        Raises `UserError` where nothing had to be written.
        """
        request, tokens = self.write(prompt, seconds=seconds, rng=rng, sampling=sampling)
        if request.finished is not None:
            raise UserError(f"{picture}: nothing was written, as the notes that were given last {seconds:g} s already")
        weights = self.alignment(tokens, request.source)
        given, written = (_names(line, self.vocabulary) for line in (request.source, tokens[1:]))
        save_alignment(weights, picture, given=given, written=written, title=self.config.task.replace("_", " "))
        return request.score(tokens)

    def save_demo(self, prompt: Prompt, path: Path) -> None:
        self.compose_and_show(prompt, path.with_suffix(".png"), seconds=prompt.seconds, rng=0).save(path)

    @torch.inference_mode()
    def alignment(self, tokens: Sequence[int], source: Sequence[int]) -> Tensor:
        """(tokens, source tokens): where the decoder looked before each of `tokens`; the first, which is given, has no
        row."""
        device = self.bias.device
        state = self.begin(1, torch.tensor([list(source)], device=device))
        return self._decode(torch.tensor([list(tokens)[:-1]], device=device), state, None)[2][0].cpu()


def _names(tokens: Sequence[int], vocabulary: Vocabulary) -> list[str]:
    """A name for every token; of many tokens only the bars have one, and are numbered."""
    if len(tokens) <= READABLE:
        return vocabulary.words(tokens).split(" ")
    bars = [sum(map(BAR.has, tokens[: i + 1])) if BAR.has(token) else 0 for i, token in enumerate(tokens)]
    return [f"bar {bar}" if bar else "" for bar in bars]


def _run(layer: nn.LSTM, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`layer(x, state)`; one token by its cell, as `nn.LSTM` packs its weights anew in every call on a CPU."""
    if x.shape[1] > 1 or torch.is_grad_enabled():
        return layer(x, state)
    weights = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
    hidden, cell = torch.lstm_cell(x[:, 0], (state[0][0], state[1][0]), *weights)
    return hidden.unsqueeze(1), (hidden.unsqueeze(0), cell.unsqueeze(0))
