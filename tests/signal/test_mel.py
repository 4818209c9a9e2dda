"""Every preset against librosa, torchaudio or a loop over frames; lengths, short clips, silence, precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.signal.mel import MelSpectrogram, mel_filterbank
from audiogen.signal.torchaudio_parts import torchaudio_parts

# Those with decibels between 0 and 1 are compared in test_mel_originals.py.
CENTER = [name for name, format in MEL_FORMATS.items() if format.padding == "center" and format.clip is None]
SAME = [name for name, format in MEL_FORMATS.items() if format.padding == "same"]


def noise(seconds: float, sample_rate: int) -> torch.Tensor:
    """A glissando in noise, (2, time)."""
    time = torch.arange(int(seconds * sample_rate)) / sample_rate
    tone = 0.3 * torch.sin(2 * torch.pi * (200 * time + 900 * time**2))
    return tone + 0.02 * torch.randn(2, len(time), generator=torch.Generator().manual_seed(0))


def assert_equal(f: MelFormat, audio: torch.Tensor, theirs: np.ndarray) -> None:
    """Our mel equals `theirs` (linear, float64) to 1e-5 of the loudest mel, and its logarithm to 2e-4 down to where
    float32 weights and window end (torchaudio's own filter bank is 2e-5 off librosa's, relatively)."""
    ours = MelSpectrogram(f)(audio)
    assert ours.dtype == torch.float32 and ours.shape == theirs.shape
    linear = ours.double().exp() if f.log == "ln" else 10 ** ours.double()
    np.testing.assert_allclose(linear, np.maximum(theirs, f.floor), rtol=0, atol=1e-5 * max(theirs.max(), 1.0))
    np.testing.assert_allclose(MelSpectrogram(f).double()(audio), log_of(theirs, f), rtol=0, atol=2e-4)


def log_of(mel: np.ndarray, format: MelFormat) -> np.ndarray:
    mel = np.maximum(mel, format.floor)
    return np.log(mel) if format.log == "ln" else np.log10(mel)


@pytest.mark.parametrize("name", MEL_FORMATS)
def test_filter_bank_is_librosas(librosa, name):
    f = MEL_FORMATS[name]
    theirs = librosa.filters.mel(
        sr=f.sample_rate, n_fft=f.n_fft, n_mels=f.n_mels, fmin=f.f_min, fmax=f.f_max,
        htk=f.mel_scale == "htk", norm=f.norm, dtype=np.float64,
    )
    ours = mel_filterbank(f)
    assert ours.shape == (f.n_mels, f.n_fft // 2 + 1)
    # HTK's are torchaudio's to the last bit instead, which computes in float32.
    np.testing.assert_allclose(ours.numpy(), theirs, **{"atol": 1e-7, "rtol": 1e-5} if f.mel_scale == "slaney" else
                               {"atol": 1e-4, "rtol": 0})


@pytest.mark.parametrize("name", [name for name, f in MEL_FORMATS.items() if f.mel_scale == "htk"])
def test_htk_filter_banks_are_torchaudios_to_the_last_bit(name):
    f = MEL_FORMATS[name]
    theirs = torchaudio_parts().functional.melscale_fbanks(
        f.n_fft // 2 + 1, f.f_min, f.f_max, f.n_mels, f.sample_rate, norm=f.norm, mel_scale="htk"
    )
    assert torch.equal(mel_filterbank(f), theirs.T)


@pytest.mark.parametrize("name", CENTER)
def test_centred_formats_equal_librosa(librosa, name):
    f = MEL_FORMATS[name]
    audio = noise(0.7, f.sample_rate)
    theirs = librosa.feature.melspectrogram(
        y=audio.double().numpy(), sr=f.sample_rate, n_fft=f.n_fft, win_length=f.win_length, hop_length=f.hop_length,
        n_mels=f.n_mels, fmin=f.f_min, fmax=f.f_max, htk=f.mel_scale == "htk", norm=f.norm, power=f.power,
        center=True, pad_mode="reflect", dtype=np.float64,
    )
    assert theirs.shape[-1] == f.frames(audio.shape[-1])
    assert_equal(f, audio, theirs)


@pytest.mark.parametrize("name", CENTER)
def test_centred_formats_equal_torchaudio(name):
    f = MEL_FORMATS[name]
    audio = noise(0.7, f.sample_rate)
    transform = torchaudio_parts().transforms.MelSpectrogram(
        f.sample_rate, n_fft=f.n_fft, win_length=f.win_length, hop_length=f.hop_length, n_mels=f.n_mels,
        f_min=f.f_min, f_max=f.f_max, power=f.power, mel_scale=f.mel_scale, norm=f.norm, center=True,
    ).double()
    assert_equal(f, audio, transform(audio.double()).numpy())


@pytest.mark.parametrize("name", SAME)
def test_same_padded_formats_equal_a_loop_over_frames(librosa, name):
    f = MEL_FORMATS[name]
    audio = noise(0.3, f.sample_rate)
    side = (f.n_fft - f.hop_length) // 2
    x = np.pad(audio.double().numpy(), ((0, 0), (side, side)), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(f.n_fft) / f.n_fft)
    weights = librosa.filters.mel(
        sr=f.sample_rate, n_fft=f.n_fft, n_mels=f.n_mels, fmin=f.f_min, fmax=f.f_max, dtype=np.float64
    )
    frames = []
    for start in range(0, x.shape[1] - f.n_fft + 1, f.hop_length):
        spectrum = np.fft.rfft(x[:, start : start + f.n_fft] * window)
        frames.append(np.sqrt(spectrum.real**2 + spectrum.imag**2 + f.eps) @ weights.T)
    theirs = np.stack(frames, axis=-1)
    assert theirs.shape[-1] == audio.shape[-1] // f.hop_length
    assert_equal(f, audio, theirs)


@pytest.mark.parametrize("change", [{"power": 2.0}, {"power": 0.5}, {"power": 2.0, "eps": 1e-6}])
def test_power_is_applied_to_the_magnitude_before_the_filter_bank(librosa, change):
    f = MelFormat(padding="center", **change)
    audio = noise(0.2, f.sample_rate)
    magnitude = np.abs(librosa.stft(audio.double().numpy(), n_fft=f.n_fft, hop_length=f.hop_length, pad_mode="reflect"))
    theirs = mel_filterbank(f).double().numpy() @ np.sqrt(magnitude**2 + f.eps) ** f.power
    assert_equal(f, audio, theirs)


@pytest.mark.parametrize("name", MEL_FORMATS)
@pytest.mark.parametrize("extra", [0, 1, 255])
def test_clips_shorter_than_the_padding_have_the_promised_frames(name, extra):
    f = MEL_FORMATS[name]
    time = (f.hop_length if f.padding == "same" else 1) + extra
    mel = MelSpectrogram(f)(noise(1, f.sample_rate)[:, None, :time])
    assert mel.shape == (2, f.n_mels, f.frames(time)) and torch.isfinite(mel).all()


def test_a_short_clip_counts_as_if_silence_followed_it():
    f = MelFormat()
    audio = noise(1, f.sample_rate)[:, :300]
    filled = torch.nn.functional.pad(audio, (0, 1000))
    torch.testing.assert_close(MelSpectrogram(f)(audio)[..., 0], MelSpectrogram(f)(filled)[..., 0])


@pytest.mark.parametrize("format, time", [(MelFormat(), 0), (MelFormat(), 255), (MEL_FORMATS["vocos_24k"], 0)])
def test_a_clip_without_a_frame_is_refused(format, time):
    with pytest.raises(UserError, match=f"{time} samples"):
        MelSpectrogram(format)(torch.zeros(1, 1, time))


def test_stereo_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"\(1, 2, 4000\) has 2 channels.*mix it down"):
        MelSpectrogram(MelFormat())(torch.zeros(1, 2, 4000))


@pytest.mark.parametrize("name", MEL_FORMATS)
def test_silence_lies_at_the_floor_and_has_a_finite_gradient(name):
    f = MEL_FORMATS[name]
    audio = torch.zeros(1, 1, 4096, requires_grad=True)
    mel = MelSpectrogram(f)(audio)
    mel.sum().backward()
    assert torch.isfinite(audio.grad).all()
    if f.clip is None:
        assert f.lowest == pytest.approx(log_of(np.zeros(1), f).item())
    if f.eps == 0.0:
        torch.testing.assert_close(mel, torch.full_like(mel, f.lowest))
    else:
        assert (mel >= f.lowest - 1e-6).all()


@pytest.mark.parametrize("change", [{}, {"eps": 1e-9}, {"power": 2.0}, {"power": 0.5}, {"power": 0.5, "eps": 1e-9}])
def test_gradient_is_finite_where_half_of_the_clip_is_silent_and_the_floor_is_low(change):
    f = MelFormat(floor=1e-20, **change)
    audio = torch.cat([torch.zeros(1, 3000), noise(0.2, f.sample_rate)[:1]], dim=1).requires_grad_()
    MelSpectrogram(f)(audio).sum().backward()
    assert torch.isfinite(audio.grad).all() and audio.grad.abs().max() > 0


def test_gradient_is_the_derivative():
    f = MelFormat(n_fft=64, win_length=64, hop_length=16, n_mels=8)
    transform = MelSpectrogram(f).double()
    audio = noise(1, f.sample_rate)[:, :100].double().requires_grad_()
    assert torch.autograd.gradcheck(transform, audio)


def test_stays_float32_under_autocast_and_after_a_cast_to_half():
    audio = noise(0.2, 22050)
    transform = MelSpectrogram(MelFormat())
    expected = transform(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(transform(audio), expected)
    half = transform.to(torch.bfloat16)(audio.to(torch.bfloat16).float())
    assert half.dtype == torch.float32
    assert torch.equal(half, MelSpectrogram(MelFormat())(audio.to(torch.bfloat16).float()))


@pytest.mark.parametrize("name", MEL_FORMATS)
def test_the_way_back_to_natural_logarithms_undoes_scale_and_shift(name):
    f = MEL_FORMATS[name]
    linear = torch.logspace(-3, -0.5, 20)
    mel = f.scale * (linear.log() if f.log == "ln" else linear.log10()) + f.shift
    torch.testing.assert_close(f.natural_log(mel), linear.log(), rtol=1e-5, atol=1e-5)


def test_holds_no_weights():
    assert MelSpectrogram(MelFormat()).state_dict() == {}
