"""What models share that make mel frames one after the other: steps of several frames, the past, and the output.

A frame is so much like the one before that a model can score well by copying it, and then, when it hears itself, drifts
into silence or a drone. Three things are against that:

* In training the past that the model sees is spoiled by noise, of a level that it is told, and at times hidden. When
  sampling, noise of a small level is added as well: the model never relies on more of the past than it was shown.
* Each frame is predicted around `centre`, which follows from the condition alone. The past enters by how far it was
  from its own centre, times a gain below `MOST_KEPT`: what went astray dies out, and nothing can blow up.
* The output is a distribution and is drawn from (`mixture_density.py`): the mean of what may follow is a blur.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition
from audiogen.core.rng import SampleRng
from audiogen.generators.mixture_density import Mixture, MixtureDensity, mixture_mean

MOST_KEPT = 0.95  # of a deviation from the centre, from one step to the next


@dataclass(frozen=True)
class FrameSampling:
    """How a clip is drawn. Every field is written into the clip."""

    temperature: float = 0.6
    """Deviation of what is drawn, where a score is played, in that of the model; 0 gives the components' means."""
    texture_temperature: float = 0.9
    """The same where there is no score."""
    history_noise: float = 0.2
    """Deviation of the noise on the frames that the model hears of itself."""
    guidance: float = 1.0
    """How far the centre is pushed away from that of no style (or of the unwanted one): 1 is none."""

    def __post_init__(self) -> None:
        for name, most in (("temperature", 2), ("texture_temperature", 2), ("history_noise", 2), ("guidance", 5)):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= most):
                raise UserError(f"{name}={value}: choose 0 to {most}")


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


def temperatures(condition: Condition, sampling: FrameSampling) -> Tensor:
    """(batch,): `temperature` where a score is played, `texture_temperature` elsewhere."""
    assert condition.aligned is not None
    played = condition.aligned.any(dim=2).any(dim=1)
    return torch.where(played, sampling.temperature, sampling.texture_temperature)


class Past(NamedTuple):
    """What a model sees of the step before."""

    frames: Tensor  # (..., group * n_mels), spoiled; zeros where hidden
    seen: Tensor  # (..., 1): 0 where there is no step before, or it is hidden
    level: Tensor  # (..., 1): deviation of the noise

    def features(self) -> Tensor:
        """(..., group * n_mels + 2)."""
        return torch.cat((self.frames, self.seen, self.level), dim=-1)


def spoiled_past(steps: Tensor, rng: SampleRng, *, noise: float, hide: float) -> Past:
    """Training's past of every step (batch, steps, dim): noise of a level up to `noise`, each clip's own, on it;
    a share `hide` of the steps does not see it at all."""
    batch, count, dim = steps.shape
    rng = rng.fork("past")
    level = noise * rng.rand(1, 1, device=steps.device)  # (batch, 1, 1)
    seen = (rng.rand(count, 1, device=steps.device) >= hide).to(steps.dtype)
    seen[:, 0] = 0
    before = F.pad(steps[:, :-1], (0, 0, 1, 0))
    before = (before + level * rng.randn(count, dim, device=steps.device)) * seen
    return Past(before, seen, level.expand(batch, count, 1))


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
        nn.init.zeros_(self.keep.bias)

    def forward(self, hidden: Tensor, centre: Tensor, centre_before: Tensor, past: Past) -> Mixture:
        """centre, centre_before (..., group * n_mels): of this step and of the one before."""
        last = slice(-self.n_mels, None)  # the newest frame
        astray = (past.frames[..., last] - centre_before[..., last]) * past.seen
        kept = MOST_KEPT * torch.sigmoid(self.keep(hidden).float())
        return self.density(hidden, centre + kept * astray.tile(self.group))


def likelihood_losses(x: Tensor, mixture: Mixture, density: MixtureDensity, *, weight: Tensor) -> dict[str, Tensor]:
    """x (batch, steps, dim), weight (batch, steps) 0 or 1 -> "loss", the negative log-likelihood in nats a mel bin, and
    "error", of the mixture's mean, in deviations. Means over the steps of every clip, then over the batch."""
    share = weight / weight.sum(dim=1, keepdim=True).clamp(min=1) / len(x)
    error = (mixture_mean(mixture).detach() - x).abs().mean(dim=-1)
    loss = -(density.log_likelihood(x, mixture) * share).sum() / x.shape[-1]
    return {"loss": loss, "error": (error * share).sum()}
