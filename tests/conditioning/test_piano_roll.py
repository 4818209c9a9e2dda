from __future__ import annotations

import math
import random

import pytest
import torch

from audiogen.conditioning.piano_roll import ROLL_DIM, note_table, piano_roll, rolls_of
from audiogen.core.score import Note, Score

FRAME_RATE = 22050 / 256


def slow_roll(score, frames, frame_rate, start):
    """The definition, one note and one frame at a time."""
    roll = torch.zeros(265, frames)
    roll[264] = 1.0
    for note in score.notes:
        if not 21 <= note.pitch <= 108:
            continue
        row = note.pitch - 21
        first = math.floor((note.onset - start) * frame_rate + 0.5)
        last = max(math.floor((note.onset + note.duration - start) * frame_rate + 0.5), first + 1)
        for frame in range(frames):
            if frame == first:
                roll[88 + row, frame] = 1.0
            if first <= frame < last:
                age = max(frame / frame_rate - (note.onset - start), 0.0)
                roll[row, frame] = max(roll[row, frame].item(), note.velocity / 127)
                roll[176 + row, frame] = max(roll[176 + row, frame].item(), math.exp(-age / 0.25))
    return roll


@pytest.mark.parametrize("start", [0.0, 0.613, 2.0])
def test_equals_the_slow_loop(start):
    draw = random.Random(3)
    notes = tuple(
        Note(draw.uniform(0, 4), draw.choice([0.0, 0.004, 0.3, 1.7]), draw.randint(15, 112), draw.randint(1, 127))
        for _ in range(60)
    )
    score = Score(tuple(sorted(notes)))
    torch.testing.assert_close(
        piano_roll(score, 172, frame_rate=FRAME_RATE, start=start), slow_roll(score, 172, FRAME_RATE, start)
    )


def test_onset_falls_on_the_nearest_frame():
    for onset, frame in ((0.1, 9), (0.0999 / 1.0, 9), (9.49 / FRAME_RATE, 9), (9.51 / FRAME_RATE, 10)):
        roll = piano_roll(Score((Note(onset, 0.2, 60),)), 40, frame_rate=FRAME_RATE)
        assert roll[88 + 39].nonzero().flatten().tolist() == [frame]


def test_ages_continue_across_segments():
    score = Score((Note(0.0, 3.0, 60, 100), Note(1.0, 1.5, 64, 50)))
    whole = piano_roll(score, 200, frame_rate=100.0)
    part = piano_roll(score, 80, frame_rate=100.0, start=1.2)
    torch.testing.assert_close(part, whole[:, 120:200])


def test_no_score_is_all_zero_and_an_empty_score_is_not():
    assert piano_roll(None, 10, frame_rate=86.0).shape == (ROLL_DIM, 10)
    assert piano_roll(None, 10, frame_rate=86.0).abs().sum() == 0
    silent = piano_roll(Score(()), 10, frame_rate=86.0)
    assert silent[-1].eq(1).all() and silent[:-1].abs().sum() == 0


def test_repeated_notes_keep_loudest_and_youngest():
    score = Score((Note(0.0, 1.0, 60, 120), Note(0.5, 0.2, 60, 40)))
    roll = piano_roll(score, 100, frame_rate=100.0)
    assert roll[39, 60] == pytest.approx(120 / 127)
    assert roll[176 + 39, 60] == pytest.approx(math.exp(-0.1 / 0.25), rel=1e-5)


def test_many_rolls_at_once_are_those_of_each_alone():
    chance = random.Random(1)
    scores = [Score(tuple(Note(chance.uniform(0, 3), chance.uniform(0.01, 1), chance.randint(15, 115))
                          for _ in range(count))) for count in (30, 0, 7, 55)]
    starts = [0.0, 1.0, 2.5, 0.7, 9.0]
    tables = [note_table(scores[0]), None, note_table(scores[1]), note_table(scores[2]), note_table(scores[3])]
    found = rolls_of(tables, 60, frame_rate=40.0, starts=starts)
    for roll, score, start in zip(found, [scores[0], None, *scores[1:]], starts, strict=True):
        assert torch.equal(torch.from_numpy(roll), piano_roll(score, 60, frame_rate=40.0, start=start))
    assert not rolls_of([None, None], 4, frame_rate=40.0, starts=[0.0, 0.0]).any()
