"""Odd, broken, huge and mutated MIDI files, beside mido as the oracle for sound ones."""

from __future__ import annotations

import random
import struct
import time

import mido
import pytest

from audiogen.core import midi
from audiogen.core.errors import UserError
from audiogen.core.score import Note, Score


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack(">I", len(body)) + body


def file_of(*tracks: bytes, midi_type: int = 1, division: int = 480, count: int | None = None) -> bytes:
    header = struct.pack(">HHH", midi_type, len(tracks) if count is None else count, division)
    return chunk(b"MThd", header) + b"".join(chunk(b"MTrk", track) for track in tracks)


END = b"\x00\xff\x2f\x00"
NOTE = b"\x00\x90\x3c\x40\x83\x60\x80\x3c\x00"  # C4 for 480 ticks
TEMPO = b"\x00\xff\x51\x03"


@pytest.fixture
def read(tmp_path):
    def read_bytes(data: bytes) -> Score:
        path = tmp_path / "x.mid"
        path.write_bytes(data)
        return Score.read(path)

    return read_bytes


def song(tracks: int = 4, notes: int = 40, seed: int = 0) -> mido.MidiFile:
    """A file with tempo changes, several tracks and channels, overlapping notes, controllers and sysex."""
    rng = random.Random(seed)
    made = mido.MidiFile(ticks_per_beat=96)
    head = mido.MidiTrack([mido.MetaMessage("time_signature", numerator=6, denominator=8),
                           mido.MetaMessage("key_signature", key="F#m")])
    for _ in range(5):
        head.append(mido.MetaMessage("set_tempo", tempo=rng.randint(300_000, 900_000), time=rng.randint(0, 200)))
    made.tracks.append(head)
    for number in range(tracks):
        track = mido.MidiTrack([mido.MetaMessage("track_name", name=f"part {number}"),
                                mido.Message("program_change", channel=number, program=rng.randint(0, 127)),
                                mido.Message("sysex", data=(1, 2, 3))])
        for _ in range(notes):
            pitch = rng.randint(40, 80)
            track.append(mido.Message("note_on", channel=number, note=pitch, velocity=rng.randint(1, 127),
                                      time=rng.randint(0, 50)))
            track.append(mido.Message("control_change", channel=number, control=64, value=0, time=rng.randint(0, 9)))
            track.append(mido.Message("note_on", channel=number, note=pitch, velocity=0, time=rng.randint(1, 150)))
        made.tracks.append(track)
    return made


def test_notes_and_times_are_those_that_mido_plays(tmp_path):
    made = song()
    made.save(tmp_path / "a.mid")
    now, starts = 0.0, []
    for message in mido.MidiFile(tmp_path / "a.mid"):
        now += message.time  # in seconds, over all tempo changes
        if message.type == "note_on" and message.velocity:
            starts.append((round(now, 6), message.note, message.velocity, message.channel))
    score = Score.read(tmp_path / "a.mid")
    mine = [(round(n.onset, 6), n.pitch, n.velocity, int(n.instrument[-1])) for n in score.notes]
    assert sorted(mine) == sorted(starts)
    assert (score.metre, score.key) == ("6/8", "F# minor")
    assert [n.program for n in score.notes if n.instrument == "part 2"][0] == made.tracks[3][1].program


@pytest.mark.parametrize("bpm", [93.0, 61.7, 120.0, 133.333, 250.5])
def test_a_constant_tempo_comes_back_exactly(tmp_path, bpm):
    Score.from_beats([Note(0, 0, 60, beat=1 / 3, beats=0.5)], bpm=bpm).save(tmp_path / "a.mid")
    assert Score.read(tmp_path / "a.mid").bpm == bpm


