"""Precision, recall, density, coverage: against a loop written from the papers, and in cases that are known."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.errors import UserError
from evaluation.precision_recall import estimate_precision_recall, precision_recall


def normal(rows, dim, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(x, y, k):
    def reach(a):
        return [sorted(float((a[i] - a[j]).norm()) for j in range(len(a)) if j != i)[k - 1] for i in range(len(a))]

    rx, ry = reach(x), reach(y)
    d = [[float((a - b).norm()) for a in x] for b in y]
    precision = sum(any(d[j][i] < rx[i] for i in range(len(x))) for j in range(len(y))) / len(y)
    recall = sum(any(d[j][i] < ry[j] for j in range(len(y))) for i in range(len(x))) / len(x)
    density = sum(d[j][i] < rx[i] for i in range(len(x)) for j in range(len(y))) / (k * len(y))
    coverage = sum(any(d[j][i] < rx[i] for j in range(len(y))) for i in range(len(x))) / len(x)
    return precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_the_papers_loops(k):
    x, y = normal(40, 3), 0.8 * normal(33, 3, 1) + 0.4
    assert precision_recall(x, y, k=k) == pytest.approx(by_loops(x, y, k))


def test_blocks_change_nothing(monkeypatch):
    x, y = normal(60, 4), normal(50, 4, 1)
    whole = precision_recall(x, y)
    monkeypatch.setattr("evaluation.precision_recall.BLOCK", 7)
    assert precision_recall(x, y) == pytest.approx(whole)


def test_one_mode_of_two_is_precise_and_has_half_the_recall():
    two = torch.cat([normal(100, 2), normal(100, 2, 1) + 100.0])
    score = precision_recall(two, normal(150, 2, 2))
    assert score.precision > 0.9 and 0.4 < score.recall < 0.6 and 0.4 < score.coverage < 0.6


def test_sets_that_are_far_apart_score_0_and_the_same_distribution_scores_high():
    assert precision_recall(normal(80, 4), normal(80, 4, 1) + 50) == (0, 0, 0, 0)
    same = precision_recall(normal(400, 4), normal(400, 4, 1))
    assert min(same.precision, same.recall, same.coverage) > 0.85 and same.density == pytest.approx(1.0, abs=0.1)


def test_every_score_has_its_interval():
    x, y = normal(200, 3), normal(200, 3, 1) * 1.4 + 0.5
    clips = [str(i // 4) for i in range(200)]
    estimates = estimate_precision_recall(x, y, clips, clips)
    assert [e.value for e in estimates.values()] == pytest.approx(precision_recall(x, y))
    for estimate in estimates.values():
        assert estimate.low <= estimate.value <= estimate.high and 0 < estimate.se < 0.2
        assert (estimate.n, estimate.m) == (50, 50)


def test_too_few_rows_are_refused():
    with pytest.raises(UserError, match="more than 5 rows a side, not 5 and 9"):
        precision_recall(normal(5, 2), normal(9, 2))
