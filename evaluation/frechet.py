"""Fréchet distance of two sets of feature vectors (Dowson and Landau 1982; FID: Heusel 2017; FAD: Kilgour 2019).

    d² = |mean_x - mean_y|² + tr S_x + tr S_y - 2 tr sqrt(S_x S_y)

The last trace needs no matrix square root. With factors S_x = AᵀA and S_y = BᵀB it is the nuclear norm of A Bᵀ, the
sum of its singular values: never complex, never negative, exact for singular covariances, and it does not square the
condition number. Everything is float64 and plain torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audiogen.core.errors import UserError


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Fréchet distance (squared, as is usual) of two feature tensors (rows, dim): a row a window, or a clip.

    Covariances are the unbiased ones (rows - 1); a single row has none, so its covariance is 0. Raises `UserError` for
    an empty set, NaN or infinite features, or different dims.
    """
    x, y = _checked(x), _checked(y)
    _same_dim(x.shape[1], y.shape[1])
    a, b = _data_factor(x), _data_factor(y)
    return _distance(x.mean(0) - y.mean(0), a.square().sum(), b.square().sum(), torch.linalg.svdvals(a @ b.T).sum())


def _data_factor(x: Tensor) -> Tensor:
    """x (rows, dim) -> A (at most dim rows, dim) with AᵀA = covariance of x."""
    centred = x - x.mean(0)
    if len(x) > x.shape[1]:
        centred = torch.linalg.qr(centred, mode="r").R
    return centred / math.sqrt(max(len(x) - 1, 1))


def _distance(shift: Tensor, trace_x: Tensor, trace_y: Tensor, trace_root: Tensor) -> float:
    # Rounding can leave -1e-16 of the traces where the two sets are equal; the distance itself is never negative.
    return max(float(shift.square().sum() + trace_x + trace_y - 2 * trace_root), 0.0)


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
        x = _checked(features)
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    @classmethod
    def none(cls, dim: int) -> Moments:
        """Of no rows yet."""
        return cls(0, torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64))

    def __add__(self, other: Moments) -> Moments:
        """Chan, Golub and LeVeque 1979."""
        _same_dim(len(self.mean), len(other.mean))
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
        """A (rank, dim) with AᵀA = covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > values[-1].clamp(min=0.0) * len(values) * torch.finfo(values.dtype).eps
        return (vectors[:, kept] * values[kept].sqrt()).T


def frechet_of_moments(
    x: Moments, y: Moments, *, factor_x: Tensor | None = None, factor_y: Tensor | None = None
) -> float:
    """The same distance from moments.

    Where one factor is given and the other is not, eigenvalues of A S_y Aᵀ take the place of singular values: half
    the work inside a loop against one reference, 1e-8 of the trace less exact.
    """
    if min(x.n, y.n) == 0:
        raise UserError("a Fréchet distance needs at least one row on both sides")
    _same_dim(len(x.mean), len(y.mean))
    if (factor_x is None) != (factor_y is None):
        factor, covariance = (factor_x, y.covariance) if factor_y is None else (factor_y, x.covariance)
        root = torch.linalg.eigvalsh(factor @ covariance @ factor.T).clamp(min=0.0).sqrt().sum()
    else:
        a = x.factor() if factor_x is None else factor_x
        b = y.factor() if factor_y is None else factor_y
        root = torch.linalg.svdvals(a @ b.T).sum()
    return _distance(x.mean - y.mean, x.covariance.trace(), y.covariance.trace(), root)


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and 95 % interval, over `n` reference and `m` generated clips."""

    value: float
    se: float | None  # None: too few clips to say
    low: float | None
    high: float | None
    n: int
    m: int


class GroupedMoments:
    """Moments of a set in `groups` parts, for the jackknife. A clip's part follows from its id alone."""

    def __init__(self, dim: int, *, groups: int = 16) -> None:
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
        return _sum(self.parts)

    def half(self, which: int) -> GroupedMoments:
        """The clips of every other group: half 0 and half 1 share no clip."""
        half = GroupedMoments(len(self.parts[0].mean), groups=len(self.parts))
        for index in range(which, len(self.parts), 2):
            half.parts[index], half.clips[index] = self.parts[index], self.clips[index]
        return half


def group_of(clip: str, groups: int) -> int:
    """The part that a clip belongs to, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(clip.encode(), digest_size=8).digest(), "little") % groups


def estimate_frechet(x: GroupedMoments, y: GroupedMoments) -> Estimate:
    """Distance of two sets with a jackknife over groups of clips (clips are independent, their frames are not)."""
    total_x, total_y = x.total(), y.total()
    factor_x, factor_y = total_x.factor(), total_y.factor()
    value = frechet_of_moments(total_x, total_y, factor_x=factor_x, factor_y=factor_y)
    variances = [
        _jackknife(value, total_x, x, lambda rest: frechet_of_moments(rest, total_y, factor_y=factor_y)),
        _jackknife(value, total_y, y, lambda rest: frechet_of_moments(total_x, rest, factor_x=factor_x)),
    ]
    n, m = sum(x.clips), sum(y.clips)
    if None in variances:
        return Estimate(value, None, None, None, n, m)
    se = math.sqrt(sum(variances))
    used = min(sum(1 for clips in side.clips if clips) for side in (x, y))
    reach = student_t(used - 1) * se
    return Estimate(value, se, max(value - reach, 0.0), value + reach, n, m)


def _jackknife(value: float, total: Moments, groups: GroupedMoments, distance_of) -> float | None:
    """Variance by leaving out group after group, of unequal sizes too (Busing, Meijer and van der Leeden 1999)."""
    used = [part for part in groups.parts if 0 < part.n < total.n]
    if len(used) < 2:
        return None
    left_out = [distance_of(total - part) for part in used]
    share = [part.n / total.n for part in used]
    centre = len(used) * value - sum((1 - s) * d for s, d in zip(share, left_out, strict=True))
    pseudo = [value / s - (1 / s - 1) * d for s, d in zip(share, left_out, strict=True)]
    return sum((p - centre) ** 2 / (1 / s - 1) for p, s in zip(pseudo, share, strict=True)) / len(used)


def student_t(freedom: int) -> float:
    """The 97.5 % point of Student's t (Cornish and Fisher's expansion beyond 2 degrees, within 1 %)."""
    if freedom <= 2:
        return {1: 12.706, 2: 4.303}[max(freedom, 1)]
    z, v = 1.959964, freedom
    return (z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3))


def _sum(parts: Sequence[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or 0 in features.shape:
        raise UserError(f"features must be (rows, dim) with at least one row, not {tuple(features.shape)}")
    features = features.detach().to(torch.float64)
    if not torch.isfinite(features).all():
        raise UserError(f"features hold NaN or infinite values in {int((~torch.isfinite(features)).any(1).sum())} rows")
    return features


def _same_dim(x: int, y: int) -> None:
    if x != y:
        raise UserError(f"features of dim {x} and dim {y} cannot be compared: use one embedder for both sets")
