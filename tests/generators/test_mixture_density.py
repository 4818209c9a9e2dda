"""The likelihood is that of the textbook, in float64, by quadrature and far out; what is drawn has its moments."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, LowRankMultivariateNormal, MixtureSameFamily

from audiogen.generators.mixture_density import Mixture, MixtureDensity, draw, log_likelihood, mixture_mean


def mixture(shape, components, dim, dtype=torch.float64, seed=0) -> Mixture:
    source = torch.Generator().manual_seed(seed)
    randn = lambda *size: torch.randn(*size, generator=source, dtype=dtype)  # noqa: E731
    return Mixture(randn(*shape, components), 2 * randn(*shape, components, dim), 0.5 * randn(*shape, components, dim))


def directions(components, dim, rank, seed=1):
    return torch.randn(components, dim, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rank", [0, 1, 3, 9])
def test_the_likelihood_is_that_of_torch_distributions(rank):
    made, turns = mixture((4, 3), 5, 7), directions(5, 7, rank)
    spread = made.log_spread.exp()
    factor = spread.unsqueeze(-1) * (turns if rank else torch.zeros(5, 7, 1, dtype=torch.float64))
    oracle = MixtureSameFamily(
        Categorical(logits=made.logits), LowRankMultivariateNormal(made.mean, factor, spread.square())
    )
    x = 3 * torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(log_likelihood(x, made, turns), oracle.log_prob(x))
    torch.testing.assert_close(mixture_mean(made), oracle.mean)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_density_integrates_to_one(rank):
    made, turns = mixture((), 3, 2), directions(3, 2, rank)
    line = torch.linspace(-30, 30, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    density = log_likelihood(grid, made, turns).exp()
    assert float(density.sum() * (line[1] - line[0]) ** 2) == pytest.approx(1, abs=1e-5)


def test_float32_agrees_with_float64_far_out_and_with_extreme_weights():
    made, turns = mixture((64,), 4, 160), directions(4, 160, 8)
    made = made._replace(logits=1000 * made.logits, log_spread=made.log_spread.clamp(-4, 1.5))
    x = 100 * torch.randn(64, 160, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = log_likelihood(x, made, turns)
    single = [part.float().requires_grad_(True) for part in (*made, turns)]
    found = log_likelihood(x.float(), Mixture(*single[:3]), single[3])
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)
    found.sum().backward()
    assert all(torch.isfinite(part.grad).all() for part in single)


def test_what_is_drawn_has_the_mixtures_mean_and_covariance():
    count = 40_000
    one, turns = mixture((1,), 3, 4), directions(3, 4, 2)
    many = Mixture(*(part.expand(count, *part.shape[1:]) for part in one))
    source = torch.Generator().manual_seed(5)
    x = draw(
        many, turns, which=torch.rand(count, generator=source, dtype=torch.float64),
        noise=torch.randn(count, 6, generator=source, dtype=torch.float64),
    )
    weights, mean = torch.softmax(one.logits[0], -1), one.mean[0]
    spread = one.log_spread[0].exp()
    within = torch.diag_embed(spread.square()) + (spread[..., None] * turns) @ (spread[..., None] * turns).mT
    centred = mean - weights @ mean
    covariance = (weights[:, None, None] * (within + centred[:, :, None] * centred[:, None])).sum(0)
    scale = covariance.diagonal().sqrt()
    assert ((x.mean(0) - weights @ mean).abs() < 5 * scale / math.sqrt(count)).all()
    assert ((torch.cov(x.T) - covariance).abs() < 0.05 * scale[:, None] * scale).all()


def test_temperature_zero_draws_the_mean_of_the_likeliest_component():
    made, turns = mixture((6,), 3, 4), directions(3, 4, 2)
    which = torch.linspace(0, 0.999, 6, dtype=torch.float64)
    noise = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = draw(made, turns, which=which, noise=noise, temperature=0.0)
    torch.testing.assert_close(found, made.mean[torch.arange(6), made.logits.argmax(-1)])


def test_a_new_layer_has_unit_spreads_and_learns_its_directions():
    torch.manual_seed(0)
    layer = MixtureDensity(8, 5, components=2, rank=3)
    made = layer(torch.zeros(3, 8), torch.zeros(3, 5))
    assert made.log_spread.abs().max() < 0.3
    layer.log_likelihood(torch.randn(3, 5), made).sum().backward()
    assert layer.directions.grad.abs().min() > 0
