from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

from audiogen import pipeline
from audiogen.core.audio import Audio
from audiogen.core.checkpoint import Checkpoint
from audiogen.core.mel_format import MelFormat
from audiogen.generators.autoencoder import Autoencoder, AutoencoderConfig
from audiogen.pipeline import CEILING_DBTP, LOUDNESS_LUFS, Engine, Voice
from audiogen.signal.loudness import integrated_loudness, normalise, true_peak
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig

RATE = 22050


@pytest.fixture
def sounds(audiogen):
    """A low tone of 0.6 s and a high one of 0.5 s, quiet, in stereo and at another rate."""
    for name, hertz, seconds, rate, gain in (("low.wav", 220, 0.6, RATE, 0.5), ("high.wav", 1760, 0.5, 16000, 0.02)):
        tone = gain * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * rate)) / rate)
        Audio(torch.stack((tone, tone)) if name == "high.wav" else tone[None], rate).save(name)


@pytest.fixture
def real_engine(monkeypatch):
    """An untrained autoencoder, which is a cosine transform and back, and Griffin-Lim."""
    mel = MelFormat()
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(mel=mel, latent_dim=320, widths=(8, 8, 8, 8))).eval()
    vocoder = GriffinLim(GriffinLimConfig(mel=mel, iterations=2)).eval()
    engine = Engine(Checkpoint(model, "generator", "autoencoder", mel, hash="aaa"),
                    Checkpoint(vocoder, "vocoder", "griffin_lim", mel, hash="bbb"), None, "ccc")
    asked = []
    monkeypatch.setattr(pipeline.Engine, "from_pretrained", lambda *words, **named: asked.append(words) or engine)
    engine.asked = asked
    return engine


def pitch(audio):
    """Frequency in Hz where the clip is strongest."""
    spectrum = torch.fft.rfft(audio.samples[0]).abs()
    return float(spectrum.argmax()) / audio.seconds


