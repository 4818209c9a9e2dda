"""What a model of notes is asked: a whole piece, or one thing from another (the sequence-to-sequence tasks)."""

from __future__ import annotations

from audiogen.composers.analysis import chord_source
from audiogen.composers.events import PREFIX, Vocabulary, tokens_of
from audiogen.composers.grid import BASS, DRUMS, HARMONY, MELODY, PARTS, Sheet
from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError

# task -> the parts that are written; what they are written from says `source_and_target`.
TASKS: dict[str, tuple[int, ...]] = {
    "all": tuple(range(len(PARTS))),
    "chords_to_melody": (MELODY,),
    "melody_to_accompaniment": (HARMONY, BASS, DRUMS),
    "continuation": tuple(range(len(PARTS))),
}


def check_task(task: str) -> str:
    if task not in TASKS:
        raise UserError(f"task {task!r} is none{did_you_mean(task, TASKS)}")
    return task


def source_and_target(
    sheet: Sheet, task: str, vocabulary: Vocabulary, *, chords: list[int] | None = None
) -> tuple[list[int] | None, Sheet]:
    """What is given, as tokens, and what is to be written from it. `all`: nothing is given.

    chords_to_melody: the chords estimated from all parts -> the melody. melody_to_accompaniment: the melody -> the
    other parts. continuation: the first half of the bars (rounded down) -> the others; of one bar there is no half.
    `chords`: those of the sheet, where they are known and need not be estimated.
    Either may turn out without notes; nothing can be learned from such a pair.
    """
    if check_task(task) == "all":
        return None, sheet
    if task == "chords_to_melody":
        return chord_source(sheet, tokens_of(sheet, vocabulary)[:PREFIX], chords), sheet.only(TASKS[task])
    if task == "melody_to_accompaniment":
        return tokens_of(sheet.only((MELODY,)), vocabulary), sheet.only(TASKS[task])
    half = sheet.bars // 2
    if not half:
        raise ValueError("a continuation needs two bars at least")
    return tokens_of(sheet.cut(0, half), vocabulary), sheet.cut(half, sheet.bars - half)
