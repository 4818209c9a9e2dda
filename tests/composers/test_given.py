"""What a person gives becomes the score that a composer starts from; oracle: the chords are found again in it."""

from __future__ import annotations

import pytest

from audiogen.composers.analysis import estimate_chords
from audiogen.composers.events import chord_name
from audiogen.composers.given import Given, chord_score
from audiogen.composers.grid import sheet_of
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.score import Note, Score


@pytest.mark.parametrize("chords, metre, heard", [
    ("Am F C G", "4/4", ["Am", "Am", "F", "F", "C", "C", "G", "G"]),
    ("Am | F G | C7 | Bdim", "4/4", ["Am", "Am", "F", "G", "C7", "C7", "Bdim", "Bdim"]),
    ("Dm Gsus4 Caug", "3/4", ["Dm", "Gsus4", "Caug"]),
])
def test_the_chords_are_those_that_the_composer_reads_from_the_score(chords, metre, heard):
    score = chord_score(chords, Prompt(metre=metre, bpm=120, seconds=1))
    found = [chord_name(token) for token in estimate_chords(sheet_of(score))]
    assert found == heard and (score.bpm, score.metre) == (120, metre)


def test_a_progression_is_played_to_its_end_until_the_time_is_filled():
    score = chord_score("C G", Prompt(seconds=9, bpm=120))  # bars of 2 s: five are needed, six make three turns
    assert score.seconds == pytest.approx(12)
    assert len({note.beat for note in score.notes}) == 6


def test_a_bass_of_its_own_lies_below_and_no_chord_is_silence():
    score = chord_score("C/E | N.C.", Prompt(seconds=1))
    assert [note.pitch % 12 for note in score.notes] == [4, 7, 0] and score.seconds == pytest.approx(4 * 0.6)
    with pytest.raises(UserError, match="name no chord"):
        chord_score("N.C.", Prompt())


def test_a_melody_is_all_melody_and_a_beginning_may_be_counted_on_from(tmp_path):
    notes = [Note(0, 0, pitch, 80, 0, beats, "lute") for pitch, beats in ((60, 1), (64, 4))]
    Score.from_beats([*notes, Note(0, 0, 36, 80, 1, 1, "kit", 0, True)], bpm=120).save(tmp_path / "a.mid")
    asked = Given(melody=tmp_path / "a.mid").to(Prompt(seconds=5))
    assert [(note.pitch, note.instrument) for note in asked.score.notes] == [(60, "melody"), (64, "melody")]
    given = Given(beginning=tmp_path / "a.mid")
    assert given.to(Prompt(seconds=5)).seconds == 5 and given.to(Prompt(seconds=5), beyond=True).seconds == 7


def test_the_family_stands_for_the_composer_of_what_is_given(tmp_path):
    assert Given(chords="C").composer("seq2seq") == "chords_to_melody" == Given().composer("seq2seq")
    assert Given(melody=tmp_path).composer("seq2seq") == "melody_to_accompaniment"
    assert Given(beginning=tmp_path).composer("seq2seq") == "continuation"
    assert Given(chords="C").composer("lstm") == "lstm"
    Given(beginning=tmp_path).check("all", "lstm")
    with pytest.raises(UserError, match="lstm takes a beginning or nothing, not chords"):
        Given(chords="C").check("all", "lstm")
    with pytest.raises(UserError, match="at once"):
        Given(chords="C", melody=tmp_path)
