"""Scores become tokens and come back; what leaves the grid is rounded as it is said."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from audiogen.composers.event_grammar import accepts
from audiogen.composers.events import (
    BAR,
    BLOCKS,
    CHORD,
    END,
    MORE_BARS,
    PAD,
    PREFIX,
    Vocabulary,
    chord_name,
    chord_tones,
    decode,
    encode,
    sheet_from,
    tokens_of,
)
from audiogen.composers.grid import (
    DRUMS,
    HARMONY,
    HIGHEST_HIT,
    HIT_STEPS,
    KEYS,
    LEVELS,
    LOWEST_HIT,
    MAX_STEPS,
    MELODY,
    METRES,
    PARTS,
    STEPS,
    TEMPOS,
    GridNote,
    Sheet,
    bar_steps,
    nearest_tempo,
    parts_of,
    score_of,
    sheet_of,
)
from audiogen.core.errors import UserError
from audiogen.core.score import Note, Score

WORDS = Vocabulary(("folk", "waltz"))


def random_sheet(seed: int) -> Sheet:
    """Any music that the grid holds."""
    choose = random.Random(seed)
    metre, bars = choose.choice(METRES), choose.randint(1, 9)
    width = bar_steps(metre)
    notes = {}
    for _ in range(choose.randint(1, 60)):
        part, step = choose.randrange(4), choose.randrange(bars * width)
        pitch = choose.randint(LOWEST_HIT, HIGHEST_HIT) if part == DRUMS else choose.randint(0, 127)
        steps = HIT_STEPS if part == DRUMS else choose.randint(1, min(MAX_STEPS, bars * width - step))
        notes[step, part, pitch] = GridNote(step, part, pitch, steps, choose.randrange(8))
    last = GridNote((bars - 1) * width, MELODY, 60, width, 4)  # without it the last bars may be empty, and are cut off
    notes[last[:3]] = last
    return Sheet(tuple(sorted(notes.values())), bars, metre, choose.choice(TEMPOS), choose.choice((None, *KEYS)),
                 choose.choice(("", "folk", "waltz")))


@pytest.mark.parametrize("seed", range(20))
def test_on_the_grid_nothing_is_lost(seed):
    sheet = random_sheet(seed)
    tokens = tokens_of(sheet, WORDS)
    assert sheet_from(tokens, WORDS) == sheet and accepts(tokens, WORDS)
    score = score_of(sheet)
    back = decode(encode(score, WORDS, style=sheet.style), WORDS)
    assert back == score
    assert encode(back, WORDS, style=sheet.style) == tokens


def test_blocks_follow_each_other_without_gaps_and_styles_come_last():
    at = 0
    for block in (*BLOCKS, WORDS.style):
        assert block.start == at and block.size > 0
        at = block.stop
    assert at == WORDS.size
    assert Vocabulary().size == WORDS.size - 2 and [WORDS.style_name(WORDS.style_token(s)) for s in
                                                   ("folk", "waltz", "unheard of")] == ["folk", "waltz", ""]
    with pytest.raises(ValueError, match="bar 5"):
        BAR.token(5)
    assert WORDS.words([END, WORDS.style_token("waltz"), CHORD.token(12)]) == "end style:waltz chord:Cm"


def test_a_waltz_bar_reads_as_it_is_heard():
    notes = [
        Note(0, 0, 60, LEVELS[4], 0, 3, "melody"), Note(0, 0, 36, LEVELS[5], 0, 1, "bass"),
        Note(0, 0, 52, LEVELS[4], 1, 1 / 3, "harmony"), Note(0, 0, 55, LEVELS[4], 1, 1 / 3, "harmony"),
        Note(0, 0, 38, LEVELS[4], 2.25, 0.25, "drums", drum=True),
    ]
    score = Score.from_beats(notes, bpm=TEMPOS[20], metre="3/4", key="A minor")
    assert WORDS.words(encode(score, WORDS, style="waltz")) == (
        "style:waltz key:A_minor metre:3/4 tempo:138 bar:0 position:0 part:melody pitch:60 duration:36 "
        f"part:bass velocity:{LEVELS[5]} pitch:36 duration:12 position:12 part:harmony pitch:52 duration:4 "
        "pitch:55 duration:4 position:27 part:drums hit:38 end"
    )


def test_off_the_grid_all_becomes_the_nearest():
    notes = [
        Note(0, 0, 60, 1, 0.04, 0.001, "melody"), Note(0, 0, 60, 127, 0.02, 0.3, "melody"),  # the longer one stays
        Note(0, 0, 62, 127, 1.03, 99, "melody"), Note(0, 0, 5, 90, 2, 1, "drums", drum=True),  # no such drum
    ]
    sheet = sheet_of(Score.from_beats(notes, bpm=121, key="C# major"))
    assert sheet.notes == (GridNote(0, MELODY, 60, 4, 7), GridNote(12, MELODY, 62, MAX_STEPS, 7))
    assert sheet.key == "Db major" and sheet.bars == 3
    for bpm in (20, 61, 97.3, 400, 999):
        near = TEMPOS[nearest_tempo(bpm)]
        assert all(abs(near / bpm - 1) <= abs(other / bpm - 1) + 0.06 for other in TEMPOS)
    with pytest.raises(UserError, match="metre 31/32 is not known"):
        sheet_of(Score.from_beats(notes, bpm=120, metre="31/32"))


def test_a_note_that_knows_its_seconds_only_is_put_where_they_are():
    sheet = sheet_of(Score((Note(1.0, 0.5, 60), Note(1.5, 0.25, 62)), bpm=120))
    assert [(note.step, note.steps) for note in sheet.notes] == [(2 * STEPS, STEPS), (3 * STEPS, STEPS // 2)]


def test_bars_say_how_many_are_to_come_and_a_cut_says_it_too():
    sheet = Sheet(tuple(GridNote(48 * bar, MELODY, 60 + bar, 12, 4) for bar in range(7)), 7, bpm=TEMPOS[20])
    counts = [BAR.index(token) for token in tokens_of(sheet, WORDS) if BAR.has(token)]
    assert counts == [4, 4, 4, 3, 2, 1, 0]
    cut = sheet.cut(2, 3)
    tokens = tokens_of(cut, WORDS)
    assert [BAR.index(token) for token in tokens if BAR.has(token)] == [4, 3, 2] and END not in tokens
    assert [note.pitch for note in cut.notes] == [62, 63, 64] and cut.notes[0].step == 0
    assert sheet_from(tokens, WORDS) == cut and accepts(tokens, WORDS)
    assert MORE_BARS == 4


def test_transposing_moves_pitches_and_key_but_no_drums():
    sheet = replace(random_sheet(3), key="B minor")
    up = sheet.transposed(2)
    assert up.key == "C# minor" and up.transposed(-2).key == "B minor"
    assert sorted((n.pitch - 2) % 12 for n in up.notes if n.part != DRUMS) == sorted(
        n.pitch % 12 for n in sheet.notes if n.part != DRUMS)
    assert [n for n in up.notes if n.part == DRUMS] == [n for n in sheet.notes if n.part == DRUMS]
    assert all(0 <= note.pitch <= 127 for k in (-6, 6) for note in sheet.transposed(k).notes)


def test_a_sequence_that_was_cut_off_or_padded_decodes_to_its_whole_notes():
    tokens = tokens_of(random_sheet(5), WORDS)
    whole = sheet_from(tokens, WORDS)
    assert sheet_from([*tokens, PAD, PAD], WORDS) == whole
    for stop in range(PREFIX + 1, len(tokens)):
        assert set(sheet_from(tokens[:stop], WORDS).notes) <= set(whole.notes)
    with pytest.raises(ValueError, match="no style, key, metre, tempo"):
        sheet_from(tokens[1:], WORDS)


def test_parts_are_read_off_the_notes():
    """A tune over broken chords and a bass: the tune is the melody, whoever plays it."""
    tune = [(0, 2, 76), (2, 1, 74), (3, 1, 72), (4, 4, 74)]
    chords = [(beat + half, 0.5, pitch) for beat in range(8) for half, pitch in ((0, 60), (0.5, 64))]
    bass = [(beat, 2, 43) for beat in range(0, 8, 2)]
    notes = [Note(0, 0, pitch, 80, at, length) for at, length, pitch in (*tune, *chords, *bass)]
    score = Score.from_beats([*notes, Note(0, 0, 36, 80, 0, 1, drum=True)], bpm=120)
    found = {note: PARTS[part] for note, part in zip(score.notes, parts_of(score), strict=True)}
    assert {note.pitch for note, part in found.items() if part == "melody"} == {76, 74, 72}
    assert {note.pitch for note, part in found.items() if part == "bass"} == {43}
    assert {note.pitch for note, part in found.items() if part == "harmony"} == {60, 64}
    assert sum(part == "drums" for part in found.values()) == 1


def test_a_name_of_a_part_decides_its_part():
    score = Score.from_beats([Note(0, 0, 90, 80, 0, 1, "harmony"), Note(0, 0, 30, 80, 0, 1, "melody")], bpm=90)
    assert sorted(zip((n.pitch for n in score.notes), parts_of(score), strict=True)) == [(30, MELODY), (90, HARMONY)]


def test_chord_tokens_have_names_and_tones():
    names = {chord_name(token): chord_tones(token) for token in range(CHORD.start, CHORD.stop)}
    assert len(names) == CHORD.size
    assert names["C"] == {0, 4, 7} and names["Am"] == {9, 0, 4} and names["G7"] == {7, 11, 2, 5}
    assert names["Bdim"] == {11, 2, 5} and names["none"] == set()
