"""What a user fixes of a piece beside the prompt: chords, a rhythm, notes, parts, a number of bars. Kept exactly."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from audiogen.composers.patterns import HOLD, REST
from audiogen.composers.rhythms import Metre
from audiogen.composers.styles import PARTS
from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from audiogen.core.score import Note, Score

MAX_BARS = 4000


@dataclass(frozen=True)
class Constraints:
    """Everything may stay empty. Raises `UserError` where a value is none of its kind."""

    chords: str = ""  # "Am | F . C G | Dm7" (chords.py); they are played again and again
    rhythm: str = ""  # of the melody: "x..x ..x." or lengths in quarter notes "1 1/2 1/2 2"; again and again
    notes: Score | None = None  # a motif or more, kept note for note; the parts that it has are continued
    parts: tuple[str, ...] = ()  # of melody, harmony, bass, drums
    bars: int | None = None

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise UserError(f"no part is called {part!r}{did_you_mean(part, PARTS)}")
        if self.bars is not None and not 1 <= self.bars <= MAX_BARS:
            raise UserError(f"bars={self.bars}: choose 1 to {MAX_BARS}")

    def __bool__(self) -> bool:
        return self != Constraints()


@dataclass(frozen=True)
class Rhythm:
    """Onsets (position, length) in quarter notes from the start of a cycle of `length`."""

    onsets: tuple[tuple[float, float], ...]
    length: float

    def between(self, start: float, end: float) -> list[tuple[float, float]]:
        """The onsets in start <= position < end of the piece, which the cycle fills from its beginning on."""
        found = []
        for turn in range(int(start // self.length), math.ceil(end / self.length)):
            for at, beats in self.onsets:
                position = turn * self.length + at
                if start - 1e-9 <= position < end - 1e-9:
                    found.append((position, beats))
        return found


def read_rhythm(text: str, metre: Metre) -> Rhythm:
    """A rhythm as a person writes it.

    A grid: "x" a note, "-" holds it, "." silence; "|" parts bars, and a grid without it is one bar, whatever spaces
    stand in it. Or lengths in quarter notes: "1 1/2 1/2 2", an "r" before a length for a rest.
    """
    if re.fullmatch(r"[xX.\-_|\s]+", text) and re.search("[xX]", text):
        return _grid(text, metre)
    return _lengths(text)


def _grid(text: str, metre: Metre) -> Rhythm:
    onsets: list[tuple[float, float]] = []
    bars = ["".join(bar.split()) for bar in text.strip().strip("|").split("|")]
    count = int(metre.name.partition("/")[0])
    for number, bar in enumerate(bars):
        if not bar or len(bar) % count and count % len(bar) and len(bar) % len(metre.beats):
            raise UserError(
                f"rhythm {text!r}: {len(bar)} cells do not divide a bar of {metre.name}; write {count} or {2 * count}"
            )
        cell = metre.length / len(bar)
        for index, sign in enumerate(bar):
            at = number * metre.length + index * cell
            if sign in "xX":
                onsets.append((at, cell))
            elif sign in (HOLD, "_") and onsets and abs(sum(onsets[-1]) - at) < 1e-9:
                onsets[-1] = (onsets[-1][0], onsets[-1][1] + cell)
            elif sign != REST:
                raise UserError(f"rhythm {text!r}: {sign!r} holds a note, and there is none before it")
    return Rhythm(tuple(onsets), len(bars) * metre.length)


def _lengths(text: str) -> Rhythm:
    now, onsets = Fraction(0), []
    for word in text.replace(",", " ").split():
        try:
            length = Fraction(word.removeprefix("r"))
        except (ValueError, ZeroDivisionError):
            length = Fraction(0)
        if not Fraction(1, 16) <= length <= 64:
            raise UserError(
                f"rhythm {text!r}: {word!r} is no length; write 'x..x ..x.' or quarter notes such as '1 1/2 1/2 r1'"
            )
        if not word.startswith("r"):
            onsets.append((float(now), float(length)))
        now += length
    if not onsets:
        raise UserError(f"rhythm {text!r} has no note; write 'x..x ..x.' or quarter notes such as '1 1/2 1/2 r1'")
    return Rhythm(tuple(onsets), float(now))


def in_beats(score: Score) -> Score:
    """A score whose notes have beats: those of a score in seconds follow from its tempo."""
    if any(note.beats > 0 for note in score.notes):
        return score
    return replace(score, notes=tuple(
        replace(note, beat=note.onset * score.bpm / 60, beats=note.duration * score.bpm / 60) for note in score.notes
    ))


def roles(notes: Iterable[Note]) -> dict[str, list[Note]]:
    """Which part each given note belongs to: drums; of several pitched voices the highest is the melody, the lowest the
    bass if it lies below C4, the others harmony."""
    voices: dict[tuple[str, int, bool], list[Note]] = {}
    for note in notes:
        voices.setdefault((note.instrument, note.program, note.drum), []).append(note)
    found: dict[str, list[Note]] = {"drums": [n for (_, _, drum), part in voices.items() if drum for n in part]}
    pitched = sorted(
        (part for (_, _, drum), part in voices.items() if not drum),
        key=lambda part: sum(note.pitch for note in part) / len(part),
    )
    if pitched:
        found["melody"] = pitched.pop()
    if pitched and sum(note.pitch for note in pitched[0]) / len(pitched[0]) < 60:
        found["bass"] = pitched.pop(0)
    found["harmony"] = [note for part in pitched for note in part]
    return {part: sorted(found[part], key=lambda note: note.beat) for part in PARTS if found.get(part)}
