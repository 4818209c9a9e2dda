"""The notes of a piano roll as a sequence of tokens: what an encoder reads that takes notes and not frames.

    token     0      1           2           3 ...
              rest   first note  second      in the order of their onsets, then of their pitches

Every sequence begins with a token for "no note", so that there is something to look at in a rest, and where there is
no score at all. A note begins where its pitch begins to sound, or is struck again; it ends where that pitch falls
silent or is struck again. One that sounds in the first frame without being struck there began earlier, as long ago as
the roll's age says; one that still sounds in the last frame ends later, nobody knows when. Notes of one pitch that
overlap are one in a roll, up to the second's onset.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from audiogen.conditioning.piano_roll import AGE_SECONDS, PITCHES, ROLL_DIM

OLDEST = 2.0  # seconds: a note that began longer ago counts as this old (its age row has faded to 0.0003)
BEYOND = 2.0  # seconds: what still sounds in the last frame counts as ending so long after it


class NoteTokens(NamedTuple):
    """(batch, tokens) each; times in frames."""

    pitch: Tensor  # int64: 0 for "no note" and for padding, 1 .. 88 for the roll's rows
    onset: Tensor  # float; below 0 for notes that began before the first frame
    end: Tensor  # float: the first frame in which it does not sound
    velocity: Tensor  # 0..1
    mask: Tensor  # bool: False for padding

    def names(self, index: int) -> list[str]:
        """The tokens of one sample, for a picture: MIDI numbers."""
        pitches = self.pitch[index][self.mask[index]].tolist()
        return ["rest" if pitch == 0 else str(pitch + 20) for pitch in pitches]


def note_tokens(roll: Tensor, *, frame_rate: float) -> NoteTokens:
    """roll (batch, ROLL_DIM, frames), as `piano_roll` makes it -> its notes."""
    batch, rows, frames = roll.shape
    if rows != ROLL_DIM:
        raise ValueError(f"a roll of {rows} rows where {ROLL_DIM} are needed")
    loud = roll[:, :PITCHES]
    sounding = loud > 0  # (batch, pitches, frames)
    before = torch.zeros_like(sounding)
    before[..., 1:] = sounding[..., :-1]
    struck = roll[:, PITCHES : 2 * PITCHES] > 0
    begins = sounding & (struck | ~before)
    place = torch.arange(frames, device=roll.device).expand_as(loud)
    stops = torch.where(begins | ~sounding, place, frames)
    after = torch.full_like(stops, frames)  # the first stop later than each frame
    after[..., :-1] = stops.flip(-1).cummin(dim=-1).values.flip(-1)[..., 1:]

    sample, frame, pitch = begins.transpose(1, 2).nonzero(as_tuple=True)  # in the order of samples, frames, pitches
    fresh = roll[:, 2 * PITCHES : 3 * PITCHES][sample, pitch, frame].clamp(min=1e-6)
    age = (-AGE_SECONDS * fresh.log()).clamp(0, OLDEST) * frame_rate
    held = (frame == 0) & ~struck[sample, pitch, frame]
    onset = frame - torch.where(held, age, torch.zeros_like(age))

    counts = torch.bincount(sample, minlength=batch)
    column = torch.arange(len(sample), device=roll.device) - (counts.cumsum(0) - counts)[sample] + 1
    tokens = int(counts.max()) + 1
    shape = (batch, tokens)
    made = NoteTokens(
        pitch=torch.zeros(shape, dtype=torch.int64, device=roll.device),
        onset=roll.new_zeros(shape), end=roll.new_zeros(shape), velocity=roll.new_zeros(shape),
        mask=torch.arange(tokens, device=roll.device)[None] <= counts[:, None],
    )
    made.end[:, 0] = frames
    made.pitch[sample, column] = pitch + 1
    made.onset[sample, column] = onset.to(roll.dtype)
    end = after[sample, pitch, frame].to(roll.dtype)
    made.end[sample, column] = torch.where(end < frames, end, end + BEYOND * frame_rate)
    made.velocity[sample, column] = loud[sample, pitch, frame]
    return made
