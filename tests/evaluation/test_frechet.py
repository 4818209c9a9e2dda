"""The Fréchet distance against closed forms, 40-digit arithmetic, and its invariances."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import lru_cache

import pytest
import torch

from audiogen.core.errors import UserError
from evaluation import frechet_distance
from evaluation.estimate import GROUPS, Estimate, group_of, groups_of, student_t
from evaluation.frechet import (
    estimate_frechet,
    frechet_curve,
    frechet_infinity,
    frechet_of_moments,
    frechet_per_clip,
)
from evaluation.moments import GroupedMoments, Moments


def normal(rows, dim, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(rows, dim, seed=0):
    """Rows whose sample mean is 0 and sample covariance the identity, exactly."""
    x = normal(rows, dim, seed)
    x = x - x.mean(0)
    return torch.linalg.qr(x).Q * math.sqrt(rows - 1)


def test_equal_covariances_leave_the_distance_of_the_means():
    x = normal(200, 6)
    shift = torch.arange(6.0, dtype=torch.float64)
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift.square().sum()), rel=1e-12)


def test_scaled_identities_give_dim_times_the_squared_difference_of_the_scales():
    x = whitened(300, 10)
    assert frechet_distance(2 * x, 5 * x) == pytest.approx(10 * 3**2, rel=1e-12)


def test_diagonal_covariances_give_the_sum_of_squared_differences_of_deviations():
    a, b = torch.linspace(0, 3, 7, dtype=torch.float64), torch.linspace(2, 0.5, 7, dtype=torch.float64)
    x, y = whitened(100, 7, 1) * a, whitened(50, 7, 2) * b
    assert frechet_distance(x, y) == pytest.approx(float((a - b).square().sum()), rel=1e-10)


def test_one_dimension_is_means_and_deviations():
    x, y = normal(30, 1, 3), 4 * normal(20, 1, 4) + 1
    truth = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert frechet_distance(x, y) == pytest.approx(float(truth), rel=1e-12)


def test_ill_conditioned_covariances_agree_with_40_digits():
    mpmath = pytest.importorskip("mpmath", reason="mpmath is the 40-digit oracle; it comes with torch")
    dim = 6
    scales = torch.logspace(0, -6, dim, dtype=torch.float64)  # condition number of the covariance: 1e12
    x = normal(40, dim, 5) * scales @ torch.linalg.qr(normal(dim, dim, 6)).Q
    y = normal(50, dim, 7) * scales.flip(0) @ torch.linalg.qr(normal(dim, dim, 8)).Q
    with mpmath.workdps(40):
        def moments(z):
            rows = mpmath.matrix(z.tolist())
            mean = [mpmath.fsum(rows[i, j] for i in range(rows.rows)) / rows.rows for j in range(dim)]
            centred = mpmath.matrix(rows.rows, dim)
            for i in range(rows.rows):
                for j in range(dim):
                    centred[i, j] = rows[i, j] - mean[j]
            return mean, centred.T * centred / (rows.rows - 1)
        (m, s), (n, t) = moments(x), moments(y)
        values, vectors = mpmath.eigsy(s)
        root = vectors * mpmath.diag([mpmath.sqrt(v) for v in values]) * vectors.T
        middle = mpmath.eigsy(root * t * root, eigvals_only=True)
        trace = mpmath.fsum(s[i, i] + t[i, i] for i in range(dim))
        truth = mpmath.fsum((a - b) ** 2 for a, b in zip(m, n, strict=True)) + trace
        truth -= 2 * mpmath.fsum(mpmath.sqrt(v) for v in middle)
    assert abs(frechet_distance(x, y) - float(truth)) < 1e-12 * float(trace)


def test_a_set_against_itself_is_zero_and_never_negative():
    for rows, dim in ((500, 16), (5, 32), (2, 3), (1, 4)):
        x = normal(rows, dim, rows)
        assert 0.0 <= frechet_distance(x, x) < 1e-10


def test_symmetric_and_invariant_under_shift_rotation_and_order():
    x, y = normal(80, 9, 1), normal(60, 9, 2) * 1.5 + 0.3
    value = frechet_distance(x, y)
    turn = torch.linalg.qr(normal(9, 9, 3)).Q
    assert frechet_distance(y, x) == pytest.approx(value, rel=1e-10)
    assert frechet_distance(x @ turn + 7, y @ turn + 7) == pytest.approx(value, rel=1e-10)
    assert frechet_distance(x.flip(0), y) == pytest.approx(value, rel=1e-10)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * value, rel=1e-10)


def test_few_rows_dead_dimensions_and_single_rows_are_defined():
    x, y = normal(12, 40, 1), normal(9, 40, 2)
    x[:, 3:9] = 0.0
    y[:, 3:5] = 0.0
    value = frechet_distance(x, y)
    # the same covariances through eigenvalues of the product, which rank 11 and 8 allow to compare to 1e-6
    product = torch.linalg.eigvals(torch.cov(x.T) @ torch.cov(y.T))
    root = product.real.clamp(min=0).sqrt().sum()
    truth = (x.mean(0) - y.mean(0)).square().sum() + torch.cov(x.T).trace() + torch.cov(y.T).trace() - 2 * root
    assert value == pytest.approx(float(truth), rel=1e-5)
    truth = (x[0] - y.mean(0)).square().sum() + torch.cov(y.T).trace()
    assert frechet_distance(x[:1], y) == pytest.approx(float(truth))


@pytest.mark.parametrize("bad", [torch.zeros(0, 4), torch.full((3, 4), math.nan), torch.zeros(3, 5), torch.zeros(4)])
def test_unusable_features_are_refused(bad):
    with pytest.raises(UserError):
        frechet_distance(bad, torch.ones(3, 4))


def test_moments_add_up_in_any_order_and_sharding():
    x, y = normal(101, 5, 1) + 100, normal(77, 5, 2) + 100
    whole = frechet_distance(x, y)
    parts = [Moments.of(part) for part in x.split(7)]
    forward, backward = sum(parts, Moments.none(5)), sum(reversed(parts), Moments.none(5))
    for total in (forward, backward, Moments.of(x)):
        assert total.n == 101
        assert torch.allclose(total.covariance, torch.cov(x.T), rtol=1e-11, atol=1e-11)
        assert frechet_of_moments(total, Moments.of(y)) == pytest.approx(whole, rel=1e-9)
    rest = forward - parts[3]
    assert torch.allclose(rest.covariance, torch.cov(torch.cat([x[:21], x[28:]]).T), rtol=1e-10, atol=1e-10)


def grouped(rows, dim, seed, scale=1.0):
    """Clips of 4 rows; a group at a time, which is many times faster than clip by clip, and the same."""
    sets, group = GroupedMoments(dim), groups_of([f"clip {seed} {i}" for i in range(rows // 4)])
    drawn_rows = normal(rows, dim, seed).mul(scale)
    for g in range(GROUPS):
        mine = (group == g).repeat_interleave(4)
        if mine.any():
            sets.parts[g], sets.clips[g] = Moments.of(drawn_rows[mine]), int((group == g).sum())
    return sets


def test_the_jackknife_interval_covers_the_truth_about_95_times_in_100():
    # N(0, 1) against N(0, 4) in 4 dimensions: truth 4 · (2 - 1)² = 4, with a bias far below the standard error here
    hits, estimates = 0, []
    for seed in range(60):
        estimate = estimate_frechet(grouped(800, 4, 2 * seed), grouped(800, 4, 2 * seed + 1, 2.0))
        hits += estimate.low <= 4.0 <= estimate.high
        estimates.append(estimate)
    spread = torch.tensor([e.value for e in estimates]).std().item()
    typical = torch.tensor([e.se for e in estimates]).mean().item()
    assert 52 <= hits <= 60  # 95 % of 60 is 57, standard deviation 1.7
    assert typical == pytest.approx(spread, rel=0.35)


def test_merged_shards_give_the_estimate_of_the_whole():
    reference = grouped(200, 3, 9)
    whole, left, right = GroupedMoments(3), GroupedMoments(3), GroupedMoments(3)
    for i, part in enumerate(normal(200, 3, 1).split(5)):
        whole.add(str(i), part)
        (left if i % 3 else right).add(str(i), part)
    a, b = estimate_frechet(reference, whole), estimate_frechet(reference, right.merge(left))
    assert (a.value, a.se) == pytest.approx((b.value, b.se), rel=1e-9)
    assert (b.n, b.m) == (50, 40)


def test_one_clip_has_a_value_and_no_interval():
    alone = GroupedMoments(3)
    alone.add("only", normal(4, 3, 2))
    estimate = estimate_frechet(grouped(100, 3, 1), alone)
    assert isinstance(estimate, Estimate) and estimate.value > 0 and estimate.se is None


def test_a_clip_against_the_reference_needs_no_covariance_of_its_own():
    reference, clips = normal(400, 24, 1), [normal(rows, 24, 10 + rows) + 0.3 for rows in (1, 5, 23, 60)]
    expected = [frechet_distance(reference, clip) for clip in clips]
    assert frechet_per_clip(Moments.of(reference), clips) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(UserError, match="dim 3 and dim 24"):
        frechet_per_clip(Moments.of(reference), [normal(4, 3)])


DIM = 16


@lru_cache
def drawn(rows, seed, scale=1.0):
    return grouped(rows, DIM, seed, scale)


@pytest.mark.parametrize("rows", [1000, 4000])
def test_the_extrapolated_distance_of_a_set_drawn_from_the_reference_is_0(rows):
    estimates = [frechet_infinity(drawn(8000, 50), drawn(rows, seed)) for seed in range(8)]
    plain = [estimate_frechet(drawn(8000, 50), drawn(rows, seed)).value for seed in range(8)]
    centre = sum(e.value for e in estimates) / 8
    spread = torch.tensor([e.value for e in estimates]).std().item()
    assert abs(centre) < 3 * spread / 8**0.5 and all(abs(e.value) < 3 * e.se for e in estimates)
    assert min(plain) > 3 * spread  # what is taken away is no small thing
    assert sum(e.se for e in estimates) / 8 == pytest.approx(spread, rel=0.5)


def test_the_same_extrapolation_with_replacement_keeps_the_bias():
    """What other tools do: every subset is a resample. The property above must fail for it."""
    kept, honest = [], []
    for seed in range(8):
        rows = normal(1000, DIM, seed)
        draws = torch.Generator().manual_seed(seed)
        resampled = GroupedMoments(DIM)
        resampled.parts = [Moments.of(rows[torch.randint(1000, (1000 // 16,), generator=draws)]) for _ in range(16)]
        resampled.clips = [16] * 16
        kept.append(frechet_infinity(drawn(8000, 50), resampled).value)
        honest.append(frechet_infinity(drawn(8000, 50), drawn(1000, seed)).value)
    spread = torch.tensor(kept).std().item()
    assert sum(kept) / 8 > 3 * spread > 0 and sum(kept) / 8 > 5 * abs(sum(honest) / 8)


def test_extrapolating_finds_a_distance_that_is_there():
    truth = DIM * (1.2 - 1.0) ** 2
    estimate = frechet_infinity(drawn(8000, 50), drawn(2000, 2, 1.2))
    assert abs(estimate.value - truth) < 3 * estimate.se and estimate.se < 0.2 * truth
    published = frechet_infinity(drawn(8000, 50), drawn(2000, 2, 1.2), both=False)
    assert published.value > estimate.value  # it leaves the reference's own bias in
    curve = frechet_curve(drawn(8000, 50), drawn(2000, 2, 1.2))
    assert [n for n, _ in curve] == sorted((n for n, _ in curve), reverse=True)
    assert [d for _, d in curve] == sorted(d for _, d in curve)


def test_too_few_windows_to_extrapolate_from_are_refused():
    with pytest.raises(UserError, match="60 windows of 16 dimensions are too few"):
        frechet_infinity(grouped(8000, DIM, 1), grouped(60, DIM, 2))


def test_a_clip_belongs_to_the_same_group_on_every_machine():
    assert [group_of(name, 16) for name in ("a", "b", "clip 7")] == [0, 4, 10]


@pytest.mark.parametrize("freedom, truth", [(1, 12.706), (3, 3.1824), (5, 2.5706), (15, 2.1314), (100, 1.9840)])
def test_student_t_agrees_with_the_tables(freedom, truth):
    assert student_t(freedom) == pytest.approx(truth, rel=0.01)


def test_importing_the_distance_stays_light():
    heavy = "librosa, scipy, soundfile, transformers, torchaudio, rich, tyro".split(", ")
    code = f"import sys; from evaluation import frechet_distance; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
