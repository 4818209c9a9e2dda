"""What every learned composer has: a loss over note events, cached generation, and `compose`.

A family is one file with a subclass of `NoteModel`: a config, `forward`, `begin` and `step`, and one line in the TABLE.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from audiogen.composers.event_grammar import Grammar
from audiogen.composers.events import HIT, PAD, PITCH, PREFIX, Vocabulary
from audiogen.composers.note_request import Request, read_request
from audiogen.composers.note_sampler import NoteSampling, sample_tokens
from audiogen.composers.note_tasks import check_task
from audiogen.core.interfaces import Player, Prompt, TokenBatch
from audiogen.core.rng import SampleRng
from audiogen.core.score import Score


class NoteConfig(Protocol):
    """The fields that every family's config has, beside its own."""

    styles: tuple[str, ...]  # of the vocabulary
    task: str  # a key of TASKS: what is given, and what is written
    sampling: NoteSampling


class NoteModel(nn.Module):
    """Base of the learned composers: a distribution over the next token of a piece, given those before it.

    `source` (batch, source length) is what a sequence-to-sequence model is given, padded at its end; the others ignore
    it, and are of the task "all".
    """

    config_type: ClassVar[type]
    presets: ClassVar[dict[str, Any]] = {}
    """Other configurations, by the name that the recipe takes."""
    overfit_below: ClassVar[tuple[str, float] | None] = ("loss", 0.3)
    """What `--train.overfit 1` must bring one batch below: nats per token."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        check_task(config.task)
        self.config = config
        self.vocabulary = Vocabulary(tuple(config.styles))

    # ------------------------------------------------------------------ what a family writes

    def forward(self, tokens: Tensor, source: Tensor | None = None, source_lengths: Tensor | None = None) -> Tensor:
        """tokens (batch, length) int64 -> logits (batch, length, vocabulary) of the token after each."""
        logits, _ = self.step(tokens, self.begin(tokens.shape[0], source, source_lengths))
        return logits

    def begin(self, batch: int, source: Tensor | None = None, source_lengths: Tensor | None = None) -> Any:
        """The state before the first token."""
        raise TypeError(f"{type(self).__name__} has no begin()")

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """tokens (batch, n) that come next -> logits (batch, n, vocabulary), and the state after them.

        Piece by piece it gives what `forward` gives of the whole.
        """
        raise TypeError(f"{type(self).__name__} has no step()")

    # ------------------------------------------------------------------ training

    def loss(self, batch: TokenBatch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss": nats per token, of all tokens but the first (the style, which is given)."""
        logits = self(batch.tokens[:, :-1], batch.source, batch.source_lengths)
        return token_losses(logits, batch)

    @torch.inference_mode()
    def score_losses(self, tokens: Sequence[int], source: Sequence[int] | None = None) -> Tensor:
        """Nats of every token after the prefix (style, key, metre, tempo), (length - 4,) float32.

        Their sum over the number of notes is the negative log-likelihood per note.
        """
        device = next(self.parameters()).device
        line = torch.tensor([list(tokens)], device=device)
        given = None if source is None else torch.tensor([list(source)], device=device)
        lengths = None if source is None else torch.tensor([len(source)], device=device)
        logits = self(line[:, :-1], given, lengths)[0, PREFIX - 1 :]
        return nn.functional.cross_entropy(logits.float(), line[0, PREFIX:], reduction="none").cpu()

    # ------------------------------------------------------------------ composing

    def compose(
        self, prompt: Prompt, *, seconds: float, rng: Any = 0, sampling: NoteSampling | None = None
    ) -> Score:
        """-> a score of at least `seconds`, in whole bars, in the prompt's tempo, key and metre where it names them.

        Notes that the prompt gives (`prompt.score`) stay as they are, and the music goes on after them. A model of
        another task than "all" plays what it adds to them instead: a melody over their chords, an accompaniment under
        their melody. Where nothing is given the rule composer writes what it starts from. `rng`: SampleRng,
        torch.Generator or a seed; the same, the same score.
        """
        request, tokens = self.write(prompt, seconds=seconds, rng=rng, sampling=sampling)
        return request.finished if request.finished is not None else request.score(tokens)

    def write(
        self, prompt: Prompt, *, seconds: float, rng: Any = 0, sampling: NoteSampling | None = None
    ) -> tuple[Request, list[int]]:
        """What `compose` makes its score of: the request as it was read, and the tokens (none where it is finished)."""
        source = source_rng(rng)
        sampling = sampling or self.config.sampling
        request = read_request(prompt, seconds, self.vocabulary, self.config.task, sampling, source)
        if request.finished is not None:
            return request, []
        grammar = Grammar(self.vocabulary, request.limits)
        was_training = self.training
        self.eval()
        given = None if request.source is None else torch.tensor([request.source])
        lengths = None if given is None else torch.tensor([given.shape[1]])
        device = next(self.parameters()).device
        try:
            tokens = sample_tokens(
                self, [grammar], [request.begun], rng=source.fork("tokens"), sampling=sampling,
                source=None if given is None else given.to(device),
                source_lengths=None if lengths is None else lengths.to(device),
            )[0]
        finally:
            self.train(was_training)
        return request, tokens

    def save_demo(self, prompt: Prompt, path: Path) -> None:
        """Compose `prompt` with seed 0 into the MIDI file `path`."""
        self.compose(prompt, seconds=prompt.seconds, rng=0).save(path)


