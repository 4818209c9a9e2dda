from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from audiogen.core.audio import Audio
from audiogen.core.mel_format import MelFormat


@pytest.fixture
def sounds(audiogen):
    for name in ("a.wav", "sub folder/b.flac"):
        Audio(torch.linspace(-0.5, 0.5, 800)[None], 8000).save(f"sounds/{name}")
    return "sounds"


def test_a_folder_keeps_its_shape(audiogen, engine, sounds):
    said = audiogen("vocode", sounds, "-o", "heard")
    assert said.code == 0 and said.err == ""
    assert os.path.exists("heard/a.wav") and os.path.exists("heard/sub folder/b.wav")
    assert len(engine.loaded) == 1 and len(said.out.splitlines()) == 2
    assert Audio.read("heard/a.wav").seconds == 0.1


def test_one_file_to_one_file(audiogen, engine, sounds):
    assert audiogen("vocode", "sounds/a.wav", "-o", "new.flac").code == 0
    assert Audio.read("new.flac").seconds == 0.1


def test_mels_are_rendered_as_they_are(audiogen, engine):
    mel = torch.randn(80, 10)
    np.save("a.npy", mel.numpy().astype(np.float64)[None])
    save_file({"mel": mel}, "b.safetensors", metadata={"mel_format": json.dumps(dataclasses.asdict(MelFormat()))})
    assert audiogen("vocode", "a.npy", "b.safetensors").code == 0
    assert all(torch.equal(sound, mel) for sound, _ in engine.asked)
    assert sorted(os.listdir("vocoded")) == ["a.wav", "b.wav"]
    assert Audio.read("vocoded/a.wav").samples.shape[-1] == 2560


def test_a_mel_of_another_format_is_refused_with_the_fields_that_differ(audiogen, engine):
    theirs = MelFormat(sample_rate=24000)
    save_file({"mel": torch.zeros(80, 4)}, "a.safetensors",
              metadata={"mel_format": json.dumps(dataclasses.asdict(theirs))})
    said = audiogen("vocode", "a.safetensors")
    assert said.code == 2 and "sample_rate 24000 against 22050" in said.err and engine.asked == []


def test_a_bad_file_in_a_folder_is_told_and_counted_and_the_others_are_made(audiogen, engine, sounds):
    with open("sounds/text.wav", "w") as file:
        file.write("no audio")
    said = audiogen("vocode", sounds, "-o", "heard")
    assert said.code == 2 and len(said.out.splitlines()) == 2
    first, last = said.err.splitlines()
    assert "text.wav cannot be read" in first and "1 of 3 inputs" in last


@pytest.mark.parametrize("name, make", [
    ("wide.npy", lambda p: np.save(p, np.zeros((100, 5)))), ("flat.npy", lambda p: np.save(p, np.zeros(80))),
    ("none.npy", lambda p: np.save(p, np.zeros((80, 0)))), ("nan.npy", lambda p: np.save(p, np.full((80, 2), np.nan))),
    ("text.npy", lambda p: p.write_text("x")), ("object.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True)),
    ("text.safetensors", lambda p: p.write_text("x")),
    ("other.safetensors", lambda p: save_file({"x": torch.ones(1)}, p)),
    ("format.safetensors", lambda p: save_file({"mel": torch.ones(80, 1)}, p, metadata={"mel_format": "{"})),
    ("empty", lambda p: p.mkdir()), ("missing.wav", lambda p: None),
])
def test_what_is_no_sound_is_one_clear_line(audiogen, engine, tmp_path, name, make):
    make(tmp_path / name)
    said = audiogen("vocode", name)
    assert said.code == 2 and said.err.count("\n") == 1 and name in said.err
    assert engine.asked == [] and not os.path.exists("vocoded")


def test_nothing_is_written_over_its_source_or_twice(audiogen, engine, sounds):
    assert "would replace its own source" in audiogen("vocode", "sounds/a.wav", "-o", "sounds").err
    Audio(torch.zeros(1, 10), 8000).save("other/a.wav")
    assert "both be written to a.wav" in audiogen("vocode", "sounds/a.wav", "other/a.wav").err
    assert "one file and there are 2" in audiogen("vocode", sounds, "-o", "a.wav").err
    assert "nothing to vocode" in audiogen("vocode").err
