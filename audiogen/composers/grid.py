"""Music on a grid of 12 steps a quarter note, in whole bars and four parts: what learned composers know of a score."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

from audiogen.composers.harmony import Key
from audiogen.conditioning.instruments import Instrument
from audiogen.core.errors import UserError
from audiogen.core.score import Note, Score

STEPS = 12  # grid steps a quarter note
MAX_STEPS = 96  # the longest bar and the longest note: eight quarter notes
HIT_STEPS = 3  # how long a drum hit is written to last
PARTS = ("melody", "harmony", "bass", "drums")
MELODY, HARMONY, BASS, DRUMS = range(4)
METRES = tuple(f"{n}/{d}" for d in (1, 2, 4, 8, 16) for n in range(1, min(16, 2 * d) + 1))
KEYS = (  # from C up by semitones, twice; part of the models' vocabulary, so this order stays
    *(f"{tonic} major" for tonic in ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")),
    *(f"{tonic} minor" for tonic in ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")),
)
TEMPOS = tuple(float(round(20 * 20 ** (i / 31))) for i in range(32))  # quarter notes a minute, about 10 % apart
LEVELS = tuple(range(8, 128, 16))  # MIDI velocities, the middles of eight steps
USUAL_LEVEL = 4  # of every part before its first velocity token
LOWEST_HIT, HIGHEST_HIT = 27, 87  # General MIDI's drum sounds


class GridNote(NamedTuple):
    """One note on the grid. They are sorted as written: by step, part and pitch."""

    step: int  # from the piece's start
    part: int  # index in PARTS
    pitch: int  # MIDI number, or the General MIDI drum sound
    steps: int  # how long: 1 .. MAX_STEPS; HIT_STEPS for drums
    level: int  # index in LEVELS


@dataclass(frozen=True)
class Sheet:
    """Music on the grid: whole bars of one metre. `bars_after`: bars that followed in the piece it was cut from."""

    notes: tuple[GridNote, ...]
    bars: int
    metre: str = "4/4"
    bpm: float = 120.0
    key: str | None = None
    style: str = ""
    bars_after: int = 0

    @property
    def bar_steps(self) -> int:
        return bar_steps(self.metre)

    def only(self, parts: Iterable[int]) -> Sheet:
        """The notes of some parts; the bars stay."""
        kept = frozenset(parts)
        return replace(self, notes=tuple(note for note in self.notes if note.part in kept))

    def cut(self, first: int, bars: int) -> Sheet:
        """`bars` bars from bar `first` on: the notes that begin there, as long as they are."""
        start, stop = first * self.bar_steps, (first + bars) * self.bar_steps
        inside = self.notes[bisect_left(self.notes, (start,)) : bisect_left(self.notes, (stop,))]
        notes = tuple(GridNote(step - start, *rest) for step, *rest in inside)
        return replace(self, notes=notes, bars=bars, bars_after=self.bars_after + self.bars - first - bars)

    def in_c(self) -> Sheet:
        """Moved to C major or C minor, by at most six semitones. This is how the learned composers know all music:
        what holds in one key need not be learned in eleven others."""
        return self.transposed(-above_c(self.key))

    def transposed(self, semitones: int) -> Sheet:
        """All but the drums moved, the key too. Notes that would leave MIDI's range move an octave back."""

        def moved(note: GridNote) -> GridNote:
            pitch = note.pitch + semitones
            pitch += 12 * (pitch < 0) - 12 * (pitch > 127)
            return note if note.part == DRUMS else GridNote(note.step, note.part, pitch, note.steps, note.level)

        key = None
        if self.key is not None:
            index = KEYS.index(self.key)
            key = KEYS[index // 12 * 12 + (index + semitones) % 12]
        return replace(self, notes=tuple(sorted(map(moved, self.notes))), key=key)


def above_c(key: str | None) -> int:
    """Semitones from C to the key's tonic, -5 .. 6; 0 for no key."""
    return 0 if key is None else (KEYS.index(key) + 5) % 12 - 5


@cache
def bar_steps(metre: str) -> int:
    """Grid steps in a bar. Raises `UserError` for a metre that the learned composers do not know."""
    if metre not in METRES:
        raise UserError(
            f"metre {metre} is not known to a learned composer (halves to sixteenths, at most eight quarters a bar); "
            "--composer rules writes it"
        )
    count, unit = map(int, metre.split("/"))
    return count * 4 * STEPS // unit


def known_key(name: str | None) -> str | None:
    """The key in the spelling of KEYS: "Db minor" -> "C# minor"."""
    if name is None:
        return None
    key = Key.named(name)
    return next(known for known in KEYS if Key.named(known) == key)


def nearest_tempo(bpm: float) -> int:
    """Index in TEMPOS, by ratio."""
    return min(range(len(TEMPOS)), key=lambda i: abs(math.log(TEMPOS[i] / bpm)))


def sheet_of(score: Score, *, style: str = "", first: float = 0.0, last: float = math.inf) -> Sheet:
    """A score on the grid, to the end of the bar in which its last note ends; only the notes that begin on the beats
    (quarters) from `first` to before `last`, if these are given, which then becomes beat 0.

    A note whose `instrument` is the name of a part belongs to it; others are given one by `parts_of`.
    Notes are moved to the nearest step, and last one step at least and eight quarters at most; velocities and tempo
    become the nearest of LEVELS and TEMPOS; of two notes of one part on one pitch and step the longer stays; drum
    sounds that General MIDI does not name are left out. Tempo changes are forgotten: beats count, not seconds.
    """
    width = bar_steps(score.metre)
    kept: dict[tuple[int, int, int], GridNote] = {}
    for note, part in zip(score.notes, parts_of(score), strict=True):
        if part == DRUMS and not LOWEST_HIT <= note.pitch <= HIGHEST_HIT:
            continue
        at, length = beats_of(note, score.bpm)
        if not first <= at < last:
            continue
        steps = HIT_STEPS if part == DRUMS else min(max(round(length * STEPS), 1), MAX_STEPS)
        level = min(note.velocity // 16, len(LEVELS) - 1)
        made = GridNote(max(round((at - first) * STEPS), 0), part, note.pitch, steps, level)
        other = kept.get(made[:3])
        if other is None or other.steps < made.steps:
            kept[made[:3]] = made
    notes = tuple(sorted(kept.values()))
    end = max((note.step + (1 if note.part == DRUMS else note.steps) for note in notes), default=1)
    bpm = TEMPOS[nearest_tempo(score.bpm)]
    return Sheet(notes, max(1, math.ceil(end / width)), score.metre, bpm, known_key(score.key), style)


def beats_of(note: Note, bpm: float) -> tuple[float, float]:
    """Onset and length in quarter notes, also of a note that knows its seconds only."""
    if note.beats > 0:
        return note.beat, note.beats
    return note.onset * bpm / 60, note.duration * bpm / 60


def score_of(sheet: Sheet, *, voices: Mapping[str, Instrument] | None = None, bpm: float | None = None) -> Score:
    """A sheet as a score. `voices`: part -> who plays it; the others bear their part's name. `bpm`: the exact tempo."""
    notes = []
    for note in sheet.notes:
        name = PARTS[note.part]
        voice = (voices or {}).get(name)
        notes.append(Note(
            0.0, 0.0, note.pitch, LEVELS[note.level], note.step / STEPS, note.steps / STEPS,
            voice.name if voice else name, voice.program if voice else 0, note.part == DRUMS,
        ))
    return Score.from_beats(notes, bpm=bpm or sheet.bpm, metre=sheet.metre, key=sheet.key, title=sheet.style)


def parts_of(score: Score) -> list[int]:
    """The part of every note, as an index of PARTS.

    Drums are drums, and a note under the name of a part belongs to it. Of the others, as in the skyline method
    (Uitdenbogerd and Zobel 1998): the highest of the notes that begin together is melody, unless a higher one still
    sounds or it lies more than an octave below the melody's last note of the past two quarters; the lowest is bass,
    unless a lower one still sounds or it is the melody; all else is harmony.
    """
    parts = [DRUMS if note.drum else PARTS.index(note.instrument) if note.instrument in PARTS else -1
             for note in score.notes]
    times = [beats_of(note, score.bpm) for note in score.notes]
    free = sorted((i for i, part in enumerate(parts) if part < 0), key=lambda i: (times[i][0], score.notes[i].pitch))
    sounding: list[tuple[float, int]] = []  # (end, pitch)
    last = (-math.inf, 0)  # of the melody: onset, pitch
    first = 0
    while first < len(free):
        at = times[free[first]][0]
        group = [free[first]]
        while first + len(group) < len(free) and times[free[first + len(group)]][0] - at < 0.5 / STEPS:
            group.append(free[first + len(group)])
        first += len(group)
        group.sort(key=lambda i: score.notes[i].pitch)
        held = [pitch for end, pitch in sounding if end > at + 0.5 / STEPS]
        top, bottom = score.notes[group[-1]].pitch, score.notes[group[0]].pitch
        for index in group:
            parts[index] = HARMONY
        sings = top >= max(held, default=0) and not (at - last[0] <= 2 and top < last[1] - 12)
        if (len(group) > 1 or not sings) and bottom <= min(held, default=127):
            parts[group[0]] = BASS
        if sings:
            parts[group[-1]] = MELODY
            last = (at, top)
        sounding = [(end, pitch) for end, pitch in sounding if end > at + 0.5 / STEPS]
        sounding += [(at + times[i][1], score.notes[i].pitch) for i in group]
    return parts
