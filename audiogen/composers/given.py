"""What a person gives a learned composer to work from: chords, a melody, or a beginning.

Each is another task (note_tasks.py), and becomes the score that the composer starts from (`Prompt.score`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from audiogen.composers.chords import progression
from audiogen.composers.grid import HARMONY, MELODY, PARTS
from audiogen.composers.rhythms import Metre
from audiogen.conditioning.prompts import plan_prompt
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.score import Note, Score

LOWEST_ROOT = 48  # chords are played from the C below middle C up
CHORD_VELOCITY = 64
USUAL_BPM = 100.0
FAMILY = "seq2seq"  # stands for whichever of its composers takes what is given


@dataclass(frozen=True)
class Given:
    """At most one of the three. Raises `UserError` for two."""

    chords: str = ""  # as in chords.py: "Am F C G"; played again and again
    melody: Path | None = None  # a MIDI file, all of it melody
    beginning: Path | None = None  # a MIDI file to go on from

    def __post_init__(self) -> None:
        if bool(self.chords) + (self.melody is not None) + (self.beginning is not None) > 1:
            raise UserError("chords, a melody and a beginning were given at once; a learned composer takes one of them")

    @property
    def task(self) -> str | None:
        """The task that works from what is given; None: nothing is."""
        if self.chords:
            return "chords_to_melody"
        if self.melody is not None:
            return "melody_to_accompaniment"
        return "continuation" if self.beginning is not None else None

    def composer(self, name: str) -> str:
        """The composer that `name` stands for: of the family, the one for what is given (else for chords)."""
        return (self.task or "chords_to_melody") if name == FAMILY else name

    def check(self, task: str, name: str) -> None:
        """Raise `UserError` where the composer `name`, of this task, cannot work from what is given."""
        if self.task in (None, task) or (task == "all" and self.task == "continuation"):
            return
        takes = {
            "chords_to_melody": "chords", "melody_to_accompaniment": "a melody", "continuation": "a beginning",
            "all": "a beginning or nothing",
        }
        raise UserError(f"{name} takes {takes[task]}, not {takes[self.task]}: --composer {FAMILY} finds the one that "
                        "does")

    def to(self, prompt: Prompt, *, beyond: bool = False) -> Prompt:
        """The prompt with what is given as its score. `beyond`: its seconds count from the end of a beginning on."""
        if self.chords:
            return replace(prompt, score=chord_score(self.chords, prompt))
        if self.melody is not None:
            score = _read(self.melody)
            notes = (replace(note, instrument=PARTS[MELODY]) for note in score.notes if not note.drum)
            return replace(prompt, score=replace(score, notes=tuple(notes)))
        if self.beginning is None:
            return prompt
        score = _read(self.beginning)
        return replace(prompt, score=score, seconds=prompt.seconds + (score.seconds if beyond else 0.0))


def chord_score(chords: str, prompt: Prompt) -> Score:
    """A progression as held chords, again and again for at least `prompt.seconds`, in the prompt's tempo, metre and
    key, else in 100 bpm and 4/4. Raises `UserError`."""
    plan = plan_prompt(prompt)
    metre = Metre.named(plan.metre or "4/4")
    bpm = plan.bpm or (sum(plan.bpm_range) / 2 if plan.bpm_range else USUAL_BPM)
    bars = progression(chords, metre)
    count = max(1, math.ceil(prompt.seconds * bpm / 60 / metre.length - 1e-6))
    count = -(-count // len(bars)) * len(bars)  # the progression is played to its end
    notes = []
    for number in range(count):
        for slot in bars[number % len(bars)]:
            if slot.chord is None:
                continue
            root = LOWEST_ROOT + slot.chord.bass
            for pitch in sorted({root, *(root + (tone - root) % 12 for tone in slot.chord.tones)}):
                notes.append(Note(0.0, 0.0, pitch, CHORD_VELOCITY, number * metre.length + slot.at, slot.beats,
                                  PARTS[HARMONY]))
    if not notes:
        raise UserError(f"chords {chords!r} name no chord to write a melody over")
    return Score.from_beats(notes, bpm=bpm, metre=metre.name, key=plan.key)


def _read(path: Path) -> Score:
    score = Score.read(path)
    if not score.notes:
        raise UserError(f"{path} has no notes to work from")
    return score
