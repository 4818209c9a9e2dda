"""From a prompt to what a learned composer is asked: limits, what stands already, and how the answer becomes a score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from audiogen.composers.analysis import estimate_key
from audiogen.composers.event_grammar import Limits
from audiogen.composers.events import KEY, METRE, NO_KEY, PREFIX, TEMPO, Vocabulary, sheet_from, tokens_of
from audiogen.composers.grid import (
    BASS,
    DRUMS,
    HARMONY,
    KEYS,
    MELODY,
    METRES,
    PARTS,
    STEPS,
    TEMPOS,
    Sheet,
    above_c,
    bar_steps,
    beats_of,
    known_key,
    nearest_tempo,
    parts_of,
    score_of,
    sheet_of,
)
from audiogen.composers.note_sampler import NoteSampling
from audiogen.composers.note_tasks import TASKS, source_and_target
from audiogen.composers.rules import RuleComposer, instrument_of
from audiogen.conditioning.instruments import INSTRUMENTS, Instrument
from audiogen.conditioning.prompts import MusicalPlan, plan_prompt
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.rng import SampleRng
from audiogen.core.score import Note, Score

MAX_SECONDS = 600.0
NOTES_A_BAR = 64
TOGETHER = (1, 5, 1, 6)  # notes of melody, harmony, bass and drums that may begin at once


@dataclass(frozen=True)
class Request:
    """`limits` for the grammar, `begun` for the sampler, `source` for the model. `finished`: nothing is to be done."""

    limits: Limits = Limits()
    begun: tuple[int, ...] = ()
    source: tuple[int, ...] | None = None
    finished: Score | None = None
    vocabulary: Vocabulary = Vocabulary()
    voices: tuple[tuple[str, Instrument], ...] = ()
    bpm: float | None = None  # the exact tempo that was asked for
    key: str | None = None  # of the answer, as it was named; all tokens are in C
    up: int = 0  # semitones from C to it
    kept: tuple[Note, ...] = ()  # notes that stand in the answer as they are
    first_step: int = 0  # where the drawn sequence begins in the answer
    begun_notes: int = 0  # notes of `begun`, which `kept` has already

    def score(self, tokens: Sequence[int]) -> Score:
        """The drawn tokens (`begun` first), in whole bars, with what was given."""
        sheet = sheet_from(tokens, self.vocabulary)
        known = set(sheet_from(self.begun, self.vocabulary).notes) if self.begun_notes else set()
        fresh = replace(sheet, notes=tuple(note for note in sheet.notes if note not in known))
        bpm = self.bpm or sheet.bpm
        written = score_of(_to_the_end(fresh).transposed(self.up), voices=dict(self.voices), bpm=bpm)
        notes = written.notes
        if self.kept:
            notes = self.kept + _after(self.kept, notes, self.first_step / STEPS, bpm)
        return replace(written, notes=tuple(sorted(notes)), bpm=bpm, key=self.key or written.key)


def read_request(
    prompt: Prompt, seconds: float, vocabulary: Vocabulary, task: str, sampling: NoteSampling, rng: SampleRng
) -> Request:
    """What `prompt` asks of a model of this task. Raises `UserError` for what it cannot be asked.

    The prompt's instrument plays all that is written; one that cannot play what this task writes leaves it to a piano.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise UserError(f"seconds={seconds} must be above 0 and at most {MAX_SECONDS:g} for a learned composer")
    plan = plan_prompt(prompt)
    instrument = instrument_of(prompt)
    parts = tuple(part for part in parts_played(instrument) if part in TASKS[task])
    if not parts:  # a melody for drums, an accompaniment for a cello: a piano plays it
        instrument = INSTRUMENTS["grand piano"]
        parts = tuple(part for part in parts_played(instrument) if part in TASKS[task])
    voices = tuple((name, instrument) for name in PARTS)
    style = vocabulary.style_token(style_of(prompt, plan, vocabulary))
    limits = Limits(
        styles=(style,), keys=_keys(plan, instrument), metres=_metres(plan), tempos=_tempos(plan), seconds=seconds,
        bpm=plan.bpm, parts=parts, in_key=sampling.in_key, together=TOGETHER, notes_a_bar=NOTES_A_BAR,
        sounding_end=True,
    )
    request = Request(limits, (style,), None, None, vocabulary, voices, plan.bpm, plan.key)
    given = prompt.score if prompt.score is not None and prompt.score.notes else None
    if given is not None:
        given = _asked(given, plan)
        if task in ("all", "continuation") and given.seconds >= seconds:
            return replace(request, finished=given)
    elif task != "all":
        lead_seconds = seconds / 2 if task == "continuation" else seconds
        given = RuleComposer().compose(replace(prompt, score=None), seconds=lead_seconds, rng=rng)
    if given is None:
        up = above_c(known_key(plan.key)) if plan.key else int(rng.fork("tonic").rand(1) * 12) - 5
    else:
        sheet = sheet_of(given)
        sheet = replace(sheet, key=known_key(plan.key) or sheet.key or estimate_key(sheet))
        up = above_c(sheet.key)
        request = (_continued if task == "all" else _from_source)(request, given, sheet.in_c(), seconds, task)
    low, high = (0, 127) if instrument.drum else (instrument.low - up, instrument.high - up)
    return replace(request, up=up, limits=replace(request.limits, low=low, high=high))


def style_of(prompt: Prompt, plan: MusicalPlan, vocabulary: Vocabulary) -> str:
    """The model's style that the prompt names: as a style, in its words (the longest name), or by its form; or ""."""
    for name, _ in sorted(prompt.styles, key=lambda style: -style[1]):
        if name.lower() in vocabulary.styles:
            return name.lower()
    words = f" {' '.join(prompt.text.lower().replace(',', ' ').split())} "
    named = [name for name in vocabulary.styles if f" {name} " in words]
    if named:
        return max(named, key=len)
    return plan.form if plan.form in vocabulary.styles else ""


