from __future__ import annotations

import itertools
import random

import pytest

from audiogen.composers.chords import QUALITIES, degree, key_of, outside, progression, symbol, written
from audiogen.composers.harmonise import harmonise
from audiogen.composers.harmony import TONICS, Key, scale_with
from audiogen.composers.patterns import events
from audiogen.composers.rhythms import Metre
from audiogen.core.errors import UserError
from audiogen.core.score import Note

FOUR, THREE, SIX = map(Metre.named, ("4/4", "3/4", "6/8"))
NOTES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


@pytest.mark.parametrize("text, tones, bass", [
    ("Am", "A C E", "A"), ("F#m7", "F# A C# E", "F#"), ("Bbmaj7", "Bb D F A", "Bb"), ("C/E", "C E G", "E"),
    ("G7", "G B D F", "G"), ("Bdim", "B D F", "B"), ("Dsus4", "D G A", "D"), ("E7#9", "E G# B D G", "E"),
    ("Ebø", "Eb Gb A Db", "Eb"), ("A-7", "A C E G", "A"), ("D6/9", "D F# A B E", "D"), ("C♯m", "C# E G#", "C#"),
    ("G5", "G D", "G"), ("F6/9/A", "F A C D G", "A"),
])
def test_symbols_mean_what_musicians_mean(text, tones, bass):
    def pitch_class(name):
        return (NOTES[name[0]] + name.count("#") - name[1:].count("b")) % 12

    chord = symbol(text)
    assert chord.tones == tuple(pitch_class(name) for name in tones.split()) and chord.bass == pitch_class(bass)


@pytest.mark.parametrize("bad", ["H", "Amm", "a", "", "C/H", "Cmaj77", "7"])
def test_an_unknown_chord_is_named(bad):
    with pytest.raises(UserError, match="chord .* is unknown"):
        symbol(bad)


def spans(text, metre=FOUR):
    return [[(slot.at, slot.beats, slot.chord.name if slot.chord else None) for slot in bar]
            for bar in progression(text, metre)]


def test_the_signs_of_a_bar_share_its_beats():
    assert spans("Am F") == [[(0, 4, "Am")], [(0, 4, "F")]]
    assert spans("Am | F . C G | %") == [[(0, 4, "Am")], [(0, 2, "F"), (2, 1, "C"), (3, 1, "G")],
                                         [(0, 2, "F"), (2, 1, "C"), (3, 1, "G")]]
    assert spans("Am F |", THREE) == [[(0, 2, "Am"), (2, 1, "F")]]  # the longer share comes first
    assert spans("Am . G |", SIX) == [[(0, 2, "Am"), (2, 1, "G")]]  # three signs in two beats: finer shares
    assert spans("Am | . G | N.C.") == [[(0, 4, "Am")], [(0, 2, "Am"), (2, 2, "G")], [(0, 4, None)]]


@pytest.mark.parametrize("bad, said", [("", "empty"), ("|", "empty"), ("Am || G", "empty"), (". Am |", "holds"),
                                       ("% | Am", "repeats"), ("A " * 17 + "|", "too many"), ("Am Q", "unknown")])
def test_progressions_that_cannot_be_are_one_line(bad, said):
    with pytest.raises(UserError, match=said) as caught:
        progression(bad, FOUR)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metre", [FOUR, THREE, SIX, Metre.named("7/8"), Metre.named("1/4")])
def test_what_is_written_is_read_back(metre):
    rng = random.Random(1)
    for _ in range(60):
        bars = [" ".join(rng.choice(("Am", "G7", "C/E", ".", "N.C.")) for _ in range(rng.randint(1, len(metre.beats))))
                for _ in range(3)]
        text = "C | " + " | ".join(bars)
        first = progression(text, metre)
        again = progression(written(first, metre), metre)
        for one, two in zip(first, again, strict=True):
            assert [(s.at, s.chord) for s in one] == [(s.at, s.chord) for s in two] or _merged(one) == _merged(two)


