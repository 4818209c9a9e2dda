"""Which samples a step works on, and how they are dealt to processes and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

from audiogen.core.errors import UserError
from audiogen.training.config import TrainConfig


class StepSampler(Sampler[list[int]]):
    """Global sample numbers of this process's micro-batches, from `start` on, for ever."""

    def __init__(self, config: TrainConfig, *, start: int, rank: int, world: int) -> None:
        share = config.accumulation * world
        if config.batch_size % share:
            raise UserError(
                f"batch_size={config.batch_size} is not divisible by accumulation x processes = "
                f"{config.accumulation} x {world}: choose a multiple of {share}"
            )
        self.config, self.start, self.rank, self.world = config, start, rank, world
        self.micro = config.batch_size // share

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.config.steps):
            base = (step % self.config.overfit if self.config.overfit else step) * self.config.batch_size
            for turn in range(self.config.accumulation):
                first = base + (turn * self.world + self.rank) * self.micro
                yield list(range(first, first + self.micro))

    def __len__(self) -> int:
        return (self.config.steps - self.start) * self.config.accumulation


def halves(batch: Any) -> list[Any]:
    """A batch (a NamedTuple of tensors, tuples and further NamedTuples, samples first) as two of half the samples.

    Loss, noise and sample ids belong to the samples, so what is learned from the halves is what the whole would teach.
    """
    size = len(batch.ids)
    if size < 2:
        return [batch]
    return [_cut(batch, 0, size // 2), _cut(batch, size // 2, size)]


def _cut(value: Any, first: int, last: int) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_cut(part, first, last) for part in value))
    if isinstance(value, (torch.Tensor, tuple)):
        return value[first:last]
    return value


def is_out_of_memory(reason: BaseException) -> bool:
    """Whether memory ran out: on a GPU, or for torch's allocator on the CPU."""
    if isinstance(reason, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(reason)
    return isinstance(reason, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
