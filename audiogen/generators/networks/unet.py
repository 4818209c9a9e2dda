"""One-dimensional U-Net over mel frames, mel bins as channels (Ronneberger et al. 2015; FiLM: Perez et al. 2018).

    level 0   x (frames)         -> blocks ------ skip ------ blocks -> out
    level 1     (frames / 2)        -> blocks --- skip --- blocks
    level 2     (frames / 4)           -> blocks, attention, blocks

Odd lengths go down to the larger half and come up cut to the length of the skip, so any length fits.
Norms are per frame, never over time: what a frame becomes must not depend on how long the clip is or how it is padded.
The output has a path of its own from the input, `InputGain`: what the network must answer is largely its input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.nn.attention import RotaryAttention
from audiogen.nn.noise_and_style import InputGain, NoiseAndStyle


@dataclass(frozen=True)
class UNetConfig:
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 3)  # channels of each level, in widths; every level halves the frames
    blocks: int = 2  # residual blocks of each level, on the way down and again on the way up
    kernel_size: int = 5
    heads: int = 4
    reach: int | None = 40  # of the attention, in frames of the lowest level to either side; None: the whole clip
    modulation: int = 128  # size of the embedding of noise level and style

    def __post_init__(self) -> None:
        if not self.multipliers or self.blocks < 1 or self.kernel_size % 2 == 0:
            raise UserError(
                f"unet: multipliers={self.multipliers} must not be empty, blocks={self.blocks} at least 1, "
                f"kernel_size={self.kernel_size} odd"
            )


class UNet(nn.Module):
    """x (batch, channels_in, frames) -> (batch, channels_out, frames), zero at the start of training."""

    config_type = UNetConfig

    def __init__(
        self, config: UNetConfig, *, channels_in: int, channels_out: int, vector_dim: int = 0, aligned_dim: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * multiplier for multiplier in config.multipliers]
        kernel, modulation = config.kernel_size, config.modulation

        def blocks(first: int, width: int) -> nn.ModuleList:
            return nn.ModuleList(
                ResidualBlock(first if i == 0 else width, width, kernel, modulation) for i in range(config.blocks)
            )

        self.modulation = NoiseAndStyle(modulation, vector_dim)
        self.before = nn.Conv1d(channels_in, widths[0], kernel, padding=kernel // 2)
        # Without a bias, so that no score adds nothing.
        self.before_aligned = nn.Conv1d(
            aligned_dim, widths[0], kernel, padding=kernel // 2, bias=False
        ) if aligned_dim else None
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down_blocks = nn.ModuleList(blocks(width, width) for width, _ in pairs)
        self.down = nn.ModuleList(nn.Conv1d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.low_blocks = blocks(widths[-1], widths[-1])
        self.attention = RotaryAttention(widths[-1], config.heads, reach=config.reach)
        self.last_blocks = blocks(widths[-1], widths[-1])
        self.up = nn.ModuleList(nn.Conv1d(b, a, 3, padding=1) for a, b in reversed(pairs))
        self.up_blocks = nn.ModuleList(blocks(2 * width, width) for width, _ in reversed(pairs))
        self.modulate = nn.Linear(modulation, 2 * widths[0])
        self.out = nn.Conv1d(widths[0], channels_out, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.gain = InputGain(modulation, channels_in) if channels_in == channels_out else None

    def forward(
        self, x: Tensor, noise_level: Tensor | None = None, vector: Tensor | None = None,
        aligned: Tensor | None = None,
    ) -> Tensor:
        """noise_level (batch,), vector (batch, vector_dim), aligned (batch, aligned_dim, frames); None is zeros."""
        modulation = self.modulation(noise_level, vector, like=x)          # (batch, modulation)
        direct = self.gain(x, modulation) if self.gain is not None else 0
        x = self.before(x)                                                 # (batch, width, frames)
        if aligned is not None and self.before_aligned is not None:
            x = x + self.before_aligned(aligned.to(x.dtype))
        skips = []
        for blocks, down in zip(self.down_blocks, self.down, strict=True):
            x = _through(blocks, x, modulation)
            skips.append(x)
            x = down(x)                                                    # (batch, wider, ceil(frames / 2))
        x = _through(self.low_blocks, x, modulation)
        x = x + self.attention(frame_norm(x).transpose(1, 2)).transpose(1, 2)
        x = _through(self.last_blocks, x, modulation)
        for blocks, up in zip(self.up_blocks, self.up, strict=True):
            skip = skips.pop()
            x = up(x.repeat_interleave(2, dim=-1)[..., : skip.shape[-1]])
            x = _through(blocks, torch.cat((x, skip), dim=1), modulation)
        return self.out(F.silu(_modulated(x, self.modulate(modulation)))) + direct


class ResidualBlock(nn.Module):
    """Two convolutions; between them, noise level and style scale and shift every channel (FiLM)."""

    def __init__(self, channels_in: int, channels: int, kernel_size: int, modulation: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels_in, channels, kernel_size, padding=kernel_size // 2)
        self.modulate = nn.Linear(modulation, 2 * channels)
        self.second = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.across = nn.Conv1d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, x: Tensor, modulation: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (batch, channels_in, frames), modulation (batch, modulation) -> (batch, channels, frames).

        `mask` (batch, 1, frames): 0 in padding, where x is 0 too; the second convolution then sees zeros there as well.
        """
        y = self.first(F.silu(frame_norm(x)))
        y = F.silu(_modulated(y, self.modulate(modulation)))
        return self.across(x) + self.second(y if mask is None else y * mask)


def frame_norm(x: Tensor) -> Tensor:
    """Every frame to root mean square 1 over its channels. x (batch, channels, frames) -> like x."""
    return x * torch.rsqrt(x.float().pow(2).mean(dim=1, keepdim=True) + 1e-6).to(x.dtype)


def _modulated(x: Tensor, scale_and_shift: Tensor) -> Tensor:
    scale, shift = scale_and_shift.unsqueeze(-1).chunk(2, dim=1)           # (batch, channels, 1) each
    return frame_norm(x) * (1 + scale) + shift


def _through(blocks: nn.ModuleList, x: Tensor, modulation: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, modulation)
    return x
