"""A stack of gated dilated convolutions over mel frames (WaveNet: van den Oord 2016; DiffWave: Kong 2021).

Each layer is modulated by style and noise level (FiLM, Perez et al. 2018) after a channel norm, so that a small network
can play many instruments: the convolution says what happens in time, the modulation says to whom.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.nn.noise_and_style import InputGain, NoiseAndStyle


@dataclass(frozen=True)
class GatedConfig:
    width: int = 192
    depth: int = 10
    kernel_size: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8)  # cycled through; 12 layers see 91 frames
    modulation: int = 128  # size of the style-and-noise embedding
    # The input is also seen as its means over so many frames. What is left to a diffusion model by a coarse one moves
    # slowly in time, the noise on it does not: averaging is most of denoising, and here need not be learned.
    means: tuple[int, ...] = (3, 7, 15, 31)
    bands: int = 5  # and, on the path straight to the output, as the mean over so many neighbouring mel bands; 1: not


class GatedNetwork(nn.Module):
    """x (batch, channels_in, frames) -> (batch, channels_out, frames), zero at the start of training."""

    def __init__(
        self, config: GatedConfig, *, channels_in: int, channels_out: int, vector_dim: int = 0, aligned_dim: int = 0
    ) -> None:
        super().__init__()
        self.config, self.aligned_dim = config, aligned_dim
        views = 1 + len(config.means)
        self.before = nn.Conv1d(channels_in * views + aligned_dim, config.width, 1)
        self.modulation = NoiseAndStyle(config.modulation, vector_dim)
        self.layers = nn.ModuleList(
            GatedLayer(config.width, config.kernel_size, config.dilations[i % len(config.dilations)], config.modulation)
            for i in range(config.depth)
        )
        self.after = nn.Sequential(nn.Conv1d(config.width, config.width, 1), nn.SiLU())
        self.out = nn.Conv1d(config.width, channels_out, 1)
        if config.bands > 1:
            views *= 2
        self.gain = InputGain(config.modulation, channels_in * views) if channels_in == channels_out else None
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, noise_level: Tensor | None = None, vector: Tensor | None = None, aligned: Tensor | None = None
    ) -> Tensor:
        """`noise_level` (batch,) about -1..1; `vector` (batch, vector_dim); `aligned` (batch, aligned_dim, frames)."""
        if aligned is None:
            aligned = x.new_zeros(x.shape[0], self.aligned_dim, x.shape[-1])
        views = torch.cat((x, *(moving_mean(x, frames) for frames in self.config.means)), dim=1)
        h = self.before(torch.cat((views, aligned), dim=1))  # (batch, width, frames)
        modulation = self.modulation(noise_level, vector, like=h)  # (batch, modulation)
        for layer in self.layers:
            h = layer(h, modulation)
        out = self.out(self.after(channel_norm(h)))
        if self.gain is None:
            return out
        if self.config.bands > 1:
            parts = views.chunk(1 + len(self.config.means), dim=1)
            views = torch.cat((views, *(band_mean(part, self.config.bands) for part in parts)), dim=1)
        return out + sum(self.gain(views, modulation).split(x.shape[1], dim=1))


class GatedLayer(nn.Module):
    """x + project(tanh(a) * sigmoid(b)) where a, b = dilated convolution of the modulated, normalised x."""

    def __init__(self, width: int, kernel_size: int, dilation: int, modulation: int) -> None:
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        self.modulate = nn.Linear(modulation, 2 * width)
        self.convolve = nn.Conv1d(width, 2 * width, kernel_size, padding=padding, dilation=dilation)
        self.project = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = self.modulate(modulation).unsqueeze(-1).chunk(2, dim=1)  # (batch, width, 1) each
        filtered, gate = self.convolve(channel_norm(x) * (1 + scale) + shift).chunk(2, dim=1)
        return x + self.project(torch.tanh(filtered) * torch.sigmoid(gate))


def moving_mean(x: Tensor, frames: int) -> Tensor:
    """Mean over an odd number of frames around each, (batch, channels, time); at the ends over those that are there."""
    return F.avg_pool1d(x, frames, stride=1, padding=frames // 2, count_include_pad=False)


def band_mean(x: Tensor, bands: int) -> Tensor:
    """Mean over an odd number of mel bands around each, (batch, bands, time)."""
    mean = F.avg_pool2d(x[:, None], (bands, 1), stride=1, padding=(bands // 2, 0), count_include_pad=False)
    return mean[:, 0]


def channel_norm(x: Tensor) -> Tensor:
    """Root-mean-square norm over the channels of every frame, without a learned gain (the modulation has one)."""
    return x * torch.rsqrt(x.float().pow(2).mean(dim=1, keepdim=True) + 1e-6).to(x.dtype)
