"""What models share that make mel frames one after the other: steps of several frames, the past, and the output.

A frame is so much like the one before that a model scores well by copying it, and then, when it hears itself, drifts
into silence (the commonest sound there is, and the easiest to go on with), a drone or noise. Against that:

* In training the past that the model sees is spoiled (`spoiled_past`): by noise of a level that it is told, by spans of
  silence and of wrong frames, and at times it is hidden. So it learns to find back to what style and score ask for.
  When sampling, noise of a small level is added as well.
* Each frame is predicted around `centre`, which follows from the condition alone and has a loss of its own. The past
  enters by how far it was from its own centre, times a gain below `MOST_KEPT`: what went astray dies out, and nothing
  can blow up.
* The output is a distribution and is drawn from (`mixture_density.py`): the mean of what may follow is a blur.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.conditioning.piano_roll import ROLL_DIM
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.mel_model import MelModel
from audiogen.generators.mixture_density import Mixture, MixtureDensity, mixture_mean

MOST_KEPT = 0.95  # of a deviation from the centre, from one step to the next


@dataclass(frozen=True)
class FrameSampling:
    """How a clip is drawn. Every field is written into the clip."""

    temperature: float = 0.3
    """Of what is drawn, where a score is played: 1 as the model has it, below 1 nearer to the likeliest, 0 the mean of
    the likeliest component."""
    texture_temperature: float = 0.5
    """The same where there is no score."""
    history_noise: float = 0.1
    """Deviation of the noise on the frames that the model hears of itself."""
    guidance: float = 1.0
    """How far the centre is pushed away from that of no style (or of the unwanted one): 1 is none."""

    def __post_init__(self) -> None:
        for name, most in (("temperature", 2), ("texture_temperature", 2), ("history_noise", 2), ("guidance", 5)):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= most):
                raise UserError(f"{name}={value}: choose 0 to {most}")


@dataclass(frozen=True)
class SpoilConfig:
    """How training spoils the past that a model sees."""

    noise: float = 0.6
    """Largest deviation of the noise; each clip draws its own."""
    wrong: float = 0.6
    """Largest share of a clip's steps whose past is replaced: by silence, or by frames of another time and level."""
    span: int = 25
    """About so many steps in a row are replaced."""
    hide: float = 0.15
    """Share of steps that do not see the past at all."""

    def __post_init__(self) -> None:
        if not (self.noise >= 0 and 0 <= self.wrong < 1 and 0 <= self.hide <= 1 and self.span >= 1):
            raise UserError(f"spoil: noise={self.noise} must be at least 0, wrong={self.wrong} and hide={self.hide} "
                            f"shares, span={self.span} at least 1")


