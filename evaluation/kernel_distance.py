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
BLOCK = 512  # rows a side in one kernel block: 2 MiB in float64, which stays in the cache of a core
SAMPLED = 2000  # reference rows that the bandwidth is measured on


def kernel_distance(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> float:
    """100 MMD² of the reference x (rows, dim) and the generated y (rows, dim); at least two rows each.

    May be slightly negative, as an unbiased estimate of something small must be. `bandwidth`: None is `bandwidth_of`
    the reference.
    """
    none = torch.zeros(1, dtype=torch.int64)
    reference = KernelReference(x, none.expand(len(x)), groups=1, bandwidth=bandwidth)
    return _Sums(reference, y, none.expand(len(y))).distance()


def estimate_kernel_distance(
    x: Tensor, y: Tensor, x_clips: Sequence[str], y_clips: Sequence[str], *, bandwidth: float | None = None
) -> Estimate:
    """The same with a jackknife over groups of clips; `x_clips`, `y_clips`: the clip that each row comes from.

    The kernel is summed once, group against group; leaving one out is then a subtraction.
    """
    return KernelReference(x, groups_of(x_clips), bandwidth=bandwidth).estimate(y, x_clips, y_clips)


def _estimated(sums: _Sums, x_clips: Sequence[str], y_clips: Sequence[str]) -> Estimate:
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


class KernelReference:
    """One reference for many sets: its bandwidth and the sums of the kernel within it, computed once.

    x (rows, dim), and the group of each row (rows,) int64.
    """

    def __init__(self, x: Tensor, group: Tensor, *, groups: int = GROUPS, bandwidth: float | None = None) -> None:
        x = checked(x)
        if len(x) < 2:
            raise UserError(f"a kernel distance needs at least two rows a side, not {len(x)} of the reference")
        self.width = bandwidth_of(x) if bandwidth is None else bandwidth
        self.centre = x.mean(0)  # far from the origin, |a|² + |b|² - 2 ab would lose all digits
        self.x, self.group, self.groups = self.scaled(x), group, groups
        self.n = torch.bincount(group, minlength=groups).double()
        self.xx = _block_sums(self.x, self.x, group, group, groups) - torch.diag(self.n)  # k(a, a) = 1

    def scaled(self, rows: Tensor) -> Tensor:
        return (rows - self.centre) / self.width

    def estimate(self, y: Tensor, x_clips: Sequence[str], y_clips: Sequence[str]) -> Estimate:
        """The distance of y (rows, dim) to this reference; `x_clips`, `y_clips`: the clip that each row comes from."""
        return _estimated(_Sums(self, y, groups_of(y_clips)), x_clips, y_clips)


class _Sums:
    """Sums of the kernel between the groups of both sets, (groups, groups) each, without pairs of a row and itself."""

    def __init__(self, reference: KernelReference, y: Tensor, y_group: Tensor) -> None:
        y = checked(y)
        same_dim(reference.x.shape[1], y.shape[1])
        if len(y) < 2:
            raise UserError(f"a kernel distance needs at least two rows a side, not {len(y)} of the generated set")
        y, groups = reference.scaled(y), reference.groups
        self.n, self.xx = reference.n, reference.xx
        self.m = torch.bincount(y_group, minlength=groups).double()
        self.yy = _block_sums(y, y, y_group, y_group, groups) - torch.diag(self.m)
        self.xy = _block_sums(reference.x, y, reference.group, y_group, groups)

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
    """(groups, groups): the sum of k over all pairs of rows, block by block; of a set with itself, each pair once."""
    within = a is b
    sums = a.new_zeros(groups, groups)
    a_member, b_member = (torch.nn.functional.one_hot(g, groups).to(a) for g in (a_group, b_group))
    for i, (part, part_member) in enumerate(zip(a.split(BLOCK), a_member.split(BLOCK), strict=True)):
        rows = a.new_zeros(len(part), groups)
        for j, (other, other_member) in enumerate(zip(b.split(BLOCK), b_member.split(BLOCK), strict=True)):
            if within and j < i:
                continue
            block = squared_distances(part, other).mul_(-0.5).exp_()
            if within and j > i:
                mirrored = block.T @ part_member
                sums += other_member.T @ mirrored
            rows += block @ other_member
        sums += part_member.T @ rows
    return sums


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(rows a, rows b), never negative. Both should be centred near the origin."""
    # in place: at these sizes the time goes into moving the matrix, not into multiplying
    return torch.addmm(b.square().sum(1), a, b.T, alpha=-2).add_(a.square().sum(1)[:, None]).clamp_(min=0.0)
