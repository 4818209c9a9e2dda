from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from audiogen.cli.generate import parse_style, slug
from audiogen.core.audio import Audio, read_made_by
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.score import Note, Score


def files(folder) -> list[str]:
    return sorted(os.listdir(folder))


def test_several_prompts_and_seeds_make_one_named_clip_each(audiogen, engine, tmp_path):
    said = audiogen("generate", "Slow felt piano, café!", "rain", "-n", 2, "--seconds", 0.5, "--seed", 7, "-o", "clips")
    assert said.code == 0 and said.err == ""
    assert files("clips") == ["rain-7.wav", "rain-8.wav", "slow-felt-piano-cafe-7.wav", "slow-felt-piano-cafe-8.wav"]
    assert [(p.text, s["seed"]) for p, s in engine.asked] == [
        ("Slow felt piano, café!", 7), ("Slow felt piano, café!", 8), ("rain", 7), ("rain", 8)]
    assert len(engine.loaded) == 1, "the checkpoint is loaded once"
    lines = said.out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith('clips/slow-felt-piano-cafe-7.wav  "Slow felt piano, café!"  seed 7  0.50 s  ')
    assert lines[0].endswith(" x real time") and float(lines[0].split()[-4]) > 0
    assert Audio.read("clips/rain-8.wav").seconds == 0.5


def test_a_clip_carries_what_made_it_and_the_number_of_threads(audiogen, engine):
    audiogen("generate", "rain", "--seed", 1, "--steps", 9, "--guidance", 2.5, "--sampler", "heun", "--threads", 1,
             "--temperature", 0.8, "--precision", "int8")
    made_by = read_made_by("rain-1.wav")
    assert made_by["seed"] == 1 and made_by["sampling"] == {
        "steps": 9, "guidance": 2.5, "sampler": "heun", "temperature": 0.8, "precision": "int8"}
    assert made_by["prompt"]["text"] == "rain" and made_by["threads"] == 1 and made_by["device"] == "cpu"
    assert made_by["checkpoint"] == engine.hashes


def test_a_seed_that_is_not_given_is_drawn_anew_and_printed(audiogen, engine):
    said = [audiogen("generate", "rain") for _ in range(2)]
    seeds = [asked["seed"] for _, asked in engine.asked]
    assert seeds[0] != seeds[1]
    assert all(f"seed {seed} " in one.out for seed, one in zip(seeds, said, strict=True))
    assert files(".") == sorted(f"rain-{seed}.wav" for seed in seeds)


def test_clips_in_a_folder_are_numbered_and_replaced_only_when_told_to(audiogen, engine):
    for _ in range(2):
        audiogen("generate", "rain", "--seed", 1, "--seconds", 1)
    assert files(".") == ["rain-1-2.wav", "rain-1.wav"]
    audiogen("generate", "rain", "--seed", 1, "--seconds", 2, "--overwrite")
    assert files(".") == ["rain-1-2.wav", "rain-1.wav"]
    assert (Audio.read("rain-1.wav").seconds, Audio.read("rain-1-2.wav").seconds) == (2.0, 1.0)
    audiogen("generate", "rain", "rain", "--seed", 1, "--overwrite", "-o", "two")
    assert files("two") == ["rain-1-2.wav", "rain-1.wav"], "one run never replaces its own clips"


@pytest.mark.parametrize("name", ["my clip.flac", "deep/er/größe.wav", "a.OGG"])
def test_out_may_name_a_file_which_is_replaced(audiogen, engine, name):
    for seconds in (1, 2):
        assert audiogen("generate", "rain", "-o", name, "--seconds", seconds).code == 0
    assert Audio.read(name).seconds == 2.0
    assert sum(len(found) for _, _, found in os.walk(".")) == 1


def test_options_become_the_fields_of_the_prompt(audiogen, engine):
    Score((Note(0.0, 1.0, 60, instrument="flute"),), bpm=100).save("tune.mid")
    said = audiogen(
        "generate", "a waltz", "--style", "grand piano:0.7", "--style", "cello", "--negative", "drums", "--bpm", 90,
        "--key", "am", "--metre", "3/4", "--score", "tune.mid", "--seconds", 3,
    )
    assert said.code == 0, said.err
    prompt = engine.asked[0][0]
    assert prompt.styles == (("grand piano", 0.7), ("cello", 1.0)) and prompt.negative == "drums"
    assert (prompt.bpm, prompt.key, prompt.metre, prompt.seconds) == (90.0, "A minor", "3/4", 3.0)
    assert [note.pitch for note in prompt.score.notes] == [60]


def test_styles_or_a_score_alone_are_enough_and_name_the_clip(audiogen, engine):
    Score((Note(0.0, 1.0, 60),)).save("My Tune.mid")
    audiogen("generate", "--style", "grand piano:0.7", "--style", "cello:0.3", "--seed", 1)
    audiogen("generate", "--score", "My Tune.mid", "--seed", 1)
    assert files(".") == ["My Tune.mid", "grand-piano-cello-1.wav", "my-tune-1.wav"]


def test_prompts_of_a_file_keep_their_fields_unless_an_option_says_otherwise(audiogen, engine, tmp_path):
    lines = ["# a comment", "rain", "", json.dumps({"text": "waltz", "bpm": 80, "seconds": 2, "styles": {"cello": 1}})]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    assert audiogen("generate", "sea", "--prompts", "prompts.txt", "--key", "C major").code == 0
    prompts = [prompt for prompt, _ in engine.asked]
    assert [(p.text, p.bpm, p.seconds, p.key) for p in prompts] == [
        ("sea", None, 8.0, "C major"), ("rain", None, 8.0, "C major"), ("waltz", 80.0, 2.0, "C major")]
    audiogen("generate", "--prompts", "prompts.txt", "--bpm", 100, "--seconds", 1)
    assert [(p.bpm, p.seconds) for p, _ in engine.asked[3:]] == [(100.0, 1.0), (100.0, 1.0)]


