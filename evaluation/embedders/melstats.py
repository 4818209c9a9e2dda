"""Log-mel statistics: an embedder without weights, for smoke runs and tests. Not comparable with the literature.

Its front end is VGGish's (tensorflow/models research/audioset/vggish, Hershey et al. 2017), number for number.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.embedders.base import windows

FRAME, HOP, N_FFT = 400, 160, 512  # 25 ms every 10 ms at 16 kHz, zero-padded to 512
BANDS, F_MIN, F_MAX = 64, 125.0, 7500.0
PATCH = 96  # frames an example: 0.96 s


def vggish_filters() -> Tensor:
    """(257, 64) float64: triangles linear in HTK mel (not in Hz), peak 1, no area norm, none at 0 Hz."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hertz / 700.0)

    bins = mel(torch.linspace(0.0, 8000.0, N_FFT // 2 + 1, dtype=torch.float64))[:, None]
    low, high = mel(torch.tensor([F_MIN, F_MAX], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, BANDS + 2, dtype=torch.float64)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    filters[0] = 0.0
    return filters


def vggish_log_mel(audio: Tensor) -> Tensor:
    """audio (..., time) at 16 kHz -> (..., frames, 64): ln(mel magnitude + 0.01), no padding at the ends."""
    if audio.shape[-1] < FRAME:
        return audio.new_zeros(*audio.shape[:-1], 0, BANDS)
    n = torch.arange(FRAME, dtype=torch.float64)
    taper = (0.5 - 0.5 * torch.cos(2 * math.pi * n / FRAME)).to(audio)
    magnitude = torch.fft.rfft(audio.unfold(-1, FRAME, HOP) * taper, N_FFT).abs()
    return torch.log(magnitude @ vggish_filters().to(audio) + 0.01)


class MelStats(nn.Module):
    """16 kHz audio -> mean and standard deviation of 64 log-mel bands over each 0.96 s: 128-d."""

    name, version = "melstats", 1
    sample_rate, dim = 16000, 2 * BANDS
    window, hop = ((PATCH - 1) * HOP + FRAME) / 16000, PATCH * HOP / 16000
    weights_sha256 = ""
    note = "log-mel statistics, no weights: not comparable with the literature"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()  # takes `weights` as every embedder does, and needs none

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, time) float32 at 16 kHz -> (batch, windows, 128)."""
        patches = windows(vggish_log_mel(audio), PATCH, PATCH)  # (batch, windows, 96, 64)
        mean = patches.mean(2)
        return torch.cat([mean, (patches - mean[:, :, None]).square().mean(2).sqrt()], dim=-1)
