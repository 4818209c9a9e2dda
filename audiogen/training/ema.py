"""Exponential moving average of weights: what is demonstrated, scored and shipped."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from audiogen.training.state import whole


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """EMA of `model` with a warm-up: after n updates the decay is min(decay, (1 + n) / (10 + n)).

    It is whole on every process, also where the model is sharded.
    """

    @torch.no_grad()
    def average(ema: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        n = float(updates)
        current = [whole(value) for value in current]
        torch._foreach_lerp_(ema, current, 1.0 - min(decay, (1.0 + n) / (10.0 + n)))

    return AveragedModel(model, multi_avg_fn=average, use_buffers=False)