@dataclass(frozen=True)
class FrameStepsConfig:
    """What the configurations of such models have in common."""

    mel: MelFormat = MelFormat()
    group: int = 2
    """Frames of a step: two are 23 ms."""
    components: int = 4
    """Gaussians of the mixture."""
    rank: int = 8
    """Directions in which a component's bins move together; 0: each bin by itself."""
    past_dim: int = 128
    spoil: SpoilConfig = SpoilConfig()
    """How training spoils the past, lest the model rely on it."""
    centre: float = 0.3
    """Weight of the L1 distance of the centre, which is predicted without a past."""
    vector_dim: int = 64
    aligned_dim: int = ROLL_DIM
    drop_vector: float = 0.1
    drop_aligned: float = 0.1
    sampling: FrameSampling = field(default_factory=FrameSampling)

    def __post_init__(self) -> None:
        for name, least in (("group", 1), ("components", 1), ("rank", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} must be at least {least}")


def to_steps(x: Tensor, group: int) -> Tensor:
    """(batch, rows, frames) -> (batch, steps, group * rows), zeros after the last frame; frame after frame."""
    batch, rows, frames = x.shape
    x = F.pad(x, (0, -frames % group))
    return x.transpose(1, 2).reshape(batch, -1, group * rows)


def to_frames(steps: Tensor, group: int, frames: int) -> Tensor:
    """The inverse: (batch, steps, group * rows) -> (batch, rows, frames)."""
    batch, count, width = steps.shape
    return steps.reshape(batch, count * group, width // group).transpose(1, 2)[..., :frames]


def whole_steps(lengths: Tensor, steps: int, group: int) -> Tensor:
    """(batch, steps) float: 1 where every frame of the step is sound."""
    last = torch.arange(1, steps + 1, device=lengths.device) * group
    return (last[None] <= lengths[:, None]).float()


class Past(NamedTuple):
    """What a model sees of the step before."""

    frames: Tensor  # (..., group * n_mels), spoiled; zeros where hidden
    seen: Tensor  # (..., 1): 0 where there is no step before, or it is hidden
    level: Tensor  # (..., 1): deviation of the noise

    def features(self) -> Tensor:
        """(..., group * n_mels + 2)."""
        return torch.cat((self.frames, self.seen, self.level), dim=-1)


def silent_step(model: MelModel, group: int) -> Tensor:
    """A step of digital silence, in deviations: (group * n_mels,)."""
    return ((model.config.mel.lowest - model.mel_mean) / model.mel_std)[:, 0].tile(group)


def spoiled_past(steps: Tensor, silence: Tensor, rng: SampleRng, config: SpoilConfig) -> Past:
    """Training's past of every step: steps (batch, count, dim), of which padding is silence; silence (dim,), a step."""
    batch, count, dim = steps.shape
    rng, device = rng.fork("past"), steps.device
    before = F.pad(steps[:, :-1], (0, 0, 1, 0))
    chance = rng.rand(4, device=device)  # (batch, 4)
    # Half of the clips meet silence; the others what they were at another time (far enough away that it tells nothing
    # of the frames to come), louder or softer.
    moved = torch.stack([
        row.roll(int((0.25 + 0.5 * place) * count), dims=0)
        for row, place in zip(before, chance[:, 0].tolist(), strict=True)
    ])
    moved = moved + rng.randn(1, 1, device=device)
    other = torch.where(chance[:, 1, None, None] < 0.5, silence, moved)
    # Where a slow noise is above the level that it exceeds so often.
    span = min(config.span | 1, 2 * count - 1)
    slow = F.avg_pool1d(rng.randn(1, count, device=device), span, stride=1, padding=span // 2, count_include_pad=False)
    level = torch.special.ndtri(1 - config.wrong * chance[:, 2]) / math.sqrt(span)
    wrong = slow[:, 0] > level[:, None]  # (batch, count)
    before = torch.where(wrong.unsqueeze(-1), other, before)

    noise = config.noise * chance[:, 3, None, None]  # (batch, 1, 1)
    seen = (rng.rand(count, 1, device=device) >= config.hide).to(steps.dtype)
    seen[:, 0] = 0
    return Past((before + noise * rng.randn(count, dim, device=device)) * seen, seen, noise.expand(batch, count, 1))


def own_past(step: Tensor | None, noise: Tensor, level: float) -> Past:
    """Sampling's past: step (batch, dim) or None at the start, noise (batch, dim) standard normal."""
    column = noise.new_zeros(noise.shape[0], 1)
    if step is None:
        return Past(torch.zeros_like(noise), column, column + level)
    return Past(step + level * noise, column + 1, column + level)


class FrameOutput(nn.Module):
    """hidden (..., width), centre and past -> `Mixture` of the step's frames, (..., components, group * n_mels)."""

    def __init__(self, width: int, n_mels: int, group: int, *, components: int, rank: int) -> None:
        super().__init__()
        self.n_mels, self.group = n_mels, group
        self.density = MixtureDensity(width, group * n_mels, components=components, rank=rank)
        self.keep = nn.Linear(width, group * n_mels)
        nn.init.zeros_(self.keep.weight)
        nn.init.constant_(self.keep.bias, -2.0)  # at first a tenth

    def forward(self, hidden: Tensor, centre: Tensor, centre_before: Tensor, past: Past) -> Mixture:
        """centre, centre_before (..., group * n_mels): of this step and of the one before."""
        last = slice(-self.n_mels, None)  # the newest frame
        astray = (past.frames[..., last] - centre_before[..., last]) * past.seen
        kept = MOST_KEPT * torch.sigmoid(self.keep(hidden).float())
        return self.density(hidden, centre + kept * astray.tile(self.group))


def frame_losses(
    x: Tensor, mixture: Mixture, centre: Tensor, density: MixtureDensity, *, weight: Tensor, centre_weight: float
) -> dict[str, Tensor]:
    """x, centre (batch, steps, dim), weight (batch, steps) 0 or 1. Means over the steps of a clip, then over the batch:

    "loss" = "likelihood" (negative, in nats a mel bin) + centre_weight * "centre" (L1 distance, in deviations);
    "error": L1 distance of the mixture's mean.
    """
    share = weight / weight.sum(dim=1, keepdim=True).clamp(min=1) / len(x)

    def mean(values: Tensor) -> Tensor:
        return (values * share).sum()

    likelihood = -mean(density.log_likelihood(x, mixture)) / x.shape[-1]
    off_centre = mean((x - centre).abs().mean(dim=-1))
    error = mean((x - mixture_mean(mixture).detach()).abs().mean(dim=-1))
    return {
        "loss": likelihood + centre_weight * off_centre,
        "likelihood": likelihood.detach(), "centre": off_centre.detach(), "error": error,
    }
