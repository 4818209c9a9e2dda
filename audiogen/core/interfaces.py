"""READ FIRST: what flows through the engine, and what every model promises.

Shapes are written once, in the same words everywhere:
    audio  (batch, channels, time)    float32 in [-1, 1]
    mel    (batch, n_mels, frames)    log-mel in a `MelFormat`; time = frames * hop_length
    aligned (batch, dim, frames)      a condition that runs along with the mel (a piano roll)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.core.score import Score


@dataclass(frozen=True)
class Prompt:
    """What a person asks for."""

    text: str = ""
    styles: tuple[tuple[str, float], ...] = ()  # (style, weight), weights need not sum to 1
    negative: str = ""  # what must not be heard
    bpm: float | None = None  # beats per minute; None: from the text, or the composer's choice
    key: str | None = None  # "A minor", "C major"; None: likewise
    metre: str | None = None  # "3/4"; None: likewise
    score: Score | None = None  # notes to be played; None: the composer writes them, for styles that are played
    seconds: float = 8.0


class Condition(NamedTuple):
    """What a model is conditioned on; a route that a model does not use is None."""

    vector: Tensor | None = None  # (batch, dim): style, as a point in the space of text embeddings
    tokens: Tensor | None = None  # (batch, tokens, dim): words, for cross-attention
    mask: Tensor | None = None  # (batch, tokens): True where a token is real
    aligned: Tensor | None = None  # (batch, dim, frames): piano roll


class Batch(NamedTuple):
    """What a data loader yields. Its first field is a tensor: accelerate moves it and reads the batch size off it."""

    audio: Tensor  # (batch, 1, time)
    mel: Tensor | None  # (batch, n_mels, frames); None from the loader: the training loop computes it on the device
    lengths: Tensor  # (batch,) int64: frames that are sound and not padding
    condition: Condition
    ids: Tensor  # (batch,) int64 sample ids, the key of all randomness
    prompts: tuple[str, ...] = ()
    latents: Tensor | None = None  # (batch, latent_dim, steps), of packed data; there is neither audio nor mel then


class TokenBatch(NamedTuple):
    """What the loader of a model of notes yields: sequences of tokens, padded at their ends."""

    tokens: Tensor  # (batch, length) int64
    lengths: Tensor  # (batch,) int64: tokens that are no padding
    ids: Tensor  # (batch,) int64 sample ids, the key of all randomness
    source: Tensor | None = None  # (batch, source length) int64: what is given (chords, a melody)
    source_lengths: Tensor | None = None  # (batch,) int64


class MelGenerator(Protocol):
    """A model that makes mel frames: see audiogen/generators/mel_model.py for the base that all of them have.

    An `nn.Module` with a frozen dataclass `config` that has `mel: MelFormat` and `sampling`, a frozen dataclass of what
    a user may choose when a clip is drawn.
    """

    config: Any

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """Scalars; "loss" is minimised, all are logged."""

    def sample(
        self,
        condition: Condition,
        frames: int,
        *,
        rng: SampleRng,
        sampling: Any = None,
        negative: Tensor | None = None,
    ) -> Tensor:
        """-> mel (batch, n_mels, frames), drawn from `rng` alone. `sampling`: the config's own where None.
        `negative` (batch, vector_dim): the style to be guided away from; families without guidance ignore it."""


class Vocoder(Protocol):
    """A model that renders mel frames. An `nn.Module` with a frozen dataclass `config` that has `mel: MelFormat`.

    Its class says how it is configured (`config_type`, and by name `presets`), and how the file that its first authors
    published is read (`from_published`, see vocoders/published.py).
    """

    config: Any
    context_frames: int | None  # mel frames on either side that can change a frame's audio; None: the whole clip can

    def forward(self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0) -> Tensor:
        """mel (batch, n_mels, frames) -> audio (batch, 1, frames * hop_length), float32.

        `offset` frames of the clip came before this mel. Noise is read from the rng's tape from there on, so that a
        chunk (vocoders/streaming.py) hears the numbers that the whole clip hears. Without an rng the seed is 0.
        Raises `UserError` for a mel that is none of `config.mel` (`MelFormat.check`).
        """


class Composer(Protocol):
    """Something that writes notes."""

    def compose(self, prompt: Prompt, *, seconds: float, rng: Any) -> Score:
        """-> a score of at least `seconds`, in the prompt's tempo, key and metre where it names them."""


@dataclass
class Player:
    """One optimizer's share of a training: a plain model has one player, a GAN has two.

    `loss` may use modules that belong to other players; only `module`'s parameters receive gradients in its turn.
    """

    name: str
    module: nn.Module
    loss: Callable[[Batch, SampleRng], dict[str, Tensor]]
    start: int = 0  # the first step at which it plays
    learning_rate: float | None = None  # None: the run's


@runtime_checkable
class Task(Protocol):
    """What the training loop trains: players, and the one module whose EMA is shipped."""

    mel: MelFormat | None  # of the batches whose mels the loop computes; None: they are no audio
    model: nn.Module  # averaged by EMA, saved as the checkpoint
    room: str  # its room in the registry: "generator", "vocoder" or "composer"

    def players(self) -> list[Player]: ...

    def demo(self, model: nn.Module, folder: Any, step: int) -> None:
        """Write demo clips and pictures of `model` (the EMA weights) to `folder`, always from the same seeds."""
