"""Randomness keyed by (seed, step, sample id): the same draw whatever the batch, the worker or the process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def key(*parts: int | str) -> int:
    """A 63-bit number that depends on every part; the same on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(f"{type(part).__name__}:{part}" for part in parts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU random source for this key."""
    return torch.Generator().manual_seed(key(*parts))


class SampleRng:
    """One independent random source per sample of a batch.

    Draws come from the CPU and then move to the device, so that CPU and CUDA runs see the same numbers, and sample i
    draws the same whether it sits in a batch of 1 or of 64, on one process or on eight.

    >>> a = SampleRng(0, step=3, ids=[7, 8]).randn(4)
    >>> b = SampleRng(0, step=3, ids=[8]).randn(4)
    >>> bool((a[1] == b[0]).all())
    True
    """

    def __init__(self, seed: int, *, step: int = 0, ids: Sequence[int] | Tensor = (0,), stream: str = "") -> None:
        self.seed, self.step, self.stream = seed, step, stream
        self.ids = [int(i) for i in ids]
        self._sources = [generator(seed, step, i, stream) for i in self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def fork(self, stream: str) -> SampleRng:
        """An independent source for another purpose, with the same key otherwise."""
        return SampleRng(self.seed, step=self.step, ids=self.ids, stream=f"{self.stream}/{stream}")

    def randn(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers, (batch, *shape)."""
        return torch.stack([torch.randn(shape, generator=source) for source in self._sources]).to(device)

    def rand(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Uniform numbers in [0, 1), (batch, *shape)."""
        return torch.stack([torch.rand(shape, generator=source) for source in self._sources]).to(device)
