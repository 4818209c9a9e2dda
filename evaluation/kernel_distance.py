"""Kernel audio distance (Chung et al. 2025): the squared maximum mean discrepancy (Gretton et al. 2012), unbiased.

    MMD² = mean of k(x, x') over x ≠ x'  +  mean of k(y, y') over y ≠ y'  -  2 mean of k(x, y)
    k(a, b) = exp(-|a - b|² / (2 bandwidth²))

It needs no covariance and its expectation does not depend on N, so there is nothing to extrapolate. The bandwidth is
the median distance within the REFERENCE: taken from the generated set, as some code does, a worse model widens its own
kernel and is rewarded. Values are multiplied by 100, as published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audiogen.core import rng
from audiogen.core.errors import UserError
from evaluation.estimate import GROUPS, Estimate, checked, groups_of, interval, jackknife, same_dim

SCALE = 100.0
BLOCK = 2048  # rows a side in one kernel block: 32 MiB in float64, whatever the number of rows
SAMPLED = 2000  # reference rows that the bandwidth is measured on


def kernel_distance(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> float:
    """100 MMD² of the reference x (rows, dim) and the generated y (rows, dim); at least two rows each.

    May be slightly negative, as an unbiased estimate of something small must be. `bandwidth`: None is `bandwidth_of`
    the reference.
    """
    none = torch.zeros(1, dtype=torch.int64)
    sums = _Sums(x, y, none.expand(len(x)), none.expand(len(y)), groups=1, bandwidth=bandwidth)
    return sums.distance()


def estimate_kernel_distance(
    x: Tensor, y: Tensor, x_clips: Sequence[str], y_clips: Sequence[str], *, bandwidth: float | None = None
) -> Estimate:
    """The same with a jackknife over groups of clips; `x_clips`, `y_clips`: the clip that each row comes from.

    The kernel is summed once, group against group; leaving one out is then a subtraction.
    """
    sums = _Sums(x, y, groups_of(x_clips), groups_of(y_clips), groups=GROUPS, bandwidth=bandwidth)
    value = sums.distance()
    variances, used = [], []
    for side, counts in (("x", sums.n), ("y", sums.m)):
        there = [g for g in range(GROUPS) if counts[g] and counts.sum() - counts[g] >= 2]
        used.append(len(there))
        left_out = [sums.distance(**{f"without_{side}": g}) for g in there]
        variances.append(jackknife(value, left_out, [float(counts[g] / counts.sum()) for g in there]))
    return interval(value, variances, used=min(used), n=len(set(x_clips)), m=len(set(y_clips)))


def bandwidth_of(reference: Tensor) -> float:
    """Median distance between two different rows of the reference (of `SAMPLED` of them, always the same ones)."""
    x = checked(reference)
    if len(x) > SAMPLED:
        x = x[torch.randperm(len(x), generator=rng.generator("bandwidth"))[:SAMPLED]]
    if len(x) < 2:
        raise UserError("a bandwidth needs at least two rows of reference features")
    x = x - x.mean(0)
    return float(torch.nn.functional.pdist(x).median().clamp(min=1e-12))


class _Sums:
    """Sums of the kernel between the groups of both sets, (groups, groups) each, without pairs of a row and itself."""

    def __init__(self, x: Tensor, y: Tensor, x_group: Tensor, y_group: Tensor, *, groups: int,
                 bandwidth: float | None) -> None:
        x, y = checked(x), checked(y)
        same_dim(x.shape[1], y.shape[1])
        if min(len(x), len(y)) < 2:
            raise UserError(f"a kernel distance needs at least two rows a side, not {len(x)} and {len(y)}")
        width = bandwidth_of(x) if bandwidth is None else bandwidth
        centre = x.mean(0)  # far from the origin, |a|² + |b|² - 2 ab would lose all digits
        x, y = (x - centre) / width, (y - centre) / width
        self.n = torch.bincount(x_group, minlength=groups).double()
        self.m = torch.bincount(y_group, minlength=groups).double()
        self.xx = _block_sums(x, x, x_group, x_group, groups) - torch.diag(self.n)  # k(a, a) = 1
        self.yy = _block_sums(y, y, y_group, y_group, groups) - torch.diag(self.m)
        self.xy = _block_sums(x, y, x_group, y_group, groups)

    def distance(self, *, without_x: int | None = None, without_y: int | None = None) -> float:
        keep_x, keep_y = torch.ones_like(self.n), torch.ones_like(self.m)
        if without_x is not None:
            keep_x[without_x] = 0
        if without_y is not None:
            keep_y[without_y] = 0
        n, m = keep_x @ self.n, keep_y @ self.m
        within_x = keep_x @ self.xx @ keep_x / (n * (n - 1))
        within_y = keep_y @ self.yy @ keep_y / (m * (m - 1))
        return SCALE * float(within_x + within_y - 2 * (keep_x @ self.xy @ keep_y) / (n * m))


def _block_sums(a: Tensor, b: Tensor, a_group: Tensor, b_group: Tensor, groups: int) -> Tensor:
    """(groups, groups): the sum of k over all pairs of rows, block by block."""
    sums = a.new_zeros(groups, groups)
    member = torch.nn.functional.one_hot(b_group, groups).to(b)
    for part, part_group in zip(a.split(BLOCK), a_group.split(BLOCK), strict=True):
        rows = a.new_zeros(len(part), groups)
        for other, other_member in zip(b.split(BLOCK), member.split(BLOCK), strict=True):
            rows += torch.exp(-0.5 * squared_distances(part, other)) @ other_member
        sums.index_add_(0, part_group, rows)
    return sums


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(rows a, rows b), never negative. Both should be centred near the origin."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0.0)
