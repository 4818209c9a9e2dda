"""Four voices against a checker that shares nothing with the composer: it reads pitches and chords only."""

from __future__ import annotations

import random

import pytest

from audiogen.composers.chords import degree, progression
from audiogen.composers.harmony import Key
from audiogen.composers.rhythms import Metre
from audiogen.composers.rules import RuleComposer
from audiogen.composers.styles import STYLES
from audiogen.composers.voice_leading import four_voices
from audiogen.core.interfaces import Prompt

RANGES = [(40, 60), (48, 67), (55, 74), (60, 79)]  # bass, tenor, alto, soprano


def faults(voices, chords, key):
    """What a teacher would mark: [(number of the chord, what)]."""
    found = []
    for number, (voicing, chord) in enumerate(zip(voices, chords, strict=True)):
        classes = [pitch % 12 for pitch in voicing]
        if any(not low <= pitch <= high for pitch, (low, high) in zip(voicing, RANGES, strict=True)):
            found.append((number, "range"))
        if sorted(voicing) != list(voicing):
            found.append((number, "crossing"))
        if not set(classes) <= set(chord.tones) or chord.tones[0] not in classes or chord.tones[1] not in classes:
            found.append((number, "not the chord"))
        if voicing[3] - voicing[2] > 12 or voicing[2] - voicing[1] > 12:
            found.append((number, "spacing"))
        if classes.count((key.tonic - 1) % 12) > 1:
            found.append((number, "doubled leading note"))
        if not number:
            continue
        last, before = voices[number - 1], chords[number - 1]
        moved = [a != b for a, b in zip(last, voicing, strict=True)]
        for low in range(4):
            for high in range(low + 1, 4):
                interval, was = voicing[high] - voicing[low], last[high] - last[low]
                if interval % 12 == was % 12 and interval % 12 in (0, 7) and moved[low] and moved[high]:
                    found.append((number, f"parallel {('octave', 'fifth')[interval % 12 == 7]}"))
        for voice in range(4):
            step = voicing[voice] - last[voice]
            if abs(step) > 12 or abs(step) == 6 and voice:
                found.append((number, "leap"))
            dominant = before.tones[0] == (key.tonic + 7) % 12
            if dominant and last[voice] % 12 == (key.tonic - 1) % 12 and chord.tones[0] == key.tonic and step != 1:
                found.append((number, "leading note does not rise"))
    return found


def chords_of(texts, key):
    return [slot.chord for text in texts for bar in progression(text, Metre.named("4/4"), lambda t: degree(t, key))
            for slot in bar for _ in range(int(slot.beats))]


@pytest.mark.parametrize("tonic", ["C", "F", "A", "Eb"])
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_chorales_have_no_faults(tonic, mode):
    key = Key.named(f"{tonic} {mode}")
    table = getattr(STYLES["chorale"], mode)
    chords = chords_of((table["A"], table["B"], table["A"]), key)
    for seed in range(2):
        assert faults(four_voices(chords, key, random.Random(seed)), chords, key) == []


def test_random_progressions_of_the_key_have_no_faults():
    rng = random.Random(7)
    follows = {"I": ("ii", "IV", "V", "vi"), "ii": ("V",), "IV": ("I", "V", "ii"), "V": ("I", "vi"), "vi": ("ii", "IV")}
    for _ in range(6):
        row = ["I"]
        while len(row) < 16 or row[-1] != "I":
            row.append(rng.choice(follows[row[-1]]))
        key = Key(rng.randrange(12), "major")
        chords = [degree(name, key) for name in row]
        assert faults(four_voices(chords, key, rng), chords, key) == []


def test_the_checker_finds_what_is_wrong():
    key = Key.named("C major")
    chords = [degree("V", key), degree("I", key)]
    said = {what for _, what in faults([(43, 62, 67, 71), (36, 55, 60, 67)], chords, key)}
    assert {"range", "leading note does not rise"} <= said
    chords = [degree("I", key), degree("ii", key)]
    assert (1, "parallel fifth") in faults([(48, 55, 64, 72), (50, 57, 65, 74)], chords, key)
    assert (1, "parallel octave") in faults([(48, 55, 64, 72), (50, 57, 65, 74)], chords, key)


def test_a_given_soprano_is_kept():
    key = Key.named("C major")
    tune, names = [72, 74, 71, 72, 69, 67, 71, 72], ["I", "V", "V", "I", "IV", "I", "V", "I"]
    chords = [degree(name, key) for name in names]
    voices = four_voices(chords, key, random.Random(0), soprano=tune)
    assert [voicing[3] for voicing in voices] == tune
    assert faults(voices, chords, key) == []


def test_a_composed_chorale_is_led_by_these_rules():
    piece = RuleComposer().piece(Prompt(styles=(("chorale", 1.0),), key="D minor"), seconds=24, rng=5)
    key = Key.named("D minor")
    moments = {}
    for note in piece.score.notes:
        moments.setdefault(round(note.beat, 3), []).append(note.pitch)
    bars = progression(piece.chords, Metre.named("4/4"))
    voices = [tuple(sorted(pitches)) for _, pitches in sorted(moments.items())]
    chords = [[s for s in bars[int(at // 4)] if s.at <= at % 4][-1].chord for at in sorted(moments)]
    assert all(len(voicing) == 4 for voicing in voices)
    assert faults(voices, chords, key) == []
    assert chords[-1].tones[0] == key.tonic and voices[-1][0] % 12 == key.tonic
