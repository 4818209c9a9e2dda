"""The multi-resolution discriminator of UnivNet (Jang et al. 2021), in the form of BigVGAN (Lee et al. 2023).

Convolutions over magnitude spectra, each at its own resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class MultiResolutionDiscriminator(nn.Module):
    """One `ResolutionDiscriminator` for each (n_fft, hop_length, win_length)."""

    def __init__(self, windows: Sequence[tuple[int, int, int]], *, width: float = 1.0) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(ResolutionDiscriminator(*sizes, width=width) for sizes in windows)

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        """audio (batch, 1, time) -> for each resolution its feature maps, the verdict last."""
        return [part(audio) for part in self.discriminators]


class ResolutionDiscriminator(nn.Module):
    """Five convolutions over (bins, frames) of a magnitude spectrum, and a verdict."""

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, win_length: int, *, width: float = 1.0) -> None:
        super().__init__()
        self.sizes, self.pad = (n_fft, hop_length, win_length), (n_fft - hop_length) // 2
        self.shortest = self.pad + 1
        # A rectangular window, as published: BigVGAN and UnivNet give torch.stft none.
        self.register_buffer("window", torch.ones(win_length), persistent=False)
        channels = max(1, round(width * 32))
        self.convs = nn.ModuleList([
            weight_norm(nn.Conv2d(1, channels, (3, 9), padding=(1, 4))),
            *(weight_norm(nn.Conv2d(channels, channels, (3, 9), (1, 2), (1, 4))) for _ in range(3)),
            weight_norm(nn.Conv2d(channels, channels, 3, padding=1)),
        ])
        self.conv_post = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        """audio (batch, 1, time), time > (n_fft - hop_length) / 2 -> features (batch, channels, bins, frames), verdict.

        The gradient through a bin of silence is 0.
        """
        with torch.autocast(audio.device.type, enabled=False):
            x = F.pad(audio.float(), (self.pad, self.pad), mode="reflect")[:, 0]
            x = torch.stft(x, *self.sizes, self.window, center=False, return_complex=True).abs()[:, None]
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        return [*features, self.conv_post(x)]
