"""Chord symbols, degrees, and the little language that a progression is written in.

    "Am F C G"                 without bar lines: a bar each
    "Am | F . C G | Dm7 | %"   with them: the signs of a bar share its beats; "." holds, "%" is the bar before
    "C/E N.C."                 a bass of its own; no chord

The tables of styles write degrees (`I | ii7 | V7`), which are read in a key: upper case major, lower case minor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from audiogen.composers.harmony import Chord, Key, best_key
from audiogen.composers.rhythms import Metre
from audiogen.core.errors import UserError

# What stands behind the root -> semitones above it.
QUALITIES: dict[str, tuple[int, ...]] = {
    "": (0, 4, 7), "m": (0, 3, 7), "dim": (0, 3, 6), "aug": (0, 4, 8), "5": (0, 7), "sus2": (0, 2, 7),
    "sus4": (0, 5, 7), "6": (0, 4, 7, 9), "m6": (0, 3, 7, 9), "7": (0, 4, 7, 10), "maj7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10), "mmaj7": (0, 3, 7, 11), "dim7": (0, 3, 6, 9), "m7b5": (0, 3, 6, 10), "aug7": (0, 4, 8, 10),
    "7b5": (0, 4, 6, 10), "7sus4": (0, 5, 7, 10), "9": (0, 4, 7, 10, 2), "maj9": (0, 4, 7, 11, 2),
    "m9": (0, 3, 7, 10, 2), "add9": (0, 4, 7, 2), "madd9": (0, 3, 7, 2), "7b9": (0, 4, 7, 10, 1),
    "7#9": (0, 4, 7, 10, 3), "11": (0, 7, 10, 2, 5), "m11": (0, 3, 7, 10, 5), "13": (0, 4, 10, 2, 9),
    "69": (0, 4, 7, 9, 2),
}  # fmt: skip
_ALIASES = {
    "maj": "", "M": "", "min": "m", "mi": "m", "-": "m", "o": "dim", "°": "dim", "+": "aug", "sus": "sus4",
    "M7": "maj7", "Maj7": "maj7", "ma7": "maj7", "Δ": "maj7", "Δ7": "maj7", "min7": "m7", "-7": "m7", "mi7": "m7",
    "o7": "dim7", "°7": "dim7", "ø": "m7b5", "ø7": "m7b5", "min7b5": "m7b5", "-7b5": "m7b5",
    "+7": "aug7", "7#5": "aug7", "2": "sus2", "4": "sus4",
    "mM7": "mmaj7", "min6": "m6", "M9": "maj9", "min9": "m9", "-9": "m9", "6/9": "69", "7sus": "7sus4",
}  # fmt: skip
_MINOR_OF = {"": "m", "7": "m7", "6": "m6", "9": "m9", "o": "dim", "o7": "dim7", "ø7": "m7b5", "add9": "madd9"}
_DEGREES = {"I": 1, "II": 2, "III": 3, "IV": 4, "V": 5, "VI": 6, "VII": 7}
_SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_FLAT_KEYS = {"major": (5, 10, 3, 8, 1), "minor": (2, 7, 0, 5, 10, 3)}
_SYMBOL = re.compile(r"([A-G])([#b♯♭]{0,2})(.*?)(?:/([A-G])([#b♯♭]{0,2}))?")
_DEGREE = re.compile(r"([#b]?)(VII|VI|IV|V|III|II|I|vii|vi|iv|v|iii|ii|i)(.*)")
NO_CHORD = ("N.C.", "NC", "N.C", "n.c.", "nc")


@dataclass(frozen=True)
class Symbol(Chord):
    """A chord with its name, and the bass that is asked for beneath it."""

    name: str = ""
    under: int | None = None  # pitch class

    @property
    def bass(self) -> int:
        return self.root if self.under is None else self.under


class Slot(NamedTuple):
    """A stretch of one chord; None: no chord."""

    at: float  # quarter notes from the start of the piece, or of the bar
    beats: float
    chord: Symbol | None


Bar = tuple[Slot, ...]


def symbol(text: str) -> Symbol:
    """ "Dm7/G" -> a chord. Raises `UserError`."""
    match = _SYMBOL.fullmatch(text.strip())
    if match:
        kind = match[3].replace("(", "").replace(")", "").replace("♯", "#").replace("♭", "b")
        kind = _ALIASES.get(kind, kind)
        if kind in QUALITIES:
            root = _pitch_class(match[1], match[2])
            under = None if match[4] is None else _pitch_class(match[4], match[5])
            return Symbol(0, tuple((root + step) % 12 for step in QUALITIES[kind]), text.strip(), under)
    raise UserError(f"chord {text!r} is unknown; write a root A to G and its kind, e.g. Am, F#m7, Bbmaj7, Gsus4 or C/E")


def degree(text: str, key: Key) -> Symbol:
    """ "V7" in A minor -> E7; a sign before the numeral moves its root from the scale."""
    match = _DEGREE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no degree")
    number = _DEGREES[match[2].upper()]
    root = (key.scale[number - 1] + {"#": 1, "b": -1, "": 0}[match[1]]) % 12
    kind = _MINOR_OF.get(match[3], match[3]) if match[2].islower() else match[3]
    kind = _ALIASES.get(kind, kind)
    return Symbol(number, tuple((root + step) % 12 for step in QUALITIES[kind]), note_name(root, key) + kind)


def note_name(pitch_class: int, key: Key) -> str:
    return (_FLATS if key.tonic in _FLAT_KEYS[key.mode] else _SHARPS)[pitch_class % 12]


def progression(text: str, metre: Metre, read: Callable[[str], Symbol] = symbol) -> list[Bar]:
    """A written progression as bars of slots, whose `at` counts from the bar's start. Raises `UserError`."""
    barred, text = "|" in text, text.strip().strip("|").strip()
    words = [bar.split() for bar in text.split("|")] if barred else [[word] for word in text.split()]
    if not words or not all(words):
        raise UserError(f"chords {text!r}: a bar is empty; write e.g. 'Am | F . C G | Dm7'")
    bars: list[Bar] = []
    last: Symbol | None = None
    for signs in words:
        if signs == ["%"]:
            if not bars:
                raise UserError(f"chords {text!r}: % repeats the bar before, and there is none")
            bars.append(bars[-1])
            continue
        slots: list[Slot] = []
        for at, beats, sign in zip(*_shares(len(signs), metre, text), signs, strict=True):
            if sign == "." and slots:
                slots[-1] = slots[-1]._replace(beats=slots[-1].beats + beats)
                continue
            if sign == "." and not bars:
                raise UserError(f"chords {text!r}: '.' holds the chord before, and there is none")
            last = last if sign == "." else None if sign in NO_CHORD else read(sign)
            slots.append(Slot(at, beats, last))
        bars.append(tuple(slots))
        last = slots[-1].chord
    return bars


