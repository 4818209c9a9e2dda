"""What a score does not say: its key and its chords, estimated from its notes."""

from __future__ import annotations

import math
from collections import Counter

from audiogen.composers.events import BAR, CHORD, CHORDS, MORE_BARS, NO_CHORD, POSITION
from audiogen.composers.grid import DRUMS, KEYS, STEPS, Sheet, bar_steps
from audiogen.composers.harmony import Key

# Krumhansl and Kessler 1982, from the tonic up.
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


def estimate_key(sheet: Sheet, among: tuple[str, ...] = KEYS) -> str | None:
    """The key whose profile correlates best with how long each pitch class sounds (Krumhansl 1990); None where
    no pitch does."""
    weights = [0.0] * 12
    for note in sheet.notes:
        if note.part != DRUMS:
            weights[note.pitch % 12] += note.steps
    if not any(weights):
        return None

    def fit(name: str) -> float:
        key = Key.named(name)
        profile = [PROFILES[key.mode][(pitch - key.tonic) % 12] for pitch in range(12)]
        a, b = sum(weights) / 12, sum(profile) / 12
        spread = math.sqrt(sum((x - a) ** 2 for x in weights) * sum((y - b) ** 2 for y in profile))
        return sum((x - a) * (y - b) for x, y in zip(weights, profile, strict=True)) / max(spread, 1e-12)

    return max(among, key=fit)


def estimate_chords(sheet: Sheet) -> list[int]:
    """A chord token for every half bar (a whole one, where a bar has an odd number of quarters), in order.

    Template matching (Fujishima 1999) on notes instead of a spectrum: the chord that covers most of the time that
    pitch classes sound in the span, less half of what it does not cover and a little for each of its tones that is
    silent; the bass's lowest note counts for its root. A span in which nothing sounds holds the chord before it.
    """
    span = chord_steps(sheet.metre)
    count = sheet.bars * sheet.bar_steps // span
    weights = [Counter() for _ in range(count)]
    lowest: list[tuple[int, int]] = [(128, 0)] * count
    for note in sheet.notes:
        if note.part == DRUMS:
            continue
        first = note.step // span
        for index in range(first, min((note.step + note.steps - 1) // span + 1, count)):
            inside = min(note.step + note.steps, (index + 1) * span) - max(note.step, index * span)
            weights[index][note.pitch % 12] += inside / span
            lowest[index] = min(lowest[index], (note.pitch, note.step))
    chords, before = [], NO_CHORD
    for index in range(count):
        if weights[index]:
            before = _best_chord(weights[index], lowest[index][0] % 12)
        chords.append(before)
    return chords


def chord_steps(metre: str) -> int:
    """Steps that one chord of `estimate_chords` spans: half a bar of an even number of beats, else a bar."""
    width = bar_steps(metre)
    return width // 2 if int(metre.split("/")[0]) % 2 == 0 and width >= 2 * STEPS and width % 2 == 0 else width


def transposed_chord(token: int, semitones: int) -> int:
    """The same kind of chord on another root."""
    if token == NO_CHORD:
        return token
    kind, root = divmod(CHORD.index(token), 12)
    return CHORD.token(12 * kind + (root + semitones) % 12)


def chord_source(sheet: Sheet, prefix: list[int], chords: list[int] | None = None) -> list[int]:
    """The chords of a sheet as a source: its prefix, then ( bar ( position chord )* )*, a chord only where it changes
    and at the start of every bar. `chords`: one for each span of `chord_steps`; None: they are estimated."""
    span, tokens, before = chord_steps(sheet.metre), list(prefix), None
    each = sheet.bar_steps // span
    for index, chord in enumerate(estimate_chords(sheet) if chords is None else chords):
        bar, place = divmod(index, each)
        if place == 0:
            tokens.append(BAR.token(min(sheet.bars + sheet.bars_after - bar - 1, MORE_BARS)))
        if place == 0 or chord != before:
            tokens += [POSITION.token(place * span), chord]
        before = chord
    return tokens


def _best_chord(weights: Counter, bass: int) -> int:
    total = sum(weights.values())

    def fit(root: int, kind: int) -> float:
        tones = [(root + tone) % 12 for tone in tuple(CHORDS.values())[kind]]
        covered = sum(weights[tone] for tone in tones)
        silent = sum(weights[tone] == 0 for tone in tones)
        return covered - 0.5 * (total - covered) - 0.12 * total * silent + 0.15 * total * (root == bass)

    root, kind = max(((r, k) for k in range(len(CHORDS)) for r in range(12)), key=lambda pair: fit(*pair))
    return CHORD.token(12 * kind + root)
