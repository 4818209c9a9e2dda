"""benchmarks/prompts.py on sounds whose truth is known: tones and noise, a tune of three notes."""

from __future__ import annotations

import importlib.util
import json
import math
import sys

import pytest
import torch

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.core.score import Note, Score

RATE = 22050
NOTES = (Note(0.2, 0.8, 60), Note(1.2, 0.8, 64), Note(2.2, 0.8, 67))


@pytest.fixture(scope="module")
def benchmark(root):
    spec = importlib.util.spec_from_file_location("prompts_benchmark", root / "benchmarks" / "prompts.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def tones(seed, notes=NOTES, seconds=4.0):
    clip = 1e-3 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))
    for note in notes:
        t = torch.arange(round(note.duration * RATE)) / RATE
        hertz = 440 * 2 ** ((note.pitch - 69) / 12)
        tone = sum(torch.sin(2 * math.pi * hertz * k * t) / k**2 for k in range(1, 6)) * torch.exp(-3 * t)
        clip[round(note.onset * RATE) : round(note.onset * RATE) + len(t)] += 0.3 * tone
    return clip


def noise(seed, notes=(), seconds=4.0):
    return 0.1 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


SOUNDS = {"grand piano": tones, "rain": noise}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Real clips of both styles and splits, and "generated" ones."""
    monkeypatch.setenv("AUDIOGEN_CACHE", str(tmp_path / "cache"))
    real, made = tmp_path / "real", tmp_path / "made"
    for style, sound in SOUNDS.items():
        for k in range(8):
            path = real / style / f"{k}.flac"
            Audio(sound(k)[None], RATE).save(path)
            path.with_suffix(".json").write_text(json.dumps({"styles": [style], "split": "train" if k < 5 else "test"}))
        for k in range(4):
            Audio(sound(100 + k)[None], RATE).save(made / f"{style.replace(' ', '_')}__{k:03d}.wav")
    return real, made


def run(benchmark, real, made, **options):
    out = made / "result.json"
    options = {"seconds": 4.0, "embedders": ("melstats",), **options}
    assert benchmark.Prompts(real=real, clips=made, json=out, **options).run() == 0
    return json.loads(out.read_text())


def test_obeyed_prompts_score_one_and_swapped_ones_zero(benchmark, folders):
    real, made = folders
    style = run(benchmark, real, made, measure=("styles",))["style"]
    assert style["chance"] == 0.5
    assert (style["generated"]["accuracy"], style["real, held out"]["accuracy"]) == (1.0, 1.0)
    assert (style["generated"]["n"], style["real, held out"]["n"]) == (8, 6)
    for k in range(4):
        a, b = made / f"grand_piano__{k:03d}.wav", made / f"rain__{k:03d}.wav"
        a.rename(made / "x")
        b.rename(a)
        (made / "x").rename(b)
    swapped = run(benchmark, real, made, measure=("styles",))["style"]["generated"]
    assert swapped["accuracy"] == 0.0 and swapped["taken for"]["rain"] == {"grand piano": 4}


def test_distances_put_the_own_style_below_the_others(benchmark, folders):
    real, made = folders
    for path in made.glob("*__*.wav"):
        (made / "griffin_lim").mkdir(exist_ok=True)
        blurred = Audio.read(path)
        worse = blurred.samples + 0.02 * torch.randn(blurred.samples.shape, generator=torch.Generator().manual_seed(3))
        Audio(worse, RATE).save(made / "griffin_lim" / path.name)
    table = run(benchmark, real, made, measure=("frechet",))["frechet"][0]
    means = table["mean over styles"]
    assert means["generated"] < means["Griffin-Lim"] < means["real, other styles"]
    assert table["all styles"]["generated"]["n"] == [6, 8]


def test_the_notes_of_a_score_are_found_where_they_were_played(benchmark, folders):
    real, made = folders
    other = (Note(0.7, 0.8, 60), Note(1.7, 0.8, 64), Note(2.7, 0.8, 67))
    for name, notes in (("s000", NOTES), ("s001", other)):
        Audio(tones(7, notes)[None], RATE).save(made / f"grand_piano__{name}.wav")
        Score(NOTES).save(made / f"grand_piano__{name}.mid")
        facts = {"style": "grand piano", "real": str(real / "grand piano" / "6.flac")}
        (made / f"grand_piano__{name}.json").write_text(json.dumps(facts))
    notes = run(benchmark, real, made, measure=("notes",))["notes"]
    assert notes["real"]["f1"] > 0.6  # the same notes in another noise
    assert notes["generated"]["f1"] == pytest.approx(0.5 * notes["real"]["f1"], abs=0.2)  # one played right, one late


def test_unusable_folders_are_said_in_one_line(benchmark, folders, tmp_path):
    real, made = folders
    Audio(noise(1)[None], RATE).save(made / "kazoo__000.wav")
    with pytest.raises(UserError, match="kazoo__000.wav is of no style"):
        run(benchmark, real, made, measure=("styles",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio with .json sidecars"):
        run(benchmark, tmp_path / "empty", made)
    with pytest.raises(UserError, match="stiles"):
        run(benchmark, real, made, measure=("stiles",))
