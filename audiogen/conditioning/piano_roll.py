"""A score, aligned with the frames of a mel spectrogram.

Rows of the roll (ROLL_DIM, frames), for the 88 pitches 21..108 of a piano (drum hits use their General MIDI numbers):
    0..87      velocity / 127 while the pitch sounds
    88..175    1 in the frame where it starts
    176..263   exp(-age / 0.25 s) while it sounds: how long ago it started
    264        1: there is a score. Without a score the whole roll is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audiogen.core.score import Score

LOWEST, HIGHEST = 21, 108
PITCHES = HIGHEST - LOWEST + 1
ROLL_DIM = 3 * PITCHES + 1
AGE_SECONDS = 0.25


def piano_roll(score: Score | None, frames: int, *, frame_rate: float, start: float = 0.0) -> Tensor:
    """-> (ROLL_DIM, frames) float32, the score from `start` seconds on.

    A note sounds in the frames from round((onset - start) * frame_rate) up to, not including, the frame nearest to its
    end, and in one at least. Where several notes share a pitch the loudest and the youngest count. Notes that began
    before `start` go on with their age. Pitches outside 21..108 are left out.
    """
    roll = torch.zeros(ROLL_DIM, frames)
    if score is None:
        return roll
    roll[-1] = 1.0
    notes = [note for note in score.notes if LOWEST <= note.pitch <= HIGHEST]
    if not notes or not frames:
        return roll
    times = torch.tensor([(note.onset, note.onset + note.duration) for note in notes], dtype=torch.float64) - start
    pitch = torch.tensor([note.pitch - LOWEST for note in notes])
    loud = torch.tensor([note.velocity / 127.0 for note in notes])
    edges = torch.floor(times * frame_rate + 0.5).long()  # nearest frame, halves upwards
    first, last = edges[:, 0], torch.maximum(edges[:, 1], edges[:, 0] + 1)

    starts = (first >= 0) & (first < frames)
    roll[PITCHES + pitch[starts], first[starts]] = 1.0

    begin, end = first.clamp(0, frames), last.clamp(0, frames)
    length = end - begin
    note_of = torch.repeat_interleave(torch.arange(len(notes)), length)  # one entry for every frame of every note
    within = torch.arange(len(note_of)) - torch.repeat_interleave(length.cumsum(0) - length, length)
    frame = begin[note_of] + within
    cell = pitch[note_of] * frames + frame
    age = (frame.double() / frame_rate - times[note_of, 0]).clamp_min(0.0)
    sounding = roll[:PITCHES].view(-1)
    sounding.scatter_reduce_(0, cell, loud[note_of], "amax")
    fresh = roll[2 * PITCHES : 3 * PITCHES].view(-1)
    fresh.scatter_reduce_(0, cell, torch.exp(-age / AGE_SECONDS).float(), "amax")
    return roll
