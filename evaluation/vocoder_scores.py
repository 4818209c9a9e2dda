"""Paired scores: how near a clip comes to the clip that it should be. For vocoders (copy synthesis) and codecs.

Every function takes two clips (time,) at one rate, real first, float, aligned and equally long, and is pure. What they
say, and what they do not:

| name | unit | 0 or best | hears |
|---|---|---|---|
| mr_stft | - | 0 | auraloss's multi-resolution STFT distance: spectral convergence + log magnitude |
| mel_l1 | ln | 0 | mean distance of log-mel spectra, 80 bands up to half the rate |
| log_spectral_distance | dB | 0 | root mean square over bins, mean over frames (Gray and Markel 1976) |
| si_sdr | dB | high | the waveform, phase and all (Le Roux et al. 2019); near or below 0 where phases are made anew |
| mcd | dB | 0 | mel-cepstral distance (Kubichek 1993), the variant below |
| f0_rmse | cents | 0 | pitch, where both are voiced (pYIN, Mauch and Dixon 2014) |
| voicing_error | share | 0 | frames that one is voiced in and the other is not |
| periodicity_rmse | 0 to 1 | 0 | how periodic each frame is: peak of its normalised autocorrelation |
| pesq, stoi | | 4.64, 1 | speech only; the packages `pesq` and `pystoi`, where they are installed |

MCD here: 13 cepstra c1 ... c13 of a cosine transform (DCT-II, orthonormal) of the natural logarithm of an 80-band mel
spectrum, 10 sqrt(2) / ln 10 times their Euclidean distance, mean over frames, no time warping. Figures of other
variants (WORLD's envelopes, 24 cepstra, warping) are on other scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiogen.core.librosa_once import load_librosa
from audiogen.core.mel_format import MelFormat
from audiogen.signal.mel import MelSpectrogram
from audiogen.signal.resample import resample

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # n_fft, hop, window: Parallel WaveGAN's
CEPSTRA = 13
LOWEST, HIGHEST = 65.0, 1000.0  # Hz, of pitch: C2 to about B5
NOT_INSTALLED = "not installed"

# ------------------------------------------------------------------------- spectra


def mr_stft(real: Tensor, made: Tensor) -> float:
    """Mean over three resolutions of spectral convergence + mean log-magnitude distance (natural logarithm)."""
    total = 0.0
    for sizes in RESOLUTIONS:
        a, b = (_magnitude(clip, *sizes) for clip in (real, made))
        convergence = (a - b).norm() / a.norm().clamp(min=1e-8)
        total += float(convergence + (a.log() - b.log()).abs().mean())
    return total / len(RESOLUTIONS)


def mel_l1(real: Tensor, made: Tensor, sample_rate: int) -> float:
    """Mean distance of natural-log mel spectra."""
    a, b = (_log_mel(clip, sample_rate) for clip in (real, made))
    return float((a - b).abs().mean())


def log_spectral_distance(real: Tensor, made: Tensor) -> float:
    """dB: sqrt of the mean over bins of (20 log10 |A| / |B|)², mean over frames; n_fft 2048, hop 512.

    Magnitudes below -80 dB of the real clip's loudest bin count as that: silence has no spectrum to be compared.
    """
    a, b = (_magnitude(clip, 2048, 512, 2048) for clip in (real, made))
    floor = 1e-4 * float(a.max())
    difference = 20 * (a.clamp(min=floor) / b.clamp(min=floor)).log10()
    return float(difference.square().mean(0).sqrt().mean())


def mcd(real: Tensor, made: Tensor, sample_rate: int) -> float:
    """dB: mel-cepstral distance, the variant of this module's docstring."""
    a, b = (_cepstra(_log_mel(clip, sample_rate)) for clip in (real, made))
    return float(10 * math.sqrt(2) / math.log(10) * (a - b).norm(dim=0).mean())


def si_sdr(real: Tensor, made: Tensor) -> float:
    """dB: scale-invariant signal-to-distortion ratio, means removed. Silence gives -inf."""
    real, made = (clip.double() - clip.double().mean() for clip in (real, made))
    energy = real.square().sum()
    if energy == 0:
        return -math.inf
    target = (real @ made) / energy * real
    noise = (made - target).square().sum()
    ratio = target.square().sum() / noise.clamp(min=1e-300)
    return float(10 * ratio.log10()) if ratio > 0 else -math.inf


