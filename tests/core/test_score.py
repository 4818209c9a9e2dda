from __future__ import annotations

import pytest

from audiogen.composers.rules import RuleComposer
from audiogen.conditioning.instruments import INSTRUMENTS
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.score import Note, Score


@pytest.mark.parametrize("name", ["grand piano", "cello", "drum kit"])
def test_midi_keeps_notes_tempo_metre_and_key(tmp_path, name):
    prompt = Prompt(styles=((name, 1.0),), bpm=93.0, metre="3/4", key="F# minor")
    score = RuleComposer().compose(prompt, seconds=8, rng=1)
    score.save(tmp_path / "a.mid")
    back = Score.read(tmp_path / "a.mid")
    assert back.bpm == pytest.approx(93.0, rel=1e-4)
    assert (back.metre, back.key) == ("3/4", "F# minor")
    order = sorted(score.notes, key=lambda n: (round(n.onset, 2), n.pitch))
    again = sorted(back.notes, key=lambda n: (round(n.onset, 2), n.pitch))
    assert len(order) == len(again)
    for a, b in zip(order, again, strict=True):
        assert (a.pitch, a.velocity, a.instrument, a.program, a.drum) == (
            b.pitch,
            b.velocity,
            b.instrument,
            b.program,
            b.drum,
        )
        assert a.onset == pytest.approx(b.onset, abs=2e-3)
        assert a.duration == pytest.approx(b.duration, abs=3e-3)


def test_between_cuts_and_moves():
    score = Score((Note(0.0, 1.0, 60), Note(0.9, 1.0, 62), Note(3.0, 1.0, 64)))
    part = score.between(0.5, 1.5)
    assert [(n.onset, n.duration, n.pitch) for n in part.notes] == [
        (0.0, 0.5, 60),
        (pytest.approx(0.4), pytest.approx(0.6), 62),
    ]
    assert part.seconds == pytest.approx(1.0)


def test_from_beats_times_the_notes():
    score = Score.from_beats([Note(0, 0, 60, beat=3, beats=0.5), Note(0, 0, 59, beat=0, beats=1)], bpm=90.0)
    assert [(n.pitch, n.onset, n.duration) for n in score.notes] == [
        (59, 0.0, pytest.approx(2 / 3)),
        (60, 2.0, pytest.approx(1 / 3)),
    ]


def test_instruments_and_parts():
    notes = (
        Note(0.0, 1.0, 60, instrument="cello"),
        Note(0.5, 1.0, 40, instrument="tuba"),
        Note(1.0, 1.0, 61, instrument="cello"),
    )
    score = Score(notes)
    assert score.instruments == ("cello", "tuba")
    assert [n.pitch for n in score.only("cello").notes] == [60, 61]


def test_tempo_changes_move_the_seconds(tmp_path):
    import mido

    midi = mido.MidiFile(ticks_per_beat=100)
    track = mido.MidiTrack(
        [
            mido.MetaMessage("set_tempo", tempo=500_000),
            mido.Message("note_on", note=60, velocity=64, time=0),
            mido.Message("note_off", note=60, time=100),
            mido.MetaMessage("set_tempo", tempo=1_000_000, time=0),
            mido.Message("note_on", note=62, velocity=64, time=100),
            mido.Message("note_off", note=62, time=50),
        ]
    )
    midi.tracks.append(track)
    midi.save(tmp_path / "t.mid")
    score = Score.read(tmp_path / "t.mid")
    assert [(n.onset, n.duration, n.beat) for n in score.notes] == [(0.0, 0.5, 0.0), (1.5, 0.5, 2.0)]
    assert score.bpm == pytest.approx(120.0)


def test_unreadable_files_are_named(tmp_path):
    bad = tmp_path / "bad.mid"
    bad.write_bytes(b"MThd nonsense")
    with pytest.raises(UserError, match="not a readable MIDI file"):
        Score.read(bad)
    with pytest.raises(UserError, match="no score"):
        Score.read(tmp_path / "missing.mid")


def test_every_instrument_row_is_sound():
    names = [name.lower() for row in INSTRUMENTS.values() for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))
    for row in INSTRUMENTS.values():
        assert 0 <= row.program <= 127 and 21 <= row.low < row.high <= 108 and row.high - row.low >= 20
