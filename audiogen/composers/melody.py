"""Melodies: rhythms are chosen and repeated, pitches are the cheapest path through what a good line avoids.

The path is found over pairs of notes (Viterbi 1967, of the second order), because most rules of a line speak of three
notes: a leap is followed by a step back, a note outside the chord is reached and left by step. On the strong beats
only notes of the chord are allowed. Chance enters as a small random price of every pitch at every place.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from audiogen.composers.chords import Symbol
from audiogen.composers.harmony import Key, nearest, pitches, scale_with

NEVER = 1e4
BEAM = 12.0  # paths that cost so much more than the best one are given up
# The price of an interval by its size in semitones: steps are free, the tritone, sevenths and ninths are dear.
_LEAPS = (1.3, 0.0, 0.0, 0.8, 1.0, 1.8, 8.0, 2.4, 4.0, 4.5, 9.0, 9.0, 4.0)


class Onset(NamedTuple):
    """One note of a melody before it has a pitch."""

    at: float
    beats: float
    strong: int  # 2: the first beat of a bar or a new chord, 1: on a beat, 0: between beats
    chord: Symbol | None
    goal: tuple[int, ...] = ()  # pitch classes that it must be one of: the end of a phrase
    motif: int | None = None  # semitones from the note before, where a motif comes again


def line(
    onsets: Sequence[Onset],
    key: Key,
    low: int,
    high: int,
    rng: random.Random,
    *,
    before: Sequence[int] = (),
    colour: Sequence[int] = (),
) -> list[int]:
    """-> a pitch for every onset within low..high. `before`: up to two pitches that came just before.

    `colour`: semitones above the tonic that may be used beside the scale, between the strong beats.
    """
    if not onsets:
        return []
    middle = (low + high) / 2
    choices = [_choices(onset, key, low, high, colour) for onset in onsets]
    prices = [
        [_price(onset, pitch, middle) + rng.uniform(0, 1.6) for pitch in row]
        for onset, row in zip(onsets, choices, strict=True)
    ]
    if before:
        earlier, last = (before[-2] if len(before) > 1 else before[-1]), before[-1]
    else:
        earlier = last = nearest((onsets[0].goal or (onsets[0].chord.tones if onsets[0].chord else key.scale)), middle,
                                 low, high)
    # state: (pitch before, pitch) -> (price so far, state before)
    table: list[dict[tuple[int, int], tuple[float, tuple[int, int] | None]]] = [{(earlier, last): (0.0, None)}]
    for number, (onset, row, price) in enumerate(zip(onsets, choices, prices, strict=True)):
        tones = onsets[number - 1].chord.tones if number and onsets[number - 1].chord else None
        found: dict[tuple[int, int], tuple[float, tuple[int, int] | None]] = {}
        for (a, b), (so_far, _) in table[-1].items():
            foreign = tones is not None and b % 12 not in tones
            for c, own in zip(row, price, strict=True):
                cost = so_far + own + _step(a, b, c, foreign)
                if onset.motif is not None:
                    cost += 0.5 * min(abs(c - b - onset.motif), 6)
                if (b, c) not in found or cost < found[b, c][0]:
                    found[b, c] = (cost, (a, b))
        least = min(price for price, _ in found.values())
        table.append({state: entry for state, entry in found.items() if entry[0] < least + BEAM})
    state = min(table[-1], key=lambda pair: table[-1][pair][0])
    path = []
    for row in reversed(table[1:]):
        path.append(state[1])
        state = row[state][1]
    return path[::-1]


def _choices(onset: Onset, key: Key, low: int, high: int, colour: Sequence[int]) -> list[int]:
    if onset.goal:
        classes: set[int] = set(onset.goal)
    elif onset.strong == 2 and onset.chord is not None:
        classes = set(onset.chord.tones)
    else:
        classes = {*scale_with(key, onset.chord), *((key.tonic + step) % 12 for step in colour)}
    return pitches(tuple(classes), low, high) or [nearest(tuple(classes), (low + high) / 2, low, high)]


def _price(onset: Onset, pitch: int, middle: float) -> float:
    """What a pitch costs at a place, whatever comes before and after."""
    price = 0.03 * max(abs(pitch - middle) - 4, 0) ** 2
    if onset.chord is not None and pitch % 12 not in onset.chord.tones:
        price += (0.7, 2.5, NEVER)[onset.strong] + 1.5 * (onset.beats >= 1.5)
    return price


def _step(a: int, b: int, c: int, foreign: bool) -> float:
    """What the note c costs after a and b; `foreign`: b stands outside its chord."""
    first, then = b - a, c - b
    size = abs(then)
    price = _LEAPS[size] if size < len(_LEAPS) else 30.0
    if foreign and (not 0 < size <= 2 or not 0 < abs(first) <= 2):
        price += 5.0
    if abs(first) > 4 and (first * then > 0 or size > 4):
        price += 2.5
    if first == 0 and then == 0:
        price += 1.5
    if a == c and first:
        price += 0.4
    return price
