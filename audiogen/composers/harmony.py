"""Keys, scales and chords as pitch classes (0 = C)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

_NATURAL = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# Krumhansl and Kessler 1982: how much each note, counted from the tonic, belongs to a key.
_BELONGS = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
TONICS = {
    "major": ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    "minor": ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B"),
}


@dataclass(frozen=True)
class Chord:
    """Pitch classes, the root first."""

    degree: int
    tones: tuple[int, ...]

    @property
    def root(self) -> int:
        return self.tones[0]


@dataclass(frozen=True)
class Key:
    tonic: int
    mode: str

    @classmethod
    def named(cls, name: str) -> Key:
        """ "F# minor" -> Key(6, "minor"). The name is one that `check_key` returns."""
        tonic, mode = name.split()
        return cls((_NATURAL[tonic[0]] + tonic.count("#") - tonic[1:].count("b")) % 12, mode)

    @property
    def scale(self) -> tuple[int, ...]:
        return tuple((self.tonic + step) % 12 for step in _SCALES[self.mode])

    def chord(self, degree: int) -> Chord:
        """The triad on a degree (1..7); the dominant of a minor key has its leading note."""
        scale = self.scale
        tones = [scale[(degree - 1 + third) % 7] for third in (0, 2, 4)]
        if self.mode == "minor" and degree == 5:
            tones[1] = (tones[1] + 1) % 12
        return Chord(degree, tuple(tones))

    def telling_tone(self, chord: Chord, rng: random.Random) -> int:
        """One tone of the chord, the likelier the more it belongs to the key.

        The key's fifth is drawn half as often as that: it sounds in every tonic as an overtone.
        """
        weights = [_BELONGS[self.mode][(tone - self.tonic) % 12] ** 2 for tone in chord.tones]
        weights = [
            weight * (0.5 if (tone - self.tonic) % 12 == 7 else 1.0)
            for tone, weight in zip(chord.tones, weights, strict=True)
        ]
        return rng.choices(chord.tones, weights)[0]

    def scale_over(self, chord: Chord) -> tuple[int, ...]:
        """The scale with the chord's notes in place of their neighbours (the leading note over a minor dominant)."""
        raised = (self.tonic + 11) % 12
        if self.mode == "minor" and raised in chord.tones:
            return tuple(raised if tone == (self.tonic + 10) % 12 else tone for tone in self.scale)
        return self.scale


def pitches(classes: Sequence[int], low: int, high: int) -> list[int]:
    """All pitches low..high of these classes, upwards."""
    return [pitch for pitch in range(low, high + 1) if pitch % 12 in classes]


def nearest(classes: Sequence[int], to: float, low: int, high: int) -> int:
    """The pitch of one of the classes nearest to `to` within low..high, or a little outside where none is."""
    choices = pitches(classes, low, high) or pitches(classes, low - 6, high + 6)
    return min(choices, key=lambda pitch: (abs(pitch - to), pitch))


def voicing(chord: Chord, previous: Sequence[int], low: int, high: int, voices: int = 3) -> tuple[int, ...]:
    """A chord in close position within low..high, near to the one before it, upwards; fewer voices for want of room."""
    choices = pitches(chord.tones, low, high)
    if len(choices) <= voices:
        return tuple(choices)
    stacks = [tuple(choices[i : i + voices]) for i in range(len(choices) - voices + 1)]
    centre = sum(previous) / len(previous) if previous else (low + high) / 2
    return min(stacks, key=lambda stack: abs(sum(stack) / voices - centre))


def scale_with(key: Key, chord: Chord | None) -> tuple[int, ...]:
    """The key's scale, where the chord's own notes take the place of a neighbour (over D7 in C, F# that of F)."""
    scale = set(key.scale)

    def widest(without: int) -> int:
        rest = sorted(scale - {without})
        return max((b - a) % 12 for a, b in zip(rest, [*rest[1:], rest[0]], strict=True))

    for tone in () if chord is None else chord.tones:
        if tone not in scale:
            beside = [(tone + step) % 12 for step in (-1, 1)]
            beside = [near for near in beside if near in scale - set(chord.tones) and near != key.tonic]
            scale.add(tone)
            if beside:  # the one whose going leaves no hole in the scale, of two the lower: a raised leading note
                scale.remove(min(beside, key=widest))
    return tuple(sorted(scale))


def best_key(weights: Sequence[float]) -> str:
    """The key whose profile correlates best with how much each pitch class sounds (Krumhansl 1990, chapter 4)."""

    def correlation(mode: str, tonic: int) -> float:
        profile = [_BELONGS[mode][(tone - tonic) % 12] for tone in range(12)]
        middle, mean = sum(profile) / 12, sum(weights) / 12
        return sum((p - middle) * (w - mean) for p, w in zip(profile, weights, strict=True)) / math.dist(
            profile, [middle] * 12
        )

    mode, tonic = max(((mode, tonic) for mode in _BELONGS for tonic in range(12)), key=lambda key: correlation(*key))
    return f"{TONICS[mode][tonic]} {mode}"


def random_key(mode: str, rng: random.Random) -> str:
    return f"{rng.choice(TONICS[mode])} {mode}"
