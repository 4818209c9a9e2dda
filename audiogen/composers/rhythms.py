"""Metres, the rhythm of melodies, and drum patterns. Positions and lengths: quarter notes from the bar's start."""

from __future__ import annotations

import random
from dataclasses import dataclass

from audiogen.composers.grammars import Grammar

KICK, SNARE, CLAP, CLOSED, OPEN, CRASH, RIDE, COWBELL, CONGA = 36, 38, 39, 42, 46, 49, 51, 56, 63
TOMS = (50, 47, 45, 41)


@dataclass(frozen=True)
class Metre:
    """Where the beats of a bar fall, and how long each lasts.

    6/8, 9/8 and 12/8 are felt in dotted quarters; 5/8 and 7/8 in groups of two and three eighths.
    """

    name: str
    beats: tuple[tuple[float, float], ...]  # (position, length)

    @classmethod
    def named(cls, name: str) -> Metre:
        count, unit = map(int, name.split("/"))
        whole = count * 4.0 / unit
        if unit >= 8 and count % 3 == 0:
            lengths = [12.0 / unit] * (count // 3)
        elif unit >= 8:
            pairs, odd = divmod(count, 2)
            lengths = [8.0 / unit] * pairs
            if odd:
                lengths = lengths[:-1] + [12.0 / unit] if lengths else [whole]
        else:
            lengths = [4.0 / unit] * count
        places = [sum(lengths[:i]) for i in range(len(lengths))]
        return cls(name, tuple(zip(places, lengths, strict=True)))

    @property
    def length(self) -> float:
        """Quarter notes in a bar."""
        return self.beats[-1][0] + self.beats[-1][1]

    @property
    def compound(self) -> bool:
        return len({length for _, length in self.beats}) == 1 and abs(self.beats[0][1] * 2 % 3) < 1e-9

    @property
    def felt(self) -> float:
        """Quarter notes in one felt beat: 1 in 4/4, 1.5 in 6/8, 2 in 2/2."""
        return self.beats[0][1]


def melody_rhythm(metre: Metre, grammar: Grammar, busy: float, rng: random.Random, *, hold: bool) -> list[tuple]:
    """-> [(position, length, beat number or None)] of one bar. `busy` 0..1; `hold`: notes may last over a beat."""
    notes: list[tuple[float, float, int | None]] = []
    skip = False
    for number, (at, length) in enumerate(metre.beats):
        if skip:
            skip = False
            continue
        if hold and number + 1 < len(metre.beats) and number % 2 == 0 and rng.random() < 0.45:
            notes.append((at, length + metre.beats[number + 1][1], number))
            skip = True
        elif rng.random() < grammar.density * busy:
            notes += [
                (at + a * length, b * length, number if a == 0 else None) for a, b in _division(metre, grammar, rng)
            ]
        else:
            notes.append((at, length, number))
    return notes


def _division(metre: Metre, grammar: Grammar, rng: random.Random) -> list[tuple[float, float]]:
    """One beat in parts: [(start, length)] as fractions of it."""
    third = 1 / 3
    if metre.compound:
        return rng.choice([[(0, third), (third, third), (2 * third, third)], [(0, 2 * third), (2 * third, third)]])
    if grammar.swing:
        return [(0, 2 * third), (2 * third, third)]
    if rng.random() < grammar.dotted:
        return [(0, 0.75), (0.75, 0.25)]
    return [(0, 0.5), (0.5, 0.5)]


def drum_bar(
    pattern: str, metre: Metre, bpm: float, rng: random.Random, *, machine: bool, fill: bool, first: bool
) -> list[tuple[float, int, float]]:
    """-> [(position, General MIDI hit, loudness 0..1)] of one bar. Every beat has a kick or a snare, or both a hat."""
    hits: list[tuple[float, int, float]] = []
    felt_bpm = bpm / metre.felt
    divided = felt_bpm >= 95  # at slow tempi offbeat hats would sound like twice the tempo
    last = len(metre.beats) - 1
    for number, (at, length) in enumerate(metre.beats):
        back = number % 2 == 1 if len(metre.beats) != 3 else number > 0
        if fill and number == last and pattern != "soft":
            parts = 3 if metre.compound else 4 if felt_bpm < 125 else 2
            hits += [
                (at + length * i / parts, TOMS[min(i * 4 // parts, 3)], 0.95 if i == 0 else 0.6) for i in range(parts)
            ]
            hits.append((at, KICK, 0.9))
            continue
        if pattern == "dance":
            hits += [(at, KICK, 1.0), (at, CLOSED, 0.5)]
            if back:
                hits.append((at, CLAP if machine else SNARE, 0.85))
            if divided:
                hits.append((at + length / 2, OPEN, 0.45))
        elif pattern == "march":
            hits += [(at, SNARE, 0.9)] + ([(at, KICK, 0.9)] if not back or len(metre.beats) < 3 else [])
            if divided and number == last:
                hits += [(at + length * part, SNARE, 0.4) for part in (0.5, 0.75)]
        elif pattern == "shuffle":
            hits += [(at, RIDE, 0.8), (at, SNARE if back else KICK, 0.85)]
            if back and divided:
                hits.append((at + length * 2 / 3, RIDE, 0.4))
        elif pattern == "waltz":
            hits += [(at, SNARE if back else KICK, 0.7 if back else 1.0), (at, CLOSED, 0.6)]
            if metre.compound and divided:
                hits += [(at + length * part / 3, CLOSED, 0.3) for part in (1, 2)]
        elif pattern == "soft":
            hits += [(at, RIDE if machine is False else CLOSED, 0.65), (at, KICK if not back else SNARE, 0.6)]
        else:  # rock, lofi
            hits += [(at, SNARE if back else KICK, 0.95), (at, CLOSED, 0.7)]
            if back and felt_bpm > 118:
                hits.append((at, KICK, 0.85))  # kick and snare in turn would be heard as half the tempo
            if machine and back and rng.random() < 0.5:
                hits.append((at, CLAP, 0.7))
            if divided:
                hits.append((at + length / 2, CLOSED, 0.35))
                if not back and number and rng.random() < (0.5 if pattern == "rock" else 0.3):
                    hits.append((at + length / 2, KICK, 0.45))
            elif pattern == "lofi" and number == last and rng.random() < 0.4:
                hits.append((at + length / 2, KICK, 0.4))
        if machine and number == 0 and rng.random() < 0.3:
            hits.append((at, rng.choice((COWBELL, CONGA)), 0.6))
    if first:
        hits.append((0.0, CRASH, 0.7))
    return hits
