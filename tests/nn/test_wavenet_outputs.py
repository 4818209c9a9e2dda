"""Distributions of the next sample: probabilities sum to 1, narrow ones too, and samples are drawn from them."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from audiogen.core.mel_format import MelFormat
from audiogen.nn.wavenet_outputs import (
    LEVELS,
    Gaussian,
    Logistics,
    MuLaw,
    log_logistic_bin,
    mu_law_decode,
    mu_law_encode,
)
from vocoders.wavenet import WaveNet, WaveNetConfig

ALL_LEVELS = -1 + 2 * torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1)


@pytest.mark.parametrize("log_scale", [-14.0, -11.0, -8.0, -5.0, -1.0, 2.0])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-3), (torch.float64, 1e-9)])
def test_a_mixture_of_logistics_sums_to_1_over_all_16_bit_levels(log_scale, dtype, tolerance):
    """The usual form loses up to all of it: a level's probability is below its threshold of 1e-5."""
    parameters = torch.tensor([0.3, -1.2, 0.5, -0.7, 0.0103, 1.1, log_scale, log_scale - 0.5, log_scale], dtype=dtype)
    log_prob = Logistics(3, -16.0).log_prob(parameters[None, :, None].expand(1, 9, LEVELS), ALL_LEVELS[None].to(dtype))
    assert abs(float(log_prob.double().exp().sum()) - 1) < tolerance


@pytest.mark.parametrize("audio", [-1.0, -0.99997, -0.3, 0.0, 0.5, 0.99997, 1.0])
@pytest.mark.parametrize("mean, log_scale", [(0.0, -12.0), (0.4999, -9.0), (-1.4, -3.0), (0.1, 1.0)])
def test_a_levels_log_probability_is_exact(audio, mean, log_scale):
    level = round((audio + 1) / 2 * (LEVELS - 1))
    with mpmath.workdps(400):  # the difference of two sigmoids that agree to hundreds of digits
        x, half = -1 + 2 * mpmath.mpf(level) / (LEVELS - 1), mpmath.mpf(1) / (LEVELS - 1)
        scale = mpmath.exp(log_scale)

        def cdf(edge):
            return 1 / (1 + mpmath.exp(-(edge - mpmath.mpf(mean)) / scale))

        low, high = (0 if level == 0 else cdf(x - half)), (1 if level == LEVELS - 1 else cdf(x + half))
        wanted = float(mpmath.log(high - low)) if (abs(x - mean) / scale) < 800 else None
    found = float(log_logistic_bin(ALL_LEVELS[level], *torch.tensor([mean, log_scale], dtype=torch.float64)))
    if wanted is None:  # more than 347 decades below 1: by its slope alone
        wanted = -max(0.0, abs(float(x) - mean) - float(half)) / math.exp(log_scale)
        assert found == pytest.approx(wanted, rel=1e-3)
    else:
        assert found == pytest.approx(wanted, rel=1e-9)


def test_a_sample_far_from_a_narrow_logistic_still_pulls_at_it():
    """log(max(difference of sigmoids, 1e-12)) has no gradient there, and training would stand still."""
    parameters = torch.tensor([0.0, 0.5, -9.0])[None, :, None].requires_grad_()
    Logistics(1, -16.0).log_prob(parameters, torch.tensor([[-0.5]])).sum().backward()
    pull = parameters.grad[0, :, 0]
    assert pull.isfinite().all() and pull[1] < -1000 and pull[2] > 1000


def test_all_codes_of_mu_law_come_back_and_rise():
    for classes in (32, 256):
        codes = torch.arange(classes)
        audio = mu_law_decode(codes, classes)
        assert torch.equal(mu_law_encode(audio, classes), codes)
        assert audio[0] == -1 and audio[-1] == 1 and (audio.diff() > 0).all()


def test_mu_law_is_the_curve_of_its_standard():
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    squeezed = np.sign(x) * np.log(1 + 255 * np.abs(x)) / np.log(256)
    nearest = np.abs(np.linspace(-1, 1, 256)[:, None] - squeezed.numpy()).argmin(0)
    assert (mu_law_encode(x, 256).numpy() == nearest).all()
    assert int(mu_law_encode(torch.tensor(-7.0), 256)) == 0 and int(mu_law_encode(torch.tensor(7.0), 256)) == 255


