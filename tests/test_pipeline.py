"""The engine on tiny models: lengths, seeds, parts, what a clip carries, and making it again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_engine import load_words, save_engine

import audiogen
from audiogen.conditioning.text import WordVectors
from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.mel_format import MelFormat
from audiogen.core.score import Note, Score
from audiogen.pipeline import Engine


@pytest.fixture(scope="module")
def words() -> WordVectors:
    return load_words()


@pytest.fixture(scope="module")
def engine(tmp_path_factory, words) -> Engine:
    return Engine.from_pretrained(save_engine(tmp_path_factory.mktemp("engine"), words))


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.2345])
def test_a_clip_is_exactly_as_long_as_asked(engine, seconds):
    audio = engine.generate(Prompt(text="piano", seconds=seconds), seed=0)
    assert audio.samples.shape == (1, round(seconds * engine.mel.sample_rate))
    assert torch.isfinite(audio.samples).all() and audio.samples.abs().max() <= 1


def test_the_same_seed_is_the_same_clip_and_another_is_not(engine):
    prompt = Prompt(text="slow piano", seconds=0.5)
    a, b, c = (engine.generate(prompt, seed=seed).samples for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_clip_is_made_again_from_what_it_carries(engine, tmp_path):
    prompt = Prompt(
        text="cello in A minor", seconds=0.4, bpm=100, negative="rain", styles=(("cello", 0.7), ("piano", 0.3))
    )
    clip = engine.generate(prompt, seed=5, steps=3, guidance=1.7, interval=(0.1, 5.0), temperature=0.9)
    clip.save(tmp_path / "clip.wav")
    again = engine.again(Audio.read(tmp_path / "clip.wav").made_by)
    assert torch.equal(clip.samples, again.samples) and again.made_by == clip.made_by
    assert clip.made_by["music"]["bpm"] == 100 and clip.made_by["music"]["key"] == "A minor"
    assert "music" not in engine.generate(Prompt(text="rain", seconds=0.1), seed=5).made_by  # a texture has no beat


def test_a_given_score_travels_inside_the_clip(engine, tmp_path):
    score = Score((Note(0.0, 0.3, 60), Note(0.3, 0.3, 67)))
    clip = engine.generate(Prompt(text="piano", score=score, seconds=0.6), seed=1)
    clip.save(tmp_path / "clip.flac")
    assert torch.equal(engine.again(Audio.read(tmp_path / "clip.flac").made_by).samples, clip.samples)


def test_another_checkpoint_refuses_to_make_the_clip_again(engine, tmp_path, words):
    made_by = engine.generate(Prompt(text="piano", seconds=0.1), seed=0).made_by
    other = Engine.from_pretrained(save_engine(tmp_path, words, seed=1))
    with pytest.raises(UserError, match="--checkpoint"):
        other.again(made_by)


def test_a_seed_that_is_not_given_is_kept(engine):
    clip = engine.generate(Prompt(text="rain", seconds=0.1))
    assert torch.equal(
        engine.generate(Prompt(text="rain", seconds=0.1), seed=clip.made_by["seed"]).samples, clip.samples
    )


def test_every_condition_is_heard(engine):
    base = Prompt(text="piano", seconds=0.3)
    plain = engine.generate_mel(base, seed=0)
    for other in (
        replace(base, text="cello"),
        replace(base, negative="rain"),
        replace(base, key="F# minor"),
        replace(base, score=Score((Note(0.0, 0.3, 40),))),
        replace(base, styles=(("piano", 0.5), ("cello", 0.5))),
    ):
        assert not torch.equal(engine.generate_mel(other, seed=0), plain), other
    assert not torch.equal(engine.generate_mel(base, seed=0, guidance=1.0), plain)
    assert not torch.equal(engine.generate_mel(base, seed=0, temperature=0.0), plain)


def test_guidance_outside_its_interval_is_no_guidance(engine):
    prompt = Prompt(text="piano", seconds=0.2)
    without = engine.generate_mel(prompt, seed=0, guidance=1.0)
    assert torch.allclose(engine.generate_mel(prompt, seed=0, guidance=3.0, interval=(1e8, 1e9)), without, atol=1e-5)
    assert not torch.allclose(engine.generate_mel(prompt, seed=0, guidance=3.0), without, atol=1e-3)


def test_a_style_mix_is_one_voice_and_named_instruments_are_several(engine):
    mixed = engine.parts(Prompt(styles=(("grand piano", 0.7), ("cello", 0.3))), seed=0)
    assert len(mixed) == 1 and mixed[0].weights == pytest.approx({"grand piano": 0.7, "cello": 0.3})
    duo = engine.parts(Prompt(text="grand piano and cello", seconds=2), seed=0)
    assert {name for part in duo for name in part.weights} == {"grand piano", "cello"} and len(duo) == 2
    assert duo[0].score.bpm == duo[1].score.bpm and duo[0].score.key == duo[1].score.key


def test_textures_have_no_score(engine):
    assert engine.parts("rain", seed=0)[0].score is None
    assert engine.parts("piano", seed=0)[0].score is not None


def test_parts_of_a_score_are_played_by_the_instruments_they_name(engine):
    score = Score((Note(0.0, 0.3, 60, instrument="cello"), Note(0.0, 0.3, 72, instrument="grand piano")))
    parts = engine.parts(Prompt(score=score, seconds=0.3), seed=0)
    assert [(list(part.weights), part.score.notes[0].pitch) for part in parts] == [
        (["cello"], 60),
        (["grand piano"], 72),
    ]


def test_an_unknown_prompt_warns_and_names_the_nearest(engine):
    with pytest.warns(UserWarning, match="nearest styles are"):
        engine.generate(Prompt(text="income tax declaration", seconds=0.1), seed=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"seconds": 0.0},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"seconds": 1e9},
        {"bpm": 5000.0},
        {"key": "H dur"},
        {"metre": "4/5"},
        {"styles": (("no such thing at all", 1.0),)},
    ],
)
def test_impossible_prompts_are_one_clear_error(engine, fields):
    with pytest.raises(UserError) as error:
        engine.generate(replace(Prompt(text="piano"), **fields), seed=0)
    assert "\n" not in str(error.value)


def test_copy_synthesis_keeps_the_length(engine):
    sound = Audio(0.1 * torch.randn(2, 5000), 16000)
    assert engine.vocode(sound).samples.shape == (1, round(5000 * 22050 / 16000))
    with pytest.raises(UserError, match="zero samples"):
        engine.vocode(Audio(torch.zeros(1, 0), 22050))
    with pytest.raises(UserError, match="80"):
        engine.vocode(torch.zeros(100, 7))


def test_mel_formats_that_differ_never_meet(tmp_path, words):
    save_engine(tmp_path, words, voice=MelFormat(f_max=8000.0))
    with pytest.raises(UserError, match="f_max 11025.0 against 8000.0"):
        Engine.from_pretrained(tmp_path)


def test_a_bare_generator_is_heard_through_a_vocoder_that_is_named(tmp_path, words):
    save_engine(tmp_path, words)
    engine = Engine.from_pretrained(tmp_path / "generator", vocoder=tmp_path / "vocoder")
    assert engine.generate(Prompt(text="piano", seconds=0.1), seed=0).seconds == pytest.approx(0.1, abs=1e-4)


def test_no_checkpoint_there_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="no checkpoint folder"):
        Engine.from_pretrained(tmp_path / "none")
    (tmp_path / "config.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(UserError, match="lacks"):
        Engine.from_pretrained(tmp_path)


def test_the_one_line_of_python_works(tmp_path, words):
    folder = save_engine(tmp_path, words)
    clip = audiogen.generate("piano", seconds=0.2, seed=0, checkpoint=folder, bpm=90)
    assert clip.made_by["prompt"]["bpm"] == 90
    with pytest.raises(TypeError, match="tempo"):
        audiogen.generate("piano", tempo=90, checkpoint=folder)
