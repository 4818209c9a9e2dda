"""A linear probe: which of the known styles does a clip's embedding say it is?

Multinomial logistic regression on standardised features, with an L2 penalty and classes of equal weight. The loss is
convex and starts from zero, so the result depends on the data alone: no seed, no order, no early stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from audiogen.core.errors import UserError


@dataclass(frozen=True)
class LinearProbe:
    """weight (classes, dim) and bias (classes,) on (features - mean) / scale; `classes` names the rows."""

    classes: tuple[str, ...]
    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def log_probabilities(self, features: Tensor) -> Tensor:
        """features (clips, dim) -> (clips, classes)."""
        x = (features.double() - self.mean) / self.scale
        return F.log_softmax(x @ self.weight.T + self.bias, dim=1)

    def predict(self, features: Tensor) -> list[str]:
        """features (clips, dim) -> the likeliest class of each."""
        return [self.classes[i] for i in self.log_probabilities(features).argmax(1).tolist()]


def fit_probe(features: Tensor, labels: Sequence[str], *, l2: float = 1e-2, steps: int = 300) -> LinearProbe:
    """Train on features (clips, dim). `l2` weighs half the squared norm of the weights against the mean loss.

    Dimensions that never vary in the training clips are ignored. Raises `UserError` for fewer than two classes.
    """
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise UserError(f"a probe needs clips of at least two classes; there are {len(labels)} of {list(classes)}")
    if len(features) != len(labels) or not torch.isfinite(features).all():
        raise ValueError(f"{len(features)} feature rows for {len(labels)} labels, finite ones only")
    x = features.double()
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 1e-8 * scale.max(), scale, torch.inf)
    x = (x - mean) / scale
    target = torch.tensor([classes.index(label) for label in labels])
    counts = torch.bincount(target, minlength=len(classes)).double()
    share = (1.0 / (len(classes) * counts))[target]  # every class weighs the same, whatever its number of clips
    weight = torch.zeros(len(classes), x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=20, tolerance_grad=1e-5,
                                  tolerance_change=1e-8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        each = F.cross_entropy(x @ weight.T + bias, target, reduction="none")
        total = (share * each).sum() + 0.5 * l2 * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    return LinearProbe(classes, weight.detach(), bias.detach(), mean, scale)


@dataclass(frozen=True)
class ProbeResult:
    """How many clips were put where they belong. `accuracy` is over clips, `balanced` the mean over the classes."""

    accuracy: float
    balanced: float
    chance: float
    n: int
    per_class: dict[str, tuple[int, int]]  # class -> (right, clips)
    confusions: dict[str, dict[str, int]]  # class -> what it was taken for -> clips


def score_probe(probe: LinearProbe, features: Tensor, labels: Sequence[str]) -> ProbeResult:
    """Classify features (clips, dim) and compare with `labels`. Chance is one in the number of the probe's classes."""
    if not len(labels):
        raise UserError("no clip to classify")
    predicted = probe.predict(features)
    per_class: dict[str, tuple[int, int]] = {}
    confusions: dict[str, dict[str, int]] = {}
    for label, guess in zip(labels, predicted, strict=True):
        right, count = per_class.get(label, (0, 0))
        per_class[label] = (right + (guess == label), count + 1)
        if guess != label:
            row = confusions.setdefault(label, {})
            row[guess] = row.get(guess, 0) + 1
    return ProbeResult(
        accuracy=sum(right for right, _ in per_class.values()) / len(labels),
        balanced=sum(right / count for right, count in per_class.values()) / len(per_class),
        chance=1.0 / len(probe.classes), n=len(labels), per_class=dict(sorted(per_class.items())),
        confusions=confusions,
    )