def test_a_tempo_map_is_written_again(tmp_path):
    song().save(tmp_path / "a.mid")
    first = Score.read(tmp_path / "a.mid")
    first.save(tmp_path / "b.mid")
    second = Score.read(tmp_path / "b.mid")
    assert len(first.notes) == len(second.notes)

    def order(n):
        return (n.instrument, round(n.beat, 3), n.pitch, round(n.beats, 3))

    for a, b in zip(sorted(first.notes, key=order), sorted(second.notes, key=order), strict=True):
        assert (a.pitch, a.velocity, a.program) == (b.pitch, b.velocity, b.program)
        assert (a.beat, a.beats) == (pytest.approx(b.beat, abs=2e-3), pytest.approx(b.beats, abs=3e-3))
        assert (a.onset, a.duration) == (pytest.approx(b.onset, abs=4e-3), pytest.approx(b.duration, abs=4e-3))


def test_a_cut_passage_keeps_its_seconds(tmp_path):
    whole = Score.from_beats([Note(0, 0, 60 + i, beat=i, beats=1) for i in range(8)], bpm=90)
    whole.between(2.0, 4.0).save(tmp_path / "a.mid")
    for a, b in zip(whole.between(2.0, 4.0).notes, Score.read(tmp_path / "a.mid").notes, strict=True):
        assert (a.onset, a.duration, a.pitch) == (pytest.approx(b.onset, abs=2e-3), pytest.approx(b.duration, abs=3e-3),
                                                  b.pitch)


def test_sixty_four_tracks_keep_their_names_and_programs(tmp_path):
    notes = [Note(0, 0, 60, beat=i % 5, beats=1.0, instrument=f"étude {i} 音", program=i) for i in range(64)]
    Score.from_beats(notes, bpm=100).save(tmp_path / "a.mid")
    back = Score.read(tmp_path / "a.mid").notes
    assert {(n.instrument, n.program, n.beat, n.beats) for n in back} == {
        (n.instrument, n.program, n.beat, n.beats) for n in notes}


@pytest.mark.parametrize("asked, back", [("Db minor", "C# minor"), ("G# major", "Ab major"), ("A# minor", "A# minor")])
def test_every_key_can_be_written(tmp_path, asked, back):
    Score((Note(0, 1, 60),), key=asked).save(tmp_path / "a.mid")
    assert Score.read(tmp_path / "a.mid").key == back


@pytest.mark.parametrize("data, notes", [
    (file_of(b"\x00\x90\x3c\x40\x83\x60\x3c\x00\x00\x3e\x40\x83\x60\x3e\x00" + END), [(60, 0, 1), (62, 1, 1)]),
    (file_of(b"\x00\x90\x3c\x40\x60\x3c\x41\x60\x80\x3c\x00\x60\x80\x3c\x00" + END),
     [(60, 0.0, 0.4), (60, 0.2, 0.4)]),  # overlapping on one pitch
    (file_of(b"\x00\x90\x3c\x40\x83\x60\xff\x2f\x00"), [(60, 0, 1)]),  # without an end
    (file_of(b"\x00\x90\x3c\x40\x83\x60\xb0\x07\x40"), [(60, 0, 1)]),  # and without an end of the track
    (file_of(NOTE + END, count=9), [(60, 0, 1)]),  # fewer tracks than named
    (file_of(NOTE + END) + b"garbage", [(60, 0, 1)]),
    (file_of(NOTE + END, midi_type=2), [(60, 0, 1)]),  # one pattern is one time line
    (file_of(b"\x00\xf0\x03\x01\x02\xf7" + NOTE + END), [(60, 0, 1)]),  # sysex
    (file_of(b"\x00\xff\x59\x02\x63\x07" + NOTE + END), [(60, 0, 1)]),  # an impossible key
    (file_of(TEMPO + b"\x00\x00\x00" + NOTE + END), [(60, 0, 1)]),  # an endless tempo
    (file_of(b"\x00\xff\x58\x04\x00\x02\x18\x08" + NOTE + END), [(60, 0, 1)]),  # a metre of no beats
    (file_of(b"\x00\x80\x3c\x00" + NOTE + END), [(60, 0, 1)]),  # an end without a note
    (file_of(NOTE + END, division=0xE728), [(60, 0, 0.96)]),  # 25 frames of 40 ticks: 480 ticks are 0.48 s
    (b"RIFF" + struct.pack("<I", 4) + b"RMID" + b"junk" + struct.pack("<I", 1) + b"\0\0" + b"data"
     + struct.pack("<I", len(file_of(NOTE + END))) + file_of(NOTE + END), [(60, 0, 1)]),
], ids=str)
def test_odd_files_are_read_as_the_docstring_says(read, data, notes):
    score = read(data)
    assert [(n.pitch, pytest.approx(n.beat), pytest.approx(n.beats)) for n in score.notes] == notes
    assert score.bpm == 120.0 and score.metre == "4/4" and score.key is None
    assert all(n.duration == pytest.approx(n.beats / 2) for n in score.notes)


