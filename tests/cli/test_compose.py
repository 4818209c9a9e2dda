"""audiogen compose, as a person calls it."""

from __future__ import annotations

import pytest

from audiogen.core.score import Note, Score


def test_a_style_with_key_and_tempo(audiogen, tmp_path):
    said = audiogen("compose", "--style", "waltz", "--key", "Am", "--bpm", "90", "-o", "a.mid")
    assert said.code == 0 and said.err == "" and "90 bpm, 3/4, A minor" in said.out and "waltz, A:" in said.out
    score = Score.read(tmp_path / "a.mid")
    assert (score.bpm, score.metre, score.key) == (90.0, "3/4", "A minor")
    assert set(score.instruments) == {"violin section", "grand piano", "double bass", "drum kit"}
    assert score.seconds >= 15.9


def test_an_instrument_as_before(audiogen, tmp_path):
    said = audiogen("compose", "slow waltz for cello", "--key", "Am", "-o", "a.mid")
    assert said.code == 0 and Score.read(tmp_path / "a.mid").instruments == ("cello",)


def test_all_that_can_be_fixed(audiogen, tmp_path):
    Score.from_beats([Note(0, 0, 69, 99, 0.5, 1.0, "lute", 24)], bpm=80, key="A minor").save(tmp_path / "motif.mid")
    said = audiogen("compose", "--style", "rock", "--chords", "Am | F . C G", "--rhythm", "x..x", "--bars", 4,
                    "--notes", "motif.mid", "--parts", "melody,bass", "-o", "b.mid")
    assert said.code == 0 and "Am | F . C G | Am | F . C G" in said.out and "read as: the given notes keep" in said.out
    score = Score.read(tmp_path / "b.mid")
    assert score.bpm == 80 and set(score.instruments) == {"lute", "saxophone", "electric bass"}
    assert [(n.pitch, n.velocity, n.beat, n.beats) for n in score.only("lute").notes] == [(69, 99, 0.5, 1.0)]
    assert [n.beat for n in score.only("saxophone").notes] == [4, 7, 8, 11, 12, 15]


@pytest.mark.parametrize("words, said", [
    (("--style", "waltzz"), "did you mean 'waltz'"), (("--style", "floot"), "did you mean 'flute'"),
    (("--style", "waltz", "--key", "H"), "key 'H' is unknown"), ((), "nothing says what to compose"),
    (("--style", "rock", "--bars", "2", "--seconds", "9"), "say the length twice"),
    (("rock", "--parts", "bas"), "did you mean 'bass'"), (("rock", "--notes", "none.mid"), "no score at none.mid"),
    (("rock", "--chords", "Am Q"), "chord 'Q' is unknown"), (("rock", "--composer", "bach"), "'bach'"),
    (("rock", "--seconds", "0"), "seconds=0"),
])
def test_what_cannot_be_is_one_line(audiogen, tmp_path, words, said):
    answer = audiogen("compose", *words, "-o", "a.mid")
    assert answer.code == 2 and said in answer.err and answer.err.count("\n") == 1
    assert not (tmp_path / "a.mid").exists()
