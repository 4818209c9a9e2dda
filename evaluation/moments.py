"""Mean and covariance of feature vectors, in parts that add up: sets larger than memory, or spread over machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.estimate import GROUPS, checked, group_of, same_dim


@dataclass(frozen=True)
class Moments:
    """Count, mean (dim,) and scatter (dim, dim) = sum of (x - mean)(x - mean)ᵀ of rows seen so far, float64.

    Moments of parts add up to the moments of the whole, in any order: sets can be larger than memory, or spread over
    machines.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of features (rows, dim)."""
        x = checked(features)
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    @classmethod
    def none(cls, dim: int) -> Moments:
        """Of no rows yet."""
        return cls(0, torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64))

    def __add__(self, other: Moments) -> Moments:
        """Chan, Golub and LeVeque 1979."""
        same_dim(len(self.mean), len(other.mean))
        n = self.n + other.n
        if n == 0:
            return self
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.n / n)
        return Moments(n, mean, self.scatter + other.scatter + torch.outer(shift, shift) * (self.n * other.n / n))

    def __sub__(self, part: Moments) -> Moments:
        """The rest, where `part` has been added before."""
        n = self.n - part.n
        if n <= 0:
            return Moments.none(len(self.mean))
        mean = self.mean + (self.mean - part.mean) * (part.n / n)
        shift = part.mean - mean
        return Moments(n, mean, self.scatter - part.scatter - torch.outer(shift, shift) * (n * part.n / self.n))

    @property
    def covariance(self) -> Tensor:
        """(dim, dim), unbiased; 0 for a single row."""
        return self.scatter / max(self.n - 1, 1)

    def factor(self) -> Tensor:
        """A (rank, dim) with AᵀA = covariance.

        Cholesky's where the smallest pivot is far above rounding, ten times as fast; else from the eigenvectors,
        without those that are zero but for rounding.
        """
        covariance = self.covariance
        lower, failed = torch.linalg.cholesky_ex(covariance)
        pivots = lower.diagonal().square()
        rounding = len(pivots) * torch.finfo(pivots.dtype).eps * covariance.diagonal().max()
        if not failed and pivots.min() > 1e3 * rounding:
            return lower.T
        values, vectors = torch.linalg.eigh(covariance)
        kept = values > values[-1].clamp(min=0.0) * len(values) * torch.finfo(values.dtype).eps
        return (vectors[:, kept] * values[kept].sqrt()).T


class GroupedMoments:
    """Moments of a set in `groups` parts, for the jackknife. A clip's part follows from its id alone."""

    def __init__(self, dim: int, *, groups: int = GROUPS) -> None:
        self.parts = [Moments.none(dim) for _ in range(groups)]
        self.clips = [0] * groups

    def add(self, clip: str, features: Tensor) -> None:
        """Add one clip's features (rows, dim). `clip`: what names it, e.g. its content hash."""
        part = group_of(clip, len(self.parts))
        self.parts[part] = self.parts[part] + Moments.of(features)
        self.clips[part] += 1

    def merge(self, other: GroupedMoments) -> GroupedMoments:
        """Both sets together, e.g. from two machines."""
        merged = GroupedMoments(len(self.parts[0].mean), groups=len(self.parts))
        merged.parts = [a + b for a, b in zip(self.parts, other.parts, strict=True)]
        merged.clips = [a + b for a, b in zip(self.clips, other.clips, strict=True)]
        return merged

    def total(self) -> Moments:
        return add_up(self.parts)

    def without(self, group: int) -> GroupedMoments:
        """All clips but those of one group."""
        rest = GroupedMoments(len(self.parts[0].mean), groups=len(self.parts))
        for index in range(len(self.parts)):
            if index != group:
                rest.parts[index], rest.clips[index] = self.parts[index], self.clips[index]
        return rest

    def half(self, which: int) -> GroupedMoments:
        """The clips of every other group: half 0 and half 1 share no clip."""
        half = GroupedMoments(len(self.parts[0].mean), groups=len(self.parts))
        for index in range(which, len(self.parts), 2):
            half.parts[index], half.clips[index] = self.parts[index], self.clips[index]
        return half


def add_up(parts: Sequence[Moments]) -> Moments:
    """The moments of all parts together."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
