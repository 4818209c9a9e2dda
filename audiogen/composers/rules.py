"""A composer by rules: key, chords, form, melody, accompaniment, drums, from a prompt's words and a user's constraints.

An instrument gets a piece of its own, which is written here. A style without an instrument ("waltz"), several
instruments, or any of the `Constraints` get an ensemble (ensemble.py).

What the prompt names (tempo, key, metre) is kept to exactly; its other words and chance decide the rest. The writing
makes tempo and key plain to the ear, and so to a beat tracker: a note starts on every beat, notes between the beats are
soft, and in slow tempi few; the tonic takes half of the bars, and ends each phrase.

`Score.bpm` counts quarter notes, as in `Prompt`; in 6/8 the felt beat is a dotted quarter (`felt_bpm`).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from audiogen.composers.constraints import Constraints
from audiogen.composers.ensemble import Piece, asks_for_ensemble, compose_piece
from audiogen.composers.grammars import GRAMMAR_OF_FORM, GRAMMARS, Grammar
from audiogen.composers.harmony import Chord, Key, nearest, pitches, random_key, voicing
from audiogen.composers.parts import without_overlaps
from audiogen.composers.rhythms import Metre, drum_bar, melody_rhythm
from audiogen.conditioning.instruments import INSTRUMENTS, Instrument, find_instrument, instruments_in
from audiogen.conditioning.prompts import MusicalPlan, plan_prompt
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.rng import SampleRng, key
from audiogen.core.score import Note, Score

MAX_SECONDS = 3600.0
NONE = Constraints()
Part = list[tuple[float, float, int, float]]  # (beat, beats, pitch, loudness 0..1)


class RuleComposer:
    """Writes for the prompt's instrument, or for the ensemble of its style; else for a grand piano.

    >>> band = RuleComposer(Constraints(chords="Am F | C G", parts=("melody", "bass")))
    >>> score = band.compose(Prompt(styles=(("waltz", 1.0),), bpm=90), seconds=8)
    >>> score.metre, score.instruments
    ('3/4', ('double bass', 'violin section'))
    """

    def __init__(self, constraints: Constraints = NONE) -> None:
        self.constraints = constraints

    def compose(self, prompt: Prompt, *, seconds: float, rng: Any = 0) -> Score:
        """-> a score of at least `seconds`. `rng`: SampleRng, torch.Generator or a seed: the same, the same score.

        A prompt's own score is returned as it is; notes that others are written around go into the `Constraints`.
        """
        if prompt.score is not None and not self.constraints:
            return prompt.score
        if asks_for_ensemble(prompt, self.constraints):
            return self.piece(prompt, seconds=seconds, rng=rng).score
        plan = plan_prompt(prompt)
        return _Piece(instrument_of(prompt), plan, _checked(seconds), random.Random(_seed(rng))).score()

    def piece(self, prompt: Prompt, *, seconds: float, rng: Any = 0) -> Piece:
        """For an ensemble: the score with its form, chords and parts, and how contradicting wishes were read."""
        return compose_piece(prompt, self.constraints, seconds=_checked(seconds), rng=random.Random(_seed(rng)))


def _checked(seconds: float) -> float:
    if not 0 < seconds <= MAX_SECONDS:
        raise UserError(f"seconds={seconds} must be above 0 and at most {MAX_SECONDS:g}")
    return seconds


def instrument_of(prompt: Prompt) -> Instrument:
    """The instrument that is written for: the heaviest style that is one, else the first that the text names."""
    for name, _ in sorted(prompt.styles, key=lambda style: -style[1]):
        named = find_instrument(name) or next(iter(instruments_in(name)), None)
        if named:
            return named
    return next(iter(instruments_in(prompt.text)), INSTRUMENTS["grand piano"])


def felt_bpm(score: Score) -> float:
    """Felt beats per minute: what a foot taps."""
    return score.bpm / Metre.named(score.metre).felt


def _seed(rng: Any) -> int:
    if isinstance(rng, SampleRng):
        return key(rng.seed, rng.step, rng.ids[0], rng.stream, "rules")
    if isinstance(rng, int):
        return rng
    if isinstance(rng, random.Random):
        return rng.getrandbits(62)
    import torch

    return int(torch.randint(2**62, (), generator=rng))


@dataclass(frozen=True)
class _Bar:
    """One bar of harmony: its chord, and the chord of its last beat where it changes (a cadence)."""

    chord: Chord
    turn: Chord | None = None

    def at(self, number: int, count: int) -> Chord:
        return self.turn if self.turn and number == count - 1 else self.chord


class _Piece:
    """One composition: everything chosen in order, from one random source."""

    def __init__(self, instrument: Instrument, plan: MusicalPlan, seconds: float, rng: random.Random) -> None:
        self.instrument, self.rng = instrument, rng
        self.form = plan.form or rng.choice(("folk", "pop", "etude", "ballad" if (plan.bpm or 0) < 100 else "march"))
        self.grammar: Grammar = GRAMMARS[GRAMMAR_OF_FORM.get(self.form, "song")]
        self.metre = Metre.named(plan.metre or "4/4")
        self.bpm = plan.bpm or float(round(rng.uniform(*(plan.bpm_range or self.grammar.bpm))))
        mode = plan.mode or rng.choice(("major", "major", "minor"))
        self.key_name = plan.key or random_key(mode, rng)
        self.key = Key.named(self.key_name)
        self.asked_key = plan.key
        energy = 0.5 if plan.energy is None else plan.energy
        self.loud = 82 + 16 * (energy - 0.5)  # MIDI velocity of an accented melody note
        felt = self.bpm / self.metre.felt
        self.busy = min(max((felt - 78) / 50, 0.0), 1.0) * (0.6 + 0.8 * energy)
        bar_seconds = self.metre.length * 60 / self.bpm
        self.bars = max(1, math.ceil(seconds / bar_seconds - 1e-6))
        self.harmony = self._harmony()

    def score(self) -> Score:
        family = self.instrument.family
        writers = {"drums": self._drums, "bass": self._bass, "lead": self._lead, "drone": self._drone}
        part = writers.get(family, self._polyphonic)()
        row = self.instrument
        notes = [
            Note(
                0.0,
                0.0,
                pitch,
                min(max(round(self.loud * loud + self.rng.uniform(-3, 3)), 1), 127),
                beat,
                beats,
                row.name,
                row.program,
                row.drum,
            )
            for beat, beats, pitch, loud in without_overlaps(self._to_the_end(part))
        ]
        key_name = self.asked_key if row.drum else self.key_name
        return Score.from_beats(notes, bpm=self.bpm, metre=self.metre.name, key=key_name, title=self.form)

    def _to_the_end(self, part: Part) -> Part:
        """What starts on the last beat lasts to the end of the bar, so that the whole time asked for is filled."""
        end = self.bars * self.metre.length
        last = end - self.metre.beats[-1][1] - 1e-6
        return [(at, end - at if at >= last else beats, pitch, loud) for at, beats, pitch, loud in part]

    # Form and harmony

    def _harmony(self) -> list[_Bar]:
        phrases = self.grammar.minor if self.key.mode == "minor" else self.grammar.major
        first, second = self.rng.choice(phrases), self.rng.choice(phrases)
        order = list(phrases) if self.grammar.ordered else [first, first, second, first]
        degrees = [degree for index in range(self.bars // 4 + 1) for degree in order[index % len(order)]][: self.bars]
        bars = [_Bar(self.key.chord(degree)) for degree in degrees]
        tonic, dominant = self.key.chord(1), self.key.chord(5)
        bars[-1] = _Bar(tonic)
        if self.bars > 2:
            bars[-2] = (
                _Bar(self.key.chord(self.rng.choice((1, 4))), dominant) if len(self.metre.beats) > 1 else _Bar(dominant)
            )
        return bars

    # Melody

    def _melody(self, low: int, high: int, *, hold: bool) -> Part:
        """Two bars' rhythms and contours, repeated and moved with the chords: a a b, and a close on the tonic."""
        rng, metre, part = self.rng, self.metre, []
        rhythms = [melody_rhythm(metre, self.grammar, self.busy, rng, hold=hold) for _ in range(2)]
        contours = [[rng.choice((-2, -1, -1, 0, 1, 1, 2)) for _ in rhythm] for rhythm in rhythms]
        centre = (low + high) / 2
        tonic = nearest((self.key.tonic,), centre, low, high)
        pitch = nearest(self.key.chord(1).tones, tonic, low, high)
        for number, bar in enumerate(self.harmony):
            close = number == self.bars - 1 or (number % 4 == 3 and bar.chord.degree == 1)
            which = 1 if number % 4 == 2 else 0
            start = number * metre.length
            if close:
                part += self._close(start, tonic, low, high, hold=hold)
                pitch = tonic
                continue
            for (at, length, beat), step in zip(rhythms[which], contours[which], strict=True):
                chord = bar.at(beat or 0, len(metre.beats)) if beat is not None else bar.chord
                if number == 0 and at == 0:
                    pitch = tonic
                elif beat is not None:
                    pull = -1 if pitch > centre + 5 else 1 if pitch < centre - 5 else 0
                    pitch = nearest((self.key.telling_tone(chord, rng),), pitch + 2 * step + 2 * pull, low, high)
                else:
                    steps = pitches(self.key.scale_over(chord), low, high)
                    here = min(range(len(steps)), key=lambda i: abs(steps[i] - pitch))
                    pitch = steps[min(max(here + (1 if step > 0 else -1), 0), len(steps) - 1)]
                part.append((start + at, length, pitch, self._accent(beat)))
        return part

    def _close(self, start: float, tonic: int, low: int, high: int, *, hold: bool) -> Part:
        """A bar that rests on the tonic, with a note on every beat unless another part keeps the beat."""
        beats = self.metre.beats
        if hold:
            return [(start, self.metre.length, tonic, 1.0)]
        third = nearest((self.key.chord(1).tones[1],), tonic + 3, low, high)
        line = [tonic, third, tonic, tonic] if len(beats) >= 4 else [tonic, third, tonic][: len(beats)]
        return [(start + at, length, line[i % len(line)], self._accent(i)) for i, (at, length) in enumerate(beats)]

    def _accent(self, beat: int | None) -> float:
        """Off the beat is soft; a fast piece accents every beat alike, so that no half tempo is heard."""
        if beat is None:
            return 0.6
        return 1.0 if beat == 0 or self.bpm / self.metre.felt > 118 else 0.94

    # The kinds of instruments

    def _lead(self) -> Part:
        low, high = self._middle(self.instrument.low, self.instrument.high, 19)
        # A breath before the next note: in slow tempi vibrato would else say more to a beat tracker than they.
        held = 0.9 if self.bpm / self.metre.felt > 100 else 0.78
        return [(at, length * held, pitch, loud) for at, length, pitch, loud in self._melody(low, high, hold=False)]

    def _bass(self) -> Part:
        low, high = self.instrument.low, self.instrument.high
        style = self.grammar.bass if self.instrument.name != "tuba" else "oompah"
        part, root = [], nearest((self.key.tonic,), low + 5, low, high)
        for number, bar in enumerate(self.harmony):
            for i, (at, length) in enumerate(self.metre.beats):
                chord = bar.at(i, len(self.metre.beats))
                root = nearest((chord.root,), root, low, min(low + 13, high))
                third, fifth = (
                    nearest((tone,), root + up, root, high) for tone, up in zip(chord.tones[1:], (4, 7), strict=True)
                )
                octave = root + 12 if root + 12 <= high else root
                second = nearest((self.key.scale[chord.degree % 7],), root + 2, root, high)
                line = {
                    "oompah": (root, third, root, fifth),
                    "walk": (root, second, third, root),
                    "pulse": (root, root, octave, third),
                    "long": (root, root, third, root),
                    "riff": (root, third, root, octave),
                }[style]
                if number == self.bars - 1:
                    line = (root, third, root, root)
                beat = number * self.metre.length + at
                pitch = line[i % 4]
                busy = self.busy * {"pulse": 0.7, "riff": 0.35, "walk": 0.2}.get(style, 0.1)
                if self.rng.random() < busy and number < self.bars - 1:
                    cut = 2 / 3 if self.metre.compound or self.grammar.swing else 0.5
                    part += [
                        (beat, length * cut * 0.9, pitch, self._accent(i)),
                        (beat + length * cut, length * (1 - cut) * 0.9, pitch, 0.6),
                    ]
                else:
                    part.append((beat, length * 0.9, pitch, self._accent(i)))
        return part

    def _drone(self) -> Part:
        """The tonic sounds through, in octaves; a plain melody above it."""
        low, high = self.instrument.low, self.instrument.high
        ground = nearest((self.key.tonic,), low + 6, low, low + 11)
        part = []
        for number in range(self.bars):
            start = number * self.metre.length
            if self.instrument.sustained and self.busy > 0.2:
                part += [(start, self.metre.length, ground, 0.5), (start, self.metre.length, ground + 12, 0.4)]
            else:
                part += [
                    (start + at, length * 0.9, ground + 12 * (i % 2), 0.62)
                    for i, (at, length) in enumerate(self.metre.beats)
                ]
        melody = self._melody(min(ground + 13, high - 12), high, hold=False)
        return part + [(at, length * 0.9, pitch, loud) for at, length, pitch, loud in melody]

    def _polyphonic(self) -> Part:
        """Melody above, chords in the middle, bass below, as far as the range has room for them."""
        low, high = self.instrument.low, self.instrument.high
        split = low + round(0.5 * (high - low))
        top = self._middle(split, high, 19)
        kind = self.grammar.accompaniment
        if self.instrument.family == "plucked" and kind not in ("oompah", "chorale"):
            kind = "arpeggio"
        if self.instrument.family == "strings":
            kind = "chorale" if kind == "chorale" else "block"
        melody = self._melody(*top, hold=kind not in ("pad",) and self.rng.random() < 0.6)
        part = [(at, length * 0.96, pitch, loud) for at, length, pitch, loud in melody]
        stack: tuple[int, ...] = ()
        root = nearest((self.key.tonic,), low + 8, low, low + 14)
        for number, bar in enumerate(self.harmony):
            start = number * self.metre.length
            for i, (at, length) in enumerate(self.metre.beats):
                chord = bar.at(i, len(self.metre.beats))
                root = nearest((chord.root,), root, low, low + 14)
                if (
                    self.instrument.family == "plucked"
                ):  # a low string's overtones hold its fifth: root and third are enough
                    chord = Chord(chord.degree, chord.tones[:2] + chord.tones[2:] * (chord.degree != 1))
                stack = voicing(
                    chord, stack, max(root + 3, split - 12), max(split + 1, root + 7), 3 if high - low > 30 else 2
                )
                fifth = nearest((chord.tones[-1],), root - 2, low, low + 14)
                part += [
                    (start + beat, beats, pitch, loud)
                    for beat, beats, pitch, loud in self._accompany(kind, i, at, length, root, fifth, stack)
                ]
        return part

    def _accompany(
        self, kind: str, i: int, at: float, length: float, root: int, fifth: int, stack: tuple[int, ...]
    ) -> Part:
        """One beat of accompaniment; loudness against the melody's 1."""
        count, chords = len(self.metre.beats), [(at, length * 0.9, pitch, 0.68) for pitch in stack]
        if kind == "pad":
            bar = self.metre.length
            return [(at, length, root, 0.85), *([(0.0, bar, p, 0.55) for p in stack] if i == 0 else [])]
        if kind == "oompah":
            if i == 0 or (count == 4 and i == 2) or count < 2:
                bass = [(at, length * 0.95, root if i == 0 else fifth, 0.85)]
                # Fast, bass and chord in turn would be heard as one slow beat.
                return bass + (chords if count < 3 or self.bpm / self.metre.felt > 118 else [])
            return [(a, b * 0.7, p, 0.74) for a, b, p, _ in chords]
        if kind == "arpeggio":
            parts = [
                (
                    at,
                    length * (0.96 if self.busy < 0.25 else 0.48),
                    (root, *stack)[0 if i % 2 == 0 else 1 % (len(stack) + 1)],
                    0.8,
                )
            ]
            if i % 2:
                parts += [(at, length * 0.9, p, 0.66) for p in stack[1:2]]
            if self.busy >= 0.25 and stack:
                cut = 2 / 3 if self.metre.compound or self.grammar.swing else 0.5
                parts.append((at + cut * length, length * (1 - cut) * 0.95, stack[-1 - i % min(2, len(stack))], 0.46))
            return parts
        if kind == "walk":
            step = (root, stack[0] - 12 if stack and stack[0] - 12 >= self.instrument.low else root, fifth, root)[i % 4]
            return [(at, length * 0.92, step, 0.82), *([(a, b, p, 0.66) for a, b, p, _ in chords] if i % 2 else [])]
        if kind == "pulse":
            return [(at, length * 0.6, root, 0.85), *[(a, b * 0.7, p, 0.7) for a, b, p, _ in chords]]
        bass = [(at, length * 0.88, root, 0.8)] if i % 2 == 0 or kind == "chorale" else []
        return bass + [(a, length * 0.8, p, 0.74) for a, _, p, _ in chords]

    def _drums(self) -> Part:
        machine = "808" in self.instrument.name
        part = []
        for number in range(self.bars):
            hits = drum_bar(
                self.grammar.drums,
                self.metre,
                self.bpm,
                self.rng,
                machine=machine,
                fill=number % 4 == 3 and self.rng.random() < 0.7,
                first=number % 8 == 0 and self.rng.random() < 0.7,
            )
            part += [(number * self.metre.length + at, 0.4, hit, loud * 1.15) for at, hit, loud in hits]
        end = self.bars * self.metre.length
        return [(at, max(min(beats, end - at), 0.1), hit, loud) for at, beats, hit, loud in part]

    def _middle(self, low: int, high: int, width: int) -> tuple[int, int]:
        """`width` semitones in the middle of a range: where an instrument sings best."""
        if high - low <= width:
            return low, high
        start = low + (high - low - width) // 2
        return start, start + width