def test_a_spectrogram_lies_beside_the_clip(audiogen, engine):
    assert audiogen("generate", "rain", "--seed", 1, "--seconds", 1, "--png").code == 0
    assert files(".") == ["rain-1.png", "rain-1.wav"]
    assert Path("rain-1.png").read_bytes()[:4] == b"\x89PNG"


def test_a_prompt_that_nothing_is_known_of_is_a_warning_of_one_line(audiogen, engine):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        said = audiogen("generate", "gibberish", "--seconds", 1)
    assert said.code == 0
    assert said.err == "audiogen: warning: nothing in 'gibberish' is known to this model\n"


@pytest.mark.parametrize("words, said", [
    ([], "nothing to make"), ([""], "nothing to make"), (["  "], "nothing to make"),
    (["rain", "--seconds", "0"], "seconds=0"), (["rain", "--seconds", "-3"], "seconds=-3"),
    (["rain", "--seconds", "nan"], "seconds=nan"), (["rain", "--seconds", "inf"], "seconds=inf"),
    (["rain", "--seconds", "1e9"], "at most 600"), (["rain", "--seconds", "601"], "at most 600"),
    (["rain", "-n", "0"], "--count 0"), (["rain", "-n", "2", "-o", "a.wav"], "one file, 2 clips"),
    (["rain", "sea", "-o", "a.wav"], "one file, 2 clips"), (["rain", "-o", "a.mp3"], ".wav, .flac, .ogg"),
    (["rain", "--seed", "-1"], "--seed -1"), (["rain", "--seed", "9223372036854775808"], "--seed 9223372036854775808"),
    (["rain", "--steps", "0"], "--steps 0"), (["rain", "--guidance", "nan"], "--guidance nan"),
    (["rain", "--bpm", "0"], "bpm 0"), (["rain", "--key", "H moll"], "key 'H moll'"),
    (["rain", "--metre", "3/5"], "metre '3/5'"), (["rain", "--score", "none.mid"], "no score at none.mid"),
    (["rain", "--style", "cello:x"], "--style 'cello:x'"), (["rain", "--style", "cello:-1"], "positive weight"),
    (["rain", "--style", ":1"], "--style ':1'"), (["--prompts", "none.txt"], "no prompt file at none.txt"),
    (["rain", "--device", "tpu9"], "--device 'tpu9'"), (["rain", "--device", "cuda"], "no CUDA device"),
    (["rain", "--threads", "0"], "--threads 0"), (["rain", "-o", "file"], "file exists and is no folder"),
])
def test_impossible_wishes_are_one_clear_line_and_leave_nothing(audiogen, engine, tmp_path, words, said):
    (tmp_path / "file").write_text("")
    result = audiogen("generate", *words)
    assert (result.code, result.out) == (2, "") and result.err.count("\n") == 1
    assert said in result.err
    assert files(".") == ["file"] and engine.asked == []


def test_a_folder_that_cannot_be_made_is_one_clear_line(audiogen, engine, tmp_path):
    (tmp_path / "file").write_text("")
    result = audiogen("generate", "rain", "--seconds", 1, "-o", "file/clips")
    assert result.code == 1 and result.err.count("\n") == 1 and "file" in result.err and engine.asked


def test_ctrl_c_between_clips_keeps_those_that_are_whole(audiogen, engine, monkeypatch):
    made = engine.generate

    def generate(prompt, **options):
        if len(engine.asked) == 1:
            raise KeyboardInterrupt
        return made(prompt, **options)

    engine.generate = generate
    result = audiogen("generate", "rain", "-n", 3, "--seed", 1, "--seconds", 1)
    assert result.code == 130 and result.err.count("\n") == 1 and files(".") == ["rain-1.wav"]


def test_checkpoint_vocoder_and_device_go_to_the_engine(audiogen, engine):
    audiogen("generate", "rain", "--seconds", 1, "--checkpoint", "runs/x", "--vocoder", "runs/v", "--threads", 1)
    assert engine.loaded == [("runs/x", {"vocoder": "runs/v", "device": "cpu"})]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("prompt, name", [
    (Prompt("Rain"), "rain"), (Prompt("../../etc/passwd"), "etc-passwd"), (Prompt("a\\b:c*?\n"), "a-b-c"),
    (Prompt("古琴 音乐"), "古琴-音乐"), (Prompt("Größe É"), "große-e"), (Prompt("!!!"), "clip"), (Prompt("🎻"), "clip"),
    (Prompt("w" * 500), "w" * 48), (Prompt("one two " * 40), "one-two-" * 5 + "one-two"),
    (Prompt(styles=(("grand piano", 1.0),)), "grand-piano"),
])
def test_a_slug_is_a_safe_short_name(prompt, name):
    assert slug(prompt) == name and len(name) <= 48


def test_a_style_has_a_name_and_a_weight():
    assert parse_style("grand piano:0.7") == ("grand piano", 0.7)
    assert parse_style(" TR-808 drums ") == ("TR-808 drums", 1.0)
    for word in ("", ":", "piano:", "piano:nan", "piano:inf", "piano:0"):
        with pytest.raises(UserError):
            parse_style(word)
