"""The multi-scale sub-band constant-Q discriminator (Gu et al. 2023, arXiv:2311.14957), in the form of BigVGAN v2.

A constant-Q transform resolves pitch at low notes and time at high ones, where a short-time spectrum must choose. Each
octave first passes a convolution of its own, so that octaves whose kernels differ in length meet on equal terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from vocoders.discriminators.constant_q import ConstantQ, doubled


class SubBandCQTDiscriminator(nn.Module):
    """One `CQTDiscriminator` for each (hop_length, octaves, bins_per_octave). Published: 32 or 128 filters."""

    def __init__(
        self, octaves: Sequence[tuple[int, int, int]], filters: int = 32, *, sample_rate: int = 22050,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        filters = max(1, round(filters * width))
        self.discriminators = nn.ModuleList(
            CQTDiscriminator(*sizes, filters, sample_rate=sample_rate) for sizes in octaves
        )

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        """audio (batch, 1, time) -> for each transform its feature maps, the verdict last."""
        return [part(audio) for part in self.discriminators]


class CQTDiscriminator(nn.Module):
    """Convolutions over (frames, bins) of a complex constant-Q transform at twice the sample rate, and a verdict."""

    def __init__(self, hop_length: int, octaves: int, bins_per_octave: int, filters: int, *, sample_rate: int) -> None:
        super().__init__()
        # At twice the rate, as published: nine octaves from C1 end at 16.7 kHz.
        self.transform = ConstantQ(2 * sample_rate, hop_length, octaves, bins_per_octave)
        self.conv_pres = nn.ModuleList(nn.Conv2d(2, 2, (3, 9), padding=(1, 4)) for _ in range(octaves))
        self.convs = nn.ModuleList([
            nn.Conv2d(2, filters, (3, 9), padding=(1, 4)),
            *(weight_norm(nn.Conv2d(filters, filters, (3, 9), (1, 2), (dilation, 4), (dilation, 1)))
              for dilation in (1, 2, 4)),
            weight_norm(nn.Conv2d(filters, filters, 3, padding=1)),
        ])
        self.conv_post = weight_norm(nn.Conv2d(filters, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        """audio (batch, 1, time) -> features (batch, filters, frames, bins) and verdict (batch, 1, ...)."""
        with torch.autocast(audio.device.type, enabled=False):
            z = self.transform(doubled(audio[:, 0].float(), self.transform.half_band))
        octaves = z.transpose(2, 3).split(self.transform.bins, -1)                # (batch, 2, frames, bins) each
        x = torch.cat([conv(octave) for conv, octave in zip(self.conv_pres, octaves, strict=True)], -1)
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        return [*features, self.conv_post(x)]
