"""A sine stays a sine, what cannot be kept is gone, and the length follows one rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiogen.signal.resample import RESAMPLER, resample, resample_on_device, resampled_time

RATES = [(44100, 22050), (48000, 22050), (24000, 22050), (8000, 22050), (22050, 48000), (16000, 24000)]


def sine(frequency: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize("function", [resample, resample_on_device])
@pytest.mark.parametrize("from_rate, to_rate", RATES)
def test_a_sine_stays_a_sine(function, from_rate, to_rate):
    ours = function(torch.from_numpy(sine(997, from_rate))[None], from_rate, to_rate)[0].numpy()
    edge = to_rate // 20
    np.testing.assert_allclose(ours[edge:-edge], sine(997, to_rate)[edge : len(ours) - edge], atol=2e-4)


@pytest.mark.parametrize("function", [resample, resample_on_device])
def test_what_lies_above_the_new_nyquist_frequency_is_gone(function):
    gone = function(torch.from_numpy(sine(15000, 44100))[None], 44100, 22050)[0, 500:-500]
    assert gone.abs().max() < 1e-3


@pytest.mark.parametrize("function", [resample, resample_on_device])
@pytest.mark.parametrize("from_rate, to_rate", [*RATES, (44100, 48000), (3, 2)])
def test_lengths_follow_the_rule(function, from_rate, to_rate):
    for time in (1, 2, 3, 100, 1001, 4410, 4411):
        expected = int(np.floor(time * to_rate / from_rate + 0.5))
        assert resampled_time(time, from_rate, to_rate) == expected
        assert function(torch.zeros(2, time), from_rate, to_rate).shape == (2, expected)


def test_numpy_and_torch_agree_and_keep_their_kind():
    stereo = np.stack([sine(440, 44100), sine(660, 44100)]).astype(np.float64)
    from_numpy, from_torch = resample(stereo, 44100, 24000), resample(torch.from_numpy(stereo), 44100, 24000)
    assert isinstance(from_numpy, np.ndarray) and isinstance(from_torch, torch.Tensor)
    assert from_numpy.dtype == np.float64 and from_torch.dtype == torch.float64
    np.testing.assert_array_equal(from_numpy, from_torch.numpy())
    np.testing.assert_array_equal(from_numpy[0], resample(stereo[0], 44100, 24000))


def test_the_same_rate_changes_nothing():
    samples = torch.from_numpy(sine(440, 22050))
    assert torch.equal(resample(samples, 22050, 22050), samples)
    assert torch.equal(resample_on_device(samples, 22050, 22050), samples)


def test_on_the_device_the_gradient_passes():
    audio = torch.zeros(1, 300, requires_grad=True)
    resample_on_device(audio, 3, 2).sum().backward()
    torch.testing.assert_close(audio.grad[0, 140:160], torch.full((20,), 2 / 3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rates", [(0, 22050), (22050, -1)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(ValueError, match="positive"):
        resample(np.zeros(10), *rates)


def test_the_resampler_has_a_name_and_a_version():
    assert RESAMPLER.startswith("soxr ") and RESAMPLER.endswith(" HQ") and any(c.isdigit() for c in RESAMPLER)
