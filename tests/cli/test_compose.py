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


@pytest.fixture
def checkpoints(tmp_path):
    """Untrained composers in the working folder: what they write is noise, but how they are asked is not."""
    import torch

    from audiogen.composers.recurrent import RecurrentComposer, RecurrentConfig
    from audiogen.composers.seq2seq import Seq2SeqComposer, Seq2SeqConfig
    from audiogen.core.checkpoint import save_checkpoint

    torch.manual_seed(0)
    for task in ("chords_to_melody", "melody_to_accompaniment", "continuation"):
        config = Seq2SeqConfig(task=task, embedding=8, width=8, attention_width=4)
        save_checkpoint(tmp_path / task, Seq2SeqComposer(config), room="composer")
    model = RecurrentComposer(RecurrentConfig(embedding=8, width=8, layers=1))
    save_checkpoint(tmp_path / "lstm", model, room="composer")
    Score.from_beats([Note(0, 0, 69, 99, i, 1.0, "lute", 24) for i in range(8)], bpm=80).save(tmp_path / "tune.mid")


def test_chords_a_melody_or_a_beginning_for_learned_composers(audiogen, tmp_path, checkpoints):
    said = audiogen("compose", "--composer", "./chords_to_melody", "--chords", "Am F", "--bpm", "120", "--seconds", "4",
                    "--attention", "map.png", "-o", "a.mid")
    assert said.code == 0 and (tmp_path / "map.png").stat().st_size > 1000, said.err
    chords = Score.read(tmp_path / "a.mid").only("harmony").notes
    assert [(n.pitch, n.beat, n.beats) for n in chords] == [
        (57, 0, 4), (60, 0, 4), (64, 0, 4), (53, 4, 4), (57, 4, 4), (60, 4, 4)]
    audiogen("compose", "--composer", "./melody_to_accompaniment", "--melody", "tune.mid", "-o", "b.mid")
    score = Score.read(tmp_path / "b.mid")
    assert [n.pitch for n in score.only("melody").notes] == [69] * 8 and len(score.notes) > 8
    for composer in ("./continuation", "./lstm"):
        said = audiogen("compose", "--composer", composer, "--continue", "tune.mid", "-o", "c.mid")
        score = Score.read(tmp_path / "c.mid")
        assert [n.pitch for n in score.notes][:8] == [69] * 8 and score.seconds >= 6 + 16 - 0.01, said.err


@pytest.mark.parametrize("words, said", [
    (("rock", "--continue", "tune.mid"), "for learned composers"), (("rock", "--attention", "a.png"), "for learned"),
    (("--composer", "./lstm", "--chords", "C"), "takes a beginning or nothing, not chords"),
    (("--composer", "./lstm", "--continue", "tune.mid", "--attention", "a.png"), "is given nothing"),
    (("--composer", "./continuation", "--melody", "tune.mid"), "takes a beginning, not a melody"),
    (("--composer", "./continuation", "--continue", "tune.mid", "--bars", "3"), "for the rules"),
    (("--composer", "./continuation", "--continue", "none.mid"), "no score at none.mid"),
    (("--composer", "./chords_to_melody", "--chords", "Am Q"), "chord 'Q' is unknown"),
    (("--composer", "./continuation", "--continue", "tune.mid", "--chords", "C"), "at once"),
])
def test_what_a_learned_composer_cannot_take_is_one_line(audiogen, tmp_path, checkpoints, words, said):
    answer = audiogen("compose", *words, "-o", "a.mid")
    assert answer.code == 2 and said in answer.err and answer.err.count("\n") == 1
    assert not (tmp_path / "a.mid").exists()
