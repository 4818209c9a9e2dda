"""Discriminators that a CPU can afford: small convolutions over short-time spectra of several resolutions.

As in EnCodec's MS-STFT discriminator (Défossez et al. 2022) they see real and imaginary parts, so that phase counts;
as in UnivNet's (Jang et al. 2021) each looks at its own resolution. Magnitudes are compressed, so that the quiet bins
of a sound are seen beside the loud ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class SpectrumDiscriminators(nn.Module):
    """One `SpectrumDiscriminator` for each resolution (n_fft, hop_length)."""

    def __init__(self, resolutions: Sequence[tuple[int, int]], channels: int, compression: float) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrumDiscriminator(n_fft, hop, channels, compression)
                                   for n_fft, hop in resolutions)

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        """audio (batch, 1, time) -> for each resolution its feature maps, the verdict last."""
        return [part(audio) for part in self.parts]


class SpectrumDiscriminator(nn.Module):
    """A patch discriminator: five convolutions over (bins, frames), wide in frequency, dilated in time."""

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, channels: int, compression: float) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.compression = n_fft, hop_length, compression
        self.shortest = n_fft // 2 + 1
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        shapes = [(2, 1), (channels, 1), (channels, 2), (channels, 4)]            # inputs, dilation in time
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs, channels, (7, 3), (2, 1), (3, dilation), (1, dilation)))
            for inputs, dilation in shapes
        )
        self.layers.append(weight_norm(nn.Conv2d(channels, channels, 3, padding=1)))
        self.verdict = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        """audio (batch, 1, time), time > n_fft / 2 -> features (batch, channels, ...) and verdict (batch, 1, ...)."""
        with torch.autocast(audio.device.type, enabled=False):
            x = F.pad(audio.float(), (self.n_fft // 2, self.n_fft // 2), mode="reflect")[:, 0]
            spectrum = torch.stft(x, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True)
            x = torch.stack([spectrum.real, spectrum.imag], 1)                    # (batch, 2, bins, frames)
            # The square is bounded below where it stands under a negative power, so silence has a finite gradient.
            x = x * (x.square().sum(1, keepdim=True) + 1e-6).pow((self.compression - 1) / 2)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return [*features, self.verdict(x)]