def _merged(bar):
    return [(slot.at, slot.chord) for slot, before in zip(bar, (None, *bar), strict=False)
            if before is None or before.chord != slot.chord]


def test_degrees_are_those_of_the_key():
    assert degree("V7", Key.named("A minor")) == symbol("E7").__class__(5, (4, 8, 11, 2), "E7")
    assert degree("bVII", Key.named("D major")).name == "C"
    assert degree("iiø7", Key.named("C minor")).tones == (2, 5, 8, 0)
    assert degree("ii7", Key.named("Bb major")).name == "Cm7"
    assert degree("VI", Key.named("F minor")).name == "Db"  # spelled with the key's flats


def test_the_key_of_a_full_cadence_is_found_everywhere():
    for mode, names in (("major", ("I", "ii", "IV", "V7", "I")), ("minor", ("i", "iv", "VI", "V7", "i"))):
        for tonic in TONICS[mode]:
            key = Key.named(f"{tonic} {mode}")
            text = " ".join(degree(name, key).name for name in names)
            bars = progression(text, FOUR)
            assert Key.named(key_of(bars)) == key
            assert not outside(bars, key)
    assert outside(progression("C F# G", FOUR), Key.named("C major")) == ["F#"]


def test_the_scale_gives_way_to_the_chord():
    key = Key.named("C major")
    assert scale_with(key, symbol("D7")) == (0, 2, 4, 6, 7, 9, 11)
    assert scale_with(key, symbol("Am")) == scale_with(key, None) == tuple(sorted(key.scale))
    assert scale_with(key, symbol("Bb")) == (0, 2, 4, 5, 7, 9, 10)
    assert scale_with(Key.named("A minor"), symbol("E7")) == (0, 2, 4, 5, 8, 9, 11)
    for root, kind in itertools.product(range(12), QUALITIES):
        chord = symbol(("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")[root] + kind)
        assert set(chord.tones) <= set(scale_with(key, chord))


def test_a_melody_of_chord_notes_gets_its_chords_back():
    key = Key.named("G major")
    wanted = ["I", "vi", "IV", "V", "I"]
    notes = [Note(0, 0, 60 + degree(name, key).tones[i], beat=4 * bar + i, beats=1.0)
             for bar, name in enumerate(wanted) for i in range(3)]
    found = harmonise(notes, 5, FOUR, key)
    assert [bar[0].chord.name for bar in found] == ["G", "Em", "C", "D", "G"]


def test_patterns_of_a_bar():
    assert events("x--- x-x- .. x", FOUR) == ((0, 1, "x"), (1, 0.5, "x"), (1.5, 0.5, "x"), (3, 1, "x"))
    assert [at for at, _, _ in events("xx xx xx xx", FOUR, 2 / 3)] == pytest.approx(
        [0, 2 / 3, 1, 5 / 3, 2, 8 / 3, 3, 11 / 3])
    assert [at for at, _, _ in events("xxxx . . .", FOUR, 0.6, 2)] == pytest.approx([0, 0.3, 0.5, 0.8])
    assert [at for at, _, _ in events("x x x x", SIX)] == [0, 1.5]
    assert [at for at, _, _ in events("xx xx", SIX)] == pytest.approx([0, 1, 1.5, 2.5])


@pytest.mark.parametrize("metre", ["1/4", "2/2", "3/4", "4/4", "5/4", "6/8", "7/8", "9/8", "12/8"])
def test_a_pattern_fits_every_metre_and_notes_stay_inside_the_bar(metre):
    metre = Metre.named(metre)
    for pattern in ("x- -- x-", "x.x. xxxx x--- .x.x", "xxx x-x", "x"):
        found = events(pattern, metre)
        assert found[0][0] == 0.0
        for (at, beats, _), later in zip(found, [*found[1:], (metre.length, 0, "")], strict=True):
            assert beats > 0 and at + beats <= later[0] + 1e-9
