"""Folders of MIDI become tunes with keys, bar lines, splits, and samples by number."""

from __future__ import annotations

import csv

import pytest

from audiogen.composers.analysis import chord_source, chord_steps, estimate_chords, estimate_key, transposed_chord
from audiogen.composers.event_grammar import accepts
from audiogen.composers.events import CHORD, NO_CHORD, PREFIX, Vocabulary, chord_name, sheet_from, tokens_of
from audiogen.composers.grid import (
    BASS,
    DRUMS,
    HARMONY,
    KEYS,
    MELODY,
    STEPS,
    GridNote,
    Sheet,
    above_c,
    score_of,
)
from audiogen.composers.note_tasks import TASKS, source_and_target
from audiogen.composers.tunes import NoteDataset, note_count, pickup_steps, read_sheet, read_tunes, rule_tunes
from audiogen.core.errors import UserError
from audiogen.core.score import Note, Score

WORDS = Vocabulary(("folk", "waltz"))


@pytest.fixture(scope="module")
def tunes():
    return rule_tunes(6, seed=2)


def waltz(pickup: int = 0, bars: int = 8) -> list[Note]:
    """Bass on one, chords on two and three, a tune that holds the first beat; `pickup` quarters of tune before it."""
    notes = [Note(0, 0, 67, 80, at, 1, "") for at in range(pickup)]
    for bar in range(bars):
        at = pickup + 3 * bar
        notes += [Note(0, 0, 48, 80, at, 1), Note(0, 0, 72 + bar % 3, 80, at, 2), Note(0, 0, 79, 80, at + 2, 1)]
        notes += [Note(0, 0, pitch, 80, at + beat, 1) for beat in (1, 2) for pitch in (60, 64)]
    return notes


@pytest.mark.parametrize("pickup", [0, 1, 2])
def test_a_pickup_is_found_and_the_bars_stand_where_they_belong(tmp_path, pickup):
    Score.from_beats(waltz(pickup), bpm=120, metre="3/4", key="C major").save(tmp_path / "a.mid")
    sheet = read_sheet(tmp_path / "a.mid", style="waltz")
    assert sheet.metre == "3/4" and sheet.bars == 8 + (pickup > 0) and sheet.key == "C major"
    assert {note.step % 36 for note in sheet.notes if note.pitch == 48} == {0}
    assert pickup_steps(sheet) == 0


def test_of_changing_metres_the_longest_stretch_is_taken(tmp_path):
    import mido

    midi = mido.MidiFile(ticks_per_beat=480)
    track = mido.MidiTrack()
    midi.tracks.append(track)
    track.append(mido.MetaMessage("time_signature", numerator=4, denominator=4))
    for index in range(40):  # 8 quarters of 4/4, then 32 of 2/4
        if index == 8:
            track.append(mido.MetaMessage("time_signature", numerator=2, denominator=4))
        track += [mido.Message("note_on", note=60 + index, velocity=80),
                  mido.Message("note_off", note=60 + index, time=480)]
    midi.save(tmp_path / "a.mid")
    sheet = read_sheet(tmp_path / "a.mid")
    assert sheet.metre == "2/4" and sheet.bars == 16
    assert [note.pitch for note in sheet.notes] == list(range(68, 100)) and sheet.notes[0].step == 0


@pytest.mark.parametrize("key", ["C major", "A minor", "Eb major", "F# minor"])
def test_keys_are_estimated_and_a_major_signature_may_be_its_relative_minor(tmp_path, key):
    """A scale up and down with a long tonic and fifth."""
    index = KEYS.index(key)
    scale = (0, 2, 4, 5, 7, 9, 11, 12) if index < 12 else (0, 2, 3, 5, 7, 8, 11, 12)
    line = [60 + index % 12 + step for step in (*scale, *scale[::-1])]
    lengths = [3 if (pitch - index) % 12 in (0, 7) else 1 for pitch in line]
    starts = [sum(lengths[:i]) for i in range(len(line))]
    notes = [Note(0, 0, p, 80, at, length) for p, at, length in zip(line, starts, lengths, strict=True)]
    signature = KEYS[index] if index < 12 else KEYS[(index - 12 + 3) % 12]  # as writers do that know only major
    for named in (None, signature):
        Score.from_beats(notes, bpm=120, key=named).save(tmp_path / "a.mid")
        assert read_sheet(tmp_path / "a.mid").key == key
    assert estimate_key(Sheet((), 1)) is None


