"""Real tunes made playable: an excerpt of a score, transposed and thinned for one instrument, at a tempo of its own."""

from __future__ import annotations

import random
from dataclasses import replace

from audiogen.conditioning.instruments import Instrument
from audiogen.core.score import Note, Score

# Krumhansl and Kessler 1982: how well each degree fits a major and a minor key.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
_NAMES = {"major": "C Db D Eb E F F# G Ab A Bb B".split(), "minor": "C C# D Eb E F F# G G# A Bb B".split()}
MAX_VOICES = 6


def arrange(
    score: Score, instrument: Instrument, *, bpm: float, seconds: float, transpose: int, rng: random.Random
) -> Score | None:
    """-> about `seconds` of the tune at `bpm` for `instrument`, in its range; None where it has nothing to play.

    One-voiced instruments get the highest line (basses the lowest), the others all parts, at most six notes at once.
    Notes keep their places in the beat; the excerpt begins with a bar. `transpose` (semitones) is moved by octaves
    until the tune lies well; notes that still lie outside are moved by octaves of their own.
    """
    notes = [note for note in score.notes if note.drum == instrument.drum and note.beats > 0]
    notes = _excerpt(notes, score.metre, seconds * bpm / 60, rng)
    if len(notes) < seconds:
        return None
    if not instrument.drum:
        if not instrument.polyphonic:
            notes = _one_voice(notes, lowest=instrument.family == "bass")
        elif instrument.family in ("drone", "mallets") or instrument.high - instrument.low < 36:
            notes = _thin(notes, 3)
        else:
            notes = _thin(notes, MAX_VOICES)
        notes = _into_range(notes, transpose, instrument)
    beat = 60 / bpm
    notes = [replace(note, beats=max(note.beats, 0.06 / beat)) for note in notes]
    notes = _without_repeats(notes)
    level, jitter = rng.uniform(62, 98), rng.uniform(2, 8)
    mean = sum(note.velocity for note in notes) / len(notes)
    played = [
        replace(
            note,
            instrument=instrument.name,
            program=instrument.program,
            velocity=min(
                max(
                    round(
                        level + 0.6 * (note.velocity - mean) + (5 if note.beat % 1 == 0 else -3) + rng.gauss(0, jitter)
                    ),
                    20,
                ),
                127,
            ),
        )
        for note in notes
    ]
    key = None if instrument.drum else estimate_key(played)
    return Score.from_beats(played, bpm=bpm, metre=score.metre, key=key, title=score.title)


def estimate_key(notes: list[Note]) -> str:
    """The key whose Krumhansl profile fits the notes' durations best."""
    weight = [0.0] * 12
    for note in notes:
        weight[note.pitch % 12] += min(note.beats, 4.0)
    fits = []
    for mode, profile in (("major", _MAJOR), ("minor", _MINOR)):
        for tonic in range(12):
            fits.append(
                (_correlation([weight[(tonic + i) % 12] for i in range(12)], profile), f"{_NAMES[mode][tonic]} {mode}")
            )
    return max(fits)[1]


def _correlation(a, b) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    bottom = (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5
    return top / bottom if bottom else 0.0


def _excerpt(notes: list[Note], metre: str, beats: float, rng: random.Random) -> list[Note]:
    """`beats` of the notes from the start of a bar on, where something is played most of the time."""
    if not notes:
        return []
    count, unit = map(int, metre.split("/"))
    bar = count * 4.0 / unit
    last = max(note.beat for note in notes)
    starts = [bar * i for i in range(int(max(last - beats, 0.0) // bar) + 1)]
    for _ in range(12):
        start = rng.choice(starts)
        kept = [note for note in notes if start <= note.beat < start + beats - 0.1]
        onsets = sorted({note.beat - start for note in kept})
        gaps = [b - a for a, b in zip([0.0, *onsets], [*onsets, min(beats, last + 4 - start)], strict=True)]
        if kept and max(gaps) <= 2 * bar:
            return [
                replace(note, beat=note.beat - start, beats=min(note.beats, start + beats - note.beat)) for note in kept
            ]
    return []


def _one_voice(notes: list[Note], *, lowest: bool) -> list[Note]:
    """The highest (or lowest) note that starts at each moment, cut where the next begins."""
    line: list[Note] = []
    for note in sorted(notes, key=lambda n: (n.beat, n.pitch if lowest else -n.pitch)):
        if line and note.beat - line[-1].beat < 0.1:
            continue
        under = line and note.beat < line[-1].beat + line[-1].beats - 0.05
        if under and not lowest and note.pitch < line[-1].pitch - 9:
            continue  # an accompaniment below a held melody note
        if under and lowest and note.pitch > line[-1].pitch + 9:
            continue
        if under:
            line[-1] = replace(line[-1], beats=note.beat - line[-1].beat)
        line.append(note)
    return line


def _thin(notes: list[Note], voices: int) -> list[Note]:
    """At most `voices` notes at once: the outer ones stay."""
    kept: list[Note] = []
    for note in sorted(notes, key=lambda n: (n.beat, -n.pitch)):
        sounding = [n for n in kept if n.beat + n.beats > note.beat + 0.02]
        together = [n for n in notes if abs(n.beat - note.beat) < 0.02]
        outer = note.pitch in (max(n.pitch for n in together), min(n.pitch for n in together))
        if len(sounding) < voices or (outer and len(sounding) < voices + 2):
            kept.append(note)
    return kept


def _into_range(notes: list[Note], transpose: int, instrument: Instrument) -> list[Note]:
    low, high = instrument.low, instrument.high
    moves = [transpose + 12 * octave for octave in range(-5, 6)]
    centre = (low + high) / 2

    def badness(move: int) -> tuple[int, float]:
        outside = sum(not low <= note.pitch + move <= high for note in notes)
        return outside, abs(sum(note.pitch + move for note in notes) / len(notes) - centre)

    move = min(moves, key=badness)
    moved = []
    for note in notes:
        pitch = note.pitch + move
        while pitch < low:
            pitch += 12
        while pitch > high:
            pitch -= 12
        moved.append(replace(note, pitch=pitch))
    return moved


def _without_repeats(notes: list[Note]) -> list[Note]:
    """One note at a time on each pitch."""
    lines: dict[int, list[Note]] = {}
    for note in sorted(notes, key=lambda n: (n.beat, -n.beats)):
        line = lines.setdefault(note.pitch, [])
        if line and note.beat - line[-1].beat < 0.06:
            continue
        if line and line[-1].beat + line[-1].beats > note.beat:
            line[-1] = replace(line[-1], beats=note.beat - line[-1].beat)
        line.append(note)
    return sorted((note for line in lines.values() for note in line), key=lambda n: (n.beat, n.pitch))
