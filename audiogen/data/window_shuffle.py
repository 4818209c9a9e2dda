"""The order in which packed pieces are seen: a shuffle that needs few shards at a time, and no memory of its past.

    epoch    = k // pieces; its shards are shuffled, and taken `window` at a time
    window   the pieces of those shards are shuffled among each other (the buffer of other loaders)

Position k is a pure function of (seed, k). So any number of processes and workers, each with its own k, see each piece
once an epoch, and a run goes on in the middle of one without a state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch

from audiogen.core.rng import generator


class WindowShuffle:
    """counts: pieces of every shard. `place(k)` is where sample k lies, for every k >= 0."""

    def __init__(self, counts: Sequence[int], *, seed: int, window: int) -> None:
        self.counts, self.seed, self.window = tuple(counts), seed, window
        self.total = sum(counts)
        self._make_caches()

    def _make_caches(self) -> None:
        # Of this object and not of the class: the key is then a number, and not all counts.
        self._epoch = lru_cache(maxsize=16)(self._shuffle_shards)
        self._order = lru_cache(maxsize=16)(self._shuffle_pieces)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_epoch", "_order")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._make_caches()

    def place(self, k: int) -> tuple[int, int]:
        """-> (shard, piece within it)."""
        epoch, number, position = self._find(k)
        within = self._order(epoch, number)[position]
        for shard in self._epoch(epoch)[0][number]:
            if within < self.counts[shard]:
                return shard, within
            within -= self.counts[shard]
        raise AssertionError("positions lie within their window")

    def after(self, k: int) -> list[int]:
        """The shards of the window after that of sample k."""
        epoch, number, _ = self._find(k)
        windows = self._epoch(epoch)[0]
        return windows[number + 1] if number + 1 < len(windows) else self._epoch(epoch + 1)[0][0]

    def _find(self, k: int) -> tuple[int, int, int]:
        """-> epoch, window of that epoch, position within the window."""
        epoch, position = divmod(k, self.total)
        ends = self._epoch(epoch)[1]
        number = bisect_right(ends, position)
        return epoch, number, position - (ends[number - 1] if number else 0)

    def _shuffle_shards(self, epoch: int) -> tuple[list[list[int]], list[int]]:
        """The epoch's windows, and where each ends, in pieces."""
        shuffled = torch.randperm(len(self.counts), generator=generator(self.seed, "shards", epoch)).tolist()
        windows = [shuffled[first : first + self.window] for first in range(0, len(shuffled), self.window)]
        return windows, list(accumulate(sum(self.counts[shard] for shard in shards) for shards in windows))

    def _shuffle_pieces(self, epoch: int, number: int) -> list[int]:
        count = sum(self.counts[shard] for shard in self._epoch(epoch)[0][number])
        return torch.randperm(count, generator=generator(self.seed, "window", epoch, number)).tolist()