def chords_sheet(*chords: tuple[int, ...], metre: str = "4/4") -> Sheet:
    width = chord_steps(metre)
    notes = [GridNote(i * width, HARMONY if k else BASS, pitch, width, 4)
             for i, chord in enumerate(chords) for k, pitch in enumerate(chord)]
    each = {"4/4": 2, "3/4": 1}[metre]
    return Sheet(tuple(sorted(notes)), -(-len(chords) // each), metre, 125.0, "C major")


def test_chords_are_those_that_sound():
    sheet = chords_sheet((48, 64, 67), (45, 60, 64), (43, 59, 62, 65), (50, 65, 69), (47, 62, 65), (), (43, 60, 62, 67))
    names = [chord_name(token) for token in estimate_chords(sheet)]
    assert names == ["C", "Am", "G7", "Dm", "Bdim", "Bdim", "Gsus4", "Gsus4"]  # silence holds the chord before it
    assert [chord_name(t) for t in estimate_chords(Sheet((), 1))] == ["none", "none"]
    up = estimate_chords(sheet.transposed(5))
    assert up == [transposed_chord(token, 5) for token in estimate_chords(sheet)]
    assert transposed_chord(NO_CHORD, 3) == NO_CHORD


def test_a_source_of_chords_names_each_where_it_changes_and_in_every_bar():
    sheet = chords_sheet((48, 64, 67), (48, 64, 67), (48, 64, 67), (43, 59, 62), metre="4/4")
    assert WORDS.words(chord_source(sheet, [])) == (
        "bar:1 position:0 chord:C bar:0 position:0 chord:C position:24 chord:G"
    )


def test_tasks_part_a_piece_into_what_is_given_and_what_is_written(tunes):
    sheet = next(tune.sheet for tune in tunes if {0, 1, 2} <= {note.part for note in tune.sheet.notes})
    for task, parts in TASKS.items():
        source, target = source_and_target(sheet, task, WORDS)
        assert {note.part for note in target.notes} <= set(parts) and target.notes
        if task == "all":
            assert source is None and target is sheet
        elif task == "melody_to_accompaniment":
            given = sheet_from(source, WORDS)
            assert sorted((*given.notes, *target.notes)) == list(sheet.notes)
        elif task == "continuation":
            given = sheet_from(source, WORDS)
            assert given.bars == sheet.bars // 2 and given.bars + target.bars == sheet.bars
            assert len(given.notes) + len(target.notes) == len(sheet.notes)
        else:
            assert any(CHORD.has(token) for token in source)
    with pytest.raises(UserError, match="did you mean 'chords_to_melody'"):
        source_and_target(sheet, "chords_to_melodies", WORDS)


@pytest.mark.parametrize("task", TASKS)
def test_samples_are_functions_of_their_numbers_and_well_formed(tunes, task):
    data, again = (NoteDataset(tunes, WORDS, length=96, task=task, seed=3) for _ in range(2))
    items = [data[k] for k in range(12)]
    assert [again[k] for k in reversed(range(12))] == items[::-1]
    assert len({tuple(tokens) for _, tokens, _ in items}) > 5
    other = NoteDataset(tunes, WORDS, length=96, task=task, seed=4)
    assert [other[k] for k in range(12)] != items
    for k, (number, tokens, source) in enumerate(items):
        assert number == k and PREFIX < len(tokens) <= 96 and accepts(tokens, WORDS) and note_count(tokens)
        assert (source is None) == (task == "all")
        if source is not None:
            assert PREFIX < len(source) <= 96
            assert source[1:4] == tokens[1:4]  # one key, metre and tempo


def test_a_sample_is_its_tune_in_c(tunes):
    vocabulary = Vocabulary(tuple({tune.sheet.style for tune in tunes}))
    data = NoteDataset(tunes, vocabulary, length=10_000)
    for index, tune in enumerate(tunes):
        made = sheet_from(data.sample(index)[0], vocabulary)
        up = above_c(tune.sheet.key)
        assert -5 <= up <= 6 and made.key in ("C major", "C minor") and made.transposed(up) == tune.sheet
    given = NoteDataset(tunes, vocabulary, length=10_000, task="chords_to_melody")
    cut = tunes[0].sheet.cut(2, tunes[0].sheet.bars - 2).in_c()
    chords, fresh = ([chord_name(token) for token in source if CHORD.has(token)]
                     for source in (given.sample(0, 2)[1], chord_source(cut, [])))
    assert sum(a == b for a, b in zip(chords, fresh, strict=False)) >= 0.8 * len(fresh)  # notes may hold over the cut


def test_a_folder_with_a_table_and_one_without(tmp_path):
    folder = tmp_path / "plain"
    for number in range(12):
        (folder / "my folk").mkdir(parents=True, exist_ok=True)
        score = Score.from_beats(waltz(), bpm=90 + number, metre="3/4")
        score.save(folder / "my folk" / f"tune{number // 2}-{number}.mid")
    (folder / "broken.mid").write_bytes(b"MThd")
    (folder / "short.mid").write_bytes(b"")
    Score.from_beats([Note(0, 0, 60, 80, 0, 1)], bpm=90).save(folder / "short.mid")
    tunes, left_out = read_tunes(folder)
    assert len(tunes) == 12 and {tune.sheet.style for tune in tunes} == {"my folk"}
    assert "1 bars; 4 are needed" in left_out["short.mid"] and "broken.mid" in left_out["broken.mid"]
    groups = {tune.group: tune.split for tune in tunes}
    assert all(groups[tune.group] == tune.split for tune in tunes)
    assert sum(len(read_tunes(folder, split=s)[0]) for s in {tune.split for tune in tunes}) == 12

    with open(folder / "metadata.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "split", "source_group", "licence", "attribution"])
        writer.writerow(["my folk/tune0-0.mid", "Old Folk", "valid", "g", "CC0-1.0", "nobody"])
        writer.writerow(["notes.json", "x", "train", "", "", ""])
    (tune,), left_out = read_tunes(folder)
    assert (tune.sheet.style, tune.split, tune.group, tune.licence, tune.attribution, left_out) == (
        "old folk", "valid", "g", "CC0-1.0", "nobody", {})
    with pytest.raises(UserError, match="none of 1 MIDI files can be used"):
        read_tunes(folder, split="train")
    for bad, said in ((tmp_path / "no", "no folder"), (tmp_path, "holds no MIDI files")):
        if bad == tmp_path:
            (tmp_path / "empty").mkdir()
            bad = tmp_path / "empty"
        with pytest.raises(UserError, match=said):
            read_tunes(bad)


def test_pieces_by_rules_are_numbered_and_labelled(tunes):
    assert rule_tunes(6, seed=2) == tunes and rule_tunes(3, seed=2) == tunes[:3]
    assert all(tune.split == "train" and tune.sheet.notes for tune in tunes)
    assert all(accepts(tokens_of(tune.sheet, WORDS), WORDS) for tune in tunes)
    more = rule_tunes(8, seed=1)
    assert any({n.part for n in tune.sheet.notes} == {DRUMS} for tune in more)  # a drum kit alone
    assert any({n.part for n in tune.sheet.notes} == {MELODY, HARMONY, BASS, DRUMS} for tune in more)  # an ensemble
    assert len({tune.sheet.style for tune in tunes}) > 2 and MELODY in {n.part for t in tunes for n in t.sheet.notes}
    assert score_of(tunes[0].sheet).seconds > 10 and STEPS == 12