@pytest.mark.parametrize("data, said", [
    (b"", "header"), (b"MThd", "header"), (b"RIFF\0\0\0\0RMID", "without MIDI data"), (b"fLaC" + bytes(99), "header"),
    (file_of(NOTE + END)[:-5], "cut off"), (file_of(NOTE + END, division=0), "division is 0"),
    (file_of(NOTE + END, division=0xFF00), "SMPTE"), (file_of(END), "no notes"), (file_of(), "no notes"),
    (file_of(NOTE, NOTE, midi_type=2), "type 2"), (file_of(b"\x00\x90\x3c"), "damaged"),
    (file_of(b"\x00\x3c\x40"), "without a status byte"), (file_of(b"\xff\xff\xff\xff\xff\x01"), "four bytes"),
    (file_of(b"\x00\x90\x3c\x40" + b"\xff\xff\xff\x7f\x80\x3c\x00"), "hours"),
], ids=str)
def test_broken_files_are_one_clear_error(read, data, said):
    with pytest.raises(UserError, match=said) as caught:
        read(data)
    assert "x.mid" in str(caught.value) and "\n" not in str(caught.value)


def test_hundreds_of_thousands_of_notes_are_refused_in_bounded_time(read):
    began = time.process_time()
    with pytest.raises(UserError, match="250000 notes"):
        read(file_of((b"\x00\x90\x3c\x40" + b"\x01\x3c\x00\x00\x3c\x40" * 260_000) + END))
    with pytest.raises(UserError, match="250000 notes"):
        read(file_of(b"\x00\x90\x3c\x40" * 260_000 + END))
    stacked = b"\x00\x90\x3c\x40" * 20_000 + b"\x01\x80\x3c\x00" * 20_000  # on one pitch, all at once
    assert len(read(file_of(stacked + END)).notes) == 20_000
    with pytest.raises(UserError, match="MB"):
        read(file_of(bytes(midi.MAX_BYTES)))
    assert time.process_time() - began < 10


def test_a_mutated_file_is_a_score_or_a_user_error(read, tmp_path):
    song(tracks=2, notes=12).save(tmp_path / "a.mid")
    sound = (tmp_path / "a.mid").read_bytes()
    rng, outcomes = random.Random(3), []
    for _ in range(700):
        data = bytearray(sound)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            kind = rng.random()
            if kind < 0.6:
                data[at] = rng.choice((0, 0x7F, 0x80, 0xF0, 0xFF, rng.randrange(256)))
            elif kind < 0.8:
                del data[at : at + rng.randint(1, 9)]
            else:
                data[at:at] = rng.randbytes(rng.randint(1, 9))
        try:
            score = read(bytes(data))
            assert all(0 <= n.pitch <= 127 and 1 <= n.velocity <= 127 and n.duration > 0 for n in score.notes)
            assert all(n.onset >= 0 and n.beats >= 0 for n in score.notes) and 3 < score.bpm <= 1000
            if len(outcomes) % 25 == 0:
                score.save(tmp_path / "again.mid")
            outcomes.append(True)
        except UserError:
            outcomes.append(False)
    assert 0.1 < sum(outcomes) / len(outcomes) < 0.95  # both happen
