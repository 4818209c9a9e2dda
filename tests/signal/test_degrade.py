"""Noise at the level that is asked for, of the colour that is asked for; a low-pass that keeps what lies below."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.rng import SampleRng
from audiogen.signal.degrade import add_noise, coloured_noise, low_pass

RATE, TIME = 16000, 16384


def test_noise_has_unit_rms_and_the_slope_of_its_colour():
    exponent = torch.tensor([0.0, 1.0, 2.0])
    noise = coloured_noise(SampleRng(0, ids=range(3)), TIME, exponent)
    assert noise.shape == (3, 1, TIME)
    torch.testing.assert_close(noise.square().mean(dim=(1, 2)), torch.ones(3))
    power = torch.fft.rfft(noise[:, 0]).abs().square()
    low, high = power[:, 64:128].mean(dim=1), power[:, 1024:2048].mean(dim=1)  # four octaves apart
    torch.testing.assert_close(torch.log2(low / high) / 4, exponent, rtol=0, atol=0.15)


def test_the_ratio_is_the_one_asked_for_and_silence_stays():
    audio = torch.randn(2, 1, TIME, generator=torch.Generator().manual_seed(0)) * 0.1
    audio[1] = 0
    noise = coloured_noise(SampleRng(0, ids=[0, 1]), TIME, torch.zeros(2))
    noisy = add_noise(audio, noise, torch.tensor([10.0, 10.0]))
    added = (noisy - audio)[0].square().mean()
    assert 10 * torch.log10(audio[0].square().mean() / added) == pytest.approx(10.0, abs=0.01)
    assert not noisy[1].any()


def test_a_low_pass_keeps_what_lies_below_and_nothing_above():
    time = torch.arange(TIME) / RATE
    tone = lambda hertz: torch.sin(2 * torch.pi * hertz * time)  # noqa: E731
    audio = torch.stack([tone(500), tone(3000)]).sum(0)[None, None]
    made = low_pass(audio.expand(2, 1, -1), torch.tensor([1000.0, 8 * RATE]), RATE)
    inside = slice(500, -500)
    torch.testing.assert_close(made[0, 0, inside], tone(500)[inside], rtol=0, atol=0.02)
    torch.testing.assert_close(made[1:], audio, rtol=0, atol=1e-5)  # a cutoff above all there is changes nothing