def test_a_series_goes_from_one_to_the_other(audiogen, sounds, real_engine):
    ats = [word for at in (0, 0.5, 1) for word in ("--at", at)]
    said = audiogen("mix", "low.wav", "high.wav", *ats, "-o", "series", "--checkpoint", "x")
    assert said.code == 0 and said.err == "" and len(said.out.splitlines()) == 3
    clips = [Audio.read(f"series/low+high-{at}.wav") for at in ("0", "0.5", "1")]
    assert all(clip.samples.shape == (1, RATE // 2) for clip in clips)  # as long as the shorter
    assert pitch(clips[0]) == pytest.approx(220, abs=25) and pitch(clips[2]) == pytest.approx(1760, abs=60)
    for clip in clips:  # at one level, whatever they were, or at the ceiling
        assert integrated_loudness(clip) == pytest.approx(-18, abs=0.5) or true_peak(clip) == pytest.approx(-1, abs=0.1)
    assert all(abs(float(clip.samples[0, -1])) < 1e-3 for clip in clips)  # ends without a click
    assert real_engine.asked == [("x",)]


def test_the_ends_are_reconstructions_and_the_middle_is_the_models_own(sounds, real_engine):
    """What is rendered at 0 is the reconstruction of the first sound alone, whatever the second is."""
    from audiogen.cli.mix import mixed

    seen = []
    real_engine.vocoder.model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    low, high = Audio.read("low.wav"), Audio.read("high.wav")
    half = Audio(normalise(low, LOUDNESS_LUFS, CEILING_DBTP).samples[:, : RATE // 2], RATE)
    list(mixed(real_engine, low, high, (0.0, 0.5, 1.0)))
    list(mixed(real_engine, half, half, (0.0, 0.5)))
    with torch.inference_mode():
        own = real_engine.generator.model.reconstruct(Voice(real_engine.vocoder).analyse(half)[0])
    torch.testing.assert_close(seen[0], own)
    torch.testing.assert_close(seen[3], seen[4], rtol=0, atol=1e-4)  # between a sound and itself lies that sound
    assert (seen[1] - seen[0]).abs().max() > 1 and (seen[1] - seen[2]).abs().max() > 1


def test_whole_is_as_long_as_the_longer_and_a_file_holds_what_made_it(audiogen, sounds, real_engine):
    said = audiogen("mix", "low.wav", "high.wav", "--whole", "--at", 0.25, "-o", "c.flac", "--checkpoint", "x",
                    "--threads", 1)
    assert said.code == 0 and said.out.startswith("c.flac  0.25 of the way from low.wav to high.wav  0.60 s")
    clip = Audio.read("c.flac")
    assert clip.samples.shape == (1, round(0.6 * RATE))
    made = clip.made_by
    of = [{"file": name, "sha256": hashlib.sha256(Path(name).read_bytes()).hexdigest()} for name in
          ("low.wav", "high.wav")]
    assert made["mix"] == {"at": 0.25, "whole": True, "of": of}
    assert made["checkpoint"] == {"generator": "aaa", "vocoder": "bbb", "words": "ccc"} and made["threads"] == 1
    assert audiogen("mix", "low.wav", "high.wav", "--checkpoint", "x").code == 0
    assert os.path.exists("low+high-0.5.wav")  # half-way, where nothing is said


@pytest.mark.parametrize("words, said", [
    (["low.wav", "none.wav"], "none.wav"),
    (["low.wav", "high.wav", "--at", "1.5"], "--at 1.5"), (["low.wav", "high.wav", "--at", "nan"], "--at nan"),
    (["low.wav", "high.wav", "--at", "0", "--at", "1", "-o", "c.wav"], "name a folder"),
    (["low.wav", "high.wav", "-o", "c.mp3"], "c.mp3"), (["low.wav", "high.wav", "-o", "high.wav"], "its own source"),
    (["empty.wav", "high.wav"], "zero samples"),
])
def test_what_cannot_be_mixed_is_one_clear_line(audiogen, sounds, real_engine, words, said):
    Audio(torch.zeros(1, 0), RATE).save("empty.wav")
    before = sorted(os.listdir("."))
    result = audiogen("mix", *words, "--checkpoint", "x")
    assert result.code == 2 and said in result.err and result.err.count("\n") == 1
    assert sorted(os.listdir(".")) == before


def test_a_generator_without_latents_is_refused_with_the_way_out(audiogen, sounds, real_engine):
    real_engine.generator = Checkpoint(torch.nn.Identity(), "generator", "diffusion", real_engine.mel)
    result = audiogen("mix", "low.wav", "high.wav", "--checkpoint", "x")
    assert result.code == 2 and "a diffusion generator has no latents" in result.err and "--checkpoint" in result.err


def test_the_shipped_autoencoder_keeps_what_is_played():
    """Notes that it was never trained on: the mel comes back within half a neper, and the notes in their place."""
    from audiogen.cli.mix import SHIPPED
    from audiogen.core.checkpoint import load_checkpoint
    from audiogen.signal.mel import MelSpectrogram

    shipped = load_checkpoint(SHIPPED, room="generator")
    time = torch.arange(RATE) / RATE
    tone = torch.cat([sum(torch.sin(2 * torch.pi * hertz * h * time) / h for h in range(1, 9)) * torch.exp(-3 * time)
                      for hertz in (220.0, 329.6)])
    mel = MelSpectrogram(shipped.mel)(0.2 * tone[None, None])
    with torch.inference_mode():
        z = shipped.model.encode(mel)
        back = shipped.model.decode(z, mel.shape[2])
    assert z.numel() * 9 < mel.numel()
    audible = mel > -7
    assert (back - mel).abs()[audible].mean() < 0.5
    for note in (slice(4, 80), slice(90, 166)):
        assert torch.equal(back[0, :, note].mean(1).argmax(), mel[0, :, note].mean(1).argmax())
