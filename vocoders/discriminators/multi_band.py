"""The multi-band discriminator of the Descript codec (Kumar et al. 2023), in the form of Vocos (Siuzdak 2023).

Complex spectra are cut into five bands of frequency; each band has convolutions of its own, one verdict hears all.
Clips are freed of their mean and brought to one peak first: it judges the shape of a sound, not how loud it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of the bands, as shares of the bins


class MultiBandDiscriminator(nn.Module):
    """One `BandDiscriminator` for each n_fft."""

    def __init__(self, windows: Sequence[int] = (2048, 1024, 512), *, width: float = 1.0) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(BandDiscriminator(n_fft, width=width) for n_fft in windows)

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        """audio (batch, 1, time) -> for each resolution its feature maps, the verdict last."""
        return [part(audio) for part in self.discriminators]


class BandDiscriminator(nn.Module):
    """Five convolutions over (frames, bins) in each band, and one verdict over all bands. A quarter window a frame."""

    window: Tensor

    def __init__(self, n_fft: int, *, width: float = 1.0) -> None:
        super().__init__()
        self.n_fft, self.shortest = n_fft, n_fft // 2 + 1
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        corners = [int(edge * (n_fft // 2 + 1)) for edge in EDGES]
        self.bands = list(zip(corners, corners[1:], strict=False))
        channels = max(1, round(width * 32))
        self.band_convs = nn.ModuleList(
            nn.ModuleList([
                weight_norm(nn.Conv2d(2, channels, (3, 9), padding=(1, 4))),
                *(weight_norm(nn.Conv2d(channels, channels, (3, 9), (1, 2), (1, 4))) for _ in range(3)),
                weight_norm(nn.Conv2d(channels, channels, 3, padding=1)),
            ])
            for _ in self.bands
        )
        self.conv_post = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        """audio (batch, 1, time), time > n_fft / 2 -> features (batch, channels, frames, bins) and verdict."""
        with torch.autocast(audio.device.type, enabled=False):
            x = audio[:, 0].float()
            x = x - x.mean(-1, keepdim=True)
            # Published: divided by the peak + 1e-9. Noise at -180 dB would then count as much as music, and a silent
            # clip's gradient would be 1e9 times a loud one's; quieter than -60 dB nothing is amplified further.
            x = 0.8 * x / x.abs().amax(-1, keepdim=True).clamp(min=1e-3)
            x = torch.stft(x, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
            x = torch.view_as_real(x).permute(0, 3, 2, 1)                         # (batch, 2, frames, bins)
        features, ends = [], []
        for (low, high), convs in zip(self.bands, self.band_convs, strict=True):
            band = x[..., low:high]
            for index, conv in enumerate(convs):
                band = F.leaky_relu(conv(band), 0.1)
                if index:                                                         # as published: not the first
                    features.append(band)
            ends.append(band)
        return [*features, self.conv_post(torch.cat(ends, -1))]
