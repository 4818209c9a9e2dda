"""Notes are found again in tones made here and in a rendered melody; the F1 is checked against a search of pairings."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from audiogen.core.audio import Audio
from audiogen.core.score import Note, Score
from audiogen.signal.features import RATE
from audiogen.signal.notes import note_f1, transcribe_notes

SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
MELODY = (60, 62, 64, 67, 65, 64, 62, 60)
NOTES = [Note(0.2 + 0.4 * i, 0.4, pitch) for i, pitch in enumerate(MELODY)] + [
    Note(0.2 + 1.6 * i, 1.6, pitch) for i, chord in enumerate(((48, 55), (43, 50))) for pitch in chord
]


def synthesise(notes) -> np.ndarray:
    """Decaying tones with eight harmonics."""
    out = np.zeros(int(4 * RATE), np.float32)
    for note in notes:
        time = np.arange(int(note.duration * RATE)) / RATE
        frequency = 440 * 2 ** ((note.pitch - 69) / 12)
        wave = sum(np.sin(2 * np.pi * h * frequency * time) / h for h in range(1, 9))
        start = int(note.onset * RATE)
        out[start : start + len(time)] += 0.1 * wave * np.exp(-2 * time) * np.minimum(1, time / 0.005)
    return out


def test_synthetic_notes_are_found_again():
    f1, _, _ = note_f1(NOTES, transcribe_notes(synthesise(NOTES), RATE, pitches={note.pitch for note in NOTES}))
    assert f1 >= 0.8


def test_another_melody_is_not_taken_for_the_one_that_is_played():
    other = [Note(note.onset + 0.2, 0.2, note.pitch + 1) for note in NOTES]
    pitches = {note.pitch for note in NOTES + other}
    assert note_f1(other, transcribe_notes(synthesise(NOTES), RATE, pitches=pitches))[0] < 0.2


@pytest.mark.parametrize("time", [0, 100, RATE])
def test_silence_has_no_notes(time):
    assert transcribe_notes(np.zeros(time, np.float32), RATE) == []


@pytest.mark.skipif(shutil.which("fluidsynth") is None or not SOUNDFONT.exists(), reason="no fluidsynth or FluidR3")
@pytest.mark.parametrize("program, at_least", [(0, 0.8), (73, 0.7)])
def test_a_rendered_melody_with_accompaniment_is_found_again(tmp_path, program, at_least):
    notes = [Note(n.onset, n.duration, n.pitch + 12 * (n.pitch > 59), program=program * (n.pitch > 59)) for n in NOTES]
    Score(tuple(sorted(notes))).save(tmp_path / "tune.mid")
    command = ["fluidsynth", "-ni", "-q", "-g", "0.5", "-r", str(RATE), "-F", "tune.wav", str(SOUNDFONT), "tune.mid"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    audio = Audio.read(tmp_path / "tune.wav")
    found = transcribe_notes(audio.samples, audio.sample_rate, pitches={note.pitch for note in notes})
    assert note_f1(notes, found, tolerance=0.1)[0] >= at_least


def test_f1_equals_the_best_of_all_pairings():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (np.round(rng.uniform(0, 0.3, 4), 3) for _ in range(2))
        best = max(
            sum(abs(x - y) <= 0.05 + 1e-9 for x, y in zip(a, order, strict=True)) for order in itertools.permutations(b)
        )
        f1, precision, recall = note_f1([Note(x, 0.1, 60) for x in a], [Note(x, 0.1, 60) for x in b])
        assert f1 == precision == recall == best / 4


def test_f1_counts_pitch_onset_and_each_note_once():
    a = [Note(0.0, 1, 60), Note(1.0, 1, 62)]
    assert note_f1(a, a) == (1.0, 1.0, 1.0)
    assert note_f1(a, [Note(0.04, 9, 60), Note(1.06, 1, 62)])[0] == 0.5
    assert note_f1(a, [Note(0.0, 1, 61)])[0] == 0.0
    assert note_f1([Note(0.0, 1, 60)], [Note(0.0, 1, 60), Note(0.01, 1, 60)])[1] == 0.5
    assert note_f1([], []) == (1.0, 1.0, 1.0) and note_f1(a, [])[0] == 0.0
    assert note_f1([*a, Note(0.0, 0.1, 36, drum=True)], a)[0] == 1.0