def test_a_gaussian_is_a_gaussian_and_a_softmax_sums_to_1():
    parameters, audio = torch.randn(2, 2, 5), torch.rand(2, 5)
    for least in (-20.0, -0.5):
        wanted = stats.norm(parameters[:, 0], parameters[:, 1].clamp(min=least).exp()).logpdf(audio)
        assert np.allclose(Gaussian(least).log_prob(parameters, audio), wanted, atol=1e-5)
    logits, every = torch.randn(1, 256, 1).expand(1, 256, 256), mu_law_decode(torch.arange(256), 256)[None]
    assert float(MuLaw(256).log_prob(logits, every).exp().sum()) == pytest.approx(1, abs=1e-5)


class _Numbers:
    """An rng with fresh numbers for every clip, quicker than thousands of keyed ones."""

    def __init__(self, batch: int) -> None:
        self.batch, self.source = batch, torch.Generator().manual_seed(3)

    def __len__(self) -> int:
        return self.batch

    def tape_rand(self, channels: int, start: int, stop: int, *, device: str) -> torch.Tensor:
        return torch.rand(self.batch, channels, stop - start, generator=self.source)

    def tape_randn(self, channels: int, start: int, stop: int, *, device: str) -> torch.Tensor:
        return torch.randn(self.batch, channels, stop - start, generator=self.source)


def _draw(output: str, parameters: list[float], *, temperature: float = 1.0, batch: int = 6000) -> np.ndarray:
    """First samples of a network that says `parameters` whatever it hears."""
    mel = MelFormat(sample_rate=8000, n_fft=4, win_length=4, hop_length=1, n_mels=2, f_max=4000.0)
    counts = {"mixtures": len(parameters) // 3} if output == "logistics" else {"classes": len(parameters)}
    counts = {} if output == "gaussian" else counts
    model = WaveNet(WaveNetConfig(mel=mel, output=output, layers=1, channels=8, gate_channels=8, skip_channels=8,
                                  upsampling="none", **counts))
    with torch.no_grad():
        model.last_conv_layers[3].weight.zero_()
        model.last_conv_layers[3].bias.copy_(torch.tensor(parameters))
    return model(torch.zeros(batch, 2, 1), rng=_Numbers(batch), temperature=temperature)[:, 0, 0].numpy()


def test_samples_of_a_mixture_have_its_distribution():
    logits, means, log_scales = [0.5, -0.5], [-0.3, 0.2], [-3.0, -2.5]
    weight = np.exp(logits) / np.exp(logits).sum()

    def cdf(x):
        return sum(w / (1 + np.exp(-(x - m) / np.exp(s))) for w, m, s in zip(weight, means, log_scales, strict=True))

    assert stats.kstest(_draw("logistics", [*logits, *means, *log_scales]), cdf).pvalue > 0.01
    assert stats.kstest(_draw("logistics", [*logits, *means, -3.2, -2.7]), cdf).pvalue < 0.01  # it can fail


def test_samples_of_a_gaussian_have_its_distribution_and_the_temperature_is_their_spread():
    for temperature in (1.0, 0.5):
        drawn = _draw("gaussian", [0.1, -2.0], temperature=temperature)
        assert stats.kstest(drawn, stats.norm(0.1, temperature * np.exp(-2.0)).cdf).pvalue > 0.01


def test_samples_of_a_softmax_have_its_distribution():
    logits = np.linspace(-1, 1.5, 8)
    for temperature in (1.0, 0.6):
        drawn = mu_law_encode(torch.from_numpy(_draw("softmax", logits.tolist(), temperature=temperature)), 8).numpy()
        share = np.exp(logits / temperature)
        assert stats.chisquare(np.bincount(drawn, minlength=8), 6000 * share / share.sum()).pvalue > 0.01


@pytest.mark.parametrize(
    "output, parameters, kind",
    [("gaussian", [0.3, 0.0], Gaussian(-16.0)), ("softmax", [0.0, 1.0, 3.0, 2.0], MuLaw(4)),
     ("logistics", [0.0, 2.0, 0.5, -0.4, 0.0, 0.0], Logistics(2, -16.0))],
)
def test_temperature_0_plays_the_mode(output, parameters, kind):
    drawn = _draw(output, parameters, temperature=0.0, batch=9)
    mode = float(kind.mode(torch.tensor(parameters)[None, :, None])[0, 0])
    assert np.allclose(drawn, mode, atol=1e-6)