def parts_played(instrument: Instrument) -> tuple[int, ...]:
    """The parts that one instrument plays by itself."""
    alone = {"drums": (DRUMS,), "bass": (BASS,), "lead": (MELODY,)}
    return alone.get(instrument.family, (MELODY, HARMONY, BASS))


def _keys(plan: MusicalPlan, instrument: Instrument) -> tuple[int, ...]:
    """C major, C minor, or either; drums without a key have none."""
    if instrument.drum and plan.key is None:
        return (NO_KEY,)
    return tuple(KEY.token(KEYS.index(f"C {mode}")) for mode in ("major", "minor") if plan.mode in (None, mode))


def _metres(plan: MusicalPlan) -> tuple[int, ...]:
    if plan.metre is None:
        return ()
    bar_steps(plan.metre)  # an unknown one is an error
    return (METRE.token(METRES.index(plan.metre)),)


def _tempos(plan: MusicalPlan) -> tuple[int, ...]:
    if plan.bpm is not None:
        return (TEMPO.token(nearest_tempo(plan.bpm)),)
    low, high = plan.bpm_range or (50.0, 200.0)
    inside = [TEMPO.token(i) for i, tempo in enumerate(TEMPOS) if low <= tempo <= high]
    return tuple(inside) or (TEMPO.token(nearest_tempo((low * high) ** 0.5)),)


def _asked(given: Score, plan: MusicalPlan) -> Score:
    """The given notes in the tempo that is asked for, if any. Their metre is theirs: another one is an error."""
    if plan.metre not in (None, given.metre):
        raise UserError(f"metre {plan.metre} was asked for, but the given notes are in {given.metre}: leave it away")
    notes = [replace(note, beat=at, beats=length)
             for note in given.notes for at, length in [beats_of(note, given.bpm)]]
    if plan.bpm in (None, given.bpm):
        return replace(given, notes=tuple(notes))
    return Score.from_beats(notes, bpm=plan.bpm, metre=given.metre, key=given.key, title=given.title)


def _held(limits: Limits, sheet: Sheet, vocabulary: Vocabulary) -> tuple[Limits, list[int]]:
    """Limits and prefix of music that goes with a sheet: its key, metre and tempo."""
    prefix = tokens_of(sheet, vocabulary)[:PREFIX]
    prefix[0] = limits.styles[0]
    return replace(limits, keys=(prefix[1],), metres=(prefix[2],), tempos=(prefix[3],), seconds=None), prefix


def _continued(request: Request, given: Score, sheet: Sheet, seconds: float, task: str) -> Request:
    """The music goes on after its last note, in the same sequence, up to the bar in which `seconds` end."""
    limits, begun = _held(request.limits, sheet, request.vocabulary)
    total = max(_bars(seconds, given.metre, given.bpm), sheet.bars)
    tokens = tokens_of(replace(sheet, bars_after=total - sheet.bars), request.vocabulary, end=False)
    return replace(
        request, limits=replace(limits, bars=total), begun=(*begun, *tokens[PREFIX:]), bpm=given.bpm,
        kept=given.notes, begun_notes=len(sheet.notes),
    )


def _from_source(request: Request, given: Score, sheet: Sheet, seconds: float, task: str) -> Request:
    """What is given is the source, and the answer stands beside it, or after it."""
    if task == "continuation":
        total = max(_bars(seconds, given.metre, given.bpm), sheet.bars + 1)
        source = tokens_of(replace(sheet, bars_after=total - sheet.bars), request.vocabulary)
        bars, first = total - sheet.bars, sheet.bars * sheet.bar_steps
    else:
        source, bars, first = source_and_target(sheet, task, request.vocabulary)[0], sheet.bars, 0
    limits, begun = _held(request.limits, sheet, request.vocabulary)
    return replace(
        request, limits=replace(limits, bars=bars), begun=tuple(begun), source=tuple(source), bpm=given.bpm,
        kept=given.notes if task == "continuation" else _others(given, task), first_step=first,
    )


def _others(given: Score, task: str) -> tuple[Note, ...]:
    """The given notes of the parts that are not written anew."""
    return tuple(note for note, part in zip(given.notes, parts_of(given), strict=True) if part not in TASKS[task])


def _bars(seconds: float, metre: str, bpm: float) -> int:
    return max(1, math.ceil(seconds * bpm * STEPS / (60 * bar_steps(metre)) - 1e-6))


def _to_the_end(sheet: Sheet) -> Sheet:
    """What begins last, in the last bar, lasts to the end of the bar, so that the whole time asked for is filled;
    nothing lasts longer (a drum hit on the last step would)."""
    end = sheet.bars * sheet.bar_steps
    last = max((note.step for note in sheet.notes), default=0)
    notes = [
        note._replace(steps=end - note.step if note.step == last >= end - sheet.bar_steps
                      else min(note.steps, end - note.step))
        for note in sheet.notes
    ]
    return replace(sheet, notes=tuple(notes))


def _after(kept: Sequence[Note], notes: Sequence[Note], first_beat: float, bpm: float) -> tuple[Note, ...]:
    """New notes moved by `first_beat`, in seconds counted from the last of the kept ones, whose tempo may have changed.
    """
    anchor = max(kept, key=lambda note: note.beat)
    moved = (replace(note, beat=note.beat + first_beat) for note in notes)
    return tuple(replace(note, onset=anchor.onset + (note.beat - anchor.beat) * 60 / bpm) for note in moved)
