"""Diffusion transformer over mel frames (Peebles & Xie 2023, arXiv 2212.09748): adaLN-zero blocks, rotary positions.

`patch` neighbouring frames are one token. The piano roll is added to the tokens at the input, frame by frame; noise
level and style reach every block as its scales, shifts and gates, which start at 0: every block starts as the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.nn.attention import RotaryAttention
from audiogen.nn.noise_and_style import InputGain, NoiseAndStyle


@dataclass(frozen=True)
class DiTConfig:
    width: int = 256
    depth: int = 8
    heads: int = 4
    patch: int = 2  # frames of one token
    expansion: int = 4  # of the two-layer network in every block
    reach: int | None = 80  # tokens that a token looks to either side; None: the whole clip
    modulation: int = 128  # size of the embedding of noise level and style

    def __post_init__(self) -> None:
        if self.depth < 1 or self.patch < 1:
            raise UserError(f"dit: depth={self.depth} and patch={self.patch} must be at least 1")


class DiT(nn.Module):
    """x (batch, channels_in, frames) -> (batch, channels_out, frames), zero at the start of training."""

    config_type = DiTConfig

    def __init__(
        self, config: DiTConfig, *, channels_in: int, channels_out: int, vector_dim: int = 0, aligned_dim: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch
        self.modulation = NoiseAndStyle(config.modulation, vector_dim)
        self.before = nn.Conv1d(channels_in, width, patch, stride=patch)
        # Without a bias, so that no score adds nothing.
        self.before_aligned = nn.Conv1d(aligned_dim, width, patch, stride=patch, bias=False) if aligned_dim else None
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.expansion, config.modulation, reach=config.reach)
            for _ in range(config.depth)
        )
        self.modulate = nn.Linear(config.modulation, 2 * width)
        self.out = nn.ConvTranspose1d(width, channels_out, patch, stride=patch)
        for layer in (self.modulate, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.gain = InputGain(config.modulation, channels_in) if channels_in == channels_out else None

    def forward(
        self, x: Tensor, noise_level: Tensor | None = None, vector: Tensor | None = None,
        aligned: Tensor | None = None,
    ) -> Tensor:
        """noise_level (batch,), vector (batch, vector_dim), aligned (batch, aligned_dim, frames); None is zeros."""
        frames = x.shape[-1]
        modulation = self.modulation(noise_level, vector, like=x)          # (batch, modulation)
        tail = (0, -frames % self.config.patch)
        tokens = self.before(F.pad(x, tail))                               # (batch, width, tokens)
        if aligned is not None and self.before_aligned is not None:
            tokens = tokens + self.before_aligned(F.pad(aligned.to(tokens.dtype), tail))
        tokens = tokens.transpose(1, 2)                                    # (batch, tokens, width)
        for block in self.blocks:
            tokens = block(tokens, modulation)
        shift, scale = self.modulate(modulation).unsqueeze(1).chunk(2, dim=-1)
        out = self.out(_modulated(tokens, shift, scale).transpose(1, 2))[..., :frames]
        return out if self.gain is None else out + self.gain(x, modulation)


class Block(nn.Module):
    """Attention and a two-layer network, each modulated before and gated after (Peebles & Xie 2023, figure 3)."""

    def __init__(self, width: int, heads: int, expansion: int, modulation: int, *, reach: int | None) -> None:
        super().__init__()
        self.modulate = nn.Linear(modulation, 6 * width)
        self.attention = RotaryAttention(width, heads, reach=reach)
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(approximate="tanh"), nn.Linear(expansion * width, width)
        )
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        """tokens (batch, tokens, width), modulation (batch, modulation) -> like tokens."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulate(modulation).unsqueeze(1).chunk(6, dim=-1)
        tokens = tokens + gate_a * self.attention(_modulated(tokens, shift_a, scale_a))
        return tokens + gate_m * self.mlp(_modulated(tokens, shift_m, scale_m))


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift
