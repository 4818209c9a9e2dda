"""Discriminators over mel frames: is this clip real, and is it of this style and score?

    convolutional  the mel as a picture, halved four times in frequency and three times in time: local detail
    recurrent      a GRU over groups of frames: each verdict is on all that was heard so far (C-RNN-GAN, Mogren 2016)

Each gives a verdict at many places in time, and is conditioned by projection (Miyato & Koyama 2018, eq. 5), here for
style and score:

    D(x, y)_t = psi(phi(x)_t) + <phi(x)_t, V style> + <phi(x)_t, U roll_t>
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition

SLOPE = 0.2  # of the leaky rectifiers


@dataclass(frozen=True)
class MelDiscriminatorConfig:
    kinds: tuple[str, ...] = ("convolutional", "recurrent")
    widths: tuple[int, ...] = (24, 48, 96, 128)
    """Channels of the convolutional one; each layer halves the bands, each of the first three the frames."""
    recurrent_width: int = 128
    group: int = 4
    """Frames of a step of the recurrent one."""
    spectral_norm: bool = False
    """Every layer has a largest gain of 1 (Miyato et al. 2018)."""

    def __post_init__(self) -> None:
        if not self.kinds:
            raise UserError(f"discriminator: kinds is empty; choose from {', '.join(DISCRIMINATORS)}")
        for kind in self.kinds:
            if kind not in DISCRIMINATORS:
                raise UserError(f"no discriminator is called {kind!r}{did_you_mean(kind, DISCRIMINATORS)}")
        if not self.widths or self.group < 1 or self.recurrent_width < 1:
            raise UserError(f"discriminator: widths={self.widths} must not be empty, group={self.group} and "
                            f"recurrent_width={self.recurrent_width} at least 1")


class Judgement(NamedTuple):
    """What one discriminator says."""

    verdicts: Tensor  # (batch, places)
    features: list[Tensor]  # maps (batch, ..., time), of falling time resolution


class Projection(nn.Module):
    """phi (batch, width, places), condition -> verdicts (batch, places)."""

    def __init__(self, width: int, vector_dim: int, aligned_dim: int) -> None:
        super().__init__()
        self.plain = nn.Conv1d(width, 1, 1)
        # Without biases, so that no style and no score say nothing.
        self.style = nn.Linear(vector_dim, width, bias=False)
        self.roll = nn.Conv1d(aligned_dim, width, 1, bias=False)

    def forward(self, phi: Tensor, condition: Condition) -> Tensor:
        assert condition.vector is not None and condition.aligned is not None
        style = self.style(condition.vector * math.sqrt(condition.vector.shape[-1])).unsqueeze(-1)
        roll = self.roll(F.adaptive_avg_pool1d(condition.aligned, phi.shape[-1]))
        return self.plain(phi)[:, 0] + (phi * (style + roll)).sum(dim=1) / math.sqrt(phi.shape[1])


class ConvolutionalDiscriminator(nn.Module):
    def __init__(self, config: MelDiscriminatorConfig, n_mels: int, vector_dim: int, aligned_dim: int) -> None:
        super().__init__()
        layers, channels, bands = [], 2, n_mels
        for index, width in enumerate(config.widths):
            halves = 2 if index < 3 else 1
            layers.append(nn.Conv2d(channels, width, (4, 2 + halves), (2, halves), padding=1))
            channels, bands = width, bands // 2
        self.layers = nn.ModuleList(layers)
        self.merge = nn.Conv2d(channels, channels, (bands, 3), padding=(0, 1))  # all that is left of the bands
        self.project = Projection(channels, vector_dim, aligned_dim)
        height = torch.linspace(-1, 1, n_mels)[:, None]
        self.register_buffer("height", height, persistent=False)  # a band must be told from its neighbours

    def forward(self, x: Tensor, condition: Condition) -> Judgement:
        """x (batch, n_mels, frames)."""
        frames = x.shape[-1]
        x = F.pad(x, (0, max(0, 8 - frames)))
        h = torch.stack((x, self.height.expand_as(x)), dim=1)  # (batch, 2, n_mels, frames)
        features = []
        for layer in (*self.layers, self.merge):
            h = F.leaky_relu(layer(h), SLOPE)
            features.append(h)
        return Judgement(self.project(h[:, :, 0], condition), features)


class RecurrentDiscriminator(nn.Module):
    def __init__(self, config: MelDiscriminatorConfig, n_mels: int, vector_dim: int, aligned_dim: int) -> None:
        super().__init__()
        width = config.recurrent_width
        self.before = nn.Conv1d(n_mels, width, config.group, stride=config.group)
        # A cell for each step, and not nn.GRU: a gradient penalty needs the derivative of its derivative, which the
        # libraries' whole-sequence kernels do not have.
        self.cell = nn.GRUCell(width, width)
        self.project = Projection(width, vector_dim, aligned_dim)

    def forward(self, x: Tensor, condition: Condition) -> Judgement:
        """x (batch, n_mels, frames)."""
        x = F.pad(x, (0, -x.shape[-1] % self.before.stride[0]))
        heard = F.leaky_relu(self.before(x), SLOPE)  # (batch, width, steps)
        state, states = heard.new_zeros(heard.shape[:2]), []
        for step in heard.unbind(dim=2):
            state = self.cell(step, state)
            states.append(state)
        phi = torch.stack(states, dim=2)
        return Judgement(self.project(phi, condition), [heard, phi])


DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "convolutional": ConvolutionalDiscriminator,
    "recurrent": RecurrentDiscriminator,
}


class MelDiscriminators(nn.Module):
    """All that `config.kinds` names; x (batch, n_mels, frames) in deviations, and a whole condition."""

    def __init__(self, config: MelDiscriminatorConfig, *, n_mels: int, vector_dim: int, aligned_dim: int) -> None:
        super().__init__()
        self.judges = nn.ModuleList(
            DISCRIMINATORS[kind](config, n_mels, vector_dim, aligned_dim) for kind in config.kinds
        )
        if config.spectral_norm:
            for module in list(self.modules()):
                if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
                    spectral_norm(module)
                elif isinstance(module, nn.GRUCell):
                    spectral_norm(module, "weight_ih")
                    spectral_norm(module, "weight_hh")

    def forward(self, x: Tensor, condition: Condition) -> list[Judgement]:
        return [judge(x, condition) for judge in self.judges]


def at_places(mask: Tensor, places: int) -> Tensor:
    """mask (batch, 1, frames) of real frames -> (batch, places): 1 where a place lies in sound."""
    return F.interpolate(mask, size=places, mode="nearest")[:, 0]


def score(judgements: list[Judgement], mask: Tensor) -> Tensor:
    """All verdicts of a clip as one number, (batch,), of whose slope a penalty is taken.

    The sum over places, divided by the root of their number: the verdicts of distant places depend on different
    frames, so the square of the slope is the mean square of the slopes of single verdicts, however long the clip.
    """
    total = mask.new_zeros(len(mask))
    for judgement in judgements:
        weight = at_places(mask, judgement.verdicts.shape[1])
        total = total + (judgement.verdicts * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1).sqrt()
    return total / math.sqrt(len(judgements))
