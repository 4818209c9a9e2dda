"""What a score does not say: its key and its chords, estimated from its notes."""

from __future__ import annotations

import math

import numpy as np

from audiogen.composers.events import BAR, CHORD, CHORDS, MORE_BARS, NO_CHORD, POSITION
from audiogen.composers.grid import DRUMS, KEYS, STEPS, Sheet, bar_steps
from audiogen.composers.harmony import Key

# Krumhansl and Kessler 1982, from the tonic up.
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
# (chords, 12): which pitch classes belong to each chord token, in the tokens' order
_TEMPLATES = np.array([
    [float((pitch - root) % 12 in tones) for pitch in range(12)] for tones in CHORDS.values() for root in range(12)
])


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
    """A chord token for every span of `chord_steps`, in order.

    Template matching (Fujishima 1999) on notes instead of a spectrum: the chord that covers most of the time that
    pitch classes sound in the span, less half of what it does not cover, and less a little for each of its tones that
    is silent; the lowest note counts for its root. A span in which nothing sounds holds the chord before it.
    """
    span = chord_steps(sheet.metre)
    count = sheet.bars * sheet.bar_steps // span
    sounding = np.zeros((count, 12))  # pitch classes
    lowest = np.full(count, 128)
    for note in sheet.notes:
        if note.part == DRUMS:
            continue
        for index in range(note.step // span, min((note.step + note.steps - 1) // span + 1, count)):
            inside = min(note.step + note.steps, (index + 1) * span) - max(note.step, index * span)
            sounding[index, note.pitch % 12] += inside
            lowest[index] = min(lowest[index], note.pitch)
    covered = sounding @ _TEMPLATES.T  # (spans, chords)
    silent = (sounding == 0) @ _TEMPLATES.T
    total = sounding.sum(1, keepdims=True)
    on_root = (lowest % 12)[:, None] == np.arange(len(_TEMPLATES)) % 12
    best = (1.5 * covered - 0.5 * total + total * (0.15 * on_root - 0.12 * silent)).argmax(1)
    chords, before = [], NO_CHORD
    for index in range(count):
        if total[index] > 0:
            before = CHORD.token(int(best[index]))
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
