"""The multi-period discriminator of HiFi-GAN (Kong, Kim and Bae 2020), used by BigVGAN and Vocos as well.

The waveform is folded into rows of `period` samples, and convolutions run down the columns only: each sees every
period-th sample.

    period 3:   x0 x3 x6 x9  ...   ↓ time
                x1 x4 x7 x10 ...
                x2 x5 x8 x11 ...
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class MultiPeriodDiscriminator(nn.Module):
    """One `PeriodDiscriminator` for each period. width 1 is as published: 41.1 million parameters."""

    def __init__(self, periods: Sequence[int] = (2, 3, 5, 7, 11), *, width: float = 1.0) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(PeriodDiscriminator(period, width=width) for period in periods)

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        """audio (batch, 1, time) -> for each period its feature maps, the verdict last."""
        return [part(audio) for part in self.discriminators]


class PeriodDiscriminator(nn.Module):
    """Five strided convolutions over (time / period, period), and a verdict."""

    def __init__(self, period: int, *, width: float = 1.0) -> None:
        super().__init__()
        self.period = self.shortest = period
        channels = [1, *(max(1, round(width * c)) for c in (32, 128, 512, 1024, 1024))]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs, outputs, (5, 1), (3 if index < 4 else 1, 1), (2, 0)))
            for index, (inputs, outputs) in enumerate(zip(channels, channels[1:], strict=False))
        )
        self.conv_post = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Tensor) -> list[Tensor]:
        """audio (batch, 1, time), time > period -> features (batch, channels, ..., period), verdict (batch, 1, ...)."""
        batch, _, time = audio.shape
        audio = F.pad(audio, (0, -time % self.period), mode="reflect") if time % self.period else audio
        x = audio.reshape(batch, 1, -1, self.period)
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        return [*features, self.conv_post(x)]
