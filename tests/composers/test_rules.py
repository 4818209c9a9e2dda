from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest
import torch

from audiogen.composers.grammars import GRAMMAR_OF_FORM, GRAMMARS
from audiogen.composers.harmony import TONICS, Key, nearest, voicing
from audiogen.composers.rhythms import Metre
from audiogen.composers.rules import RuleComposer, felt_bpm, instrument_of
from audiogen.conditioning.instruments import INSTRUMENTS, instruments_in
from audiogen.conditioning.prompts import FORMS
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.rng import SampleRng
from audiogen.core.score import Note, Score

FORMS_ASKED = (
    "ballad",
    "waltz",
    "jig",
    "march",
    "blues",
    "folk song",
    "ragtime",
    "lo-fi",
    "techno",
    "chorale",
    "ambient",
    "zorgle",
)
PITCHED = [row for row in INSTRUMENTS.values() if not row.drum]


def compose(text="", seconds=8.0, seed=0, **fields):
    return RuleComposer().compose(Prompt(text=text, **fields), seconds=seconds, rng=SampleRng(seed))


def style(name):
    return ((name, 1.0),)


@pytest.mark.parametrize("name", list(INSTRUMENTS))
def test_every_instrument_plays_every_form_in_its_range_and_for_the_whole_time(name):
    row = INSTRUMENTS[name]
    for seed, form in enumerate(FORMS_ASKED):
        score = compose(form, seed=seed, styles=style(name), seconds=7.3)
        assert score.seconds >= 7.3 - 1e-6
        assert {note.instrument for note in score.notes} == {name}
        assert all(row.low <= note.pitch <= row.high and 1 <= note.velocity <= 127 for note in score.notes)
        assert all(note.drum == row.drum and note.beats > 0 for note in score.notes)


@pytest.mark.parametrize("bpm", [40.0, 70.0, 93.5, 160.0, 220.0])
@pytest.mark.parametrize("metre", ["4/4", "3/4", "6/8", "7/8", "5/4", "2/2"])
def test_tempo_key_and_metre_are_exactly_those_asked_for(bpm, metre):
    score = compose("a lively tune", bpm=bpm, metre=metre, key="F# minor", styles=style("flute"))
    assert (score.bpm, score.metre, score.key) == (bpm, metre, "F# minor")
    for note in score.notes:
        assert note.onset == pytest.approx(note.beat * 60 / bpm)


def test_the_words_count_where_no_field_is_set():
    score = compose("sad slow waltz for cello in D minor")
    assert (score.metre, score.key) == ("3/4", "D minor")
    assert 40 <= score.bpm <= 90
    assert score.instruments == ("cello",)
    assert compose("melancholic piano", seed=3).key.endswith("minor")
    assert compose("happy piano", seed=3).key.endswith("major")


