"""A made world for tests of generators: two styles that play notes, one that is noise; and how a clip goes on."""

from __future__ import annotations

import torch
from torch import Tensor

from audiogen.conditioning.piano_roll import LOWEST, piano_roll
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.score import Note, Score
from audiogen.generators.harmonics import harmonic_templates

MEL = MelFormat(n_mels=20)
STYLES = torch.eye(3)


def world(count: int, frames: int, seed: int = 0) -> Batch:
    """Silence at -11; a note (one of five pitches) is 8 higher in the bands of its harmonics, and fades; in the second
    style only in those of its fundamental. The third style has no score and is noise at -4 with a deviation of 1 in all
    bands, correlated from frame to frame."""
    source = torch.Generator().manual_seed(seed)
    style = torch.arange(count) % 3
    mel, rolls = torch.full((count, MEL.n_mels, frames), -11.0), []
    lines = harmonic_templates(MEL)  # (2, pitches, n_mels): of the fundamental, of all harmonics
    for i in range(count):
        notes, at = [], 0
        while at < frames:
            length = int(torch.randint(8, 25, (1,), generator=source))
            pitch = 40 + 8 * int(torch.randint(5, (1,), generator=source))
            notes.append(Note(at / MEL.frame_rate, length / MEL.frame_rate, pitch, 90))
            bump = lines[int(style[i] == 0), pitch - LOWEST]
            stop = min(at + length, frames)
            fade = torch.exp(-torch.arange(stop - at) / 30)
            mel[i, :, at:stop] = torch.maximum(mel[i, :, at:stop], -11 + 8 * bump[:, None] * fade)
            at += length + int(torch.randint(0, 6, (1,), generator=source))
        if style[i] == 2:
            notes, noise = None, torch.randn(MEL.n_mels, frames, generator=source)
            for t in range(1, frames):
                noise[:, t] = 0.6 * noise[:, t - 1] + 0.8 * noise[:, t]
            mel[i] = -4 + noise
        score = Score(notes=tuple(notes)) if notes is not None else None
        rolls.append(piano_roll(score, frames, frame_rate=MEL.frame_rate))
    mel = mel + 0.1 * torch.randn(mel.shape, generator=source)
    return Batch(
        torch.zeros(count, 1, 1), mel.clamp(min=MEL.lowest), torch.full((count,), frames),
        Condition(vector=STYLES[style], aligned=torch.stack(rolls)), torch.arange(count) + 1000 * seed,
    )


def course(mel: Tensor) -> tuple[Tensor, Tensor]:
    """Level and spectral change of each quarter: mean of the mel, and of the distance of neighbouring frames,
    (batch, 4) each."""
    quarters = mel.chunk(4, dim=2)
    level = torch.stack([q.mean(dim=(1, 2)) for q in quarters], 1)
    change = torch.stack([q.diff(dim=2).abs().mean(dim=(1, 2)) for q in quarters], 1)
    return level, change
