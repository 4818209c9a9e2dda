"""The kernel distance against its closed form for Gaussians, its lack of bias, and whose bandwidth it takes."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.core.errors import UserError
from evaluation.kernel_distance import bandwidth_of, estimate_kernel_distance, kernel_distance


def normal(rows, dim, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def expected(dim, a, b, shift, width):
    """E k of N(0, a²), N(shift, b²) in closed form: (w² / (w² + s²))^(d/2) exp(-|m|² / (2 (w² + s²)))."""
    def kernel(variance, distance):
        return (width**2 / (width**2 + variance)) ** (dim / 2) * math.exp(-(distance**2) / (2 * (width**2 + variance)))

    return 100 * (kernel(2 * a * a, 0) + kernel(2 * b * b, 0) - 2 * kernel(a * a + b * b, shift))


def by_hand(x, y, width):
    k = [torch.exp(-torch.cdist(a, b).square() / (2 * width**2)) for a, b in ((x, x), (y, y), (x, y))]
    n, m = len(x), len(y)
    return 100 * float((k[0].sum() - n) / (n * (n - 1)) + (k[1].sum() - m) / (m * (m - 1)) - 2 * k[2].mean())


def test_equals_the_sum_over_all_pairs():
    x, y = normal(90, 6), 1.3 * normal(70, 6, 1) + 0.2
    assert kernel_distance(x, y, bandwidth=2.0) == pytest.approx(by_hand(x, y, 2.0), abs=1e-10)


def test_blocks_change_nothing(monkeypatch):
    x, y = normal(90, 6), 1.3 * normal(70, 6, 1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("evaluation.kernel_distance.BLOCK", 7)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-10)


def test_unbiased_for_gaussians():
    draws = [kernel_distance(normal(40, 4, 2 * s), 1.5 * normal(30, 4, 2 * s + 1) + 0.5, bandwidth=2.0)
             for s in range(500)]
    mean, error = sum(draws) / 500, torch.tensor(draws).std().item() / math.sqrt(500)
    assert abs(mean - expected(4, 1.0, 1.5, 1.0, 2.0)) < 3 * error  # the shift is 0.5 in each of 4 dimensions


def test_the_bandwidth_is_the_references():
    near, far = normal(300, 8), 3 * normal(300, 8, 1)
    assert kernel_distance(near, far) == pytest.approx(by_hand(near, far, bandwidth_of(near)), rel=1e-9)
    assert kernel_distance(near, far) > 1.5 * by_hand(near, far, bandwidth_of(far))  # it would be forgiven otherwise
    assert bandwidth_of(near) == pytest.approx(torch.nn.functional.pdist(near).median().item())


def test_an_offset_costs_no_digits():
    x, y = normal(200, 5), normal(200, 5, 1) + 0.1
    assert kernel_distance(x + 1000, y + 1000) == pytest.approx(kernel_distance(x, y), abs=1e-8)


def test_the_interval_covers_the_truth():
    hits, truth = 0, expected(4, 1.0, 1.2, 0.0, 2.0)
    spread, said = [], []
    for seed in range(40):
        x, y = normal(320, 4, 2 * seed), 1.2 * normal(320, 4, 2 * seed + 1)
        clips = [f"{seed} {i // 2}" for i in range(320)]
        estimate = estimate_kernel_distance(x, y, clips, clips, bandwidth=2.0)
        assert estimate.value == pytest.approx(kernel_distance(x, y, bandwidth=2.0), abs=1e-9)
        hits += estimate.low <= truth <= estimate.high
        spread.append(estimate.value)
        said.append(estimate.se)
    assert hits >= 34
    assert sum(said) / 40 == pytest.approx(torch.tensor(spread).std().item(), rel=0.35)
    assert (estimate.n, estimate.m) == (160, 160)


def test_a_single_row_is_refused():
    with pytest.raises(UserError, match="at least two rows"):
        kernel_distance(normal(1, 3), normal(5, 3))