@pytest.mark.parametrize("metre", ["4/4", "3/4", "6/8"])
@pytest.mark.parametrize("name", list(INSTRUMENTS))
def test_something_starts_on_every_beat(name, metre):
    for bpm in (70.0, 150.0):
        score = compose("folk song", bpm=bpm, metre=metre, styles=style(name))
        starts = {round(note.beat, 3) for note in score.notes}
        beats = Metre.named(metre)
        bars = round(score.notes[-1].beat // beats.length) + 1
        for bar in range(bars):
            for at, _ in beats.beats:
                assert round(bar * beats.length + at, 3) in starts


@pytest.mark.parametrize("name", [row.name for row in PITCHED if not row.polyphonic])
def test_one_voiced_instruments_play_one_note_at_a_time(name):
    for seed in range(6):
        notes = compose("pop song", seed=seed, styles=style(name), bpm=120.0).notes
        for a, b in zip(notes, notes[1:], strict=False):
            assert a.beat + a.beats <= b.beat + 1e-6


def test_notes_of_one_pitch_never_overlap():
    for row in PITCHED:
        ends = {}
        for note in compose("jig", styles=style(row.name), bpm=150.0).notes:
            assert note.beat >= ends.get(note.pitch, 0.0) - 1e-6
            ends[note.pitch] = note.beat + note.beats


@pytest.mark.parametrize("mode", ["major", "minor"])
def test_the_notes_are_those_of_the_key_and_the_end_is_its_tonic(mode):
    for seed, tonic in enumerate(TONICS[mode]):
        key = Key.named(f"{tonic} {mode}")
        allowed = set(key.scale) | ({(key.tonic + 11) % 12} if mode == "minor" else set())
        score = compose("ballad", seed=seed, key=f"{tonic} {mode}", styles=style("grand piano"))
        assert {note.pitch % 12 for note in score.notes} <= allowed
        last = [
            note for note in score.notes if note.beat + note.beats >= max(n.beat + n.beats for n in score.notes) - 1e-6
        ]
        assert min(last, key=lambda note: note.pitch).pitch % 12 in key.chord(1).tones
        weight = Counter()
        for note in score.notes:
            weight[note.pitch % 12] += note.beats
        assert weight[key.tonic] == max(weight.values())


def test_the_melody_repeats_its_motif():
    score = compose("folk song", seed=2, bpm=120.0, metre="4/4", styles=style("flute"), seconds=16)
    bars = [tuple(round(n.beat % 4, 3) for n in score.notes if n.beat // 4 == bar) for bar in range(8)]
    assert bars[0] == bars[1] == bars[4]


def test_the_same_seed_writes_the_same_and_another_seed_another_tune():
    assert compose("waltz", seed=5) == compose("waltz", seed=5)
    assert compose("waltz", seed=5) != compose("waltz", seed=6)
    one, two = (RuleComposer().compose(Prompt(), seconds=4, rng=torch.Generator().manual_seed(1)) for _ in range(2))
    assert one == two
    assert RuleComposer().compose(Prompt(), seconds=4, rng=random.Random(1)).notes


def test_a_users_score_is_never_altered():
    mine = Score((Note(0.0, 0.5, 3, 1, instrument="kazoo"),), bpm=77.0, metre="13/16", key=None)
    assert RuleComposer().compose(Prompt(text="fast waltz", score=mine), seconds=60, rng=0) is mine


def test_long_and_short_clips():
    assert compose("march", seconds=0.2).seconds >= 0.2
    assert 120 <= compose("march", seconds=120).seconds < 130
    for seconds in (0, -1, float("nan"), 1e9):
        with pytest.raises(UserError, match="seconds"):
            compose("march", seconds=seconds)


@pytest.mark.parametrize(
    "text, name",
    [
        ("rock drums", "drum kit"),
        ("808 drums", "TR-808 drums"),
        ("slow felt piano", "grand piano"),
        ("electric bass riff", "electric bass"),
        ("a double bass walks", "double bass"),
        ("tenor sax solo", "saxophone"),
        ("bagpipes", "bagpipe"),
        ("nothing known", "grand piano"),
        ("electric piano ballad", "electric piano"),
        ("violins", "violin section"),
    ],
)
def test_the_instrument_is_found_in_the_words(text, name):
    assert instrument_of(Prompt(text=text)).name == name


def test_the_heaviest_style_wins_over_the_words():
    assert instrument_of(Prompt("a flute", (("rain", 2.0), ("cello", 1.0), ("tuba", 0.3)))).name == "cello"
    assert [row.name for row in instruments_in("cello and electric guitar, no guitar")] == [
        "cello",
        "electric guitar",
        "acoustic guitar",
    ]


def test_six_eight_is_felt_in_dotted_quarters():
    assert felt_bpm(compose("jig", bpm=150.0, metre="6/8")) == pytest.approx(100.0)
    assert felt_bpm(compose("waltz", bpm=150.0, metre="3/4")) == pytest.approx(150.0)
    assert Metre.named("7/8").beats == ((0.0, 1.0), (1.0, 1.0), (2.0, 1.5))
    assert Metre.named("12/8").length == 6.0


@pytest.mark.parametrize(
    "name, text, digest",
    [
        ("grand piano", "slow waltz in A minor", "0ceff242f46beaa2"),
        ("electric bass", "blues", "93aba78e8fe33126"),
        ("drum kit", "rock", "ab24ac587b7b7a80"),
        ("violin section", "", "ed42513167df7bab"),
    ],
)
def test_a_seed_still_writes_what_it_wrote_when_clips_were_made_from_it(name, text, digest):
    """`audiogen again` composes a clip's score anew from prompt and seed: its notes may never change."""
    score = RuleComposer().compose(Prompt(text, style(name)), seconds=12.0, rng=SampleRng(7, stream="score"))
    notes = [(round(n.onset, 6), round(n.duration, 6), n.pitch, n.velocity) for n in score.notes]
    assert hashlib.sha256(repr(notes).encode()).hexdigest()[:16] == digest


def test_every_form_has_a_grammar():
    assert set(GRAMMAR_OF_FORM) == set(FORMS)
    assert set(GRAMMAR_OF_FORM.values()) <= set(GRAMMARS)


def test_chords_and_voice_leading():
    assert Key.named("A minor").chord(5).tones == (4, 8, 11)  # E G# B
    assert Key.named("Eb major").chord(2).tones == (5, 8, 0)  # F Ab C
    assert nearest((0,), 59, 40, 80) == 60
    first = voicing(Key.named("C major").chord(1), (), 52, 66)
    second = voicing(Key.named("C major").chord(4), first, 52, 66)
    assert {pitch % 12 for pitch in second} == {5, 9, 0}
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) <= 5
