"""What every mel generator has: statistics of the mel, whole conditions, means over real frames."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.rng import SampleRng
from audiogen.generators.task import GeneratorTask


class MelModel(nn.Module):
    """Base of the generators. `config` has `mel`, `vector_dim`, `aligned_dim` and `sampling`.

    A model sees mels in units of each bin's deviation over the training data, and conditions without holes: an absent
    route is zeros, which is what training showed as absent.
    """

    config_type: ClassVar[type]
    presets: ClassVar[dict[str, Any]] = {}
    """Other configurations, by the name that the recipe takes."""
    task_type: ClassVar[type[GeneratorTask]] = GeneratorTask
    """How it is trained: one player, or a subclass with more."""
    overfit_below: ClassVar[tuple[str, float] | None] = None
    """The loss that `--train.overfit 1` must bring one batch below; None: "loss", by a third."""
    first_stage: ClassVar[str | None] = None
    """The family of the checkpoint that it is trained on top of (`--first`): its config goes into the field `first` of
    this config, its weights into the module `first`, and both travel in this model's own checkpoint."""
    makes: ClassVar[Literal["mel", "audio"]] = "mel"
    """What `sample` gives: mel (batch, n_mels, frames), or audio (batch, 1, frames * hop_length), which needs no
    vocoder."""
    prompted: ClassVar[bool] = True
    """Whether `sample` obeys style and notes; not where it is a codec's or turns one sound into another."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mel_mean", torch.zeros(config.mel.n_mels, 1))
        self.register_buffer("mel_std", torch.ones(config.mel.n_mels, 1))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Mean and deviation of every mel bin over the training data, (n_mels,) each."""
        self.mel_mean.copy_(mean[:, None])
        self.mel_std.copy_(std.clamp(min=0.1)[:, None])

    def standardise(self, mel: Tensor) -> Tensor:
        """(batch, n_mels, frames) in the mel's units -> in deviations."""
        return (mel - self.mel_mean) / self.mel_std

    def mel_from(self, x: Tensor) -> Tensor:
        """The inverse of `standardise`, not below the format's lowest value."""
        return (x * self.mel_std + self.mel_mean).clamp(min=self.config.mel.lowest)

    def example(self, batch: Batch, rng: SampleRng) -> Condition | None:
        """What a demo is made from where that is sound: the batch's, as training hears it. None: prompts."""
        return None

    def complete(self, condition: Condition, batch: int, frames: int) -> Condition:
        """`vector` (batch, vector_dim) and `aligned` (batch, aligned_dim, frames), zeros where they are absent."""
        config, like = self.config, self.mel_mean
        if frames < 1:
            raise UserError(f"frames={frames}: ask for one at least")
        vector = condition.vector if condition.vector is not None else like.new_zeros(batch, config.vector_dim)
        aligned = (
            condition.aligned if condition.aligned is not None else like.new_zeros(batch, config.aligned_dim, frames)
        )
        if aligned.shape != (batch, config.aligned_dim, frames) or vector.shape != (batch, config.vector_dim):
            raise ValueError(
                f"condition: vector {tuple(vector.shape)} and aligned {tuple(aligned.shape)} where "
                f"({batch}, {config.vector_dim}) and ({batch}, {config.aligned_dim}, {frames}) are needed"
            )
        return condition._replace(vector=vector.to(like), aligned=aligned.to(like))


def unwanted_style(condition: Condition, negative: Tensor | None) -> Tensor:
    """(batch, vector_dim): what guidance pushes away from: `negative`, or no style."""
    return negative if negative is not None else torch.zeros_like(condition.vector)


def by_score(condition: Condition, played: float, texture: float) -> Tensor:
    """(batch,): one number for the samples that have a score, the other for those that have none."""
    return torch.where(condition.aligned.any(dim=2).any(dim=1), played, texture)


def check_drawing(sampling: Any) -> None:
    """The ranges of what several families offer: temperatures and grains of 0 to 2, guidance of 0 to 10."""
    for name in ("temperature", "texture_temperature", "grain", "texture_grain"):
        if not 0 <= getattr(sampling, name) <= 2:
            raise UserError(f"{name}={getattr(sampling, name)}: choose 0 to 2")
    if not 0 <= sampling.guidance <= 10:
        raise UserError(f"guidance={sampling.guidance}: choose 0 to 10 (1 is none)")


def frame_mask(lengths: Tensor, like: Tensor) -> Tensor:
    """(batch, 1, frames) in the type of `like` (batch, ..., frames): 1 in frames that are sound, 0 in padding."""
    frames = torch.arange(like.shape[-1], device=like.device)
    return (frames[None] < lengths[:, None]).unsqueeze(1).to(like.dtype)


def masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Mean of `value` (batch, rows, frames) over rows and real frames of every sample, then over the batch."""
    return ((value * mask).sum(dim=(1, 2)) / (mask.sum(dim=(1, 2)) * value.shape[1]).clamp(min=1)).mean()