# ------------------------------------------------------------------------- pitch


def pitch(clip: Tensor, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """-> F0 in Hz (frames,), NaN where unvoiced, and voicing (frames,) bool: pYIN at 16 kHz, hop 256 (16 ms)."""
    samples = resample(clip.float().numpy(), sample_rate, 16000)
    if len(samples) < 2048:
        samples = np.pad(samples, (0, 2048 - len(samples)))
    f0, voiced, _ = load_librosa().pyin(
        samples, fmin=LOWEST, fmax=HIGHEST, sr=16000, frame_length=1024, hop_length=256, resolution=0.2,
    )
    return f0, voiced


def f0_scores(real: Tensor, made: Tensor, sample_rate: int) -> dict[str, float]:
    """"f0_rmse" in cents over the frames that are voiced in both (NaN where there are none), and "voicing_error"."""
    (a, a_voiced), (b, b_voiced) = (pitch(clip, sample_rate) for clip in (real, made))
    both = a_voiced & b_voiced
    cents = 1200 * np.log2(a[both] / b[both])
    return {
        "f0_rmse": float(np.sqrt(np.mean(cents**2))) if both.any() else math.nan,
        "voicing_error": float(np.mean(a_voiced != b_voiced)),
    }


def periodicity(clip: Tensor, sample_rate: int) -> Tensor:
    """-> (frames,) in [0, 1]: the largest normalised autocorrelation of a frame between 1/1000 and 1/65 s; 0 for
    silence. Frames of 64 ms every 16 ms, each against the same frame shifted (both normalised on their own)."""
    samples = torch.from_numpy(resample(clip.float().numpy(), sample_rate, 16000)).double()
    low, high, frame = int(16000 / HIGHEST), math.ceil(16000 / LOWEST), 1024
    samples = torch.nn.functional.pad(samples, (0, max(0, frame + high - len(samples))))
    windows = samples.unfold(0, frame + high, 256)                                # (frames, frame + high)
    first = windows[:, :frame]
    size = 1 << (2 * frame + high).bit_length()
    product = torch.fft.irfft(torch.fft.rfft(windows, size) * torch.fft.rfft(first, size).conj(), size)
    energy = torch.nn.functional.pad(windows.square().cumsum(1), (1, 0))
    shifted = (energy[:, frame:] - energy[:, :-frame])[:, low : high + 1]         # of the shifted frames
    norm = (energy[:, frame : frame + 1] * shifted).sqrt()
    ratio = product[:, low : high + 1] / norm.clamp(min=1e-12)
    return torch.where(norm > 1e-6, ratio, torch.zeros(())).amax(1).clamp(0, 1).float()


def periodicity_rmse(real: Tensor, made: Tensor, sample_rate: int) -> float:
    """Root mean square difference of the two clips' periodicity."""
    a, b = (periodicity(clip, sample_rate) for clip in (real, made))
    return float((a - b).square().mean().sqrt())


# ------------------------------------------------------------------------- speech


def pesq(real: Tensor, made: Tensor, sample_rate: int) -> float | str:
    """Wide-band PESQ (ITU-T P.862.2) at 16 kHz; "not installed" without the package `pesq`; NaN where it finds no
    speech."""
    try:
        import pesq as package
    except ImportError:
        return NOT_INSTALLED
    a, b = (resample(clip.float().numpy(), sample_rate, 16000) for clip in (real, made))
    try:
        return float(package.pesq(16000, a, b, "wb"))
    except package.PesqError:
        return math.nan


def stoi(real: Tensor, made: Tensor, sample_rate: int) -> float | str:
    """Short-time objective intelligibility (Taal et al. 2011); "not installed" without the package `pystoi`."""
    try:
        import pystoi
    except ImportError:
        return NOT_INSTALLED
    return float(pystoi.stoi(real.double().numpy(), made.double().numpy(), sample_rate))


# ------------------------------------------------------------------------- all of them


def score_pair(real: Tensor, made: Tensor, sample_rate: int, *, speech: bool = False) -> dict[str, float | str]:
    """Every score of one pair of clips (time,) or (1, time). The longer is cut to the shorter: a vocoder renders whole
    frames. `speech`: PESQ and STOI too, which mean nothing for other sounds. Raises `ValueError` for other shapes."""
    real, made = (clip.reshape(-1) if clip.dim() == 2 and clip.shape[0] == 1 else clip for clip in (real, made))
    if real.dim() != 1 or made.dim() != 1 or not real.numel() or not made.numel():
        raise ValueError(f"two clips (time,) are needed, not {tuple(real.shape)} and {tuple(made.shape)}")
    time = min(len(real), len(made))
    real, made = real[:time].detach().cpu().float(), made[:time].detach().cpu().float()
    scores: dict[str, float | str] = {
        "mr_stft": mr_stft(real, made), "mel_l1": mel_l1(real, made, sample_rate),
        "log_spectral_distance": log_spectral_distance(real, made), "si_sdr": si_sdr(real, made),
        "mcd": mcd(real, made, sample_rate), **f0_scores(real, made, sample_rate),
        "periodicity_rmse": periodicity_rmse(real, made, sample_rate),
    }
    if speech:
        scores |= {"pesq": pesq(real, made, sample_rate), "stoi": stoi(real, made, sample_rate)}
    return scores


def score_pairs(
    pairs: Iterable[tuple[Tensor, Tensor]], sample_rate: int, *, speech: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Mean of each score over the clips, with its 95 % interval (1.96 standard errors) and the number of clips that
    have it: {"clips": n, "scores": {name: {"mean", "interval", "n"}}}. A score that no clip has is None.
    """
    found = []
    for number, (real, made) in enumerate(pairs, start=1):
        found.append(score_pair(real, made, sample_rate, speech=speech))
        say(f"scored clip {number}")
    scores: dict[str, Any] = {}
    for name in found[0] if found else ():
        values = [scored[name] for scored in found]
        if NOT_INSTALLED in values:
            scores[name] = NOT_INSTALLED
            continue
        finite = np.array([value for value in values if math.isfinite(value)])
        if not len(finite):
            scores[name] = None
            continue
        error = 1.96 * finite.std(ddof=1) / math.sqrt(len(finite)) if len(finite) > 1 else None
        scores[name] = {
            "mean": round(float(finite.mean()), 4), "interval": None if error is None else round(float(error), 4),
            "n": len(finite),
        }
    return {"clips": len(found), "sample_rate": sample_rate, "scores": scores}


def _magnitude(clip: Tensor, n_fft: int, hop_length: int, win_length: int) -> Tensor:
    """-> (bins, frames), at least 1e-4."""
    clip = torch.nn.functional.pad(clip, (0, max(0, n_fft - len(clip))))
    window = torch.hann_window(win_length, dtype=clip.dtype)
    spectrum = torch.stft(clip, n_fft, hop_length, win_length, window, return_complex=True)
    return spectrum.abs().clamp(min=1e-4)


def _log_mel(clip: Tensor, sample_rate: int) -> Tensor:
    """-> (80, frames), natural logarithm; windows of 46 ms, a quarter apart."""
    n_fft = 1 << round(math.log2(sample_rate * 1024 / 22050))
    format = MelFormat(sample_rate=sample_rate, n_fft=n_fft, win_length=n_fft, hop_length=n_fft // 4, n_mels=80,
                       f_max=sample_rate / 2)
    clip = torch.nn.functional.pad(clip, (0, max(0, n_fft - len(clip))))
    return MelSpectrogram(format)(clip[None])[0]


def _cepstra(log_mel: Tensor) -> Tensor:
    """(n_mels, frames) -> (13, frames): c1 to c13 of the orthonormal DCT-II over the bands."""
    n_mels = log_mel.shape[0]
    order, band = torch.arange(1, CEPSTRA + 1)[:, None], torch.arange(n_mels)[None]
    basis = math.sqrt(2 / n_mels) * torch.cos(math.pi * order * (band + 0.5) / n_mels)
    return basis @ log_mel
