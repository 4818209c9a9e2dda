"""HiFi-GAN (Kong, Kim and Bae 2020) and BigVGAN (Lee et al. 2023): transposed convolutions from frames to samples.

    mel - conv_pre - [ up - mean of residual blocks with different kernels ] x stages - conv_post - audio

HiFi-GAN is the form with activation "leaky_relu". BigVGAN has periodic activations without aliasing ("snake",
"snakebeta": audiogen/ops/anti_aliased_snake.py), and none before the transposed convolutions. Modules are named as in
the first authors' code, and weights are plain: the published weight norms are folded into them.

On a CPU everything runs in channels-last order (audiogen/nn/convolution.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.core.rng import SampleRng
from audiogen.nn.convolution import Convolution, TransposedConvolution, channels_last
from audiogen.ops.anti_aliased_snake import anti_aliased_snake
from vocoders.rates import check_rates

SLOPE = 0.1  # of the leaky ReLUs; the last one has PyTorch's 0.01, in the published code and so in all its checkpoints
TAPS = 12  # of the anti-aliasing filters


@dataclass(frozen=True)
class HiFiGANConfig:
    """The defaults are HiFi-GAN V2's shape, 0.9 million weights: what a laptop trains and renders."""

    mel: MelFormat = MelFormat()
    channels: int = 128  # after conv_pre; each stage halves them
    rates: tuple[int, ...] = (8, 8, 2, 2)  # multiply to hop_length; vocoders/rates.py suggests some for any hop
    kernels: tuple[int, ...] = (16, 16, 4, 4)  # of the transposed convolutions
    block_kernels: tuple[int, ...] = (3, 7, 11)
    block_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))  # of each block kernel
    paired: bool = True  # each dilated convolution is followed by one that is not ("resblock": "1"); V3 has none
    activation: str = "leaky_relu"  # or "snake", "snakebeta": periodic, without aliasing
    logscale: bool = True  # snakes keep the logarithms of alpha and beta
    final: str = "tanh"  # or "clamp", which does nothing while training
    final_bias: bool = True
    normalise: bool = False  # the mel is shifted and scaled by the buffers `mean` and `scale`, as in ParallelWaveGAN

    def __post_init__(self) -> None:
        if self.activation not in ("leaky_relu", "snake", "snakebeta"):
            raise UserError(f"activation={self.activation!r} must be 'leaky_relu', 'snake' or 'snakebeta'")
        if self.final not in ("tanh", "clamp"):
            raise UserError(f"final={self.final!r} must be 'tanh' or 'clamp'")
        check_rates(self.mel.hop_length, self.rates, self.kernels, sample_rate=self.mel.sample_rate)
        if self.channels < 1 or self.channels % 2 ** len(self.rates):
            raise UserError(f"channels={self.channels} must divide by {2 ** len(self.rates)}: each stage halves them")
        if not self.block_kernels or len(self.block_kernels) != len(self.block_dilations):
            raise UserError(f"block_dilations={self.block_dilations} must be one row for each of "
                            f"block_kernels={self.block_kernels}")
        if any(kernel % 2 == 0 for kernel in self.block_kernels):
            raise UserError(f"block_kernels={self.block_kernels} must be odd")

    @property
    def periodic(self) -> bool:
        return self.activation != "leaky_relu"

    @property
    def context_frames(self) -> int:
        """Frames on either side of a frame that its samples see."""
        activation = TAPS // 2 - 1 if self.periodic else 0
        blocks = max(
            sum((kernel - 1) // 2 * (dilation + self.paired) + activation * (1 + self.paired) for dilation in dilations)
            for kernel, dilations in zip(self.block_kernels, self.block_dilations, strict=True)
        )
        first, last = -3 - activation, self.mel.hop_length + 2 + activation  # samples that conv_post sees
        for rate, kernel in zip(reversed(self.rates), reversed(self.kernels), strict=True):
            first, last = first - blocks, last + blocks
            first, last = upsampling_reach(first, last, rate, kernel)
        return max(3 - first, last + 3)


def upsampling_reach(first: int, last: int, rate: int, kernel: int) -> tuple[int, int]:
    """The steps that a `TransposedConvolution` reads to make its outputs first .. last."""
    crop = (kernel - rate + 1) // 2  # output n reads input t where 0 <= n + crop - rate t < kernel
    return -((kernel - 1 - crop - first) // rate), (last + crop) // rate


def low_pass() -> np.ndarray:
    """The filter of both changes of rate, (12,) float64: a Kaiser-windowed sinc with its edge at a quarter of the rate.

    Its transition is 0.6 / 2 of the rate wide on either side, which with 12 taps asks for this beta (Kaiser 1974).
    """
    half = TAPS // 2
    attenuation = 2.285 * (half - 1) * math.pi * 4 * 0.3 + 7.95  # dB; 51, and above 50 Kaiser's beta is
    taps = np.kaiser(TAPS, 0.1102 * (attenuation - 8.7)) * np.sinc(0.5 * (np.arange(TAPS) - half + 0.5))
    return taps / taps.sum()


_V1 = {"channels": 512, "mel": MEL_FORMATS["hifigan_22k"]}
_BASE = {"activation": "snakebeta", "channels": 512}
_LARGE = {"activation": "snakebeta", "channels": 1536, "rates": (4, 4, 2, 2, 2, 2), "kernels": (8, 8, 4, 4, 4, 4)}
_SECOND = {**_LARGE, "final": "clamp", "final_bias": False}


class HiFiGAN(nn.Module):
    """mel -> audio, without randomness: `rng` and `offset` change nothing."""

    config_type = HiFiGANConfig
    presets: ClassVar[dict[str, HiFiGANConfig]] = {
        "hifigan_v1": HiFiGANConfig(**_V1),
        "hifigan_v2": HiFiGANConfig(mel=MEL_FORMATS["hifigan_22k"]),
        "hifigan_v3": HiFiGANConfig(
            mel=MEL_FORMATS["hifigan_22k"], channels=256, rates=(8, 8, 4), kernels=(16, 16, 8), block_kernels=(3, 5, 7),
            block_dilations=((1, 2), (2, 6), (3, 12)), paired=False,
        ),
        "bigvgan_base_22k_80band": HiFiGANConfig(mel=MEL_FORMATS["hifigan_22k"], **_BASE),
        "bigvgan_base_24k_100band": HiFiGANConfig(mel=MEL_FORMATS["bigvgan_24k_100band"], **_BASE),
        "bigvgan_22k_80band": HiFiGANConfig(mel=MEL_FORMATS["hifigan_22k"], **_LARGE),
        "bigvgan_24k_100band": HiFiGANConfig(mel=MEL_FORMATS["bigvgan_24k_100band"], **_LARGE),
        "bigvgan_v2_22k_80band_256x": HiFiGANConfig(mel=MelFormat(eps=1e-9), **_SECOND),
        "bigvgan_v2_22k_80band_fmax8k_256x": HiFiGANConfig(mel=MEL_FORMATS["hifigan_22k"], **_SECOND),
        "bigvgan_v2_24k_100band_256x": HiFiGANConfig(mel=MEL_FORMATS["bigvgan_24k_100band"], **_SECOND),
        "bigvgan_v2_44k_128band_512x": HiFiGANConfig(
            mel=MEL_FORMATS["bigvgan_44k_128band"],
            **{**_SECOND, "rates": (8, 4, 2, 2, 2, 2), "kernels": (16, 8, 4, 4, 4, 4)},
        ),
    }

    def __init__(self, config: HiFiGANConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HiFiGANConfig()
        channels = config.channels
        self.conv_pre = Convolution(config.mel.n_mels, channels, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.rates, config.kernels, strict=True):
            self.ups.append(TransposedConvolution(channels, channels // 2, kernel, rate))
            channels //= 2
            for width, dilations in zip(config.block_kernels, config.block_dilations, strict=True):
                self.resblocks.append(ResidualBlock(channels, width, dilations, config))
        if config.periodic:
            self.activation_post = Snake(channels, config)
        self.conv_post = Convolution(channels, 1, 7, padding=3, bias=config.final_bias)
        if config.normalise:
            self.register_buffer("mean", torch.zeros(config.mel.n_mels))
            self.register_buffer("scale", torch.ones(config.mel.n_mels))

    @property
    def context_frames(self) -> int:
        return self.config.context_frames

    def forward(self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0) -> Tensor:
        """mel (batch, n_mels, frames) -> audio (batch, 1, frames * hop_length)."""
        config, each = self.config, len(self.config.block_kernels)
        config.mel.check(mel, model="BigVGAN" if config.periodic else "HiFi-GAN")
        if config.normalise:
            mel = (mel - self.mean[:, None]) / self.scale[:, None]
        x = self.conv_pre(channels_last(mel))                                     # (batch, channels, frames)
        for stage, up in enumerate(self.ups):
            x = up(x if config.periodic else F.leaky_relu(x, SLOPE, inplace=True))
            awake = None if config.periodic else F.leaky_relu(x, SLOPE)  # what every block of the stage begins with
            blocks = self.resblocks[stage * each : (stage + 1) * each]
            total = blocks[0](x, awake)
            for block in blocks[1:]:
                total = total.add_(block(x, awake))
            x = total.div_(each)                                                  # (batch, channels / 2, steps)
        x = self.activation_post(x) if config.periodic else F.leaky_relu(x, 0.01, inplace=True)
        x = self.conv_post(x)
        x = x if x.dtype == torch.float64 else x.float()
        return torch.tanh(x) if config.final == "tanh" else x if self.training else x.clamp(-1.0, 1.0)

    @classmethod
    def from_published(
        cls, content: Mapping[str, Any], settings: Mapping[str, Any], *, mel: MelFormat | None = None
    ) -> HiFiGAN:
        """g_02500000 and config.json of HiFi-GAN; bigvgan_generator.pt and config.json of BigVGAN; checkpoint-*.pkl and
        config.yml of ParallelWaveGAN's HiFi-GAN, with its stats.h5 or stats.npy in settings["stats"].

        Without settings the weights must have the shape of a preset."""
        from vocoders.hifigan_published import read

        return read(content, settings, mel=mel)


class ResidualBlock(nn.Module):
    """x + convolutions of x, once for each dilation: HiFi-GAN's ResBlock1 (paired) and 2, BigVGAN's AMPBlocks."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], config: HiFiGANConfig) -> None:
        super().__init__()
        self.periodic = config.periodic
        half = (kernel - 1) // 2
        dilated = nn.ModuleList(
            Convolution(channels, channels, kernel, padding=half * wide, dilation=wide) for wide in dilations
        )
        if config.paired:
            self.convs1 = dilated
            self.convs2 = nn.ModuleList(Convolution(channels, channels, kernel, padding=half) for _ in dilations)
        else:
            self.convs = dilated
        self.steps = 2 if config.paired else 1  # convolutions between two residual sums
        if self.periodic:
            self.activations = nn.ModuleList(Snake(channels, config) for _ in range(self.steps * len(dilations)))

    def forward(self, x: Tensor, awake: Tensor | None = None) -> Tensor:
        """x (batch, channels, time) -> the same shape, in new memory. awake: leaky_relu(x), where that is known."""
        for index, dilated in enumerate(self.convs1 if self.steps == 2 else self.convs):
            if self.periodic:
                y = dilated(self.activations[self.steps * index](x))
            else:
                y = dilated(F.leaky_relu(x, SLOPE) if awake is None else awake)
            if self.steps == 2:
                y = self.activations[2 * index + 1](y) if self.periodic else F.leaky_relu(y, SLOPE, inplace=True)
                y = self.convs2[index](y)
            x, awake = y.add_(x), None
        return x


class Snake(nn.Module):
    """x + sin²(alpha x) / beta at twice the rate; with activation "snake" beta is alpha."""

    def __init__(self, channels: int, config: HiFiGANConfig) -> None:
        super().__init__()
        start = torch.zeros if config.logscale else torch.ones
        self.logscale = config.logscale
        self.alpha = nn.Parameter(start(channels))
        self.beta = nn.Parameter(start(channels)) if config.activation == "snakebeta" else None
        self.register_buffer("filter", torch.from_numpy(low_pass()).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channels, time) -> the same shape."""
        beta = self.alpha if self.beta is None else self.beta
        return anti_aliased_snake(x, self.alpha, beta, self.filter, self.filter, logscale=self.logscale)
