"""MelGAN (Kumar et al. 2019) and Multi-band MelGAN (Yang et al. 2021): transposed convolutions and dilated stacks.

    mel - conv_pre - [ up - residual blocks with dilation 1, 3, 9, ... ] x stages - conv_post - tanh (- PQMF) - audio

With bands > 1 the network makes PQMF subbands, each at 1 / bands of the sample rate, and the filter bank joins them.
Signals are continued by reflection at the ends of a clip, as published. Weights are plain: the published weight norms
are folded into them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.core.rng import SampleRng
from audiogen.nn.convolution import Convolution, TransposedConvolution, channels_last
from audiogen.signal.pqmf import PQMF
from vocoders.hifigan import upsampling_reach
from vocoders.rates import check_rates

SLOPE = 0.2  # of all leaky ReLUs
PQMF_TAPS, PQMF_BETA = 62, 9.0


@dataclass(frozen=True)
class MelGANConfig:
    """The defaults are Multi-band MelGAN's, v2 of ParallelWaveGAN: 2.5 million weights, the fastest of its time."""

    mel: MelFormat = MelFormat()
    channels: int = 384  # after conv_pre; each stage halves them
    rates: tuple[int, ...] = (8, 4, 2)  # times bands, they multiply to hop_length
    stacks: int = 4  # residual blocks of a stage, with dilation 1, 3, 9, ...
    bands: int = 4  # 1: full band, no PQMF
    cutoff: float = 0.142  # of the PQMF's prototype; ParallelWaveGAN had 0.15 up to its version 0.4.2
    normalise: bool = False  # the mel is shifted and scaled by the buffers `mean` and `scale` (n_mels,), as published

    def __post_init__(self) -> None:
        if self.bands < 1 or self.mel.hop_length % self.bands:
            raise UserError(f"bands={self.bands} must divide hop_length={self.mel.hop_length}")
        check_rates(self.mel.hop_length // self.bands, self.rates, [2 * rate for rate in self.rates],
                    sample_rate=self.mel.sample_rate // self.bands)
        if self.channels < 1 or self.channels % 2 ** len(self.rates):
            raise UserError(f"channels={self.channels} must divide by {2 ** len(self.rates)}: each stage halves them")
        if self.stacks < 1:
            raise UserError(f"stacks={self.stacks} must be positive")

    @property
    def context_frames(self) -> int:
        """Frames on either side of a frame that its samples see."""
        first, last = 0, self.mel.hop_length - 1
        if self.bands > 1:  # sample n is made of the steps m with |n - bands m| <= taps / 2
            first = -((PQMF_TAPS // 2 - first) // self.bands)
            last = (last + PQMF_TAPS // 2) // self.bands
        first, last = first - 3, last + 3
        for rate in reversed(self.rates):
            reach = sum(3**index for index in range(self.stacks))
            first, last = upsampling_reach(first - reach, last + reach, rate, 2 * rate)
        return max(3 - first, last + 3)


_MULTI_BAND = {"normalise": True, "mel": MEL_FORMATS["parallel_wavegan_22k"]}


class MelGAN(nn.Module):
    """mel -> audio, without randomness: `rng` and `offset` change nothing."""

    config_type = MelGANConfig
    presets: ClassVar[dict[str, MelGANConfig]] = {
        "melgan_22k": MelGANConfig(
            mel=MEL_FORMATS["melgan_22k"], channels=512, rates=(8, 8, 2, 2), stacks=3, bands=1
        ),
        "multiband_melgan_22k": MelGANConfig(**_MULTI_BAND),
        "multiband_melgan_24k": MelGANConfig(
            normalise=True, mel=MEL_FORMATS["parallel_wavegan_24k"], rates=(5, 5, 3)
        ),
    }

    def __init__(self, config: MelGANConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MelGANConfig()
        channels = config.channels
        self.conv_pre = Convolution(config.mel.n_mels, channels, 7)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for rate in config.rates:
            self.ups.append(TransposedConvolution(channels, channels // 2, 2 * rate, rate))
            channels //= 2
            self.blocks.extend(ResidualBlock(channels, 3**index) for index in range(config.stacks))
        self.conv_post = Convolution(channels, config.bands, 7)
        if config.bands > 1:
            self.pqmf = PQMF(config.bands, taps=PQMF_TAPS, cutoff=config.cutoff, beta=PQMF_BETA, mirrored=True)
        if config.normalise:
            self.register_buffer("mean", torch.zeros(config.mel.n_mels))
            self.register_buffer("scale", torch.ones(config.mel.n_mels))

    @property
    def context_frames(self) -> int:
        return self.config.context_frames

    def forward(self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0) -> Tensor:
        """mel (batch, n_mels, frames) -> audio (batch, 1, frames * hop_length)."""
        subbands = self.render(mel)
        return self.pqmf.synthesis(subbands) if self.config.bands > 1 else subbands

    def render(self, mel: Tensor) -> Tensor:
        """What the network makes, for losses on the subbands: (batch, bands, frames * hop_length / bands)."""
        config = self.config
        config.mel.check(mel, model="MelGAN")
        if config.normalise:
            mel = (mel - self.mean[:, None]) / self.scale[:, None]
        x = self.conv_pre(reflect(channels_last(mel), 3))                         # (batch, channels, frames)
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE, inplace=True))
            for block in self.blocks[stage * config.stacks : (stage + 1) * config.stacks]:
                x = block(x)                                                      # (batch, channels / 2, steps)
        x = self.conv_post(reflect(F.leaky_relu(x, SLOPE, inplace=True), 3))
        return torch.tanh(x if x.dtype == torch.float64 else x.float())

    @classmethod
    def from_published(
        cls, content: Mapping[str, Any], settings: Mapping[str, Any], *, mel: MelFormat | None = None
    ) -> MelGAN:
        """best_netG.pt of descriptinc/melgan-neurips; {"model_g": ...} of seungwonpark/melgan; checkpoint-*.pkl and
        config.yml of ParallelWaveGAN, with its stats.h5 or stats.npy in settings["stats"].

        Without settings the first two have the formats that their code fixes."""
        from vocoders.melgan_published import read

        return read(content, settings, mel=mel)


class ResidualBlock(nn.Module):
    """A 1x1 convolution of x + a dilated one and a 1x1 one of the same."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilated = Convolution(channels, channels, 3, dilation=dilation)
        self.pointwise = Convolution(channels, channels, 1)
        self.shortcut = Convolution(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channels, time) -> the same shape."""
        y = self.dilated(reflect(F.leaky_relu(x, SLOPE), *self.dilated.dilation))
        return self.pointwise(F.leaky_relu(y, SLOPE, inplace=True)).add_(self.shortcut(x))


def reflect(x: Tensor, width: int) -> Tensor:
    """x (batch, channels, time) -> time + 2 * width, mirrored at both ends (without repeating them); keeps strides.

    Signals no longer than `width` are mirrored more than once, where PyTorch's own padding gives up.
    """
    time = x.shape[2]
    if torch.compiler.is_exporting() or time > width:
        return F.pad(x.unsqueeze(2), (width, width, 0, 0), mode="reflect").squeeze(2)
    step = torch.arange(-width, time + width, device=x.device)
    period = max(2 * (time - 1), 1)
    step = step.remainder(period)
    return x[:, :, torch.minimum(step, period - step) if time > 1 else torch.zeros_like(step)]
