"""Randomness keyed by (seed, step, sample id): the same draw whatever the batch, the worker or the process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TAPE_BLOCK = 4096  # positions that one source draws for a tape; another value makes other tapes


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

    def tape_randn(self, channels: int, start: int, stop: int, *, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers of the positions start .. stop - 1, (batch, channels, stop - start) float32.

        A tape has a number for every (channel, position), and reading moves nothing: a clip that is rendered in chunks
        reads the numbers that the whole clip reads. `tape_randn` and `tape_rand` are tapes of their own, apart from
        `randn` and `rand`; a fork has others.

        >>> rng = SampleRng(0, ids=[7])
        >>> bool((rng.tape_randn(2, 0, 9000)[..., 5000:] == rng.tape_randn(2, 5000, 9000)).all())
        True
        """
        return self._tape(torch.randn, "normal", channels, start, stop).to(device)

    def tape_rand(self, channels: int, start: int, stop: int, *, device: torch.device | str = "cpu") -> Tensor:
        """Uniform numbers in [0, 1) of the positions start .. stop - 1, (batch, channels, stop - start) float32."""
        return self._tape(torch.rand, "uniform", channels, start, stop).to(device)

    def _tape(self, draw: Callable[..., Tensor], kind: str, channels: int, start: int, stop: int) -> Tensor:
        if channels < 0 or not 0 <= start <= stop:
            raise ValueError(f"channels={channels}, start={start}, stop={stop}: 0 <= start <= stop is needed")
        tape = torch.empty(len(self.ids), channels, stop - start, dtype=torch.float32)
        for row, sample in enumerate(self.ids):
            for channel in range(channels):
                for block in range(start // TAPE_BLOCK, -(-stop // TAPE_BLOCK)):
                    # Whole blocks, each from a source of its own: then a number cannot depend on where reading began.
                    source = generator(self.seed, self.step, sample, self.stream, kind, channel, block)
                    numbers = draw(TAPE_BLOCK, generator=source, dtype=torch.float32)
                    first = block * TAPE_BLOCK
                    low, high = max(start, first), min(stop, first + TAPE_BLOCK)
                    tape[row, channel, low - start : high - start] = numbers[low - first : high - first]
        return tape
