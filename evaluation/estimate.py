"""A value with its standard error and 95 % interval, by leaving out groups of clips.

Clips are independent, the windows of one clip are not: so whole clips are left out, a group of them at a time. Which
group a clip belongs to follows from its id alone, the same on every machine and in every shard.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audiogen.core.errors import UserError

GROUPS = 16


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and 95 % interval, over `n` reference and `m` generated clips."""

    value: float
    se: float | None  # None: too few clips to say
    low: float | None
    high: float | None
    n: int
    m: int


def group_of(clip: str, groups: int = GROUPS) -> int:
    """The part that a clip belongs to, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(clip.encode(), digest_size=8).digest(), "little") % groups


def groups_of(clips: Sequence[str], groups: int = GROUPS) -> Tensor:
    """The part of every row, (rows,) int64, from the rows' clip ids."""
    known = {clip: group_of(clip, groups) for clip in dict.fromkeys(clips)}
    return torch.tensor([known[clip] for clip in clips], dtype=torch.int64)


def jackknife(value: float, left_out: Sequence[float], shares: Sequence[float]) -> float | None:
    """Variance of `value` from what it is without each group; `shares`: each group's part of the rows, summing to 1.

    For groups of unequal sizes (Busing, Meijer and van der Leeden 1999, equation 9). None for fewer than two groups.
    """
    if len(shares) < 2:
        return None
    centre = len(shares) * value - sum((1 - s) * d for s, d in zip(shares, left_out, strict=True))
    pseudo = [value / s - (1 / s - 1) * d for s, d in zip(shares, left_out, strict=True)]
    return sum((p - centre) ** 2 / (1 / s - 1) for p, s in zip(pseudo, shares, strict=True)) / len(shares)


def interval(
    value: float, variances: Sequence[float | None], *, used: int, n: int, m: int, lowest: float = -math.inf
) -> Estimate:
    """Variances of the independent sides and the number of groups behind them -> an `Estimate` with Student's t.

    `lowest`: what the true value cannot be below.
    """
    if None in variances:
        return Estimate(value, None, None, None, n, m)
    se = math.sqrt(sum(variances))
    reach = student_t(used - 1) * se
    return Estimate(value, se, max(value - reach, lowest), value + reach, n, m)


def student_t(freedom: int) -> float:
    """The 97.5 % point of Student's t (Cornish and Fisher's expansion beyond 2 degrees, within 1 %)."""
    if freedom <= 2:
        return {1: 12.706, 2: 4.303}[max(freedom, 1)]
    z, v = 1.959964, freedom
    return (z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3))


def checked(features: Tensor) -> Tensor:
    """Features (rows, dim) in float64. Raises `UserError` for an empty set and for NaN or infinite features."""
    if features.ndim != 2 or 0 in features.shape:
        raise UserError(f"features must be (rows, dim) with at least one row, not {tuple(features.shape)}")
    features = features.detach().to(torch.float64)
    if not torch.isfinite(features).all():
        raise UserError(f"features hold NaN or infinite values in {int((~torch.isfinite(features)).any(1).sum())} rows")
    return features


def same_dim(x: int, y: int) -> None:
    """Raise where two sets of features have different dims."""
    if x != y:
        raise UserError(f"features of dim {x} and dim {y} cannot be compared: use one embedder for both sets")
