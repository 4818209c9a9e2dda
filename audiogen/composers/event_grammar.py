"""What may follow what: the masks under which a learned composer draws its tokens.

Whatever the model says, a sequence drawn under a `Grammar` decodes: bars have their length, notes begin inside them in
order, the piece ends on a bar line after the bars that were asked for, and keeps to its key, metre, tempo and range.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from audiogen.composers.events import (
    BAR,
    DURATION,
    END,
    HIT,
    KEY,
    METRE,
    MORE_BARS,
    NO_KEY,
    PART,
    PITCH,
    POSITION,
    PREFIX,
    TEMPO,
    VELOCITY,
    Vocabulary,
)
from audiogen.composers.grid import DRUMS, KEYS, METRES, PARTS, STEPS, TEMPOS, USUAL_LEVEL, bar_steps
from audiogen.composers.harmony import Key


@dataclass(frozen=True)
class Limits:
    """What was asked for. An empty tuple or None: whatever the model likes."""

    styles: tuple[int, ...] = ()  # tokens that may stand in the prefix
    keys: tuple[int, ...] = ()
    metres: tuple[int, ...] = ()
    tempos: tuple[int, ...] = ()
    bars: int | None = None
    seconds: float | None = None  # whole bars of at least this long, in place of `bars`
    bpm: float | None = None  # the exact tempo behind the tempo token, for `seconds`
    parts: tuple[int, ...] = tuple(range(len(PARTS)))
    low: int = 0  # of all pitches
    high: int = 127
    in_key: bool = False  # pitches of the key's scale only (in minor also the raised sixth and seventh)
    together: tuple[int, ...] = (128,) * len(PARTS)  # how many notes of each part may begin on one position
    notes_a_bar: int | None = None
    sounding_end: bool = False  # a note begins in the last bar
    silent_bars: bool = True  # bars without a note are allowed


class Grammar:
    """The state of one sequence. `allowed()` is the mask of what may come next, `take(token)` goes on.

    >>> vocabulary = Vocabulary()
    >>> grammar = Grammar(vocabulary, Limits(bars=1, metres=(METRE.token(METRES.index("3/4")),)))
    >>> while not grammar.done:
    ...     grammar.take(int(grammar.allowed().nonzero()[0]))
    """

    def __init__(self, vocabulary: Vocabulary, limits: Limits = Limits()) -> None:
        if limits.bars is not None and limits.bars < 1:
            raise ValueError(f"bars={limits.bars}: one at least")
        self.vocabulary, self.limits = vocabulary, limits
        self.bars = limits.bars
        self.taken = 0
        self.done = False
        self._last = -1  # the token before
        self._bar, self._left = -1, 0  # number of the bar, and what its token says about those to come
        self._position, self._part = -1, -1
        self._pitch = -1  # the highest of this part on this position
        self._begun = self._in_bar = 0  # notes of this part on this position; in this bar
        self._levels = [USUAL_LEVEL] * len(PARTS)
        self._width = 0
        self._pitches: Tensor | None = None  # (128,) bool: of the key and the range
        self._mask: Tensor | None = None  # what `allowed` said, until the next token

    # ------------------------------------------------------------------ what may come

    def allowed(self) -> Tensor:
        """(vocabulary,) bool. Nothing is allowed once the piece is done."""
        if self._mask is None:
            self._mask = torch.zeros(self.vocabulary.size, dtype=torch.bool)
            if not self.done:
                self._allow(self._mask)
        return self._mask

    def _allow(self, mask: Tensor) -> None:
        if self.taken < PREFIX:
            mask[self._prefix()] = True
        elif self.taken == PREFIX:
            self._bars(mask)
        elif BAR.has(self._last):
            self._after_bar(mask)
        elif POSITION.has(self._last):
            self._parts(mask)
        elif PART.has(self._last):
            self._notes(mask, velocity=True)
        elif VELOCITY.has(self._last):
            self._notes(mask, velocity=False)
        elif PITCH.has(self._last):
            mask[DURATION.start : DURATION.start + self._room()] = True
        else:  # a note is complete
            if self._may_add():
                self._notes(mask, velocity=True)
                self._parts(mask)
                self._positions(mask)
            self._close(mask)

    def _prefix(self) -> list[int]:
        limits, style = self.limits, self.vocabulary.style
        asked = (limits.styles, limits.keys, limits.metres, limits.tempos)[self.taken]
        block = (style, KEY, METRE, TEMPO)[self.taken]
        return list(asked) or list(range(block.start, block.stop))

    def _bars(self, mask: Tensor) -> None:
        """The next bar's token, or the end."""
        if self.bars is not None:
            after = self.bars - self._bar - 2
            mask[END if after < 0 else BAR.token(min(after, MORE_BARS))] = True
        elif self._bar < 0:
            mask[BAR.start : BAR.stop] = True
        elif self._left == MORE_BARS:
            mask[[BAR.token(MORE_BARS), BAR.token(MORE_BARS - 1)]] = True
        else:
            mask[BAR.token(self._left - 1) if self._left else END] = True

    def _close(self, mask: Tensor) -> None:
        silent = self._in_bar == 0
        if silent and (not self.limits.silent_bars or (self.limits.sounding_end and self._left == 0)):
            return
        self._bars(mask)

    def _after_bar(self, mask: Tensor) -> None:
        if self._may_add():
            self._positions(mask)
        self._close(mask)

    def _may_add(self) -> bool:
        return self.limits.notes_a_bar is None or self._in_bar < self.limits.notes_a_bar

    def _positions(self, mask: Tensor) -> None:
        mask[POSITION.start + self._position + 1 : POSITION.start + self._width] = True

    def _parts(self, mask: Tensor) -> None:
        for part in self.limits.parts:
            if part > self._part and (part == DRUMS or bool(self._pitches.any())):
                mask[PART.token(part)] = True

    def _notes(self, mask: Tensor, *, velocity: bool) -> None:
        """Pitches (or hits) above the last one of the part, and velocities where such a note can follow."""
        if self._begun >= self.limits.together[self._part]:
            return
        block = HIT if self._part == DRUMS else PITCH
        free = torch.ones(HIT.size, dtype=torch.bool) if self._part == DRUMS else self._pitches.clone()
        free[: self._pitch + 1] = False
        mask[block.start : block.stop] = free
        if velocity and bool(free.any()):
            mask[VELOCITY.start : VELOCITY.stop] = True
            mask[VELOCITY.token(self._levels[self._part])] = False

    def _room(self) -> int:
        """Steps to the end of the piece as far as it is known, at most what a duration can say."""
        left = self._left if self.bars is None else self.bars - self._bar - 1
        if self.bars is None and left == MORE_BARS:
            return DURATION.size
        return min((left + 1) * self._width - self._position, DURATION.size)

    # ------------------------------------------------------------------ going on

    def take(self, token: int) -> None:
        """Go on by one token. Raises ValueError where it is not allowed."""
        if not bool(self.allowed()[token]):
            raise ValueError(f"{self.vocabulary.words([token])} may not follow "
                             f"{self.vocabulary.words([self._last]) if self.taken else 'nothing'}")
        self._take(token)

    def follow(self, tokens: Iterable[int]) -> Grammar:
        """Go on by tokens that are well formed but need not keep the limits: given music. -> itself."""
        for token in tokens:
            self._take(token)
        return self

    def _take(self, token: int) -> None:
        self._mask = None
        if KEY.has(token):
            limits = self.limits
            self._pitches = _pitches(token if limits.in_key else NO_KEY, limits.low, limits.high)
        elif METRE.has(token):
            self._width = bar_steps(METRES[METRE.index(token)])
        elif token == END:
            self.done = True
        elif BAR.has(token):
            self._bar, self._left = self._bar + 1, BAR.index(token)
            self._position, self._part, self._pitch, self._begun, self._in_bar = -1, -1, -1, 0, 0
        elif POSITION.has(token):
            self._position, self._part, self._pitch, self._begun = POSITION.index(token), -1, -1, 0
        elif PART.has(token):
            self._part, self._pitch, self._begun = PART.index(token), -1, 0
        elif VELOCITY.has(token):
            self._levels[self._part] = VELOCITY.index(token)
        elif PITCH.has(token) or HIT.has(token):
            self._pitch = (PITCH if PITCH.has(token) else HIT).index(token)
            self._begun, self._in_bar = self._begun + 1, self._in_bar + 1
        elif TEMPO.has(token) and self.limits.seconds is not None:
            bpm = self.limits.bpm or TEMPOS[TEMPO.index(token)]
            self.bars = max(1, math.ceil(self.limits.seconds * bpm * STEPS / (60 * self._width) - 1e-6))
        self._last = token
        self.taken += 1


def accepts(tokens: Sequence[int], vocabulary: Vocabulary) -> bool:
    """Whether a sequence is well formed, as far as it goes."""
    grammar = Grammar(vocabulary)
    for token in tokens:
        if not bool(grammar.allowed()[token]):
            return False
        grammar.take(token)
    return True


@lru_cache(maxsize=1024)
def _pitches(key_token: int, low: int, high: int) -> Tensor:
    """(128,) bool: the pitches of a key (all of them for NO_KEY) from low to high."""
    classes = set(range(12))
    if key_token != NO_KEY:
        key = Key.named(KEYS[KEY.index(key_token)])
        classes = set(key.scale) | ({(key.tonic + 9) % 12, (key.tonic + 11) % 12} if key.mode == "minor" else set())
    return torch.tensor([low <= pitch <= high and pitch % 12 in classes for pitch in range(128)])
