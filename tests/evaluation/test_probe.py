"""The linear probe: convex, deterministic, fair to rare classes."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.errors import UserError
from evaluation.probe import fit_probe, score_probe


def clusters(counts, dim=6, spread=0.3, seed=0):
    source = torch.Generator().manual_seed(seed)
    centres = 2 * torch.eye(dim)
    features = [centres[i] + spread * torch.randn(n, dim, generator=source) for i, n in enumerate(counts)]
    return torch.cat(features), [f"style {i}" for i, n in enumerate(counts) for _ in range(n)]


def test_separable_classes_are_told_apart_on_unseen_clips():
    probe = fit_probe(*clusters([20, 20, 20]))
    result = score_probe(probe, *clusters([10, 10, 10], seed=1))
    assert result.accuracy == 1.0 and result.chance == pytest.approx(1 / 3) and result.n == 30
    assert result.per_class == {f"style {i}": (10, 10) for i in range(3)} and not result.confusions


def test_labels_without_meaning_score_chance():
    features, labels = torch.randn(400, 4, generator=torch.Generator().manual_seed(3)), ["a", "b", "c", "d"] * 100
    accuracy = score_probe(fit_probe(features[:200], labels[:200]), features[200:], labels[200:]).accuracy
    assert 0.15 < accuracy < 0.36  # chance 0.25, standard deviation 0.03


def test_order_scale_and_shift_of_the_features_do_not_matter():
    features, labels = clusters([8, 30, 12], spread=1.0)
    unseen, _ = clusters([9, 9, 9], spread=1.0, seed=5)
    truth = fit_probe(features, labels).log_probabilities(unseen)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    shuffled = fit_probe(features[order], [labels[i] for i in order]).log_probabilities(unseen)
    scale, shift = torch.tensor([1e-3, 1.0, 50.0, 2.0, 3.0, 1e3]), 7.0
    scaled = fit_probe(features * scale + shift, labels).log_probabilities(unseen * scale + shift)
    assert torch.allclose(shuffled, truth, atol=1e-3)
    assert torch.allclose(scaled, truth, atol=1e-2)


def test_it_is_where_the_gradient_of_its_loss_vanishes():
    features, labels = clusters([15, 25], spread=1.5)
    probe = fit_probe(features, labels, l2=0.1)
    x = (features.double() - features.double().mean(0)) / features.double().std(0, correction=0)
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    target = torch.tensor([0] * 15 + [1] * 25)
    losses = torch.nn.functional.cross_entropy(x @ weight.T + bias, target, reduction="none")
    (0.5 * losses[:15].mean() + 0.5 * losses[15:].mean() + 0.05 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-4 and bias.grad.abs().max() < 1e-4


def test_a_rare_class_weighs_as_much_as_a_common_one():
    features, labels = clusters([200, 6], spread=1.2)
    unseen = clusters([200, 200], spread=1.2, seed=2)
    per_class = score_probe(fit_probe(features, labels, l2=0.1), *unseen).per_class
    assert per_class["style 1"][0] / 200 > 0.75  # with clips of equal weight it is far below


def test_dead_dimensions_are_ignored_and_nonsense_is_refused():
    features, labels = clusters([10, 10])
    features[:, 4] = 3.0
    probe = fit_probe(features, labels)
    moved = features.clone()
    moved[:, 4] = 100.0
    assert torch.equal(probe.log_probabilities(moved), probe.log_probabilities(features))
    with pytest.raises(UserError, match="two classes"):
        fit_probe(features[:10], labels[:10])
    with pytest.raises(ValueError, match="finite"):
        fit_probe(features / 0, labels)
