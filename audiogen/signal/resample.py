"""Resampling: soxr for files, torchaudio's band-limited interpolation on the device. One length rule for both."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import soxr
import torch
from torch import Tensor

from audiogen.signal.torchaudio_parts import torchaudio_parts

RESAMPLER = f"soxr {soxr.__version__} HQ"  # recorded with every score that depends on it

Samples = TypeVar("Samples", np.ndarray, Tensor)


def resampled_time(time: int, from_rate: int, to_rate: int) -> int:
    """Number of samples that `time` samples become: time * to_rate / from_rate, halves rounded up."""
    return (2 * time * to_rate + from_rate) // (2 * from_rate)


def resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """samples (channels, time) or (time,), numpy or torch, float32 or float64 -> the same kind, at `to_rate`.

    Linear phase, no delay; `resampled_time` tells the length. For files: it runs on the CPU, without gradient.
    """
    _check(from_rate, to_rate)
    if from_rate == to_rate:
        return samples
    if isinstance(samples, Tensor):
        return torch.from_numpy(resample(samples.detach().cpu().numpy(), from_rate, to_rate)).to(samples.device)
    time = resampled_time(samples.shape[-1], from_rate, to_rate)
    if samples.size == 0:
        return np.zeros((*samples.shape[:-1], time), samples.dtype)
    return np.ascontiguousarray(soxr.resample(np.ascontiguousarray(samples.T), from_rate, to_rate, quality="HQ").T)


def resample_on_device(audio: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """audio (..., time) -> (..., resampled_time), on its own device and differentiable; for what runs in a model.

    A Kaiser-windowed sinc of 64 zero crossings (torchaudio's settings for librosa's "kaiser_best").
    """
    _check(from_rate, to_rate)
    if from_rate == to_rate:
        return audio
    resampled = torchaudio_parts().functional.resample(
        audio, from_rate, to_rate, lowpass_filter_width=64, rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser", beta=14.769656459379492,
    )
    return resampled[..., : resampled_time(audio.shape[-1], from_rate, to_rate)]  # torchaudio rounds up


def _check(from_rate: int, to_rate: int) -> None:
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(f"sample rates must be positive: from {from_rate} Hz to {to_rate} Hz was asked for")
