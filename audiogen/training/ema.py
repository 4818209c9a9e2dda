"""Exponential moving average of weights: what is demonstrated, scored and shipped."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from audiogen.training.state import whole


class Average(AveragedModel):
    """EMA of a model with a warm-up: after n updates the decay is min(decay, (1 + n) / (10 + n)).

    It is whole on every process, also where the model is sharded, which torch's own update cannot do.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        n = int(self.n_averaged)
        keep = min(self.decay, (1.0 + n) / (10.0 + n)) if n else 0.0
        average = [value.detach() for value in self.module.parameters()]
        torch._foreach_lerp_(average, [whole(value.detach()) for value in model.parameters()], 1.0 - keep)
        for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(whole(theirs.detach()))
        self.n_averaged += 1


def averaged(model: nn.Module, decay: float) -> Average:
    """An average that begins as a copy of `model`."""
    return Average(model, decay)
