"""condition -> numbers for every frame: gated convolutions over the roll, and the harmonics of the notes beside them.

What the families share that look at the whole score at once, ahead as well as back (`networks/gated.py` does the
looking, `harmonics.py` knows where a pitch lies among the bands).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiogen.conditioning.piano_roll import ROLL_DIM
from audiogen.core.interfaces import Condition
from audiogen.core.mel_format import MelFormat
from audiogen.generators.harmonics import HarmonicLines
from audiogen.generators.networks.gated import GatedConfig, GatedNetwork


class ConditionNetwork(nn.Module):
    """`channels_out` numbers a frame, of which the first n_mels are mel bins, in deviations; zeros before training.

    `channels_in`: rows of whatever else runs along with the frames (noise).
    """

    def __init__(
        self, config: GatedConfig, mel: MelFormat, *, vector_dim: int, aligned_dim: int, channels_out: int,
        channels_in: int = 0,
    ) -> None:
        super().__init__()
        if channels_out < mel.n_mels:
            raise ValueError(f"channels_out={channels_out} must hold the {mel.n_mels} mel bins")
        self.lines = HarmonicLines(mel) if aligned_dim == ROLL_DIM else None
        lines = self.lines.dim if self.lines is not None else 0
        self.network = GatedNetwork(
            config, channels_in=aligned_dim + lines + channels_in, channels_out=channels_out, vector_dim=vector_dim
        )
        self.strength = LineStrength(vector_dim, lines) if lines else None

    def forward(self, condition: Condition, along: Tensor | None = None) -> Tensor:
        """A whole condition (`MelModel.complete`), along (batch, channels_in, frames) -> (batch, channels_out, frames).
        """
        parts, direct = [condition.aligned], None
        if self.lines is not None:
            lines = self.lines(condition.aligned)  # (batch, 4 n_mels, frames)
            direct = self.strength(lines, condition.vector)
            parts.append(lines)
        if along is not None:
            parts.append(along)
        out = self.network(torch.cat(parts, dim=1), None, condition.vector).float()
        if direct is None:
            return out
        n_mels = direct.shape[1]
        return torch.cat((out[:, :n_mels] + direct, out[:, n_mels:]), dim=1)


class LineStrength(nn.Linear):
    """How much each kind of line adds to each mel bin, by style: nothing before training."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, lines: Tensor, vector: Tensor) -> Tensor:
        """lines (batch, 4 n_mels, frames), vector (batch, vector_dim) of length 1 -> (batch, n_mels, frames)."""
        strength = super().forward(vector * math.sqrt(vector.shape[-1])).unsqueeze(-1)  # (batch, 4 n_mels, 1)
        return sum((lines * strength).chunk(4, dim=1)).float()
