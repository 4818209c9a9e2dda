"""The MAUVE-style divergence: a known curve, equal and disjoint sets, and its k-means."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.core.errors import UserError
from evaluation.mauve import _distance, estimate_mauve_distance, k_means, mauve_distance


def normal(rows, dim, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equal_histograms_are_0_apart_and_disjoint_ones_at_the_bound_of_the_curve():
    p = torch.tensor([5000, 3000, 2000])
    assert _distance(p, p) == pytest.approx(0.0, abs=1e-6)
    # For disjoint p and q: KL(q||r) = -ln(1 - λ), KL(p||r) = -ln λ, so the curve is ((1 - λ)^5, λ^5), whose area is
    # the integral of 5 λ^5 (1 - λ)^4 = 5 · 5! 4! / 10! = 1 / 252.
    apart = _distance(torch.tensor([10**9, 0]), torch.tensor([0, 10**9]))
    assert apart == pytest.approx(math.log(252), rel=0.02)


def test_grows_with_the_difference_and_is_symmetric():
    x = normal(400, 8)
    distances = [mauve_distance(x, normal(400, 8, 1) + shift) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert distances == sorted(distances) and distances[0] < 0.1 and distances[-1] > 1
    p, q = torch.tensor([30, 10, 5]), torch.tensor([10, 30, 5])
    assert _distance(p, q) == pytest.approx(_distance(q, p))


def test_repeats_exactly_and_has_an_interval():
    x, y = normal(300, 8), normal(300, 8, 1) + 0.3
    clips = [str(i // 3) for i in range(300)]
    estimate = estimate_mauve_distance(x, y, clips, clips)
    assert estimate.value == mauve_distance(x, y) == mauve_distance(x.clone(), y.clone())
    assert estimate.low <= estimate.value <= estimate.high and estimate.se > 0


def test_k_means_finds_clusters_that_are_there():
    truth = torch.arange(90) % 3
    rows = normal(90, 2) * 0.1 + 10 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)[truth]
    found = k_means(rows, 3)
    assert all(len(found[truth == c].unique()) == 1 for c in range(3)) and len(found.unique()) == 3


def test_k_means_lives_with_fewer_different_rows_than_clusters():
    assert len(k_means(torch.zeros(6, 2, dtype=torch.float64), 3)) == 6


def test_more_clusters_than_rows_are_refused():
    with pytest.raises(UserError, match="9 clusters"):
        mauve_distance(normal(5, 2), normal(20, 2), clusters=9)
