"""Each paired score against an oracle of its own: another library, a formula by hand, or a known damage."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
import torch

from evaluation.vocoder_scores import (
    NOT_INSTALLED,
    f0_scores,
    log_spectral_distance,
    mcd,
    mel_l1,
    mr_stft,
    periodicity,
    periodicity_rmse,
    pesq,
    score_pair,
    score_pairs,
    si_sdr,
    stoi,
)

RATE = 22050


def tone(frequency: float, seconds: float = 0.5, rate: int = RATE) -> torch.Tensor:
    """Ten harmonics, as of a voice."""
    time = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    return sum(0.3 / n * torch.sin(2 * math.pi * n * frequency * time) for n in range(1, 11)).float()


def noise(seconds: float = 0.5, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def test_a_clip_is_at_no_distance_from_itself():
    clip = tone(220.0) + noise()
    scores = score_pair(clip, clip, RATE)
    assert scores.pop("si_sdr") > 100
    assert all(abs(value) < 1e-6 for value in scores.values()), scores


def test_mr_stft_is_auralosss():
    from auraloss.freq import MultiResolutionSTFTLoss

    real, made = noise(), noise(seed=1) * 0.5
    expected = float(MultiResolutionSTFTLoss()(made[None, None], real[None, None]))
    assert mr_stft(real, made) == pytest.approx(expected, rel=1e-3)


def test_half_as_loud_is_ln_2_in_mel_and_6_db_in_spectrum_but_no_other_cepstrum():
    real = noise()
    assert mel_l1(real, 0.5 * real, RATE) == pytest.approx(math.log(2), rel=1e-3)
    assert log_spectral_distance(real, 0.5 * real) == pytest.approx(20 * math.log10(2), rel=1e-3)
    assert mcd(real, 0.5 * real, RATE) < 1e-3  # c0, the loudness, is not among them


def test_mcd_is_the_formula_by_scipy_and_librosa(librosa):
    from scipy.fft import dct

    real, made = noise(), tone(300.0)
    cepstra = []
    for clip in (real, made):
        padded = np.pad(clip.numpy(), 384, mode="reflect")
        mel = librosa.feature.melspectrogram(
            y=padded, sr=RATE, n_fft=1024, hop_length=256, n_mels=80, power=1.0, center=False
        )
        cepstra.append(dct(np.log(np.maximum(mel, 1e-5)), axis=0, norm="ortho")[1:14])
    frames = min(c.shape[1] for c in cepstra)
    distance = np.sqrt(((cepstra[0] - cepstra[1])[:, :frames] ** 2).sum(0))
    assert mcd(real, made, RATE) == pytest.approx(10 * math.sqrt(2) / math.log(10) * distance.mean(), rel=0.01)


@pytest.mark.parametrize("db", [-10.0, 0.0, 20.0])
def test_si_sdr_is_the_level_of_noise_and_blind_to_loudness(db):
    real, added = noise().double(), noise(seed=1).double()
    real, added = real - real.mean(), added - added.mean()
    added -= (added @ real) / (real @ real) * real  # orthogonal: the ratio is then exact
    added *= real.norm() / added.norm() * 10 ** (-db / 20)
    assert si_sdr(real, 3.0 * (real + added)) == pytest.approx(db, abs=1e-6)


def test_si_sdr_of_silence_is_minus_infinity():
    assert si_sdr(torch.zeros(100), noise()[:100]) == si_sdr(noise()[:100], torch.zeros(100)) == -math.inf


def test_a_semitone_is_a_hundred_cents_and_noise_is_not_voiced():
    real = tone(220.0)
    found = f0_scores(real, tone(220.0 * 2 ** (1 / 12)), RATE)
    assert found["f0_rmse"] == pytest.approx(100.0, abs=12.0)  # pYIN's grid here is 20 cents
    assert found["voicing_error"] < 0.1
    against = f0_scores(real, noise(), RATE)
    assert against["voicing_error"] > 0.7


def test_periodicity_tells_tones_from_noise_and_silence():
    assert periodicity(tone(150.0), RATE).min() > 0.99
    assert periodicity(noise(), RATE).mean() < 0.35
    assert float(periodicity(torch.zeros(9000), RATE).max()) == 0.0
    assert periodicity_rmse(tone(150.0), torch.zeros(len(tone(150.0))), RATE) > 0.95


def test_periodicity_is_the_correlation_that_numpy_finds():
    clip = (tone(97.0, rate=16000) + 0.05 * torch.randn(8000, generator=torch.Generator().manual_seed(2))).double()
    found, samples = periodicity(clip, 16000), clip.float().double().numpy()
    for frame in (0, 7):
        a = samples[256 * frame :][:1024]
        lagged = [samples[256 * frame + lag :][:1024] for lag in range(16, 248)]
        best = max(a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in lagged)
        assert float(found[frame]) == pytest.approx(best, abs=1e-5)


def test_speech_scores_say_where_their_package_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    monkeypatch.setitem(sys.modules, "pystoi", None)
    assert pesq(noise(), noise(), RATE) == stoi(noise(), noise(), RATE) == NOT_INSTALLED
    found = score_pairs([(noise(), noise(seed=1))], RATE, speech=True)
    assert found["scores"]["pesq"] == NOT_INSTALLED


def test_speech_scores_hand_over_16_khz(monkeypatch):
    seen = {}

    def fake(rate, a, b, mode):
        seen.update(rate=rate, time=len(a), mode=mode)
        return 3.5

    monkeypatch.setitem(sys.modules, "pesq", types.SimpleNamespace(pesq=fake, PesqError=ValueError))
    assert pesq(noise(), noise(), RATE) == 3.5
    assert seen == {"rate": 16000, "time": 8000, "mode": "wb"}


def test_means_have_their_interval_and_number():
    real = [noise(seed=n) for n in range(3)]
    found = score_pairs([(clip, gain * clip) for clip, gain in zip(real, (0.5, 0.25, 0.5), strict=True)], RATE)
    spread = np.log([2, 4, 2])
    scores = found["scores"]["mel_l1"]
    assert found["clips"] == scores["n"] == 3
    assert scores["mean"] == pytest.approx(spread.mean(), rel=1e-2)
    assert scores["interval"] == pytest.approx(1.96 * spread.std(ddof=1) / math.sqrt(3), rel=1e-2)
    assert found["scores"]["f0_rmse"] is None  # noise has no pitch: no number is made up


def test_clips_that_are_too_short_or_silent_still_give_numbers_or_none():
    for real, made in [(torch.zeros(4000), noise()[:4000]), (noise()[:300], noise(seed=1)[:290])]:
        scores = score_pair(real, made, RATE)
        assert all(not math.isnan(value) for name, value in scores.items() if name != "f0_rmse"), scores


def test_clips_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 100\)"):
        score_pair(torch.zeros(2, 100), torch.zeros(100), RATE)
