"""Scores from class probabilities of a tagger: inception score and Kullback-Leibler divergence, direction named."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from audiogen.core.errors import UserError
from evaluation.estimate import Estimate, groups_of, interval, jackknife

FLOOR = 1e-6  # published: added to probabilities under a logarithm


def inception_score(probabilities: Tensor) -> float:
    """exp of the mean KL(p(class | clip) || p(class)) (Salimans et al. 2016), from 1 to the number of classes.

    probabilities (clips, classes), rows summing to 1. High where each clip is clearly something and the set holds many
    things; it sees no reference, so it cannot tell good from loud and clear.
    """
    p = _checked(probabilities)
    marginal = p.mean(0)
    # 0 log 0 is 0
    return float(torch.exp((torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(1).mean()))


def estimate_inception_score(probabilities: Tensor, clips: Sequence[str]) -> Estimate:
    """The same with a jackknife over groups of clips."""
    part = groups_of(clips)
    there = part.unique().tolist()
    value = inception_score(probabilities)
    left_out = [inception_score(probabilities[part != g]) for g in there] if len(there) > 1 else []
    shares = [float((part == g).double().mean()) for g in there]
    return interval(value, [jackknife(value, left_out, shares)], used=len(there), n=0, m=len(set(clips)), lowest=1.0)


def kl_divergence(x: Tensor, y: Tensor, *, direction: str = "reference||generated") -> Tensor:
    """KL of paired clips, (clips,) in nats: class probabilities (clips, classes), x the reference's, y the generated.

    direction "reference||generated" is that of AudioCraft and audioldm_eval, "generated||reference" that of
    stable-audio-metrics: the two are different numbers.
    """
    x, y = _checked(x), _checked(y)
    if x.shape != y.shape:
        raise UserError(f"KL compares pairs: {tuple(x.shape)} reference and {tuple(y.shape)} generated posteriors")
    if direction == "generated||reference":
        x, y = y, x
    elif direction != "reference||generated":
        raise UserError(f"direction={direction!r} must be 'reference||generated' or 'generated||reference'")
    return (torch.xlogy(x, x) - x * torch.log(y + FLOOR)).sum(1)


def estimate_kl_divergence(
    x: Tensor, y: Tensor, pairs: Sequence[str], *, direction: str = "reference||generated"
) -> Estimate:
    """The mean over pairs with a jackknife over groups of pairs; `pairs` names them."""
    each = kl_divergence(x, y, direction=direction)
    part = groups_of(pairs)
    there = part.unique().tolist()
    value = float(each.mean())
    left_out = [float(each[part != g].mean()) for g in there] if len(there) > 1 else []
    shares = [float((part == g).double().mean()) for g in there]
    return interval(value, [jackknife(value, left_out, shares)], used=len(there), n=len(each), m=len(each), lowest=0.0)


def posteriors_of(logits: Tensor) -> Tensor:
    """logits (clips, classes), each the mean over a clip's windows -> class probabilities of the clips, by softmax.

    Taggers like YAMNet and PANNs give every class a sigmoid of its own; the softmax of the same logits is what
    audioldm_eval and stable-audio-metrics compare.
    """
    return torch.softmax(logits.double(), dim=-1)


def _checked(probabilities: Tensor) -> Tensor:
    p = probabilities.detach().double()
    if p.dim() != 2 or 0 in p.shape or not torch.isfinite(p).all() or (p < 0).any():
        raise UserError(f"class probabilities must be (clips, classes), finite and not negative; got {tuple(p.shape)}")
    off = float((p.sum(1) - 1).abs().max())
    if not math.isfinite(off) or off > 1e-3:
        raise UserError(f"class probabilities must sum to 1 in every row; one is off by {off:.3g}")
    return p / p.sum(1, keepdim=True)
