"""Whatever is drawn under a grammar decodes, and keeps to what was asked for."""

from __future__ import annotations

import random

import pytest

from audiogen.composers.event_grammar import Grammar, Limits, accepts
from audiogen.composers.events import (
    BAR,
    BLOCKS,
    END,
    KEY,
    METRE,
    NO_KEY,
    PART,
    PITCH,
    POSITION,
    TEMPO,
    Vocabulary,
    sheet_from,
    tokens_of,
)
from audiogen.composers.grid import BASS, DRUMS, HARMONY, KEYS, MELODY, METRES, TEMPOS

WORDS = Vocabulary(("folk",))
FIRST = (BAR.token(0), POSITION.token(0))


def draw(limits: Limits, seed: int, most: int = 6000) -> list[int]:
    """A walk through what is allowed: any kind of token as likely as any other, so that bars end soon."""
    grammar, tokens, choose = Grammar(WORDS, limits), [], random.Random(seed)
    while not grammar.done:
        options = grammar.allowed().nonzero()[:, 0].tolist()
        kinds: dict[int, list[int]] = {}
        for token in options:
            kinds.setdefault(next(i for i, b in enumerate((*BLOCKS, WORDS.style)) if b.has(token)), []).append(token)
        tokens.append(choose.choice(kinds[choose.choice(sorted(kinds))]))
        grammar.take(tokens[-1])
        assert len(tokens) < most
    return tokens


@pytest.mark.parametrize("seed", range(8))
def test_every_walk_ends_decodes_and_is_what_its_notes_are_written_as(seed):
    tokens = draw(Limits(), seed)
    sheet = sheet_from(tokens, WORDS)
    assert tokens[-1] == END and tokens_of(sheet, WORDS) == tokens and accepts(tokens, WORDS)
    end = sheet.bars * sheet.bar_steps
    assert all(0 <= note.step and note.step + note.steps <= end or note.part == DRUMS for note in sheet.notes)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_asked_for_is_kept(seed):
    choose = random.Random(seed)
    metre, key, tempo = choose.choice(METRES), choose.randrange(24), choose.randrange(len(TEMPOS))
    limits = Limits(
        styles=(WORDS.style_token("folk"),), keys=(KEY.token(key),), metres=(METRE.token(METRES.index(metre)),),
        tempos=(TEMPO.token(tempo),), bars=choose.randint(1, 7), parts=(MELODY, BASS), low=50, high=70, in_key=True,
        together=(1, 2, 1, 1), notes_a_bar=8, sounding_end=True,
    )
    sheet = sheet_from(draw(limits, seed), WORDS)
    assert (sheet.style, sheet.key, sheet.metre, sheet.bpm, sheet.bars) == (
        "folk", KEYS[key], metre, TEMPOS[tempo], limits.bars)
    steps = (0, 2, 4, 5, 7, 9, 11) if key < 12 else (0, 2, 3, 5, 7, 8, 9, 10, 11)
    assert all(50 <= note.pitch <= 70 and (note.pitch - key) % 12 in steps for note in sheet.notes)
    assert {note.part for note in sheet.notes} <= {MELODY, BASS}
    places = [(note.step, note.part) for note in sheet.notes]
    assert len(places) == len(set(places))  # one at a time
    bars = [note.step // sheet.bar_steps for note in sheet.notes]
    assert max(map(bars.count, bars)) <= 8 and bars[-1] == sheet.bars - 1


@pytest.mark.parametrize("bpm, seconds, metre, bars", [(120, 8, "4/4", 4), (100, 8, "3/4", 5), (60, 0.1, "6/8", 1)])
def test_seconds_become_whole_bars(bpm, seconds, metre, bars):
    """4 bars of 2 s; 8 s are 13.3 quarters: 5 bars of three."""
    limits = Limits(metres=(METRE.token(METRES.index(metre)),), seconds=seconds, bpm=bpm)
    assert sheet_from(draw(limits, 0), WORDS).bars == bars


def test_a_key_of_none_allows_all_pitches_and_a_range_without_pitches_no_pitched_part():
    tokens = [WORDS.style_token(""), NO_KEY, METRE.token(METRES.index("4/4")), TEMPO.token(5)]
    free = Grammar(WORDS, Limits(in_key=True, bars=1)).follow([*tokens, *FIRST, PART.token(HARMONY)]).allowed()
    assert free[PITCH.start : PITCH.stop].all()
    empty = Grammar(WORDS, Limits(low=60, high=59, bars=1)).follow([*tokens, *FIRST]).allowed()
    assert empty.nonzero()[:, 0].tolist() == [PART.token(DRUMS)]


def test_a_token_out_of_order_is_refused_by_name():
    grammar = Grammar(WORDS)
    with pytest.raises(ValueError, match="end may not follow nothing"):
        grammar.take(END)
    grammar.take(WORDS.style_token(""))
    with pytest.raises(ValueError, match="may not follow style:any"):
        grammar.take(PITCH.token(60))
    with pytest.raises(ValueError, match="bars=0"):
        Grammar(WORDS, Limits(bars=0))
    assert not accepts([PITCH.token(60)], WORDS)


def test_given_music_may_break_the_limits_but_what_follows_does_not():
    limits = Limits(bars=1, parts=(MELODY,), low=60, high=62)
    given = [WORDS.style_token(""), KEY.token(0), METRE.token(METRES.index("4/4")), TEMPO.token(9), *FIRST,
             PART.token(MELODY), PITCH.token(30)]
    grammar = Grammar(WORDS, limits).follow(given)
    grammar.take(int(grammar.allowed().nonzero()[0]))  # its duration
    allowed = [WORDS.words([token]) for token in grammar.allowed().nonzero()[:, 0].tolist()]
    assert [word for word in allowed if word.startswith(("pitch", "part"))] == ["pitch:60", "pitch:61", "pitch:62"]
