"""Near-perfect reconstruction in dB, exact lengths, bands in their places, and equality with a triple loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiogen.signal.pqmf import PQMF, best_cutoff, prototype


def noise(time: int) -> torch.Tensor:
    return 0.3 * torch.randn(2, 1, time, generator=torch.Generator().manual_seed(0))


def reconstruction_db(pqmf: PQMF, audio: torch.Tensor) -> float:
    """Signal to error ratio of analysis and synthesis, away from the ends of the clip."""
    inner = slice(pqmf.taps, -pqmf.taps)
    error = (pqmf.synthesis(pqmf.analysis(audio)) - audio)[..., inner]
    return (10 * torch.log10(audio[..., inner].square().sum() / error.square().sum())).item()


@pytest.mark.parametrize(
    "bands, taps, at_least", [(2, 30, 60), (2, 62, 65), (4, 62, 62), (4, 128, 65), (8, 62, 48), (8, 124, 62)]
)
def test_comes_back_nearly_perfectly(bands, taps, at_least):
    assert reconstruction_db(PQMF(bands, taps), noise(16000)) > at_least


def test_search_finds_the_published_cutoff_and_nothing_near_it_is_better():
    assert best_cutoff(4, 62, 9.0) == pytest.approx(0.142, abs=2e-4)
    best = reconstruction_db(PQMF(4, 62), noise(8000))
    for cutoff in (0.135, 0.14, 0.144, 0.15):
        assert reconstruction_db(PQMF(4, 62, cutoff), noise(8000)) < best - 3


@pytest.mark.parametrize("bands", [2, 4, 8])
@pytest.mark.parametrize("multiple", [1, 7, 500])
def test_lengths_are_exact(bands, multiple):
    pqmf, audio = PQMF(bands), noise(bands * multiple)
    subbands = pqmf.analysis(audio)
    assert subbands.shape == (2, bands, multiple)
    assert pqmf.synthesis(subbands).shape == audio.shape


@pytest.mark.parametrize("time", [0, 4001, 4002])
def test_lengths_that_do_not_divide_are_refused(time):
    with pytest.raises(ValueError, match=f"{time} samples.*4"):
        PQMF(4).analysis(torch.zeros(1, 1, time))


@pytest.mark.parametrize("arguments", [{"bands": 1}, {"taps": 61}, {"taps": 6}, {"cutoff": 1.5}])
def test_impossible_banks_are_refused(arguments):
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        PQMF(**arguments)


def test_a_tone_lands_in_its_band():
    bands, time = 4, torch.arange(8000)
    for band in range(bands):
        frequency = (band + 0.5) / (2 * bands)  # in cycles a sample: the middle of the band
        tone = torch.sin(2 * torch.pi * frequency * time)[None, None]
        energy = PQMF(bands).analysis(tone).square().mean(dim=(0, 2))
        assert energy[band] > 1000 * (energy.sum() - energy[band])


def test_equals_filtering_and_dropping_samples_in_a_loop():
    bands, taps, audio = 3, 18, noise(24)[:1]
    pqmf = PQMF(bands, taps, 0.2, 7.0)
    low_pass, x = prototype(taps, 0.2, 7.0), np.pad(audio[0, 0].double().numpy(), taps // 2)
    subbands, back = np.zeros((bands, 8)), np.zeros(24 + 2 * taps)
    for band in range(bands):
        for n in range(taps + 1):
            turn = (2 * band + 1) * np.pi / (2 * bands) * (n - taps / 2)
            analysis = 2 * low_pass[n] * np.cos(turn + (-1) ** band * np.pi / 4)
            for frame in range(8):
                subbands[band, frame] += analysis * x[bands * frame + taps - n]
    for band in range(bands):
        for n in range(taps + 1):
            turn = (2 * band + 1) * np.pi / (2 * bands) * (n - taps / 2)
            synthesis = 2 * bands * low_pass[n] * np.cos(turn - (-1) ** band * np.pi / 4)
            for frame in range(8):
                back[bands * frame + n] += synthesis * subbands[band, frame]
    np.testing.assert_allclose(pqmf.analysis(audio)[0], subbands, atol=1e-5)
    np.testing.assert_allclose(pqmf.synthesis(pqmf.analysis(audio))[0, 0], back[taps // 2 : taps // 2 + 24], atol=1e-5)


def test_synthesis_is_the_transposed_analysis():
    pqmf, audio, subbands = PQMF(4), noise(400), torch.randn(2, 4, 100, generator=torch.Generator().manual_seed(1))
    left = (pqmf.analysis(audio) * subbands).sum()
    right = (audio * pqmf.synthesis(subbands)).sum() / 4  # the factor that makes up for the samples dropped
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_gradient_passes():
    pqmf = PQMF(2, 16).double()
    audio = noise(40)[:1].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pqmf.synthesis(pqmf.analysis(x)), audio)
