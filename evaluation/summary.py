"""What is kept of a set of clips under one embedder: enough for every distance, and it adds up.

    moments   count, mean and scatter in 16 groups of clips: exact, whatever the size of the set
    rows      a sample of at most `ROWS` windows, for the distances that look at neighbours
    clips     one line a clip: what it is, its windows, its mean vector (of at most `CLIPS` clips)

The samples are those with the smallest hashes, so they do not depend on order or on how the set was cut into shards:
the summaries of shards, merged in any order, are the summary of the whole. A few MB, saved without pickles.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.core.files import whole_file
from evaluation.estimate import GROUPS, checked, group_of
from evaluation.moments import GroupedMoments, Moments

ROWS = 5_000
CLIPS = 10_000
FRESH = 256  # clips whose rows wait to be joined with the sample
FORMAT = 1


@dataclass(frozen=True)
class ClipLine:
    """One clip of a summary. `digest` names its content, `mean` (dim,) float32 is its mean feature vector."""

    digest: str
    path: str
    seconds: float
    windows: int
    mean: Tensor


@dataclass
class Sample:
    """The `size` rows with the smallest keys among all that were added."""

    size: int
    keys: np.ndarray  # (rows,) uint64
    rows: Tensor  # (rows, dim) float32
    clips: np.ndarray  # (rows,) digests

    @classmethod
    def none(cls, dim: int, size: int) -> Sample:
        return cls(size, np.zeros(0, np.uint64), torch.zeros(0, dim), np.zeros(0, "U32"))

    @classmethod
    def of(cls, digest: str, rows: Tensor, size: int) -> Sample:
        """Windows (n, dim) of one clip."""
        keys = np.array([_key(digest, index) for index in range(len(rows))], np.uint64)
        return cls(size, keys, rows.float(), np.full(len(rows), digest, "U32"))

    @classmethod
    def joined(cls, parts: Sequence[Sample]) -> Sample:
        """All of them as one, cut where there are more than twice the rows that count."""
        whole = cls(parts[0].size, np.concatenate([part.keys for part in parts]),
                    torch.cat([part.rows for part in parts]), np.concatenate([part.clips for part in parts]))
        return whole.cut() if len(whole.keys) > 2 * whole.size else whole

    def cut(self) -> Sample:
        """The rows that count, in the order of their keys."""
        chosen = np.argsort(self.keys, kind="stable")[: self.size]
        return Sample(self.size, self.keys[chosen], self.rows[torch.from_numpy(chosen)], self.clips[chosen])

    def where(self, kept: np.ndarray) -> Sample:
        """The rows for which `kept` (rows,) is True."""
        return Sample(self.size, self.keys[kept], self.rows[torch.from_numpy(kept)], self.clips[kept])


@dataclass
class Summary:
    """One set of clips under one embedder. `made_by`: all that the numbers depend on; only equals are compared."""

    made_by: dict[str, Any]
    moments: GroupedMoments
    kept: Sample  # read it as `sample`: rows of the latest clips may wait in `_fresh`
    clips: list[ClipLine] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=lambda: {"clips": 0, "windows": 0, "seconds": 0.0})
    rejects: list[dict[str, str]] = field(default_factory=list)
    _fresh: list[Sample] = field(default_factory=list, repr=False)

    @property
    def sample(self) -> Sample:
        """The sample of windows; joined now and then only, for joining at every clip would copy it every time."""
        if self._fresh:
            self.kept, self._fresh = Sample.joined([self.kept, *self._fresh]), []
        return self.kept

    @classmethod
    def none(cls, dim: int, made_by: dict[str, Any]) -> Summary:
        return cls(made_by, GroupedMoments(dim), Sample.none(dim, ROWS))

    def add(self, digest: str, features: Tensor, *, path: str = "", seconds: float = 0.0) -> None:
        """Add one clip's features (windows, dim), at least one window."""
        features = checked(features)
        self.moments.add(digest, features)
        self._fresh.append(Sample.of(digest, features, self.kept.size))
        if len(self._fresh) >= FRESH:
            _ = self.sample
        line = ClipLine(digest, path, seconds, len(features), features.mean(0).float())
        self.clips = _fewest(self.clips, [line])
        for name, value in (("clips", 1), ("windows", len(features)), ("seconds", seconds)):
            self.counts[name] += value

    def merge(self, other: Summary) -> Summary:
        """Both together. Raises `UserError` where they were not made the same way."""
        require_alike(self, other)
        return Summary(
            self.made_by, self.moments.merge(other.moments), Sample.joined([self.sample, other.sample]).cut(),
            _fewest(self.clips, other.clips), {k: self.counts[k] + other.counts[k] for k in self.counts},
            sorted(self.rejects + other.rejects, key=lambda reject: reject["path"]),
        )

    def half(self, which: int) -> Summary:
        """The clips of every other group: half 0 and half 1 share no clip, and are about as large."""
        def ours(digest: str) -> bool:
            return group_of(digest, GROUPS) % 2 == which

        sample, moments = self.sample.cut(), self.moments.half(which)
        kept = np.array([ours(digest) for digest in sample.clips.tolist()], bool)
        counts = {"clips": sum(moments.clips), "windows": moments.total().n, "seconds": 0.0}
        return Summary(self.made_by, moments, sample.where(kept), [c for c in self.clips if ours(c.digest)], counts)

    @property
    def dim(self) -> int:
        return len(self.moments.parts[0].mean)

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """As .npz, whole or not at all."""
        sample = self.sample.cut()
        arrays: dict[str, np.ndarray] = {
            "sample_keys": sample.keys, "sample_rows": sample.rows.numpy(), "sample_clips": sample.clips.astype("U32"),
            "clip_means": torch.stack([c.mean for c in self.clips]).numpy() if self.clips else np.zeros((0, self.dim)),
        }
        upper = torch.triu_indices(self.dim, self.dim)
        for index, part in enumerate(self.moments.parts):
            if part.n:
                arrays[f"mean_{index}"] = part.mean.numpy()
                arrays[f"scatter_{index}"] = part.scatter[upper[0], upper[1]].numpy()
        header = {
            "format": FORMAT, "dim": self.dim, "made_by": self.made_by, "counts": self.counts, "rejects": self.rejects,
            "group_rows": [part.n for part in self.moments.parts], "group_clips": self.moments.clips,
            "clips": [[c.digest, c.path, c.seconds, c.windows] for c in self.clips],
        }
        arrays["header"] = np.frombuffer(json.dumps(header, ensure_ascii=False).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        with whole_file(path) as part_file:
            part_file.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Summary:
        """Read what `save` wrote. Raises `UserError` for anything else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != FORMAT:
                raise UserError(f"{path} has format {header['format']}, and this version reads {FORMAT}")
            return cls._restored(header, arrays)
        except FileNotFoundError:
            raise UserError(f"no summary at {path}") from None
        except (OSError, ValueError, KeyError, EOFError) as reason:
            raise UserError(f"{path} is no summary written by `audiogen embed` ({reason})") from None

    @classmethod
    def _restored(cls, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Summary:
        dim = header["dim"]
        moments = GroupedMoments(dim, groups=len(header["group_rows"]))
        upper = torch.triu_indices(dim, dim)
        for index, n in enumerate(header["group_rows"]):
            if n:
                scatter = torch.zeros(dim, dim, dtype=torch.float64)
                scatter[upper[0], upper[1]] = torch.from_numpy(arrays[f"scatter_{index}"])
                scatter = scatter + scatter.triu(1).T
                moments.parts[index] = Moments(n, torch.from_numpy(arrays[f"mean_{index}"]), scatter)
        moments.clips = list(header["group_clips"])
        sample = Sample(ROWS, arrays["sample_keys"], torch.from_numpy(arrays["sample_rows"]), arrays["sample_clips"])
        means = torch.from_numpy(arrays["clip_means"]).float()
        clips = [ClipLine(*line, mean) for line, mean in zip(header["clips"], means, strict=True)]
        return cls(header["made_by"], moments, sample, clips, header["counts"], header["rejects"])


def require_alike(a: Summary, b: Summary) -> None:
    """Raise where two summaries were not made the same way: their numbers cannot be compared or added."""
    different = {name: (a.made_by.get(name), b.made_by.get(name))
                 for name in a.made_by | b.made_by if a.made_by.get(name) != b.made_by.get(name)}
    if different:
        listed = ", ".join(f"{name} {one!r} and {other!r}" for name, (one, other) in different.items())
        raise UserError(f"these embeddings were made in different ways ({listed}): embed both sets the same way")


def merged(summaries: Iterable[Summary]) -> Summary:
    """All of them together, in any order."""
    summaries = list(summaries)
    if not summaries:
        raise UserError("there is nothing to merge")
    total = summaries[0]
    for other in summaries[1:]:
        total = total.merge(other)
    return total


def _fewest(clips: list[ClipLine], more: list[ClipLine], *, size: int = CLIPS,
            key: Callable[[ClipLine], Any] = lambda c: (_key(c.digest, 0), c.path)) -> list[ClipLine]:
    both = clips + more
    return both if len(both) <= size else sorted(both, key=key)[:size]


def _key(digest: str, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{digest} {index}".encode(), digest_size=8).digest(), "little")
