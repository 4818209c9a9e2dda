from __future__ import annotations

import os

import pytest
import soundfile

from audiogen.core.audio import Audio


@pytest.fixture(params=[".wav", ".flac", ".ogg"])
def clip(audiogen, engine, request):
    assert audiogen("generate", "rain", "--seed", 5, "--seconds", 0.5, "-o", f"rain{request.param}").code == 0
    return f"rain{request.param}"


def test_the_same_checkpoint_makes_the_same_samples(audiogen, engine, clip):
    said = audiogen("again", clip)
    assert said.code == 0 and said.out == f"identical: all 4000 samples of {clip}\n" and said.err == ""
    assert engine.asked[0] == engine.asked[1]
    assert os.listdir(".") == [clip]


def test_out_keeps_what_was_made(audiogen, engine, clip):
    assert audiogen("again", clip, "-o", "copy.wav").code == 0
    assert Audio.read("copy.wav").made_by["seed"] == 5


def test_a_changed_sample_is_told(audiogen, engine):
    audiogen("generate", "rain", "--seed", 5, "--seconds", 0.5, "-o", "rain.wav")
    clip = Audio.read("rain.wav")
    clip.samples[0, 17] += 0.25
    clip.save("rain.wav")
    said = audiogen("again", "rain.wav")
    assert said.code == 1 and "at most 0.25" in said.out
    assert said.out.startswith("not identical: 1 of 4000 samples differ")
    Audio(clip.samples[:, :100], 8000, clip.made_by).save("rain.wav")
    said = audiogen("again", "rain.wav")
    assert said.code == 1 and "0.500 s at 8000 Hz against 0.013 s" in said.out


def test_another_checkpoint_is_refused_with_both_hashes_and_the_way_out(audiogen, engine, clip):
    engine.hashes = {"generator": "cccccccccccc", "vocoder": "bbbbbbbbbbbb"}
    said = audiogen("again", clip)
    assert said.code == 2 and said.err.count("\n") == 1
    assert "aaaaaaaaaaaa" in said.err and "cccccccccccc" in said.err and "--checkpoint" in said.err


def test_threads_and_device_are_those_of_then_unless_said_otherwise(audiogen, engine):
    import torch

    audiogen("generate", "rain", "--seconds", 1, "--threads", 1, "-o", "rain.wav")
    torch.set_num_threads(2)
    audiogen("again", "rain.wav")
    assert torch.get_num_threads() == 1 and engine.loaded[-1][1]["device"] == "cpu"
    audiogen("again", "rain.wav", "--threads", 2)
    assert torch.get_num_threads() == 2


def test_another_version_is_said(audiogen, engine):
    audiogen("generate", "rain", "--seconds", 1, "-o", "rain.wav")
    clip = Audio.read("rain.wav")
    Audio(clip.samples, 8000, clip.made_by | {"audiogen": "0.0.9"}).save("rain.wav")
    said = audiogen("again", "rain.wav")
    assert said.code == 0 and "made by audiogen 0.0.9, this is 0.1.0" in said.err


def test_clips_that_say_nothing_or_too_little_cannot_be_made_again(audiogen, engine, tmp_path):
    soundfile.write("plain.wav", [0.0] * 100, 8000)
    Audio(Audio.read("plain.wav").samples, 8000, {"audiogen": "0.1.0", "seed": 1}).save("half.wav")
    (tmp_path / "text.wav").write_text("no audio")
    for name, said in [("plain.wav", "does not say how it was made"), ("none.wav", "no audio file at none.wav"),
                       ("half.wav", "does not say its checkpoint, prompt, sampling"), ("text.wav", "cannot be read")]:
        result = audiogen("again", name)
        assert result.code == 2 and said in result.err and result.err.count("\n") == 1
    assert engine.asked == []
