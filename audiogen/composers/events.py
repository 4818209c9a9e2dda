"""Music as a sequence of tokens, bar by bar: what the learned composers read and write.

After REMI (Huang and Yang 2020, "Pop Music Transformer"): bars and positions in them are tokens, so that metre is
something a model sees and cannot lose. A piece is

    style key metre tempo  ( bar  ( position  ( part  ( [velocity] pitch [duration] )+ )+ )* )+  end

Times lie on a grid of 12 steps a quarter note, which holds sixteenths (3) and triplets (4). Within a bar positions
rise, within a position parts, within a part pitches; a velocity stands only where a part's loudness changes. Unlike
REMI's, a bar token says how many bars are still to come (0, 1, 2, 3, more), so that a model knows when to close, and a
length that is asked for is kept; the note's part is a token of its own; a drum hit has no duration.

`encode` and `decode` go from a `Score` to tokens and back, by way of a `Sheet` (grid.py): `tokens_of` and `sheet_from`
are the half of the way that loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from audiogen.composers.grid import (
    DRUMS,
    HIGHEST_HIT,
    HIT_STEPS,
    KEYS,
    LEVELS,
    LOWEST_HIT,
    MAX_STEPS,
    METRES,
    PARTS,
    TEMPOS,
    USUAL_LEVEL,
    GridNote,
    Sheet,
    bar_steps,
    nearest_tempo,
    score_of,
    sheet_of,
)
from audiogen.core.score import Score

MORE_BARS = 4  # the bar token of a bar that four or more bars follow
CHORDS = {  # semitones above the root
    "": (0, 4, 7), "m": (0, 3, 7), "dim": (0, 3, 6), "aug": (0, 4, 8), "7": (0, 4, 7, 10), "sus4": (0, 5, 7),
}


@dataclass(frozen=True)
class Block:
    """The tokens of one kind: `size` of them from `start` on."""

    name: str
    start: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + self.size

    def token(self, index: int) -> int:
        """The token of one index. Raises ValueError where there is none."""
        if not 0 <= index < self.size:
            raise ValueError(f"{self.name} {index}: 0 to {self.size - 1} is known")
        return self.start + index

    def index(self, token: int) -> int:
        return token - self.start

    def has(self, token: int) -> bool:
        return self.start <= token < self.stop


def _blocks(*sizes: tuple[str, int]) -> tuple[Block, ...]:
    starts = [sum(size for _, size in sizes[:i]) for i in range(len(sizes))]
    return tuple(Block(name, start, size) for start, (name, size) in zip(starts, sizes, strict=True))


SPECIAL, BAR, POSITION, PART, PITCH, HIT, DURATION, VELOCITY, CHORD, KEY, METRE, TEMPO = BLOCKS = _blocks(
    ("special", 2), ("bar", MORE_BARS + 1), ("position", MAX_STEPS), ("part", len(PARTS)), ("pitch", 128),
    ("hit", HIGHEST_HIT - LOWEST_HIT + 1), ("duration", MAX_STEPS), ("velocity", len(LEVELS)),
    ("chord", 12 * len(CHORDS) + 1),  # the last: no chord
    ("key", len(KEYS) + 1),  # the last: no key
    ("metre", len(METRES)), ("tempo", len(TEMPOS)),
)
PAD, END = SPECIAL.start, SPECIAL.start + 1
NO_KEY = KEY.token(len(KEYS))
NO_CHORD = CHORD.token(CHORD.size - 1)
PREFIX = 4  # tokens before the first bar: style, key, metre, tempo


@dataclass(frozen=True)
class Vocabulary:
    """All tokens. Only the styles differ between models; their tokens come last, the first of them is "any"."""

    styles: tuple[str, ...] = ()

    @cached_property
    def style(self) -> Block:
        return Block("style", TEMPO.stop, 1 + len(self.styles))

    @property
    def size(self) -> int:
        return self.style.stop

    def style_token(self, name: str) -> int:
        """Of one style; "any" for a name that is unknown."""
        return self.style.token(1 + self.styles.index(name) if name in self.styles else 0)

    def style_name(self, token: int) -> str:
        """The inverse of `style_token`; "" for any."""
        index = self.style.index(token)
        return self.styles[index - 1] if index else ""

    def words(self, tokens: Iterable[int]) -> str:
        """Tokens as a person reads them: "bar:3 position:0 part:melody pitch:60 duration:12"."""
        return " ".join(self._word(token) for token in tokens)

    def _word(self, token: int) -> str:
        block = next(block for block in (*BLOCKS, self.style) if block.has(token))
        index = block.index(token)
        value: object = index
        if block is SPECIAL:
            return ("pad", "end")[index]
        if block is PART:
            value = PARTS[index]
        elif block is HIT:
            value = index + LOWEST_HIT
        elif block is DURATION:
            value = index + 1
        elif block is VELOCITY:
            value = LEVELS[index]
        elif block is KEY:
            value = (*KEYS, "none")[index].replace(" ", "_")
        elif block is METRE:
            value = METRES[index]
        elif block is TEMPO:
            value = f"{TEMPOS[index]:g}"
        elif block is CHORD:
            value = chord_name(token)
        elif block.name == "style":
            value = self.style_name(token).replace(" ", "_") or "any"
        return f"{block.name}:{value}"


def chord_name(token: int) -> str:
    index = CHORD.index(token)
    if token == NO_CHORD:
        return "none"
    return ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")[index % 12] + tuple(CHORDS)[index // 12]


def chord_tones(token: int) -> frozenset[int]:
    """The pitch classes of a chord token; none for no chord."""
    if token == NO_CHORD:
        return frozenset()
    index = CHORD.index(token)
    return frozenset((index + tone) % 12 for tone in tuple(CHORDS.values())[index // 12])


def tokens_of(sheet: Sheet, vocabulary: Vocabulary, *, end: bool = True) -> list[int]:
    """A sheet as tokens. No `end` token stands where it is not wanted, or where bars followed."""
    tokens = [
        vocabulary.style_token(sheet.style),
        NO_KEY if sheet.key is None else KEY.token(KEYS.index(sheet.key)),
        METRE.token(METRES.index(sheet.metre)),
        TEMPO.token(nearest_tempo(sheet.bpm)),
    ]
    width, levels, at = sheet.bar_steps, [USUAL_LEVEL] * len(PARTS), 0
    for bar in range(sheet.bars):
        tokens.append(BAR.token(min(sheet.bars + sheet.bars_after - bar - 1, MORE_BARS)))
        step = part = None
        while at < len(sheet.notes) and sheet.notes[at].step < (bar + 1) * width:
            note = sheet.notes[at]
            if note.step != step:
                tokens.append(POSITION.token(note.step - bar * width))
            if note.step != step or note.part != part:
                tokens.append(PART.token(note.part))
            step, part = note.step, note.part
            if note.level != levels[part]:
                levels[part] = note.level
                tokens.append(VELOCITY.token(note.level))
            if part == DRUMS:
                tokens.append(HIT.token(note.pitch - LOWEST_HIT))
            else:
                tokens += [PITCH.token(note.pitch), DURATION.token(note.steps - 1)]
            at += 1
    return tokens + [END] * (end and not sheet.bars_after)


def sheet_from(tokens: Sequence[int], vocabulary: Vocabulary) -> Sheet:
    """Tokens -> a sheet. An unfinished note at the end of a sequence that was cut off is dropped; padding is skipped.

    Raises ValueError where the tokens begin with no prefix and bar; `Grammar` says what else must follow what.
    """
    tokens = [token for token in tokens if token not in (PAD, END)]
    kinds = (vocabulary.style, KEY, METRE, TEMPO)
    if len(tokens) <= PREFIX or not all(kind.has(token) for kind, token in zip(kinds, tokens, strict=False)):
        raise ValueError(f"no style, key, metre, tempo and bar at the start: {vocabulary.words(tokens[:5])}")
    metre = METRES[METRE.index(tokens[2])]
    width, levels, notes = bar_steps(metre), [USUAL_LEVEL] * len(PARTS), []
    bar, left, step, part, pitch = -1, 0, 0, 0, 0
    for token in tokens[PREFIX:]:
        if BAR.has(token):
            bar, left = bar + 1, BAR.index(token)
        elif POSITION.has(token):
            step = bar * width + POSITION.index(token)
        elif PART.has(token):
            part = PART.index(token)
        elif VELOCITY.has(token):
            levels[part] = VELOCITY.index(token)
        elif HIT.has(token):
            notes.append(GridNote(step, part, HIT.index(token) + LOWEST_HIT, HIT_STEPS, levels[part]))
        elif PITCH.has(token):
            pitch = PITCH.index(token)
        elif DURATION.has(token):
            notes.append(GridNote(step, part, pitch, DURATION.index(token) + 1, levels[part]))
    key = None if tokens[1] == NO_KEY else KEYS[KEY.index(tokens[1])]
    return Sheet(tuple(sorted(notes)), bar + 1, metre, TEMPOS[TEMPO.index(tokens[3])], key,
                 vocabulary.style_name(tokens[0]), left)


def encode(score: Score, vocabulary: Vocabulary, *, style: str = "") -> list[int]:
    """Score -> tokens, see `sheet_of` for what is rounded."""
    return tokens_of(sheet_of(score, style=style), vocabulary)


def decode(tokens: Sequence[int], vocabulary: Vocabulary) -> Score:
    """Tokens -> the score, its notes under the names of their parts."""
    return score_of(sheet_from(tokens, vocabulary))
