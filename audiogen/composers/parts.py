"""The accompaniment of a piece from its chords and the patterns of its style: harmony, bass and drums.

A part is a list of (beat, beats, pitch, loudness 0..1), in quarter notes from the start of the piece. Every chord is
heard: what is held over a change is struck again, and a chord that the pattern passes over is struck where it begins.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from audiogen.composers.chords import Bar, Slot, Symbol
from audiogen.composers.harmony import Key, nearest, pitches, voicing
from audiogen.composers.patterns import Event, events
from audiogen.composers.rhythms import Metre
from audiogen.composers.styles import HITS, Style

Part = list[tuple[float, float, int, float]]
GATE = 0.95  # how much of its length a note sounds
_LOUD = {"X": 1.0, "x": 0.8, "o": 0.45}
_SOFT_HITS = ("closed", "open", "ride", "maracas", "tambourine", "claves")
# For a style that is asked for drums and has none.
QUIET_DRUMS = {"kick": "x . x .", "closed": "x x x x", "snare": ". o . o"}


def harmony_part(
    bars: Sequence[Bar], metre: Metre, style: Style, low: int, high: int, *, polyphonic: bool = True, first: int = 0
) -> Part:
    """The bars from `first` on. An instrument of one voice plays the chords' thirds."""
    part: Part = []
    stack: tuple[int, ...] = ()
    for number in range(first, len(bars)):
        start = number * metre.length
        for at, beats, sign, slot in _played(bars, number, style.harmony, metre, style, "x"):
            stack = _stack(slot.chord, stack, low, high, style.voices if polyphonic else 1)
            if sign.isdigit():
                octave, index = divmod(int(sign), len(stack))
                tones = [pitch if (pitch := stack[index] + 12 * octave) <= high else stack[index]]
            else:
                tones = list(stack)
            loud = 0.74 if sign == "X" else 0.64
            part += [(start + at, beats * GATE, pitch, loud) for pitch in tones]
    return part


def _stack(chord: Symbol, before: tuple[int, ...], low: int, high: int, voices: int) -> tuple[int, ...]:
    """The chord near the one before it. Where voices are fewer than tones, the fifth goes first, then the root."""
    tones = list(chord.tones)
    for spare in (chord.tones[2:3], chord.tones[:1], chord.tones[4:5]):
        if len(tones) > voices and spare and spare[0] in tones:
            tones.remove(spare[0])
    tones = tones[:voices]
    reduced = Symbol(chord.degree, tuple(tones))
    return voicing(reduced, before, low, high, len(tones)) or (nearest(tones, (low + high) / 2, low, high),)


def bass_part(
    bars: Sequence[Bar], metre: Metre, style: Style, key: Key, low: int, high: int, rng: random.Random, *,
    first: int = 0,
) -> Part:
    """The bars from `first` on."""
    top = min(low + 16, high)
    centre = low + 6
    part: Part = []
    for number in range(first, len(bars)):
        start = number * metre.length
        for at, beats, sign, slot in _played(bars, number, style.bass, metre, style, "1"):
            chord = slot.chord
            root = nearest((chord.bass,), centre, low, top)
            if sign == "a":
                after = _chord_after(bars, number, slot)
                target = nearest(((after or chord).bass,), centre, low, top)
                steps = [p for p in pitches(key.scale, low, top) if 0 < abs(p - target) <= 2] or [target]
                pitch = rng.choice(steps)
            elif sign == "8":
                pitch = root + 12 if root + 12 <= high else root
            else:
                tone = {"3": 1, "5": 2, "7": 3}.get(sign)
                # A chord of three notes has the octave for its seventh.
                pitch = root if tone is None else nearest((chord.tones[tone % len(chord.tones)],), root + 4, low, top)
            part.append((start + at, beats * GATE, pitch, 0.86 if at == 0 else 0.78))
    return part


def drum_part(bars: int, metre: Metre, style: Style, section_ends: Sequence[int], *, first: int = 0) -> Part:
    """The bars from `first` on; bars in `section_ends` have the fill. A piece that does not run through ends on one."""
    part: Part = []
    for number in range(first, bars):
        start = number * metre.length
        if number == bars - 1 and not style.loop and bars > 1:
            part += [(start, metre.length, HITS[name], loud) for name, loud in (("kick", 0.9), ("crash", 0.6))]
            continue
        fill = style.fill if number in section_ends and style.fill else style.drums or QUIET_DRUMS
        for name, pattern in fill.items():
            for at, beats, sign in events(pattern, metre, style.swing, style.swung):
                loud = _LOUD[sign] * (0.7 if name in _SOFT_HITS else 1.0)
                part.append((start + at, min(beats, 0.5), HITS[name], loud))
        if number and number - 1 in section_ends:
            part.append((start, min(2.0, metre.length), HITS["crash"], 0.55))
    return part


def _played(
    bars: Sequence[Bar], number: int, patterns: Sequence[str], metre: Metre, style: Style, plain: str
) -> list[tuple[float, float, str, Slot]]:
    """One bar's pattern over its chords; the last bar of a piece that ends is held."""
    bar = bars[number]
    ends = number == len(bars) - 1 and not style.loop and len(bars) > 1
    shape: Sequence[Event] = (
        ((0.0, metre.length, plain),) if ends else events(patterns[number % len(patterns)], metre, style.swing,
                                                          style.swung)
    )
    found: list[tuple[float, float, str, Slot]] = []
    before = bars[number - 1][-1].chord if number else None
    for slot in bar:
        new, before = slot.chord != before, slot.chord
        if slot.chord is None:
            continue
        end, here = slot.at + slot.beats, len(found)
        for at, beats, sign in shape:
            begin, stop = max(at, slot.at), min(at + beats, end)
            if stop - begin > 1e-6:
                if plain == "1" and (begin != at or new and len(found) == here):
                    sign = plain  # a new chord begins on its bass
                found.append((begin, stop - begin, sign, slot))
        if len(found) == here:
            found.append((slot.at, slot.beats, plain, slot))
    return found


def _chord_after(bars: Sequence[Bar], number: int, slot: Slot) -> Symbol | None:
    later = [other for other in bars[number] if other.at > slot.at] or list(bars[(number + 1) % len(bars)])
    return later[0].chord


def without_overlaps(part: Part) -> Part:
    """Sorted; a note ends where the next one on its pitch begins, and of two that start together the louder stays."""
    kept: dict[int, list[tuple[float, float, int, float]]] = {}
    for at, beats, pitch, loud in sorted(part, key=lambda note: (note[0], -note[3])):
        line = kept.setdefault(pitch, [])
        if line and abs(line[-1][0] - at) < 1e-6:
            before = line.pop()
            line.append((before[0], max(before[1], beats), pitch, before[3]))
            continue
        if line and line[-1][0] + line[-1][1] > at:
            line[-1] = (line[-1][0], at - line[-1][0], pitch, line[-1][3])
        line.append((at, beats, pitch, loud))
    return sorted(note for line in kept.values() for note in line)
