"""A MAUVE-style divergence (Pillutla et al. 2021; for music: MAD, Huang et al. 2025): how two sets trade off.

Features are quantised together into clusters; with the two histograms p and q, mixtures r = λ p + (1 - λ) q trace a
curve (exp(-c KL(q||r)), exp(-c KL(p||r))), and MAUVE is the area below it: 1 for equal sets, near 0 for disjoint ones.
The distance that is reported is -ln MAUVE. Written from the paper; k-means and all else is plain torch, and the
result follows from the features alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from audiogen.core import rng
from audiogen.core.errors import UserError
from evaluation.estimate import GROUPS, Estimate, checked, groups_of, interval, jackknife, same_dim
from evaluation.kernel_distance import squared_distances

SCALING = 5.0  # c, as published
KEPT = 0.9  # share of the variance that the principal components keep
STEPS = 100  # k-means iterations at most
BLOCK = 512  # rows at a time
MIXTURES = 25  # points of the curve


def mauve_distance(x: Tensor, y: Tensor, *, clusters: int | None = None) -> float:
    """-ln MAUVE of the reference x (rows, dim) and the generated y (rows, dim); 0 for equal histograms.

    clusters: None is a tenth of the smaller set's rows, at least 2 and at most 500.
    """
    a, b, count = _quantised(x, y, clusters)
    return _distance(torch.bincount(a, minlength=count), torch.bincount(b, minlength=count))


def estimate_mauve_distance(
    x: Tensor, y: Tensor, x_clips: Sequence[str], y_clips: Sequence[str], *, clusters: int | None = None
) -> Estimate:
    """The same with a jackknife over groups of clips; the clusters are held fixed."""
    a, b, count = _quantised(x, y, clusters)
    histograms = [_by_group(rows, clips, count) for rows, clips in ((a, x_clips), (b, y_clips))]
    p, q = (h.sum(0) for h in histograms)
    value = _distance(p, q)
    variances, used = [], []
    for side, groups in enumerate(histograms):
        there = [row for row in groups if row.sum()]
        used.append(len(there))
        rest = [_distance(*((p - row, q) if side == 0 else (p, q - row))) for row in there] if len(there) > 1 else []
        total = float(groups.sum())
        variances.append(jackknife(value, rest, [float(row.sum()) / total for row in there]))
    return interval(value, variances, used=min(used), n=len(set(x_clips)), m=len(set(y_clips)), lowest=0.0)


def _quantised(x: Tensor, y: Tensor, clusters: int | None) -> tuple[Tensor, Tensor, int]:
    x, y = checked(x), checked(y)
    same_dim(x.shape[1], y.shape[1])
    count = clusters or min(max(min(len(x), len(y)) // 10, 2), 500)
    if min(len(x), len(y)) < count:
        raise UserError(f"{count} clusters need at least as many rows a side, not {len(x)} and {len(y)}")
    rows = torch.cat([x, y])
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    rows = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    enough = int((values.cumsum(0) < KEPT * values.sum()).sum()) + 1
    member = k_means(rows @ vectors[:, :enough], count)
    return member[: len(x)], member[len(x) :], count


def k_means(rows: Tensor, clusters: int) -> Tensor:
    """rows (n, dim) -> cluster of each row (n,): Lloyd's algorithm from k-means++ seeds, always the same ones.

    A cluster that loses its last row is given the row that is farthest from its own centre.
    """
    source = rng.generator("k-means", len(rows), clusters)
    centres = rows[torch.randint(len(rows), (1,), generator=source)]
    nearest = squared_distances(rows, centres)[:, 0]
    while len(centres) < clusters:
        weights = nearest if float(nearest.sum()) > 0 else torch.ones_like(nearest)
        chosen = rows[torch.multinomial(weights, 1, generator=source)]
        centres = torch.cat([centres, chosen])
        nearest = torch.minimum(nearest, squared_distances(rows, chosen)[:, 0])
    member = torch.full((len(rows),), -1)
    for _ in range(STEPS):
        # |centre|² - 2 row · centre: less than the squared distance by the same |row|² for every centre
        square = centres.square().sum(1)
        best = [torch.addmm(square, part, centres.T, alpha=-2).min(1) for part in rows.split(BLOCK)]
        found = torch.cat([block.indices for block in best])
        if torch.equal(found, member):
            break
        member = found
        size = torch.bincount(member, minlength=clusters)
        centres = torch.zeros_like(centres).index_add_(0, member, rows) / size.clamp(min=1)[:, None]
        distance = torch.cat([block.values for block in best]) + rows.square().sum(1)
        for empty in torch.nonzero(size == 0)[:, 0].tolist():
            far = int(distance.argmax())
            centres[empty], distance[far] = rows[far], -1.0
    return member


def _by_group(rows: Tensor, clips: Sequence[str], count: int) -> Tensor:
    """(GROUPS, count): histogram of every group of clips."""
    return torch.bincount(groups_of(clips) * count + rows, minlength=GROUPS * count).reshape(GROUPS, count)


def _distance(p: Tensor, q: Tensor) -> float:
    """-ln of the area under the divergence curve of two histograms."""
    # Krichevsky and Trofimov's half count, as in the authors' later work: no cluster has probability 0 by chance alone.
    p, q = (h.double() + 0.5 for h in (p, q))
    p, q = p / p.sum(), q / q.sum()
    weights = torch.linspace(1e-6, 1 - 1e-6, MIXTURES, dtype=torch.float64)
    points = [(0.0, 1.0), (1.0, 0.0)]
    for w in weights.tolist():
        r = w * p + (1 - w) * q
        points.append((math.exp(-SCALING * float((q * (q / r).log()).sum())),
                       math.exp(-SCALING * float((p * (p / r).log()).sum()))))
    x, y = torch.tensor(sorted(points), dtype=torch.float64).T
    area = float(torch.trapezoid(y, x))
    return -math.log(min(max(area, 1e-300), 1.0))
