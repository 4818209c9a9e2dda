"""Four-part writing: soprano, alto, tenor and bass over given chords, by the rules of the common practice.

Every voicing of every chord within the voices' ranges is a state, and a shortest path over them (Viterbi 1967) is the
piece: hard rules cost so much that they are broken only where the chords leave no other way. The rules are those that
textbooks share (Aldwell and Schachter, "Harmony and Voice Leading"): no parallel or hidden perfect consonances, the
leading note of a dominant rises to the tonic and is never doubled, sevenths fall, voices neither cross nor overlap.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

import numpy as np

from audiogen.composers.chords import Symbol
from audiogen.composers.harmony import Key, pitches

RANGES = {"bass": (40, 60), "tenor": (48, 67), "alto": (55, 74), "soprano": (60, 79)}
MAX_VOICINGS = 160  # of one chord: those that cost least
HARD = 1000.0  # more than any sum of preferences in a piece
FORBIDDEN_LEAPS = (6, 10, 11)  # and all beyond an octave


def four_voices(
    chords: Sequence[Symbol],
    key: Key,
    rng: random.Random,
    *,
    soprano: Sequence[int | None] = (),
    ranges: dict[str, tuple[int, int]] | None = None,
) -> list[tuple[int, int, int, int]]:
    """-> (bass, tenor, alto, soprano) of every chord.

    `soprano`: pitches that are given (None: free); where no voicing has the given pitch, the chord is led without it.
    """
    if not chords:
        return []
    ranges = RANGES | (ranges or {})
    given = [*soprano, *[None] * (len(chords) - len(soprano))]
    voicings_of: dict[tuple, tuple] = {}  # chords come back, and so do the pairs of them
    steps_of: dict[tuple, np.ndarray] = {}
    kinds = [(chord.tones, chord.bass, pitch) for chord, pitch in zip(chords, given, strict=True)]
    for kind, chord in zip(kinds, chords, strict=True):
        if kind not in voicings_of:
            voicings_of[kind] = _voicings(chord, key, ranges, kind[-1])
    states = [voicings_of[kind] for kind in kinds]
    noise = np.random.default_rng(rng.getrandbits(63))
    total, back = [], []
    for number, (voicings, cost) in enumerate(states):
        # A piece of chance in each soprano note, so that one row of chords has many tunes, and in each bass.
        cost = cost + noise.uniform(0, 9, 128)[voicings[:, 3]] + noise.uniform(0, 4, 128)[voicings[:, 0]]
        if number in (0, len(states) - 1):  # the first chord and the last stand on their root, the last tune on 1 or 3
            cost = cost + 30 * (voicings[:, 0] % 12 != chords[number].bass)
        if number == len(states) - 1:
            cost = cost + 20 * (voicings[:, 3] % 12 != chords[number].root)
        if number == 0:
            total.append(cost)
            back.append(np.zeros(len(cost), dtype=int))
            continue
        pair = (kinds[number - 1], kinds[number])
        if pair not in steps_of:
            steps_of[pair] = _steps(states[number - 1][0], voicings, chords[number - 1], chords[number], key)
        step = steps_of[pair] + total[-1][:, None]
        back.append(step.argmin(axis=0))
        total.append(step.min(axis=0) + cost)
    index = int(total[-1].argmin())
    path = []
    for number in range(len(states) - 1, -1, -1):
        path.append(tuple(int(pitch) for pitch in states[number][0][index]))
        index = int(back[number][index])
    return path[::-1]


def _voicings(chord: Symbol, key: Key, ranges: dict[str, tuple[int, int]], soprano: int | None):
    """-> all spacings of a chord (n, 4), bass first, and what each costs by itself (n,)."""
    third = chord.tones[1] if len(chord.tones) > 1 else chord.root
    basses = pitches((chord.bass,) if chord.under is not None else (chord.root, third), *ranges["bass"])
    uppers = [pitches(chord.tones, *ranges[voice]) for voice in ("tenor", "alto", "soprano")]
    if soprano is not None and soprano % 12 in chord.tones:
        uppers[2] = [soprano]
    found, costs = [], []
    leading = (key.tonic + 11) % 12
    for bass, tenor, alto, top in product(basses, *uppers):
        if not (bass <= tenor < alto < top and alto - tenor <= 12 and top - alto <= 12 and tenor - bass <= 19):
            continue
        classes = [pitch % 12 for pitch in (bass, tenor, alto, top)]
        missing = set(chord.tones) - set(classes)
        if missing - set(chord.tones[2:3]) and len(chord.tones) < 5 or third in missing:
            continue  # only the fifth may be left out
        cost = 3.0 * len(missing) + 2.5 * (classes[0] == third != chord.bass) + 1.5 * (bass == tenor)
        cost += 1.5 * (len(set(classes)) == 3 and classes.count(chord.root) < 2)
        cost += HARD * (classes.count(leading) > 1) + 4.0 * (classes.count(third) > 1)
        cost += HARD * any(classes.count(tone) > 1 for tone in chord.tones[3:])
        found.append((bass, tenor, alto, top))
        costs.append(cost + 0.1 * abs(top - 70))
    if not found:  # a given soprano that crosses the others, or a chord of one or two notes: stack what there is
        tops = uppers[2] or [71]
        found = [
            (bass, *sorted((tenor, alto)), top)
            for bass, tenor, alto, top in product(basses or [48], uppers[0] or [55], uppers[1] or [62], tops)
        ]
        costs = [HARD * sum(a >= b for a, b in zip(row[1:], row[2:], strict=False)) for row in found]
    best = np.argsort(np.array(costs), kind="stable")[:MAX_VOICINGS]
    return np.array(found)[best], np.array(costs)[best]


def _steps(before: np.ndarray, after: np.ndarray, one: Symbol, two: Symbol, key: Key) -> np.ndarray:
    """What each step (n, m) from one of the voicings `before` (n, 4) to one of `after` (m, 4) costs."""
    a, b = before[:, None, :], after[None, :, :]
    motion = b - a
    size = np.abs(motion)
    cost = (size[..., 1:3].sum(-1) * 0.5 + size[..., 3] * 0.7 + size[..., 0] * 0.15).astype(float)
    cost += 1.5 * (size[..., 3] > 4) + 3.0 * (size[..., 3] == 0) + 3.0 * (size[..., 1:3] > 5).sum(-1)
    cost += 6.0 * np.isin(size[..., 0], FORBIDDEN_LEAPS) + HARD * (size[..., 0] > 12)
    cost += HARD * ((size[..., 1:] > 9) | (size[..., 1:] == 6)).sum(-1)
    moved = size > 0
    same = (one.tones == two.tones) and one.bass == two.bass
    for low in range(4):
        for high in range(low + 1, 4):
            first, then = (a[..., high] - a[..., low]) % 12, (b[..., high] - b[..., low]) % 12
            both = moved[..., low] & moved[..., high]
            for interval in (0, 7):
                cost += HARD * (both & (first == interval) & (then == interval))
                if (low, high) == (0, 3):  # hidden: the outer voices move alike into it, the upper one by a leap
                    alike = motion[..., 0] * motion[..., 3] > 0
                    cost += 40.0 * (alike & (then == interval) & (size[..., 3] > 2))
        if low < 3:  # no voice passes where its neighbour just was
            cost += HARD * ((b[..., low] > a[..., low + 1]) | (b[..., low + 1] < a[..., low]))
    if same:
        return cost
    leading = (key.tonic + 11) % 12
    rises = leading in one.tones and two.tones[0] in (key.tonic, key.scale[5]) and key.tonic in two.tones
    for voice in range(4):
        if rises:
            cost += HARD * ((a[..., voice] % 12 == leading) & (motion[..., voice] != 1))
        for seventh in one.tones[3:4]:
            resolved = np.isin(motion[..., voice], (-1, -2, 0))
            cost += 60.0 * ((a[..., voice] % 12 == seventh) & ~resolved)
    return cost
