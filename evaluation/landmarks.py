"""Landmark fingerprints (Wang 2003): find a passage of one clip inside another, sample for sample the same or nearly.

The peaks of a spectrogram are paired with a few peaks that follow; a pair (frequency, frequency, frames between) is a
landmark, which noise and filters hardly move. Two recordings of one passage share many landmarks at one constant
offset; two recordings that are only alike share a few, scattered over all offsets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SAMPLE_RATE = 16000
N_FFT, HOP = 1024, 256  # 64 ms, 16 ms
NEAR_BINS, NEAR_FRAMES = 12, 10  # a peak is the largest within so many bins and frames on either side
FAN = 10  # following peaks that each peak is paired with
REACH = 96  # frames: how far a partner may lie
FLOOR_DB = 60.0  # peaks further below the clip's loudest one are not counted
SHORTEST = 1.0  # seconds: what a passage must span


@dataclass(frozen=True)
class Match:
    """`seconds` of a generated clip, from `at`, are a passage of `source`, from `source_at`."""

    source: str
    at: float
    source_at: float
    seconds: float
    landmarks: int


def landmarks(audio: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """audio (time,) at 16 kHz -> codes (n,) int64 and the frames (n,) int64 at which they begin."""
    if len(audio) < N_FFT:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    window = torch.hann_window(N_FFT)
    magnitude = torch.stft(audio.float(), N_FFT, HOP, window=window, center=False, return_complex=True).abs()
    level = 20 * magnitude.clamp(min=1e-6).log10()                                # (bins, frames)
    # The largest around, one direction after the other.
    largest = F.max_pool2d(level[None], (2 * NEAR_BINS + 1, 1), 1, (NEAR_BINS, 0))
    largest = F.max_pool2d(largest, (1, 2 * NEAR_FRAMES + 1), 1, (0, NEAR_FRAMES))[0]
    peak = (level == largest) & (level > level.max() - FLOOR_DB)
    frames, bins = torch.nonzero(peak.T, as_tuple=True)                           # in the order of time
    frames, bins = frames.numpy(), bins.numpy()
    codes, starts = [], []
    for step in range(1, FAN + 1):
        if len(frames) <= step:
            break
        gap = frames[step:] - frames[:-step]
        kept = (gap > 0) & (gap <= REACH)
        codes.append(((bins[:-step] * 1024 + bins[step:]) * 128 + gap)[kept])
        starts.append(frames[:-step][kept])
    return (np.concatenate(codes), np.concatenate(starts)) if codes else (np.zeros(0, np.int64),) * 2


class LandmarkIndex:
    """The landmarks of a set of clips, sorted by code: 16 bytes a landmark, some 400 landmarks a second of music."""

    def __init__(self, clips: Iterable[tuple[str, Tensor]]) -> None:
        names, codes, places = [], [], []
        for name, audio in clips:
            code, start = landmarks(audio)
            places.append(np.stack([np.full(len(code), len(names)), start], 1).astype(np.int32))
            codes.append(code)
            names.append(name)
        self.names = names
        code = np.concatenate(codes) if codes else np.zeros(0, np.int64)
        order = np.argsort(code, kind="stable")
        self.codes = code[order]
        self.places = np.concatenate(places)[order] if places else np.zeros((0, 2), np.int32)

    def find(self, audio: Tensor, *, at_least: int | None = None, leave_out: str | None = None) -> list[Match]:
        """Passages of `audio` (time,) at 16 kHz that are in the index, the surest first.

        at_least: how many landmarks must agree on one offset; None: 8, or one in 200 of the clip's, whichever is more
        (clips that only share their notes stay below: the tests state the rate). leave_out: a clip of the index that is
        passed over, e.g. the clip itself.
        """
        codes, starts = landmarks(audio)
        need = max(8, len(codes) // 200) if at_least is None else at_least
        # A peak between two frames may fall to either: gaps one longer and one shorter are looked up as well.
        codes = np.concatenate([codes - 1, codes, codes + 1])
        starts = np.concatenate([starts] * 3)
        first, last = np.searchsorted(self.codes, codes, "left"), np.searchsorted(self.codes, codes, "right")
        counts = last - first
        # Row r of the query meets the rows first[r] ... last[r] of the index.
        rows = np.repeat(np.arange(len(codes)), counts)
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        hits = self.places[np.repeat(first, counts) + within]
        votes: dict[tuple[int, int], set[int]] = {}
        for row, (clip, start) in zip(rows.tolist(), hits.tolist(), strict=True):
            votes.setdefault((clip, start - int(starts[row])), set()).add(int(starts[row]))
        return self._matches(votes, need, leave_out)

    def _matches(self, votes: dict[tuple[int, int], set[int]], need: int, leave_out: str | None) -> list[Match]:
        found = []
        for (clip, offset), _ in votes.items():
            # A passage that begins between two frames votes for both offsets.
            when = votes[clip, offset] | votes.get((clip, offset + 1), set())
            span = (max(when) - min(when)) * HOP / SAMPLE_RATE
            if len(when) < need or span < SHORTEST or self.names[clip] == leave_out:
                continue
            at = min(when) * HOP / SAMPLE_RATE
            found.append(Match(self.names[clip], at, at + offset * HOP / SAMPLE_RATE, span, len(when)))
        best: dict[str, Match] = {}
        for match in sorted(found, key=lambda m: -m.landmarks):
            best.setdefault(match.source, match)
        return list(best.values())

