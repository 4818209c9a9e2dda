"""Oracles: the papers' losses written out in their own coordinates, and their noise schedules."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.generators.objectives import (
    EDM,
    OBJECTIVES,
    DDPMEpsilon,
    RectifiedFlow,
    VPrediction,
    denoiser,
    make_objective,
    per_item,
)

ALL = [
    DDPMEpsilon(), DDPMEpsilon(schedule="cosine"), VPrediction(), VPrediction(schedule="linear"), EDM(),
    EDM(sigma_data=0.5, log_mean=-1.2 + math.log(2)), RectifiedFlow(), RectifiedFlow(time="uniform"),
]
UNIFORM = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000


def names(objective) -> str:
    return str(objective).replace(" ", "")


def textbook_loss(objective, f, x0, noise, sigma):
    """Each paper's squared error on its own target, from x0, noise and the network's answer f; (batch, 1)."""
    alpha = 1 / torch.sqrt(1 + sigma**2)  # variance preserving
    s = sigma / torch.sqrt(1 + sigma**2)
    if isinstance(objective, DDPMEpsilon):
        return (f - noise) ** 2  # Ho et al. 2020, eq. 14
    if isinstance(objective, VPrediction):
        return (f - (alpha * noise - s * x0)) ** 2  # Salimans & Ho 2022, eq. after (10)
    if isinstance(objective, RectifiedFlow):
        return (f - (noise - x0)) ** 2  # Liu et al. 2022, eq. 1, with time running from data to noise
    d = objective.sigma_data  # Karras et al. 2022, eq. 8
    c_skip, c_out = d**2 / (sigma**2 + d**2), sigma * d / torch.sqrt(sigma**2 + d**2)
    weight = (sigma**2 + d**2) / (sigma * d) ** 2
    return weight * c_out**2 * (f - (x0 - c_skip * (x0 + noise * sigma)) / c_out) ** 2


def textbook_input(objective, x0, noise, sigma):
    if isinstance(objective, RectifiedFlow):
        t = sigma / (1 + sigma)
        return (1 - t) * x0 + t * noise
    if isinstance(objective, EDM):
        return (x0 + sigma * noise) / torch.sqrt(sigma**2 + objective.sigma_data**2)
    return (x0 + sigma * noise) / torch.sqrt(1 + sigma**2)  # alpha x0 + s noise


@pytest.mark.parametrize("objective", ALL, ids=names)
def test_weighted_error_is_the_papers_own_loss(objective):
    torch.manual_seed(0)
    x0, noise, f = torch.randn(3, 16, 5, dtype=torch.float64)
    sigma = torch.logspace(-2, 2, 16, dtype=torch.float64)
    seen = []

    def network(x, noise_level):
        seen.append(x)
        return f

    denoised = denoiser(objective, network)(x0 + per_item(sigma, x0) * noise, sigma)
    loss = per_item(objective.weight(sigma), x0) * (denoised - x0) ** 2
    torch.testing.assert_close(loss, textbook_loss(objective, f, x0, noise, sigma[:, None]), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(seen[0], textbook_input(objective, x0, noise, sigma[:, None]))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_sigma_data_rescales_the_data(name):
    """A model of data twice as large is the same model: D(2 x; 2 sigma) = 2 D'(x; sigma), with the same loss."""
    torch.manual_seed(0)
    x, f = torch.randn(2, 6, 4, dtype=torch.float64)
    sigma = torch.logspace(-2, 2, 6, dtype=torch.float64)
    one, two = make_objective(name), make_objective(name, sigma_data=2.0)
    small = denoiser(one, lambda x, c_noise: f + x)(x, sigma)
    large = denoiser(two, lambda x, c_noise: f + x)(2 * x, 2 * sigma)
    torch.testing.assert_close(large, 2 * small)
    torch.testing.assert_close(4 * two.weight(2 * sigma), one.weight(sigma))


