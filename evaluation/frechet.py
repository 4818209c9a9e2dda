"""Fréchet distance of two sets of feature vectors (Dowson and Landau 1982; FID: Heusel 2017; FAD: Kilgour 2019).

    d² = |mean_x - mean_y|² + tr S_x + tr S_y - 2 tr sqrt(S_x S_y)

The last trace needs no matrix square root. With factors S_x = AᵀA and S_y = BᵀB it is the nuclear norm of A Bᵀ, the
sum of its singular values: never complex, never negative, exact for singular covariances, and it does not square the
condition number. Everything is float64 and plain torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from audiogen.core.errors import UserError
from evaluation.estimate import Estimate, checked, interval, jackknife, same_dim
from evaluation.moments import GroupedMoments, Moments, add_up


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Fréchet distance (squared, as is usual) of two feature tensors (rows, dim): a row a window, or a clip.

    Covariances are the unbiased ones (rows - 1); a single row has none, so its covariance is 0. Raises `UserError` for
    an empty set, NaN or infinite features, or different dims.
    """
    x, y = checked(x), checked(y)
    same_dim(x.shape[1], y.shape[1])
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


def frechet_of_moments(
    x: Moments, y: Moments, *, factor_x: Tensor | None = None, factor_y: Tensor | None = None
) -> float:
    """The same distance from moments.

    Where one factor is given and the other is not, eigenvalues of A S_y Aᵀ take the place of singular values: half
    the work inside a loop against one reference, 1e-8 of the trace less exact.
    """
    if min(x.n, y.n) == 0:
        raise UserError("a Fréchet distance needs at least one row on both sides")
    same_dim(len(x.mean), len(y.mean))
    if (factor_x is None) != (factor_y is None):
        factor, covariance = (factor_x, y.covariance) if factor_y is None else (factor_y, x.covariance)
        root = torch.linalg.eigvalsh(factor @ covariance @ factor.T).clamp(min=0.0).sqrt().sum()
    else:
        a = x.factor() if factor_x is None else factor_x
        b = y.factor() if factor_y is None else factor_y
        root = torch.linalg.svdvals(a @ b.T).sum()
    return _distance(x.mean - y.mean, x.covariance.trace(), y.covariance.trace(), root)


def frechet_per_clip(reference: Moments, clips: Iterable[Tensor], *, factor: Tensor | None = None) -> list[float]:
    """The distance of each clip's features (rows, dim) to the reference, without a dim x dim matrix of its own.

    With the clip's centred rows X: tr sqrt(S_x S_y) = |X Bᵀ|_* / sqrt(rows - 1), a matrix of few rows. A clip of one
    window has no covariance: its distance is that of its mean, and the reference's trace. `factor`:
    `reference.factor()` where it is at hand.
    """
    factor = reference.factor() if factor is None else factor
    trace = reference.covariance.trace()
    distances = []
    for clip in clips:
        x = checked(clip)
        same_dim(x.shape[1], len(reference.mean))
        a = _data_factor(x)
        root = torch.linalg.svdvals(a @ factor.T).sum()
        distances.append(_distance(x.mean(0) - reference.mean, a.square().sum(), trace, root))
    return distances


def estimate_frechet(x: GroupedMoments, y: GroupedMoments) -> Estimate:
    """Distance of two sets with a jackknife over groups of clips."""
    total_x, total_y = x.total(), y.total()
    factor_x, factor_y = total_x.factor(), total_y.factor()
    value = frechet_of_moments(total_x, total_y, factor_x=factor_x, factor_y=factor_y)
    variances = [
        _leave_out(value, x, lambda rest: frechet_of_moments(rest.total(), total_y, factor_y=factor_y)),
        _leave_out(value, y, lambda rest: frechet_of_moments(total_x, rest.total(), factor_x=factor_x)),
    ]
    return interval(value, variances, used=_used(x, y), n=sum(x.clips), m=sum(y.clips), lowest=0.0)


def _used(x: GroupedMoments, y: GroupedMoments) -> int:
    """The number of groups behind an interval: those of the side that has fewer."""
    return min(sum(1 for clips in side.clips if clips) for side in (x, y))


def _leave_out(value: float, groups: GroupedMoments, statistic: Callable[[GroupedMoments], float]) -> float | None:
    used = [index for index, part in enumerate(groups.parts) if part.n]
    if len(used) < 2:
        return None
    rows = sum(part.n for part in groups.parts)
    return jackknife(value, [statistic(groups.without(index)) for index in used],
                     [groups.parts[index].n / rows for index in used])


