from __future__ import annotations

import pytest
import torch
from auraloss.freq import MultiResolutionSTFTLoss

from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.signal.mel import MelSpectrogram
from vocoders.losses import (
    MultiScaleMelLoss,
    SpectralLoss,
    adversarial_loss,
    feature_loss,
    verdict_loss,
)


def judged(*values: float, extra: float = 0.0) -> list:
    """One kind; a sub-discriminator for each value, with one feature map and a verdict of that value."""
    return [[[torch.full((2, 3, 4), value + extra), torch.full((2, 1, 5), value)] for value in values]]


def clips(scale: float = 0.2) -> torch.Tensor:
    return scale * torch.randn(2, 1, 4096, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------- adversarial


def test_least_squares_by_hand():
    real, fake = judged(1.0, 0.5), judged(0.0, 0.2)
    assert float(verdict_loss(real, fake)) == pytest.approx((0.0 + 0.25 + 0.04) / 2)
    assert float(verdict_loss(real, fake, reduce="sum")) == pytest.approx(0.29)
    assert float(adversarial_loss(fake)) == pytest.approx((1.0 + 0.64) / 2)


def test_hinge_by_hand():
    real, fake = judged(2.0, 0.5), judged(-3.0, 0.2)
    assert float(verdict_loss(real, fake, hinge=True)) == pytest.approx((0.5 + 1.2) / 2)  # the sure ones cost nothing
    assert float(adversarial_loss(judged(2.0, -1.0), hinge=True)) == pytest.approx(1.0)


def test_feature_distance_by_hand():
    real, fake = judged(2.0, 4.0), judged(1.0, 3.0)
    assert float(feature_loss(real, fake)) == pytest.approx((1 / 2 + 1 / 4) / 2, rel=1e-3)  # shares, without verdicts
    assert float(feature_loss(real, fake, relative=False, reduce="sum")) == pytest.approx(4.0)  # both maps of both


def test_kinds_count_by_their_weights():
    real, fake = judged(1.0) + judged(1.0), judged(1.0) + judged(0.5)
    assert float(verdict_loss(real, fake, weights=(0.0, 2.0))) == pytest.approx(0.5)
    assert float(verdict_loss(real, fake, weights=(1.0, 0.0))) == pytest.approx(1.0)


def test_real_features_pull_no_gradient():
    real, fake = torch.ones(1, 2, 3, requires_grad=True), torch.zeros(1, 2, 3, requires_grad=True)
    feature_loss([[[real, real]]], [[[fake, fake]]]).backward()
    assert real.grad is None and fake.grad.abs().sum() > 0


# ------------------------------------------------------------------------- spectral


def test_it_is_auralosss_loss_and_the_distance_of_log_mels():
    loss, target = SpectralLoss(MelFormat()), clips()
    audio = 0.7 * target + 0.01
    found = loss(audio, target)
    each = [MultiResolutionSTFTLoss()(audio[k : k + 1], target[k : k + 1]) for k in range(2)]
    torch.testing.assert_close(found["stft"], torch.stack(each).mean(), rtol=1e-4, atol=1e-5)
    mel = MelSpectrogram(MelFormat())
    torch.testing.assert_close(found["mel"], (mel(audio) - mel(target)).abs().mean())


def test_a_batch_teaches_what_its_clips_teach_one_by_one():
    """Else micro-batches, processes and what halves when memory runs out would change what is learnt."""
    torch.manual_seed(3)
    target = clips().repeat(2, 1, 1) * torch.tensor([1.0, 0.1, 0.0, 0.5])[:, None, None]  # one is silent
    audio = (0.7 * target + 0.01 * torch.randn_like(target)).requires_grad_()
    features = [torch.rand(4, 3, 5), torch.rand(4, 1, 2)]

    def losses(part: slice) -> torch.Tensor:
        judge = [[[features[0][part] * audio[part].abs().mean((1, 2), keepdim=True), features[1][part]]]]
        real = [[[feature[part] for feature in features]]]
        found = SpectralLoss(MelFormat())(audio[part], target[part])
        return torch.stack([found["stft"], found["mel"], feature_loss(real, judge), adversarial_loss(judge),
                            verdict_loss(real, judge)])

    whole = losses(slice(None))
    parts = torch.stack([losses(slice(k, k + 1)) for k in range(4)]).mean(0)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    one, other = (torch.autograd.grad(value.sum(), audio, retain_graph=True)[0] for value in (whole, parts))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_a_vocoder_whose_mel_ends_at_8_khz_is_corrected_above_it():
    time = torch.arange(8192) / 22050
    target = 0.3 * torch.sin(2 * torch.pi * 10_000 * time)[None, None]
    assert float(SpectralLoss(MEL_FORMATS["hifigan_22k"])(0.0 * target + 1e-3, target)["mel"]) > 0.3


@pytest.mark.parametrize("silent", ["real", "made", "both", "one of the batch"])
def test_values_and_gradients_are_finite_on_silence(silent):
    audio, target = clips(), clips(0.1)
    if silent in ("made", "both"):
        audio = torch.zeros_like(audio)
    if silent in ("real", "both"):
        target = torch.zeros_like(target)
    if silent == "one of the batch":
        target[0] = 0.0
    audio.requires_grad_()
    loss = SpectralLoss(MelFormat())(audio, target)
    total = loss["stft"] + loss["mel"] + MultiScaleMelLoss(22050)(audio, target)
    total.backward()
    assert total.isfinite() and float(total.detach()) < 100 and audio.grad.isfinite().all()


def test_autocast_changes_nothing():
    audio, target = clips(), clips(0.1)
    plain, scales = SpectralLoss(MelFormat()), MultiScaleMelLoss(22050)
    with torch.autocast("cpu", torch.bfloat16):
        cast, many = plain(audio.bfloat16().float(), target), scales(audio, target)
    assert cast["stft"].dtype == many.dtype == torch.float32
    torch.testing.assert_close(many, scales(audio, target))


def test_the_multi_scale_mel_loss_is_the_sum_over_seven_resolutions_by_librosa(librosa):

    audio, target = clips(), clips(0.1)
    expected = 0.0
    for window, n_mels in zip((32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320), strict=True):
        basis = torch.from_numpy(librosa.filters.mel(sr=22050, n_fft=window, n_mels=n_mels)) if n_mels < 320 else None
        mels = []
        for x in (audio, target):
            spectrum = torch.stft(x[:, 0], window, window // 4, window=torch.hann_window(window), return_complex=True)
            mels.append(spectrum.abs())
        if basis is None:
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # empty filters, which the published loss has too
                basis = torch.from_numpy(librosa.filters.mel(sr=22050, n_fft=window, n_mels=n_mels))
        a, b = ((basis @ mel).clamp(min=1e-5).log10() for mel in mels)
        frames = min(a.shape[2], 4096 // (window // 4) + 1)
        expected = expected + (a - b)[..., :frames].abs().mean()
    torch.testing.assert_close(MultiScaleMelLoss(22050)(audio, target), expected, rtol=1e-4, atol=1e-4)
