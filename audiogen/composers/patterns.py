"""Patterns of one bar, written as a drum machine shows them: a group of cells for each beat.

    "x--- x-x-"    two beats of four cells: a note of one beat, then two of half a beat
    "1. . 5. ."    cells may differ from beat to beat; "." is silence, "-" holds, anything else starts a note

A pattern fits any metre: beats are repeated or left out, and the halves and quarters of a beat move to its thirds where
the beat is a dotted one.
"""

from __future__ import annotations

from functools import lru_cache

from audiogen.composers.rhythms import Metre

REST, HOLD = ".", "-"
Event = tuple[float, float, str]  # (quarter notes from the bar's start, length, sign)


@lru_cache(maxsize=4096)
def events(pattern: str, metre: Metre, swing: float = 0.5, swung: int = 1) -> tuple[Event, ...]:
    """The notes of a bar in `metre`. `swing`: where the second half of a beat lies (2/3: a shuffle), or of each of the
    `swung` parts of a beat (2: swung sixteenths); beats in threes are left alone."""
    found: list[Event] = []
    for group, (start, length) in zip(_fitted(pattern.split(), metre), metre.beats, strict=True):
        group = _in_thirds(group) if metre.compound else group
        for number, sign in enumerate(group):
            at = start + length * _swung(number / len(group), len(group), swing, swung)
            end = start + length * _swung((number + 1) / len(group), len(group), swing, swung)
            if sign == HOLD and found and abs(sum(found[-1][:2]) - at) < 1e-9:
                found[-1] = (found[-1][0], end - found[-1][0], found[-1][2])
            elif sign not in (HOLD, REST):
                found.append((at, end - at, sign))
    return tuple(found)


def _fitted(groups: list[str], metre: Metre) -> list[str]:
    """As many groups as the metre has beats: the first stays the first, a bar too long is thinned out evenly."""
    beats, count = len(metre.beats), len(groups)
    if beats == count:
        return groups
    if beats < count:
        return [groups[int(beat * count / beats + 0.5)] for beat in range(beats)]
    return [groups[beat if beat == 0 or count == 1 else 1 + (beat - 1) % (count - 1)] if count > 1 else groups[0]
            for beat in range(beats)]


def _in_thirds(group: str) -> str:
    """Two cells of a beat become 1st and 3rd third, four of them 1st, 3rd, 4th and 6th sixth."""
    if len(group) % 3 == 0 or len(group) == 1:
        return group
    wide = [HOLD if HOLD in group else REST] * (len(group) * 3 // 2)
    for number, sign in enumerate(group):
        wide[int(number * 1.5 + 0.5)] = sign
    return "".join(wide)


def _swung(fraction: float, cells: int, swing: float, swung: int) -> float:
    if swing == 0.5 or cells % 2 or cells % (2 * swung):
        return fraction
    part, within = divmod(fraction * swung, 1.0)
    bent = within * 2 * swing if within <= 0.5 else swing + (within - 0.5) * 2 * (1 - swing)
    return (part + bent) / swung
