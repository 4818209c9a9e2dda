"""Rendering chunk by chunk: a clip is heard while its mel is still being made.

A vocoder without a state of its own is given each chunk with the frames around it (`context_frames` on either side),
and what they only prepared is cut away. Noise is read by its place in the clip (`offset`). The chunks together are the
clip that one call renders, sample for sample, within rounding.

    pushed    ──────────────────────────┐known
    rendered  ──────────────┐made  ready┘└ context_frames: what lies there waits for frames that are not known yet
    one call          [ context | made .. ready | context ]

An autoregressive model has a state and a `stream` method that returns an object of the same two methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.registry import name_of, table
from audiogen.core.rng import SampleRng


class Stream(Protocol):
    """A clip, or several side by side, being rendered."""

    def push(self, mel: Tensor) -> Tensor:
        """The next frames, mel (batch, n_mels, frames) -> the audio (batch, 1, time) that is ready, time >= 0."""

    def finish(self) -> Tensor:
        """No frame follows -> the rest of the audio. In all: frames * hop_length samples."""


def open_stream(model: nn.Module, *, batch: int = 1, rng: SampleRng | None = None) -> Stream:
    """A stream of `model`. Raises `UserError` for a model that needs the whole clip (`context_frames` is None).

    >>> stream = open_stream(model)
    >>> pieces = [stream.push(mel) for mel in mels] + [stream.finish()]
    """
    if hasattr(model, "stream"):
        return model.stream(batch=batch, rng=rng)
    return ContextStream(model, batch=batch, rng=rng)


def render_in_chunks(
    model: nn.Module, mels: Iterable[Tensor], *, batch: int = 1, rng: SampleRng | None = None
) -> Iterator[Tensor]:
    """The pieces of a clip's mel (batch, n_mels, frames) -> pieces of its audio (batch, 1, time > 0), when ready."""
    stream = open_stream(model, batch=batch, rng=rng)
    for mel in mels:
        audio = stream.push(mel)
        if audio.shape[2]:
            yield audio
    audio = stream.finish()
    if audio.shape[2]:
        yield audio


def lookahead_seconds(model: nn.Module) -> float:
    """How much of the clip after a frame must be known before the frame is rendered. Raises as `open_stream`."""
    frames = model.lookahead_frames if hasattr(model, "stream") else _context(model)
    return frames / model.config.mel.frame_rate


class ContextStream:
    """A `Stream` of any vocoder that has `context_frames`. It remembers twice as many frames, and no audio."""

    def __init__(self, model: Any, *, batch: int = 1, rng: SampleRng | None = None) -> None:
        self.context = _context(model)
        self.model, self.batch = model, batch
        self.rng = rng or SampleRng(0, ids=[0] * batch)
        if len(self.rng) != batch:
            raise UserError(f"an rng for {len(self.rng)} clips does not fit a stream of {batch}")
        self.mel: Tensor | None = None  # the frames that are still needed, ...
        self.origin = 0  # ... the first of which is this frame of the clip
        self.made = 0  # frames
        self.finished = False

    @property
    def known(self) -> int:
        """Frames that were pushed."""
        return self.origin + (0 if self.mel is None else self.mel.shape[2])

    def push(self, mel: Tensor) -> Tensor:
        """mel (batch, n_mels, frames) -> audio (batch, 1, time), time >= 0."""
        if self.finished:
            raise ValueError("the clip is finished: open another stream")
        self.model.config.mel.check(mel, model=type(self.model).__name__)
        if mel.shape[0] != self.batch:
            raise UserError(f"a mel of {mel.shape[0]} clips was pushed into a stream of {self.batch}")
        self.mel = mel if self.mel is None else torch.cat([self.mel, mel], 2)
        return self._render(self.known - self.context)

    def finish(self) -> Tensor:
        """-> the rest of the audio (batch, 1, time)."""
        self.finished = True
        return self._render(self.known)

    @torch.no_grad()
    def _render(self, ready: int) -> Tensor:
        """Audio of the frames made .. ready - 1."""
        hop = self.model.config.mel.hop_length
        if ready <= self.made:
            like = next(iter(self.model.parameters()), torch.empty(0)) if self.mel is None else self.mel
            return torch.zeros(self.batch, 1, 0, device=like.device)
        first = max(0, self.made - self.context)  # == origin
        last = min(self.known, ready + self.context)
        audio = self.model(self.mel[:, :, first - self.origin : last - self.origin], rng=self.rng, offset=first)
        audio = audio[:, :, (self.made - first) * hop : (ready - first) * hop]
        self.made = ready
        needed = max(0, ready - self.context)
        self.mel, self.origin = self.mel[:, :, needed - self.origin :], needed
        return audio


def _context(model: Any) -> int:
    if model.context_frames is None:
        name = name_of("vocoder", type(model))
        others = ", ".join(other for other in table("vocoder") if other != name)
        raise UserError(
            f"{name} needs the whole clip before it can render its first sample: render it whole (vocode without "
            f"--stream), or take a vocoder that streams; of {others} most do"
        )
    return model.context_frames
