"""Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of generated features.

A ball around every row reaches to its k-th neighbour in its own set (itself not counted); a row of the other set lies
in the ball if it is strictly nearer than that.

    precision  share of generated rows that lie in some ball of a reference row: are they plausible?
    recall     share of reference rows that lie in some ball of a generated row: is everything made?
    density    how many reference balls a generated row lies in, over k: precision that one outlier cannot inflate
    coverage   share of reference balls that hold a generated row: recall measured where the reference is
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from audiogen.core.errors import UserError
from evaluation.estimate import Estimate, checked, groups_of, interval, jackknife, same_dim
from evaluation.kernel_distance import squared_distances

BLOCK = 512  # rows at a time


class PrecisionRecall(NamedTuple):
    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(x: Tensor, y: Tensor, *, k: int = 5) -> PrecisionRecall:
    """Of the reference x (rows, dim) and the generated y (rows, dim), with more than k rows each.

    Blockwise: memory does not grow with the square of the rows.
    """
    return PrecisionRecall(*(float(values.mean()) for values in _per_row(x, y, k)))


def estimate_precision_recall(
    x: Tensor, y: Tensor, x_clips: Sequence[str], y_clips: Sequence[str], *, k: int = 5
) -> dict[str, Estimate]:
    """Each of the four with a jackknife over groups of clips on the side that it is a mean over.

    The balls are held fixed, so this is the error of the mean, not of the balls: with few reference rows (under some
    hundred) all four depend on which ones these are.
    """
    rows = _per_row(x, y, k)
    groups = {"x": groups_of(x_clips), "y": groups_of(y_clips)}
    estimates = {}
    for name, values, side in zip(PrecisionRecall._fields, rows, ("y", "x", "y", "x"), strict=True):
        part = groups[side]
        there = part.unique().tolist()
        shares = [float((part == g).double().mean()) for g in there]
        left_out = [float(values[part != g].mean()) for g in there] if len(there) > 1 else []
        value = float(values.mean())
        estimates[name] = interval(value, [jackknife(value, left_out, shares)], used=len(there),
                                   n=len(set(x_clips)), m=len(set(y_clips)), lowest=0.0)
    return estimates


def _per_row(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the four are means of: precision (y rows), recall (x rows), density (y rows), coverage (x rows)."""
    x, y = checked(x), checked(y)
    same_dim(x.shape[1], y.shape[1])
    if min(len(x), len(y)) <= k:
        raise UserError(f"precision and recall with k={k} neighbours need more than {k} rows a side, not {len(x)} and "
                        f"{len(y)}")
    centre = x.mean(0)
    x, y = x - centre, y - centre
    reach_x, reach_y = _reach(x, k), _reach(y, k)
    balls = torch.zeros(len(y), dtype=torch.float64)       # of reference rows, around each generated row
    held = torch.zeros(len(x), dtype=torch.bool)           # reference balls that hold a generated row
    made = torch.zeros(len(x), dtype=torch.bool)           # reference rows in a generated ball
    for start in range(0, len(y), BLOCK):
        rows = slice(start, start + BLOCK)
        for first in range(0, len(x), BLOCK):
            columns = slice(first, first + BLOCK)
            distance = squared_distances(y[rows], x[columns])
            inside = distance < reach_x[columns]
            balls[rows] += inside.sum(1)
            held[columns] |= inside.any(0)
            made[columns] |= (distance < reach_y[rows, None]).any(0)
    return (balls > 0).double(), made.double(), balls / k, held.double()


def _reach(x: Tensor, k: int) -> Tensor:
    """Squared distance of every row to its k-th neighbour."""
    def nearest(part: Tensor) -> Tensor:
        # The nearest is the row itself. NumPy's selection takes a third of the time of torch's.
        return torch.from_numpy(np.partition(squared_distances(part, x).numpy(), k, axis=1)[:, k].copy())

    return _in_blocks(nearest, x)


def _in_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([function(part) for part in x.split(BLOCK)])
