"""Chords for a given melody: the likeliest row of degrees, bar by bar (Viterbi 1967)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from audiogen.composers.chords import Bar, Slot, Symbol, degree
from audiogen.composers.harmony import Key
from audiogen.composers.rhythms import Metre
from audiogen.core.score import Note

_DEGREES = {"major": ("I", "ii", "iii", "IV", "V", "vi"), "minor": ("i", "III", "iv", "V", "VI", "VII")}
# How willingly the root moves, by the interval upwards in semitones: fifths down and steps rather than thirds up.
_MOVES = {0: 0.3, 5: 1.0, 7: 0.8, 2: 0.6, 9: 0.5, 8: 0.5, 10: 0.3, 3: 0.1, 4: 0.1, 1: 0.3, 11: 0.0, 6: -0.5}


def harmonise(notes: Sequence[Note], bars: int, metre: Metre, key: Key, *, changes: int = 1) -> list[Bar]:
    """-> a chord for each of `changes` equal parts of each bar."""
    choices = [degree(name, key) for name in _DEGREES[key.mode]]
    width = metre.length / changes
    table: list[list[tuple[float, int]]] = []
    sounding: list[list[Note]] = [[] for _ in range(bars * changes)]
    for note in notes:
        last = min(math.ceil((note.beat + note.beats) / width - 1e-9), len(sounding))
        for number in range(int(note.beat // width), last):
            sounding[number].append(note)
    for number in range(bars * changes):
        start = number * width
        fits = [_fit(sounding[number], chord, start, start + width, metre) for chord in choices]
        if number == 0:
            table.append([(fit + (1.5 if index == 0 else 0.0), 0) for index, fit in enumerate(fits)])
            continue
        row = []
        for index, fit in enumerate(fits):
            came = [
                table[-1][other][0] + _MOVES[(choices[index].root - choices[other].root) % 12]
                for other in range(len(choices))
            ]
            best = max(range(len(choices)), key=came.__getitem__)
            row.append((came[best] + fit + (0.3 if index == 0 else 0.0), best))
        table.append(row)
    if not table:
        return []
    index = max(range(len(choices)), key=lambda last: table[-1][last][0])
    path: list[Symbol] = []
    for row in reversed(table):
        path.append(choices[index])
        index = row[index][1]
    path.reverse()
    return [
        tuple(Slot(part * width, width, path[bar * changes + part]) for part in range(changes)) for bar in range(bars)
    ]


def _fit(notes: Sequence[Note], chord: Symbol, start: float, end: float, metre: Metre) -> float:
    """How much of the melody the chord holds, in quarter notes; what begins on a beat counts double."""
    fit = 0.0
    beats = {round(at, 6) for at, _ in metre.beats}
    for note in notes:
        sounds = min(note.beat + note.beats, end) - max(note.beat, start)
        if sounds > 0:
            weight = sounds * (2.0 if round(note.beat % metre.length, 6) in beats else 1.0)
            fit += weight if note.pitch % 12 in chord.tones else -weight
    return fit
