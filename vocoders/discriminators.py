"""Discriminators that a CPU can afford: small convolutions over short-time spectra of several resolutions.

As in EnCodec's MS-STFT discriminator (Défossez et al. 2022) they see real and imaginary parts, so that phase counts;
as in UnivNet's (Jang et al. 2021) each looks at its own resolution. Magnitudes are compressed, so that the quiet bins
of a sound are seen beside the loud ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


@dataclass(frozen=True)
class DiscriminatorConfig:
    resolutions: tuple[tuple[int, int], ...] = ((1024, 256), (512, 128), (256, 64))  # n_fft, hop_length
    channels: int = 16
    compression: float = 0.3  # exponent of the magnitude; 1: as it is


class MultiResolutionDiscriminator(nn.Module):
    """One `SpectrumDiscriminator` for each resolution."""

    def __init__(self, config: DiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DiscriminatorConfig()
        self.parts = nn.ModuleList(
            SpectrumDiscriminator(n_fft, hop_length, self.config.channels, self.config.compression)
            for n_fft, hop_length in self.config.resolutions
        )

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        """audio (batch, 1, time) -> for each resolution its feature maps; the last one is the verdict, 1 for real."""
        return [part(audio) for part in self.parts]


class SpectrumDiscriminator(nn.Module):
    """A patch discriminator: five convolutions over (bins, frames), wide in frequency, dilated in time."""

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, channels: int, compression: float) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.compression = n_fft, hop_length, compression
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


def verdict_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """The discriminator's least-squares loss (Mao et al. 2017): real -> 1, fake -> 0."""
    losses = [
        (r[-1].float() - 1).square().mean() + f[-1].float().square().mean() for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(fake: list[list[Tensor]]) -> Tensor:
    """The generator's least-squares loss: fake -> 1."""
    return torch.stack([(f[-1].float() - 1).square().mean() for f in fake]).mean()


def feature_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Mean distance of the feature maps, each as a share of the real one's size (the scale of a layer is arbitrary)."""
    losses = []
    for r, f in zip(real, fake, strict=True):
        for a, b in zip(r[:-1], f[:-1], strict=True):
            a = a.detach().float()
            losses.append((a - b.float()).abs().mean() / (a.abs().mean() + 1e-3))
    return torch.stack(losses).mean()
