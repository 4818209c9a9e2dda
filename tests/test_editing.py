"""A part of a recording made anew: what is outside of it stays, and what is inside goes with it."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_engine import load_words, save_engine

from audiogen.cli import main
from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.editing import FADE_SECONDS, edit, extend
from audiogen.pipeline import Engine
from audiogen.signal.features import beat_offset

RATE = 16000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_engine(tmp_path_factory.mktemp("engine"), load_words())


@pytest.fixture(scope="module")
def engine(folder) -> Engine:
    return Engine.from_pretrained(folder)


@pytest.fixture(scope="module")
def sound() -> Audio:
    """Three seconds of stereo noise at another rate than the engine's, softer on the left."""
    noise = torch.randn(2, 3 * RATE, generator=torch.Generator().manual_seed(0))
    return Audio(noise * torch.tensor([[0.05], [0.1]]), RATE)


def test_an_edit_changes_the_span_and_nothing_else(engine, sound):
    made = edit(engine, sound, "rain", start=1.0, end=2.0, seed=3)
    assert made.sample_rate == RATE and made.samples.shape == sound.samples.shape
    assert torch.equal(made.samples[:, :RATE], sound.samples[:, :RATE])
    assert torch.equal(made.samples[:, 2 * RATE :], sound.samples[:, 2 * RATE :])
    inside = slice(round(1.1 * RATE), round(1.9 * RATE))
    assert not torch.allclose(made.samples[:, inside], sound.samples[:, inside], atol=1e-3)
    assert torch.equal(made.samples[0, inside], made.samples[1, inside])  # what is new is one channel, in both
    assert torch.equal(made.samples, edit(engine, sound, "rain", start=1.0, end=2.0, seed=3).samples)
    assert not torch.equal(made.samples, edit(engine, sound, "rain", start=1.0, end=2.0, seed=4).samples)
    assert made.made_by["edit"]["from"] == 1.0 and made.made_by["seed"] == 3


@pytest.mark.parametrize("before", [False, True])
def test_an_extension_is_as_long_as_asked_and_leaves_the_recording(engine, sound, before):
    made = extend(engine, sound, Prompt(text="rain"), seconds=0.7, before=before, seed=1)
    more, seam = round(0.7 * RATE), round(FADE_SECONDS * RATE)
    assert made.samples.shape == (2, 3 * RATE + more)
    if before:
        assert torch.equal(made.samples[:, more + seam :], sound.samples[:, seam:])
        assert made.samples[:, :more].abs().max() > 1e-4
    else:
        assert torch.equal(made.samples[:, : 3 * RATE - seam], sound.samples[:, : 3 * RATE - seam])
        assert made.samples[:, 3 * RATE :].abs().max() > 1e-4


def test_there_is_no_click_at_the_seams(engine):
    time = torch.arange(2 * RATE) / RATE
    tone = Audio((0.3 * torch.sin(2 * math.pi * 100 * time))[None], RATE)
    made = edit(engine, tone, "rain", start=0.8, end=1.2, seed=0).samples[0]
    jump = (made[1:] - made[:-1]).abs()
    inside = float(jump[round(0.85 * RATE) : round(1.15 * RATE)].max())
    for seam in (0.8, 1.2):
        at = round(seam * RATE)
        assert float(jump[at - 3 : at + 3].max()) <= max(inside, 0.013)  # the tone itself moves by 0.012 a sample


def test_played_styles_get_new_notes_in_the_heard_tempo(engine, monkeypatch):
    """A click every half second is 120 bpm, and the new notes begin on the beat."""
    from audiogen.composers.rules import RuleComposer

    asked = []
    compose = RuleComposer.compose
    monkeypatch.setattr(RuleComposer, "compose", lambda self, prompt, **more: asked.append(prompt) or compose(
        self, prompt, **more))
    samples = torch.zeros(1, 5 * RATE)
    for beat in range(10):
        start = round((0.2 + 0.5 * beat) * RATE)
        length = min(800, samples.shape[1] - start)
        samples[0, start : start + length] = 0.5 * torch.sin(torch.arange(length) * 0.3) * torch.exp(
            -torch.arange(length) / 100)
    extend(engine, Audio(samples, RATE), "grand piano", seconds=2.0, seed=0)
    assert asked[0].bpm == pytest.approx(120, abs=2)
    assert beat_offset(samples, RATE, 120.0) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("start, end, said", [
    (2.0, 1.0, "span"), (-1.0, 1.0, "span"), (0.0, 9.0, "span"), (float("nan"), 1.0, "span"), (1.0, 1.01, "too short"),
])
def test_a_span_that_makes_no_sense_is_refused(engine, sound, start, end, said):
    with pytest.raises(UserError, match=said):
        edit(engine, sound, "rain", start=start, end=end)


def test_the_verbs_write_new_files_and_say_what_is_new(folder, sound, tmp_path, capsys):
    sound.save(tmp_path / "a.wav")
    words = [str(tmp_path / "a.wav"), "rain", "--seed", "5", "--checkpoint", str(folder)]
    assert main(["edit", *words, "--from", "0.5", "--to", "1", "-o", str(tmp_path / "b.wav")]) == 0
    assert main(["extend", *words, "--seconds", "0.5", "-o", str(tmp_path / "c.flac")]) == 0
    said = capsys.readouterr().out
    assert "new from 0.50 to 1.00 s, seed 5" in said and Audio.read(tmp_path / "c.flac").seconds == 3.5
    assert main(["again", str(tmp_path / "b.wav"), "--checkpoint", str(folder)]) == 2
    assert "another file" in capsys.readouterr().err
    assert main(["edit", *words, "-o", str(tmp_path / "a.wav")]) == 2
    assert "its own source" in capsys.readouterr().err
    assert main(["edit", *words, "--style", "sitarr", "-o", str(tmp_path / "d.wav")]) == 2
    assert "sitarr" in capsys.readouterr().err and not (tmp_path / "d.wav").exists()
