"""Good recordings made bad, for learning and measuring how to make bad ones good: noise and narrow bandwidth.

Everything works on batches (batch, 1, time), on any device, and draws from a `SampleRng` alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audiogen.core.rng import SampleRng

SLOPE_OCTAVES = 0.15  # over which a low-pass goes from all to nothing: as steep as those of telephones and codecs


def coloured_noise(rng: SampleRng, time: int, exponent: Tensor) -> Tensor:
    """-> (batch, 1, time) of unit RMS whose power falls as 1 / f^exponent, (batch,): 0 white, 1 pink, 2 brown."""
    white = rng.randn(time, device=exponent.device)
    spectrum = torch.fft.rfft(white)
    frequency = torch.arange(spectrum.shape[1], device=white.device, dtype=white.dtype).clamp(min=max(1.0, time / 2000))
    shaped = torch.fft.irfft(spectrum * frequency ** (-exponent[:, None] / 2), n=time)
    return (shaped / shaped.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12))[:, None]


def add_noise(audio: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """audio (batch, 1, time) with `noise` of unit RMS, snr_db (batch,) below the audio's RMS; silence stays silent."""
    level = audio.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return audio + noise * level * 10.0 ** (-snr_db[:, None, None] / 20.0)


def low_pass(audio: Tensor, cutoff: Tensor, sample_rate: int) -> Tensor:
    """audio (batch, 1, time) without what lies above cutoff (batch,) Hz: zero-phase, a raised cosine in log f."""
    time = audio.shape[-1]
    spectrum = torch.fft.rfft(audio)
    frequency = torch.fft.rfftfreq(time, 1.0 / sample_rate, device=audio.device).clamp(min=1e-3)
    octaves = torch.log2(frequency[None, None] / cutoff[:, None, None].to(frequency))  # above the cutoff
    place = (octaves / SLOPE_OCTAVES).clamp(0.0, 1.0)
    return torch.fft.irfft(spectrum * (0.5 + 0.5 * torch.cos(torch.pi * place)), n=time)
