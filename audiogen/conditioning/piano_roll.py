"""A score, aligned with the frames of a mel spectrogram.

Rows of the roll (ROLL_DIM, frames), for the 88 pitches 21..108 of a piano (drum hits use their General MIDI numbers):
    0..87      velocity / 127 while the pitch sounds
    88..175    1 in the frame where it starts
    176..263   exp(-age / 0.25 s) while it sounds: how long ago it started
    264        1: there is a score. Without a score the whole roll is zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from audiogen.core.score import Score

LOWEST, HIGHEST = 21, 108
PITCHES = HIGHEST - LOWEST + 1
ROLL_DIM = 3 * PITCHES + 1
AGE_SECONDS = 0.25
NO_NOTES = np.zeros((0, 4))


def piano_roll(score: Score | None, frames: int, *, frame_rate: float, start: float = 0.0) -> Tensor:
    """-> (ROLL_DIM, frames) float32, the score from `start` seconds on.

    A note sounds in the frames from round((onset - start) * frame_rate) up to, not including, the frame nearest to its
    end, and in one at least. Where several notes share a pitch the loudest and the youngest count. Notes that began
    before `start` go on with their age. Pitches outside 21..108 are left out.
    """
    return roll_of(None if score is None else note_table(score), frames, frame_rate=frame_rate, start=start)


def note_table(score: Score) -> np.ndarray:
    """-> (notes, 4) float64: onset and duration in seconds, pitch, velocity. Rolls are made of it again and again."""
    rows = [(note.onset, note.duration, note.pitch, note.velocity) for note in score.notes]
    return np.array(rows, np.float64) if rows else NO_NOTES


def roll_of(notes: np.ndarray | None, frames: int, *, frame_rate: float, start: float = 0.0) -> Tensor:
    """`piano_roll` of a note table; of None, that of no score."""
    return torch.from_numpy(rolls_of([notes], frames, frame_rate=frame_rate, starts=[start])[0])


def rolls_of(
    tables: Sequence[np.ndarray | None], frames: int, *, frame_rate: float, starts: Sequence[float]
) -> np.ndarray:
    """-> (batch, ROLL_DIM, frames) float32: the rolls of many note tables at once, each from its own start.

    In NumPy, and for a whole batch in the two dozen small steps that one roll takes: loaders make thousands a second.
    """
    rolls = np.zeros((len(tables), ROLL_DIM, frames), np.float32)
    given = [row for row, table in enumerate(tables) if table is not None]
    if not given:
        return rolls
    rolls[given, -1] = 1.0
    notes = np.concatenate([tables[row] for row in given])
    counts = [len(tables[row]) for row in given]
    sample, start = np.repeat(given, counts), np.repeat([starts[row] for row in given], counts)
    edges = np.floor((np.stack((notes[:, 0], notes[:, 0] + notes[:, 1])) - start) * frame_rate + 0.5)  # halves upwards
    first, last = edges[0], np.maximum(edges[1], edges[0] + 1)
    heard = np.flatnonzero((notes[:, 2] >= LOWEST) & (notes[:, 2] <= HIGHEST) & (first < frames) & (last > 0))
    if not len(heard):
        return rolls
    onset, pitch = notes[heard, 0] - start[heard], notes[heard, 2].astype(np.int64) - LOWEST
    first, last = first[heard], last[heard]
    row = sample[heard] * ROLL_DIM + pitch  # of its velocity, in all rolls under each other
    flat = rolls.reshape(-1)

    starts_here = first >= 0
    flat[(row[starts_here] + PITCHES) * frames + first[starts_here].astype(np.int64)] = 1.0

    begin, end = np.maximum(first, 0).astype(np.int64), np.minimum(last, frames).astype(np.int64)
    length = end - begin
    note_of = np.repeat(np.arange(len(heard)), length)  # one entry for every frame of every note
    frame = begin[note_of] + np.arange(len(note_of)) - (np.cumsum(length) - length)[note_of]
    cell = row[note_of] * frames + frame
    age = np.maximum(frame / frame_rate - onset[note_of], 0.0)
    loud = (notes[heard, 3] / 127.0).astype(np.float32)
    np.maximum.at(flat, cell, loud[note_of])
    np.maximum.at(flat, cell + 2 * PITCHES * frames, np.exp(-age / AGE_SECONDS).astype(np.float32))
    return rolls
