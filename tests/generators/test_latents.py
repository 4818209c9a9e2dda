from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Laplace, Normal

from audiogen.generators.latents import (
    LIKELIHOODS,
    MMD_SCALES,
    Gaussian,
    cosines,
    edges,
    gaussian_kl,
    levels,
    mmd,
    negative_log_likelihood,
    slerp,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_is_what_monte_carlo_finds():
    q, p = Gaussian(draw(4), 0.5 * draw(4, seed=1)), Gaussian(draw(4, seed=2), 0.5 * draw(4, seed=3))
    ours, theirs = Normal(q.mean, q.log_std.exp()), Normal(p.mean, p.log_std.exp())
    z = q.mean + q.log_std.exp() * draw(400_000, 4, seed=4)
    ratio = ours.log_prob(z) - theirs.log_prob(z)
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert ((gaussian_kl(q, p) - ratio.mean(0)).abs() < 4 * error).all() and error.max() < 0.02
    assert not gaussian_kl(q, q).any()


def test_likelihoods_are_those_of_torch():
    error, log_spread = draw(50), draw(50, seed=1)
    for kind, known in zip(LIKELIHOODS, (Laplace, Normal), strict=True):
        expected = -known(torch.zeros(50), log_spread.exp()).log_prob(error)
        torch.testing.assert_close(negative_log_likelihood(error, log_spread, kind), expected)


def test_mmd_is_the_naive_double_sum():
    x, y = draw(7, 3), 0.5 + draw(5, 3, seed=1)

    def kernel(a, b):
        return sum(math.exp(-float(((a - b) ** 2).sum()) / (2 * 3 * scale)) for scale in MMD_SCALES) / len(MMD_SCALES)

    xx = sum(kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    yy = sum(kernel(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    xy = sum(kernel(a, b) for a in x for b in y) / 35
    assert float(mmd(x, y)) == pytest.approx(xx + yy - 2 * xy, abs=1e-12)


def test_mmd_is_unbiased_and_tells_distributions_apart():
    same = torch.stack([mmd(draw(12, 4, seed=2 * i), draw(12, 4, seed=2 * i + 1)) for i in range(300)])
    assert same.mean().abs() < 4 * same.std() / math.sqrt(300) and (same < 0).any()
    assert mmd(draw(200, 4), 0.7 * draw(200, 4, seed=1)) > 8 * same.std() * 12 / 200
    z = draw(6, 4).requires_grad_()
    mmd(z, z.detach()).backward()
    assert z.grad.isfinite().all()


def test_slerp_keeps_to_the_arc_and_ends_exactly():
    a, b = draw(2, 8, 5), 3 * draw(2, 8, 5, seed=1)
    assert torch.equal(slerp(a, b, 0.0), a) and torch.equal(slerp(a, b, 1.0), b)

    def angle(x, y):
        return torch.acos(torch.cosine_similarity(x, y, dim=1))

    for at in (0.25, 0.5, 0.9):
        c = slerp(a, b, at)
        torch.testing.assert_close(angle(a, c), at * angle(a, b))
        torch.testing.assert_close(c.norm(dim=1), (1 - at) * a.norm(dim=1) + at * b.norm(dim=1))


def test_slerp_goes_straight_where_there_is_no_arc():
    a = draw(1, 4, 3)
    for b in (a, -a, torch.zeros_like(a)):
        torch.testing.assert_close(slerp(a, b, 0.3), 0.7 * a + 0.3 * b, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(slerp(b, a, 0.3), 0.7 * b + 0.3 * a, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_mels, frames", [(80, 8), (5, 3)])
def test_cosine_terms_are_those_of_scipy(n_mels, frames):
    from scipy.fft import dctn

    terms, size = cosines(n_mels, frames, n_mels * frames)
    found = np.stack([dctn(term.numpy(), norm="ortho") for term in terms.double()[:60]])
    assert np.allclose(np.abs(found).max(axis=(1, 2)), 1, atol=1e-5)  # each is one term, all of it
    assert np.allclose(np.square(found).sum(axis=(1, 2)), 1, atol=1e-5)
    flat = terms.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(len(flat)), rtol=0, atol=2e-5)
    assert (size.diff() <= 0).all() and np.abs(found[0]).argmax() == 0


def test_levels_halve_upwards_and_mask_what_is_real():
    at = levels(13, 4, torch.tensor([13, 8, 1]))
    assert at.frames == (13, 7, 4, 2)
    for level, mask in enumerate(at.masks):
        real = [math.ceil(length / 2**level) for length in (13, 8, 1)]
        assert mask.shape == (3, 1, at.frames[level]) and mask.sum(dim=(1, 2)).tolist() == real
    assert levels(13, 4).masks == (None,) * 4


def test_edges_see_blur_that_single_values_do_not():
    sharp = torch.zeros(1, 6, 8)
    sharp[..., ::2] = 1
    flat = torch.full_like(sharp, 0.5)
    mask = torch.ones(1, 1, 8)
    assert edges(flat, sharp, mask) == 1 and edges(1 - sharp, sharp, mask) == 2 and not edges(sharp + 3, sharp, mask)
    mask[..., 5:] = 0
    changed = sharp.clone()
    changed[..., 5:] = 9
    assert edges(flat, changed, mask) == edges(flat, sharp, mask)