# ------------------------------------------------------------------ extrapolated to infinitely many clips

LEVELS = (1, 2, 4, 8)  # into how many disjoint subsets a set is cut: 1/n runs from 1/N to 8/N
FEWEST = 4  # windows a dimension in the smallest subset; below, the bias is no longer proportional to 1/n


def frechet_infinity(reference: GroupedMoments, generated: GroupedMoments, *, both: bool = True) -> Estimate:
    """The distance that infinitely many clips would have (Chong and Forsyth 2020), with its standard error.

    The distance of finite samples is too large by about c/n + e/m. It is measured over disjoint subsets of clips (so
    WITHOUT replacement: a resample of n rows out of N has the bias of 1/n + 1/N, and its extrapolation keeps c/N) and
    a straight line in 1/n is carried to 0. `both`: the reference's bias is taken off too, by subsets of its own, as it
    is a sample as well; the published form (`both=False`) takes the reference as the truth. May be below 0 by chance.

    Raises `UserError` where the smallest subsets would have fewer than `FEWEST` windows a dimension.
    """
    own, theirs = _levels(generated), _levels(reference) if both else ()
    plain = estimate_frechet(reference, generated)
    value = _extrapolate(reference, generated, theirs, own)
    # The line moves the value and hardly its spread, while leaving groups out of the small subsets would change their
    # bias more than their noise: so the plain distance's error stands here. The tests measure that it covers the truth.
    return interval(value, [None if plain.se is None else plain.se**2], used=_used(reference, generated),
                    n=plain.n, m=plain.m)


def frechet_curve(reference: GroupedMoments, generated: GroupedMoments) -> list[tuple[int, float]]:
    """(windows, mean distance) of the generated set's disjoint subsets, the largest first: what is extrapolated."""
    whole = reference.total()
    factor = whole.factor()
    return [(sum(part.n for part in parts) // len(parts),
             sum(frechet_of_moments(whole, part, factor_x=factor) for part in parts) / len(parts))
            for parts in (_subsets(generated, level) for level in _levels(generated))]


def _extrapolate(
    reference: GroupedMoments, generated: GroupedMoments, theirs: Sequence[int], own: Sequence[int]
) -> float:
    at_zero = _intercept(reference.total(), generated, own)
    if not theirs:
        return at_zero
    # Distance(n, m) = d + c/n + e/m: the second line, along the reference's n, gives e/m at the whole reference.
    total = generated.total()
    whole = frechet_of_moments(total, reference.total(), factor_x=total.factor())
    return at_zero - (whole - _intercept(total, reference, theirs))


def _intercept(fixed: Moments, groups: GroupedMoments, levels: Sequence[int]) -> float:
    """Where the line through (1/n, distance to `fixed` of subsets with n rows) meets 1/n = 0."""
    factor = fixed.factor()
    points = [(1.0 / part.n, frechet_of_moments(fixed, part, factor_x=factor), 1.0 / level)
              for level in levels for part in _subsets(groups, level)]
    # The subsets of one level are disjoint, so together they say as much as the whole set: every level weighs the same.
    x, y, w = torch.tensor(points, dtype=torch.float64).T
    w = w / w.sum()
    mean_x, mean_y = (w * x).sum(), (w * y).sum()
    slope = (w * (x - mean_x) * (y - mean_y)).sum() / (w * (x - mean_x).square()).sum()
    return float(mean_y - slope * mean_x)


def _subsets(groups: GroupedMoments, level: int) -> list[Moments]:
    """The groups that have rows, joined into `level` disjoint subsets; fewer where there are fewer groups."""
    there = [part for part in groups.parts if part.n] or groups.parts[:1]  # half of a set has every other group only
    return [add_up(there[start::level]) for start in range(min(level, len(there)))]


def _levels(groups: GroupedMoments) -> tuple[int, ...]:
    """Those of `LEVELS` whose subsets are large enough."""
    dim = len(groups.parts[0].mean)
    levels = tuple(level for level in LEVELS
                   if len(parts := _subsets(groups, level)) == level and min(p.n for p in parts) >= FEWEST * dim)
    if len(levels) < 2:
        rows = sum(part.n for part in groups.parts)
        raise UserError(f"{rows} windows of {dim} dimensions are too few to extrapolate from: more than "
                        f"{2 * FEWEST * dim} are needed; use more clips, or an embedder of fewer dimensions")
    return levels