def _shares(count: int, metre: Metre, text: str) -> tuple[list[float], list[float]]:
    """Where each of `count` signs of a bar starts, and its length: whole beats where there are beats enough."""
    beats = [at for at, _ in metre.beats]
    if count <= len(beats):
        starts = [beats[-(-index * len(beats) // count)] for index in range(count)]
    elif count <= 4 * len(beats):
        starts = [index * metre.length / count for index in range(count)]
    else:
        raise UserError(f"chords {text!r}: {count} chords in one bar of {metre.name} are too many")
    ends = [*starts[1:], metre.length]
    return starts, [end - at for at, end in zip(starts, ends, strict=True)]


def written(bars: Iterable[Bar], metre: Metre) -> str:
    """Bars as text that `progression` reads back to the same bars: "Am | F . C G"."""
    lines = []
    beats = len(metre.beats)
    for bar in bars:
        names = {round(slot.at, 6): slot.chord.name if slot.chord else "N.C." for slot in bar}
        for count in (1, *range(beats, 4 * beats + 1)):
            starts = [round(at, 6) for at in _shares(count, metre, "")[0]]
            if set(names) <= set(starts):
                lines.append(" ".join(names.get(at, ".") for at in starts))
                break
    return " | ".join(lines) + (" |" if len(lines) == 1 else "")


def key_of(bars: Sequence[Bar]) -> str:
    """The key that chords are most likely in: the profile of their tones, the first and the last root counted more."""
    weights = [0.0] * 12
    slots = [slot for bar in bars for slot in bar if slot.chord]
    for slot in slots:
        for index, tone in enumerate(slot.chord.tones):
            weights[tone] += slot.beats * (2.0 if index == 0 else 1.0)
    for slot, share in zip(slots[:1] + slots[-1:], (0.4, 0.2), strict=False):
        for tone in slot.chord.tones[:2]:
            weights[tone] += share * sum(slot.beats for slot in slots)
    return best_key(weights)


def outside(bars: Sequence[Bar], key: Key) -> list[str]:
    """The names of chords with a root or with two tones or more outside the key (the leading note counts as inside)."""
    inside = {*key.scale, (key.tonic + 11) % 12}
    return list(dict.fromkeys(
        slot.chord.name for bar in bars for slot in bar
        if slot.chord and (slot.chord.root not in inside or len(set(slot.chord.tones) - inside) > 1)
    ))


def _pitch_class(letter: str, signs: str) -> int:
    natural = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[letter]
    return (natural + signs.count("#") + signs.count("♯") - signs.count("b") - signs.count("♭")) % 12