def source_rng(rng: Any) -> SampleRng:
    """A `SampleRng` of one sample from what a caller of `compose` may give: one, a torch.Generator or a seed."""
    if isinstance(rng, SampleRng):
        return SampleRng(rng.seed, step=rng.step, ids=rng.ids[:1], stream=f"{rng.stream}/compose")
    if isinstance(rng, torch.Generator):
        rng = int(torch.randint(2**62, (), generator=rng))
    return SampleRng(int(rng), stream="compose")


def token_losses(logits: Tensor, batch: TokenBatch) -> dict[str, Tensor]:
    """logits (batch, length - 1, vocabulary) of the tokens after the first -> what `NoteModel.loss` returns.

    Padding never counts. "per_note": nats of all that stands after the prefix, over the number of notes.
    """
    targets = batch.tokens[:, 1:]
    places = torch.arange(targets.shape[1], device=targets.device)
    real = places < (batch.lengths - 1)[:, None]
    nats = nn.functional.cross_entropy(logits.transpose(1, 2).float(), targets, reduction="none")
    nats = torch.where(real, nats, 0.0)
    body = nats * (places >= PREFIX - 1)
    begins_note = (targets >= PITCH.start) & (targets < HIT.stop) & real
    return {
        "loss": nats.sum() / real.sum(),
        "per_note": (body.sum() / begins_note.sum().clamp(min=1)).detach(),
        "accuracy": ((logits.argmax(-1) == targets) & real).sum() / real.sum(),
    }


def collate(items: Sequence[tuple[int, list[int], list[int] | None]]) -> TokenBatch:
    """(sample id, tokens, source or None) of every sample -> a batch, padded at the ends."""
    ids, tokens, sources = zip(*items, strict=True)
    line, lengths = _padded(tokens)
    source, source_lengths = (None, None) if sources[0] is None else _padded(sources)
    return TokenBatch(line, lengths, torch.tensor(ids), source, source_lengths)


def _padded(lines: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(line) for line in lines])
    made = torch.full((len(lines), int(lengths.max())), PAD)
    for row, line in enumerate(lines):
        made[row, : len(line)] = torch.tensor(line)
    return made, lengths


class NoteTask:
    """Trains one `NoteModel`. `demos`: (name, prompt) pairs, each composed with seed 0 at every demo and saved as MIDI.
    """

    room = "composer"
    mel = None  # batches are tokens

    def __init__(self, model: NoteModel, *, demos: Sequence[tuple[str, Prompt]] = ()) -> None:
        self.model: Any = model
        self.demos = demos

    def players(self) -> list[Player]:
        return [Player("composer", self.model, self.model.loss)]

    def demo(self, model: nn.Module, folder: Path, step: int) -> None:
        for name, prompt in self.demos:
            model.save_demo(prompt, folder / f"{name}.mid")
