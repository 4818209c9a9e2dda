"""Known loudness of sines (EBU Tech 3341), peaks between samples, short and silent clips, a gain that never clips."""

from __future__ import annotations

import math

import numpy as np
import pyloudnorm
import pytest
import torch

from audiogen.core.audio import Audio
from audiogen.signal.loudness import integrated_loudness, normalise, true_peak


def sine(decibels: float, *, seconds: float = 3.0, frequency: float = 1000.0, rate: int = 48000, channels: int = 2):
    time = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    wave = 10 ** (decibels / 20) * torch.sin(2 * torch.pi * frequency * time)
    return Audio(wave.float().expand(channels, -1).clone(), rate)


def noise(seconds: float, rate: int = 22050, channels: int = 1, gain: float = 0.1) -> Audio:
    return Audio(gain * torch.randn(channels, int(seconds * rate), generator=torch.Generator().manual_seed(0)), rate)


@pytest.mark.parametrize("decibels", [-23.0, -33.0])
@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_a_stereo_sine_at_1_khz_has_the_loudness_of_its_peak(decibels, rate):
    assert integrated_loudness(sine(decibels, rate=rate)) == pytest.approx(decibels, abs=0.1)


def test_a_mono_sine_is_3_db_softer():
    assert integrated_loudness(sine(-23, channels=1)) == pytest.approx(-26.01, abs=0.1)


def test_quiet_passages_are_gated_out():
    loud, quiet = sine(-23, seconds=12, rate=16000), sine(-60, seconds=12, rate=16000)
    both = Audio(torch.cat([quiet.samples, loud.samples, quiet.samples], dim=1), 16000)
    assert integrated_loudness(both) == pytest.approx(integrated_loudness(loud), abs=0.15)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_equals_pyloudnorm(channels):
    audio = noise(1.3, channels=channels)
    expected = pyloudnorm.Meter(22050).integrated_loudness(audio.samples.double().numpy().T)
    assert integrated_loudness(audio) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seconds", [0.399, 0.1, 0.02])
def test_clips_shorter_than_a_block_are_measured_over_their_own_length(seconds):
    assert integrated_loudness(sine(-23, seconds=seconds)) == pytest.approx(-23.0, abs=0.6)


@pytest.mark.parametrize("time", [0, 1, 2, 10])
def test_a_few_samples_do_no_harm(time):
    loudness = integrated_loudness(Audio(torch.full((1, time), 0.5), 22050))
    assert loudness is None or math.isfinite(loudness)


@pytest.mark.parametrize("audio", [Audio(torch.zeros(2, 30000), 22050), sine(-90), Audio(torch.zeros(1, 5), 22050)])
def test_silence_has_no_loudness_and_stays_as_it_is(audio):
    assert integrated_loudness(audio) is None
    assert torch.equal(normalise(audio, -16.0, -1.0).samples, audio.samples)


def test_strange_rates_and_channels_are_measured():
    low = Audio(0.1 * torch.sin(2 * torch.pi * 100 * torch.arange(3000) / 1000)[None], 1000)
    again = Audio(0.1 * torch.sin(2 * torch.pi * 100 * torch.arange(48000) / 16000)[None], 16000)
    assert integrated_loudness(low) == pytest.approx(integrated_loudness(again), abs=0.3)
    assert integrated_loudness(noise(1, channels=8)) is not None


def test_a_peak_between_the_samples_is_found():
    n = torch.arange(4000)
    wave = 0.5 * torch.sin(torch.pi / 2 * n + torch.pi / 4)  # every sample lies at 0.707 of the peak
    fade = torch.hann_window(4000).sqrt()
    assert (wave * fade).abs().max() < 0.36
    assert true_peak(Audio((wave * fade)[None], 48000)) == pytest.approx(20 * np.log10(0.5), abs=0.1)


def test_true_peak_is_at_least_the_sample_peak_and_minus_infinity_for_silence():
    audio = noise(0.2)
    assert true_peak(audio) >= 20 * math.log10(audio.samples.abs().max().item())
    assert true_peak(Audio(torch.zeros(1, 100), 22050)) == -math.inf
    assert true_peak(Audio(torch.zeros(1, 0), 22050)) == -math.inf


@pytest.mark.parametrize("gain", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("target", [-40.0, -16.0])
def test_normalising_reaches_the_target_or_the_ceiling_and_never_passes_either(gain, target):
    done = normalise(noise(1, gain=gain), target, -1.0)
    loudness, peak = integrated_loudness(done), true_peak(done)
    assert loudness <= target + 0.01 and peak <= -1.0 + 0.01
    assert abs(loudness - target) < 0.01 or abs(peak + 1.0) < 0.01
    assert done.samples.abs().max() < 1.0


def test_a_click_in_near_silence_does_not_clip():
    samples = 1e-3 * noise(2).samples
    samples[0, 20000] = 0.9
    assert normalise(Audio(samples, 22050), -14.0, -1.0).samples.abs().max() <= 10 ** (-1 / 20)


def test_normalising_keeps_how_the_clip_was_made():
    audio = Audio(noise(1).samples, 22050, {"audiogen": "0", "seed": 7})
    assert normalise(audio).made_by == audio.made_by