@pytest.mark.parametrize("objective", ALL, ids=names)
def test_drawn_levels_follow_the_training_distribution(objective):
    sigma = objective.draw_sigma(UNIFORM)
    assert (sigma[1:] >= sigma[:-1]).all(), "an inverse CDF rises"
    assert sigma.min() >= objective.sigma_min * 0.999 and sigma.max() <= objective.sigma_max * 1.001
    if isinstance(objective, (EDM, RectifiedFlow)) and getattr(objective, "time", "") != "uniform":
        mean, std = sigma.log().mean().item(), sigma.log().std().item()
        if isinstance(objective, EDM):  # -0.5 at sigma_data 1, the paper's -1.2 at 0.5
            assert mean == pytest.approx(-0.5 if objective.sigma_data == 1 else -1.2, abs=0.01)
            assert std == pytest.approx(1.2, abs=0.01)
        else:  # logit(t) ~ N(0, 1)
            assert (mean, std) == pytest.approx((0.0, 1.0), abs=0.01)
    elif isinstance(objective, RectifiedFlow):
        t = sigma / (1 + sigma)
        torch.testing.assert_close(t, UNIFORM, rtol=0, atol=2e-3)
    else:  # uniform in the schedule's own time, by its alpha
        alpha = (1 + sigma**2).rsqrt()
        t = torch.arccos(alpha) * 2 / math.pi if objective.schedule == "cosine" else _linear_time(alpha)
        torch.testing.assert_close(t, UNIFORM, rtol=0, atol=8e-3)  # sigma_min and sigma_max cut the ends
    extremes = objective.draw_sigma(torch.tensor([0.0, 1 - 2**-24]))
    assert extremes.isfinite().all() and (extremes > 0).all()


def _linear_time(alpha):
    """Time of the linear schedule by bisection on ln alpha = -(19.9 t^2 / 4 + 0.1 t / 2) (Song et al. 2021, eq. 33)."""
    low, high = torch.zeros_like(alpha), torch.ones_like(alpha)
    for _ in range(40):
        middle = (low + high) / 2
        cleaner = -(19.9 * middle**2 / 4 + 0.1 * middle / 2) > alpha.log()
        low, high = torch.where(cleaner, middle, low), torch.where(cleaner, high, middle)
    return low


def test_linear_schedule_is_ddpms_thousand_steps():
    """Ho et al. 2020: beta from 1e-4 to 0.02; the continuous schedule passes its noise levels within 5 %."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    ours = DDPMEpsilon(sigma_max=152.0).sigmas(1000).double()[:-1].flip(0)
    torch.testing.assert_close(ours[10:], sigma[10:], rtol=0.05, atol=0)


def test_edm_levels_are_eq_5():
    rho, high, low, steps = 7, 80.0, 0.002, 9
    ends = high ** (1 / rho), low ** (1 / rho)
    expected = [(ends[0] + i / (steps - 1) * (ends[1] - ends[0])) ** rho for i in range(steps)]
    torch.testing.assert_close(EDM().sigmas(steps), torch.tensor([*expected, 0.0]))


def test_flow_levels_are_uniform_in_t():
    sigma = RectifiedFlow().sigmas(8).double()
    torch.testing.assert_close(sigma / (1 + sigma), torch.linspace(1000 / 1001, 0, 9, dtype=torch.float64))


@pytest.mark.parametrize("objective", ALL, ids=names)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_levels_walk_from_the_start_down_to_zero(objective, steps):
    for start in (None, 0.7, objective.sigma_max):
        sigmas = objective.sigmas(steps, start=start)
        assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float32
        assert sigmas[0].item() == pytest.approx(objective.sigma_max if start is None else start, rel=1e-4)
        assert sigmas[-1] == 0 and (sigmas[1:] < sigmas[:-1]).all()


@pytest.mark.parametrize("objective", ALL, ids=names)
def test_network_is_told_the_level_in_a_small_range_and_without_ties(objective):
    c_noise = objective.precondition(objective.draw_sigma(UNIFORM[::10])).c_noise
    assert c_noise.abs().max() < 1.6
    if not isinstance(objective, EDM):
        assert c_noise.abs().max() <= 1
    assert (c_noise[1:] > c_noise[:-1]).all()


@pytest.mark.parametrize("objective", ALL, ids=names)
def test_impossible_walks_are_refused_with_the_value(objective):
    with pytest.raises(UserError, match="0 sampling steps"):
        objective.sigmas(0)
    with pytest.raises(UserError, match="5000"):
        objective.sigmas(4, start=5000.0)
    with pytest.raises(UserError, match="noise level 0 "):
        objective.sigmas(4, start=0.0)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="rectified_flow"):
        make_objective("rectified")
    with pytest.raises(UserError, match="cosin"):
        VPrediction(schedule="cosin")
    with pytest.raises(UserError, match="logit_normal"):
        RectifiedFlow(time="lognormal")
