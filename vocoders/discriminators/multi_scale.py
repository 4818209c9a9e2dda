"""The multi-scale discriminator of MelGAN (Kumar et al. 2019), in the form of HiFi-GAN (Kong, Kim and Bae 2020).

Grouped convolutions over the waveform, over its average by two, and over that one's. The first is spectrally
normalised (Miyato et al. 2018), the others weight-normalised, as published.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

# outputs, kernel, stride, groups
LAYERS = ((128, 15, 1, 1), (128, 41, 2, 4), (256, 41, 2, 16), (512, 41, 4, 16), (1024, 41, 4, 16), (1024, 41, 1, 16),
          (1024, 5, 1, 1))


class MultiScaleDiscriminator(nn.Module):
    """One `ScaleDiscriminator` for each scale. width 1 is as published: 29.6 million parameters."""

    def __init__(self, scales: int = 3, *, width: float = 1.0) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            ScaleDiscriminator(width=width, spectral=scale == 0) for scale in range(scales)
        )

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        """audio (batch, 1, time) -> for each scale its feature maps, the verdict last."""
        judged = []
        for scale, part in enumerate(self.discriminators):
            if scale:
                audio = F.avg_pool1d(audio, 4, 2, padding=2)
            judged.append(part(audio))
        return judged


class ScaleDiscriminator(nn.Module):
    """Seven convolutions over the waveform, and a verdict."""

    def __init__(self, *, width: float = 1.0, spectral: bool = False) -> None:
        super().__init__()
        norm, inputs, convs = spectral_norm if spectral else weight_norm, 1, []
        for outputs, kernel, stride, groups in LAYERS:
            outputs = max(1, round(width * outputs / 16)) * 16                    # so that the groups divide them
            convs.append(norm(nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)))
            inputs = outputs
        self.convs = nn.ModuleList(convs)
        self.conv_post = norm(nn.Conv1d(inputs, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        """audio (batch, 1, time) -> features (batch, channels, ...) and verdict (batch, 1, ...)."""
        x, features = audio, []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        return [*features, self.conv_post(x)]
