"""Is it new? Passages copied from the training set, clips that are too like one of its clips, and variety in the set.

Nearness has no unit of its own: a flute is near to every flute. So the distance of a generated clip to its nearest
training clip is read against what held-out real clips have (Meehan et al. 2020): the share of held-out clips that are
nearer still. A model that copies lies at 0 again and again; one that makes its own lies anywhere between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audiogen.core.errors import UserError
from evaluation.estimate import checked, same_dim


@dataclass(frozen=True)
class Nearest:
    """The training clip that a clip is most like. `quantile`: the share of held-out clips that are nearer to theirs."""

    index: int
    similarity: float  # cosine of the centred feature vectors, -1 to 1
    quantile: float


def nearest_training_clips(training: Tensor, held_out: Tensor, generated: Tensor) -> list[Nearest]:
    """training, held_out, generated (clips, dim): one mean feature vector a clip -> for every generated clip.

    Features are centred and scaled by the training set's, so that no dimension rules by its unit alone. At least 20
    held-out clips are needed for the quantiles to mean anything.
    """
    training, held_out, generated = (checked(x) for x in (training, held_out, generated))
    for other in (held_out, generated):
        same_dim(training.shape[1], other.shape[1])
    if len(held_out) < 20:
        raise UserError(f"{len(held_out)} held-out clips calibrate nothing: at least 20 are needed")
    mean, scale = training.mean(0), training.std(0, correction=0)
    scale = torch.where(scale > 1e-9 * scale.max(), scale, torch.inf)
    base = _unit((training - mean) / scale)
    usual = torch.sort((_unit((held_out - mean) / scale) @ base.T).amax(1)).values
    best = (_unit((generated - mean) / scale) @ base.T).max(1)
    # As many held-out clips nearer: those after the clip's place in the sorted list.
    nearer = len(usual) - torch.searchsorted(usual, best.values, right=True)
    return [Nearest(int(i), float(s), float(n) / len(usual))
            for i, s, n in zip(best.indices, best.values, nearer, strict=True)]


def copying(nearest: Sequence[Nearest]) -> tuple[float, float]:
    """Are generated clips nearer to training clips than held-out ones are? -> (mean quantile, z).

    Quantiles of clips that are no nearer than held-out ones are uniform: mean 1/2, variance 1/12. z below -3 means that
    the set as a whole is nearer than chance allows.
    """
    if not nearest:
        raise UserError("no generated clip to look at")
    mean = sum(n.quantile for n in nearest) / len(nearest)
    return mean, (mean - 0.5) / math.sqrt(1 / 12 / len(nearest))


def diversity(features: Tensor) -> dict[str, float]:
    """Variety within a set, from mean feature vectors (clips, dim) of its clips.

    "vendi": effective number of different clips (Friedman and Dieng 2023, the exponential of the entropy of the
    eigenvalues of K / n, K the cosine similarities): 1 for copies of one clip, n for clips at right angles.
    "mean_distance": mean of 1 - cosine over all pairs. "same": share of clips with a twin (cosine above 0.9999).
    """
    x = checked(features)
    if len(x) < 2:
        raise UserError("variety needs at least two clips")
    unit = _unit(x)
    similar = unit @ unit.T
    values = torch.linalg.eigvalsh(similar / len(x)).clamp(min=0)
    values = values / values.sum()
    off = similar - torch.eye(len(x), dtype=similar.dtype)
    pairs = len(x) * (len(x) - 1)
    return {
        "vendi": math.exp(-float(torch.xlogy(values, values).sum())),
        "mean_distance": 1.0 - float((similar.sum() - similar.trace()) / pairs),
        "same": float((off.amax(1) > 0.9999).double().mean()),
    }


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
