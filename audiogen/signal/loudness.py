"""Loudness as people hear it (ITU-R BS.1770-4, by pyloudnorm), true peak, and a gain that never clips."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np

from audiogen.core.audio import Audio
from audiogen.signal.resample import resample

GATE_LUFS = -70.0  # blocks below this are silence to BS.1770
_BLOCK_SECONDS = 0.4
_LOWEST_RATE = 8000  # Hz; the weighting filters reach up to 1.7 kHz and need room above it


def integrated_loudness(audio: Audio) -> float | None:
    """Gated loudness in LUFS; None for silence, that is, where no block reaches the gate of -70 LUFS.

    What BS.1770 does not define: a clip shorter than a gating block (0.4 s) is measured as one block of its own length,
    and more than five channels are mixed to one.
    """
    import pyloudnorm

    samples, rate = audio.samples, audio.sample_rate
    if samples.shape[0] > 5:
        samples = samples.mean(dim=0, keepdim=True)
    if rate < _LOWEST_RATE:
        samples, rate = resample(samples, rate, _LOWEST_RATE), _LOWEST_RATE
    samples = samples.detach().cpu().double().numpy().T  # (time, channels)
    if not samples.any():
        return None
    block = _BLOCK_SECONDS
    if samples.shape[0] < block * rate:
        block = (samples.shape[0] - 0.5) / rate  # half a sample less, so that rounding does not make it too long
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # pyloudnorm takes the mean of no block and the log of 0
        loudness = float(pyloudnorm.Meter(rate, block_size=block).integrated_loudness(samples))
    return loudness if loudness >= GATE_LUFS else None


def true_peak(audio: Audio) -> float:
    """Largest absolute value between the samples too, in dBTP: of the clip at four times its rate; -inf for silence."""
    if audio.samples.numel() == 0:
        return -math.inf
    dense = resample(audio.samples, audio.sample_rate, 4 * audio.sample_rate)
    # the samples themselves lie on the curve too, and the interpolation may pass them by a hair
    peak = max(dense.abs().max().item(), audio.samples.abs().max().item())
    return 20.0 * math.log10(peak) if peak > 0.0 else -math.inf


def normalise(audio: Audio, target_lufs: float = -23.0, ceiling_dbtp: float = -1.0) -> Audio:
    """One gain for the whole clip, so that it has `target_lufs`, or less where its true peak would pass `ceiling_dbtp`.

    Nothing is limited or compressed, so nothing clips as long as the ceiling is at most 0 dBTP. Silence stays as it is.
    """
    loudness = integrated_loudness(audio)
    if loudness is None:
        return audio
    gain_db = min(target_lufs - loudness, ceiling_dbtp - true_peak(audio))
    return dataclasses.replace(audio, samples=audio.samples * 10.0 ** (gain_db / 20.0))
