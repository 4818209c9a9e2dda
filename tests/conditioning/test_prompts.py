"""What the words of a prompt say about the music, against a table made by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest

from audiogen.conditioning.prompts import (
    FORMS,
    MOODS,
    RELATIVE_TEMPO,
    TEMPO_WORDS,
    MusicalPlan,
    check_bpm,
    check_key,
    check_metre,
    parse_prompt,
    plan_prompt,
    read_prompt_file,
)
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.score import Note, Score


@pytest.mark.parametrize(("text", "bpm"), [
    ("lo-fi beat, 90 bpm", 90.0), ("72.5BPM piano", 72.5), ("a march at 120", 120.0), ("tempo: 96, cello", 96.0),
    ("100 beats per minute", 100.0), ("90-bpm groove", 90.0), ("flute", None), ("808 drums", None),
    ("a tone at 440 Hz", None), ("rain at 5 in the morning", None), ("in 6/8", None),
])
def test_tempo_number(text, bpm):
    plan = parse_prompt(text)
    assert plan.bpm == bpm
    assert plan.bpm_range == (None if bpm is None else (bpm, bpm))


@pytest.mark.parametrize(("text", "key"), [
    ("waltz in A minor", "A minor"), ("F# major etude", "F# major"), ("blues in Am", "A minor"),
    ("Bbm ballad", "Bb minor"),
    ("cello in G", "G major"), ("key of Eb, calm", "Eb major"), ("in e flat major", "Eb major"),
    ("D-sharp minor prelude", "D# minor"), ("in D dorian", "D minor"), ("violin, b minor", "B minor"),
    ("C♯ minor", "C# minor"), ("waltz in a minor", "A minor"),
    ("a major storm", None), ("in a minor key", None), ("a minor waltz", None), ("rain in April", None),
    ("I am happy", None), ("grade A piano", None), ("", None),
])
def test_key(text, key):
    plan = parse_prompt(text)
    assert plan.key == key
    if key:
        assert plan.mode == key.split()[1]


@pytest.mark.parametrize(("text", "metre", "form"), [
    ("slow waltz", "3/4", "waltz"), ("an Irish jig", "6/8", "jig"), ("a march in 6/8", "6/8", "march"),
    ("seven-eight time techno", "7/8", "techno"), ("twelve-bar blues", "4/4", "blues"),
    ("piano ragtime", "2/4", "ragtime"),
    ("Lo-Fi study beats", "4/4", "lo-fi"), ("valses", "3/4", "waltz"), ("slip jig", "9/8", "slip jig"),
    ("drum and bass", "4/4", "drum and bass"), ("rock drums", None, None), ("alla breve", "2/2", None),
    ("cello", None, None), ("pop-rock waltz", "3/4", "waltz"), ("hymn", "4/4", "chorale"),
])
def test_metre_and_form(text, metre, form):
    plan = parse_prompt(text)
    assert (plan.metre, plan.form) == (metre, form)


def test_tempo_words_are_ordered_and_scale_a_form():
    words = ("largo", "adagio", "andante", "allegro", "presto")
    middle = {word: sum(parse_prompt(word).bpm_range) / 2 for word in words}
    assert list(middle.values()) == sorted(middle.values())
    slow, plain, fast = (parse_prompt(f"{word} jig").bpm_range for word in ("slow", "", "fast"))
    assert slow < plain < fast
    assert parse_prompt("very slow piano").bpm_range == TEMPO_WORDS["very slow"]
    assert parse_prompt("slow piano").energy < parse_prompt("fast piano").energy


def test_moods_choose_mode_and_energy():
    assert parse_prompt("melancholic piano").mode == "minor"
    assert parse_prompt("happy flute").mode == "major"
    assert parse_prompt("sad song in C major").mode == "major"  # a key that is named wins
    assert parse_prompt("calm guitar").energy < parse_prompt("guitar waltz").energy < parse_prompt("wild guitar").energy
    assert parse_prompt("a minor waltz").mode == "minor"


def test_tables_are_sane():
    assert set(RELATIVE_TEMPO) <= set(TEMPO_WORDS)
    for form in FORMS.values():
        assert check_metre(form.metre) == form.metre and form.bpm_range[0] < form.bpm_range[1] and 0 <= form.energy <= 1
    assert all(mode in (None, "major", "minor") for mode, _ in MOODS.values())


def test_nothing_said_is_nothing_planned():
    assert parse_prompt("") == parse_prompt("cello") == MusicalPlan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        MusicalPlan().bpm = 3


def test_fields_win_over_text():
    plan = plan_prompt(Prompt(text="fast waltz in C major, 170 bpm", bpm=60, key="f# min", metre="4 / 4"))
    assert (plan.bpm, plan.bpm_range, plan.key, plan.mode, plan.metre, plan.form) == (
        60.0, (60.0, 60.0), "F# minor", "minor", "4/4", "waltz")


@pytest.mark.parametrize(("check", "value", "says"), [
    (check_bpm, 9000, "20 to 400"), (check_bpm, "quick", "no number"), (check_bpm, float("nan"), "20 to 400"),
    (check_key, "H minor", "A to G"), (check_key, "A purple", "A to G"), (check_metre, "3/5", "'3/4'"),
    (check_metre, "0/4", "'3/4'"), (check_metre, "fast", "'3/4'"), (parse_prompt, "techno, 9000 bpm", "20 to 400"),
    (parse_prompt, "a march in 5/7", "'3/4'"),
])
def test_impossible_values_name_the_way_out(check, value, says):
    with pytest.raises(UserError, match=says) as error:
        check(value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["am", "A min", "a-minor", "A MINOR", "A  minor"])
def test_spellings_of_a_key(key):
    assert check_key(key) == "A minor"


def test_prompt_file(tmp_path):
    Score((Note(0.0, 0.5, 60),)).save(tmp_path / "tune.mid")
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join([
        "# a comment", "", "slow piano",
        json.dumps({"text": "x", "styles": {"cello": 0.3}, "bpm": 90, "score": "tune.mid"}),
        json.dumps({"styles": ["rain", ["flute", 2]], "seconds": 3, "key": "am"}),
    ]))
    first, second, third = read_prompt_file(path)
    assert first == Prompt(text="slow piano")
    assert second.styles == (("cello", 0.3),) and second.bpm == 90.0 and second.score.notes[0].pitch == 60
    assert third.styles == (("rain", 1.0), ("flute", 2.0)) and third.seconds == 3.0 and third.key == "A minor"


@pytest.mark.parametrize(("line", "says"), [
    ('{"txt": "x"}', "'text'"),
    ("{broken", "JSON"), ('{"bpm": "quick"}', "no number"), ('{"styles": 3}', "grand piano"),
    ('{"seconds": -1}', "at least"), ('{"score": "nowhere.mid"}', "no score"),
    ("", "no prompt"), ('{"text": 5}', "text"),
])
def test_bad_prompt_file_names_the_line(tmp_path, line, says):
    path = tmp_path / "prompts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=says) as error:
        read_prompt_file(path)
    assert not line or f"{path}:1" in str(error.value)


def test_missing_or_binary_prompt_file(tmp_path):
    with pytest.raises(UserError, match="no prompt file"):
        read_prompt_file(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\xd8\x80")
    with pytest.raises(UserError, match="UTF-8"):
        read_prompt_file(tmp_path / "binary")
