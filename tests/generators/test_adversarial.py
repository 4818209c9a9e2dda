"""The losses by hand, the penalties by discriminators whose slope is known, and all modes of a known mixture found."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from audiogen.core.errors import UserError
from audiogen.generators.adversarial import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    r1_penalty,
    weighted_mean,
)


def test_the_losses_are_those_of_the_papers():
    real, fake = torch.tensor([0.5, -2.0]), torch.tensor([1.5, -3.0])
    sigmoid = lambda v: 1 / (1 + math.exp(-v))  # noqa: E731
    mean = lambda *values: pytest.approx(sum(values) / 2, rel=1e-5)  # noqa: E731
    cross_entropy = [-math.log(sigmoid(r)) - math.log(1 - sigmoid(f)) for r, f in ((0.5, 1.5), (-2, -3))]
    assert float(discriminator_loss(real, fake, "non_saturating")) == mean(*cross_entropy)
    assert float(generator_loss(fake, "non_saturating")) == mean(-math.log(sigmoid(1.5)), -math.log(sigmoid(-3)))
    assert float(discriminator_loss(real, fake, "hinge")) == mean(0.5 + 2.5, 3 + 0)
    assert float(discriminator_loss(real, fake, "wgan")) == mean(1.0, -1.0)
    assert float(generator_loss(fake, "hinge")) == float(generator_loss(fake, "wgan")) == mean(-1.5, 3.0)
    with pytest.raises(UserError, match="wgan"):
        generator_loss(fake, "wgn")


def test_a_saturated_discriminator_still_moves_the_generator():
    fake = torch.tensor([-30.0], requires_grad=True)
    generator_loss(fake, "non_saturating").backward()
    assert float(fake.grad) == pytest.approx(-1)


def test_padding_has_no_weight():
    values, weight = torch.tensor([[1.0, 2, 3], [4, 50, 60]]), torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    assert float(weighted_mean(values, weight)) == pytest.approx((2 + 4) / 2)


def test_penalties_of_a_linear_discriminator():
    slope = torch.tensor([3.0, 4.0], requires_grad=True)  # of length 5 everywhere
    real, fake = torch.randn(6, 2), torch.randn(6, 2)
    made = gradient_penalty(lambda x: x @ slope, real, fake, torch.rand(6))
    assert float(made.detach()) == pytest.approx((5 - 1) ** 2)
    (found,) = torch.autograd.grad(made, slope)
    torch.testing.assert_close(found, 2 * (5 - 1) * slope.detach() / 5)  # d (|w| - 1)² / dw
    made = r1_penalty(lambda x: x @ slope, real)
    assert float(made.detach()) == pytest.approx(25 / 2)
    (found,) = torch.autograd.grad(made, slope)
    torch.testing.assert_close(found, slope.detach())


def test_penalties_of_a_quadratic_discriminator_are_taken_where_they_should_be():
    """D(x) = |x|² / 2 has the slope |x|: so the place shows in the value."""
    source = torch.Generator().manual_seed(0)
    real, fake = torch.randn(5, 3, 2, generator=source), torch.randn(5, 3, 2, generator=source)
    share = torch.rand(5, generator=source)
    half_square = lambda x: x.flatten(1).square().sum(1) / 2  # noqa: E731
    between = real + share[:, None, None] * (fake - real)
    expected = (between.flatten(1).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(gradient_penalty(half_square, real, fake, share), expected)
    torch.testing.assert_close(r1_penalty(half_square, real), real.flatten(1).square().sum(1).mean() / 2)


def test_a_generator_finds_every_mode_of_a_ring_of_gaussians():
    """Eight Gaussians on a circle (Metz et al. 2017): without a penalty of its slope the discriminator drives such a
    generator round the circle, a mode or two at a time."""
    torch.manual_seed(0)
    angle = torch.arange(8) * (math.pi / 4)
    centres = torch.stack((angle.cos(), angle.sin()), 1)
    generator = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    judge = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
    players = [torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.0, 0.99)) for net in (generator, judge)]
    for step in range(700):
        real = centres[torch.randint(8, (128,))] + 0.05 * torch.randn(128, 2)
        fake = generator(torch.randn(128, 4))
        players[0].zero_grad()
        generator_loss(judge(fake), "non_saturating").backward()
        players[0].step()
        players[1].zero_grad()
        loss = discriminator_loss(judge(real), judge(fake.detach()), "non_saturating")
        if step % 4 == 0:
            loss = loss + 4 * 0.1 * r1_penalty(lambda x: judge(x)[:, 0], real)
        loss.backward()
        players[1].step()
    with torch.no_grad():
        made = generator(torch.randn(2000, 4))
    away, mode = torch.cdist(made, centres).min(1)
    shares = torch.bincount(mode[away < 0.25], minlength=8) / 2000
    assert (shares > 0.03).all(), shares
    assert shares.sum() > 0.5
