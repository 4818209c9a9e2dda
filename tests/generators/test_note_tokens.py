"""The notes of a roll are those of the score that it was made of."""

from __future__ import annotations

import pytest
import torch

from audiogen.conditioning.piano_roll import ROLL_DIM, piano_roll
from audiogen.core.score import Note, Score
from audiogen.generators.note_tokens import BEYOND, OLDEST, note_tokens

RATE = 100.0  # frames a second


def tokens(notes, frames=100, start=0.0):
    score = Score(notes=tuple(Note(onset, seconds, pitch, velocity) for onset, seconds, pitch, velocity in notes))
    return note_tokens(piano_roll(score, frames, frame_rate=RATE, start=start)[None], frame_rate=RATE)


def rows(found):
    real = found.mask[0] & (found.pitch[0] > 0)
    return [tuple(row) for row in torch.stack(
        (found.onset[0], found.end[0], found.pitch[0] + 20, found.velocity[0] * 127), 1)[real].round().int().tolist()]


def test_a_score_comes_back():
    notes = [(0.1, 0.3, 60, 80), (0.1, 0.2, 64, 90), (0.35, 0.4, 48, 40), (0.6, 0.05, 60, 127)]
    assert rows(tokens(notes)) == [(10, 40, 60, 80), (10, 30, 64, 90), (35, 75, 48, 40), (60, 65, 60, 127)]


def test_a_pitch_that_is_struck_again_is_two_notes():
    assert rows(tokens([(0.1, 0.2, 60, 80), (0.3, 0.2, 60, 90)])) == [(10, 30, 60, 80), (30, 50, 60, 90)]


def test_a_note_that_began_before_the_clip_has_its_age_and_one_that_goes_on_no_end():
    ((onset, end, pitch, _),) = rows(tokens([(0.2, 9.0, 60, 80)], start=0.7))
    assert (onset, end, pitch) == (-50, 100 + BEYOND * RATE, 60)
    ((onset, *_),) = rows(tokens([(0.0, 9.0, 60, 80)], start=5.0))
    assert onset == -OLDEST * RATE


def test_every_sequence_begins_with_a_rest_and_is_padded_behind():
    roll = torch.zeros(3, ROLL_DIM, 20)
    roll[1, 40, 4:12] = 0.5  # sounds, without saying that it is struck
    roll[2, 40, 4:6] = roll[2, 44, 8:12] = 0.25
    found = note_tokens(roll, frame_rate=RATE)
    assert found.mask.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert found.pitch.tolist() == [[0, 0, 0], [0, 41, 0], [0, 41, 45]]
    assert found.onset[1, 1] == 4 and found.end[1, 1] == 12 and found.velocity[2].tolist() == [0, 0.25, 0.25]
    assert found.names(2) == ["rest", "61", "65"]


def test_many_notes_at_once_are_all_found_once():
    source = torch.Generator().manual_seed(0)
    onsets = (torch.randperm(900, generator=source)[:60] / RATE).tolist()
    notes = [(onset, 0.05 + k / 100, 21 + k, 1 + k) for k, onset in enumerate(onsets)]
    expected = sorted(
        (round(onset * RATE), round((onset + seconds) * RATE), pitch, velocity)
        for onset, seconds, pitch, velocity in notes
    )
    assert sorted(rows(tokens(notes, frames=1600))) == expected


def test_a_roll_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="rows"):
        note_tokens(torch.zeros(1, 5, 10), frame_rate=RATE)
