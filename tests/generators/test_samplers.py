"""Oracle: the exact score of a two-dimensional Gaussian mixture, and the closed form of the ODE for one Gaussian.

The "network" of each objective is its paper's own conditional expectation (of noise, v, velocity ...) as a function of
the paper's own input and of the level that c_noise tells, so preconditioning, schedule and sampler are all on trial.
"""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.generators.objectives import EDM, OBJECTIVES, DDPMEpsilon, RectifiedFlow, VPrediction, denoiser
from audiogen.generators.samplers import (
    SAMPLERS,
    evaluations,
    find_sampler,
    sample_ddim,
    sample_ddpm,
    sample_euler,
    sample_heun,
)

# Unit-scale data, unequal weights, one narrow, one wide, one correlated component.
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[-1.6, 0.8], [0.9, 0.5], [0.1, -1.5]], dtype=torch.float64)
COVARIANCES = torch.tensor(
    [[[0.02, 0.0], [0.0, 0.3]], [[0.2, 0.12], [0.12, 0.1]], [[0.15, -0.05], [-0.05, 0.05]]], dtype=torch.float64
)
MEAN = WEIGHTS @ MEANS
COVARIANCE = torch.einsum("k,kij->ij", WEIGHTS, COVARIANCES) + torch.einsum(
    "k,ki,kj->ij", WEIGHTS, MEANS - MEAN, MEANS - MEAN
)
BATCH, POINTS = 4, 1500  # a "clip" is 1500 points of the plane: 6000 samples in all
SAMPLES = BATCH * POINTS


def mixture_denoiser(x, sigma):
    """E[x0 | x0 + sigma noise = x] for the mixture. x (batch, points, 2), sigma (batch,)."""
    noisy = COVARIANCES + sigma[:, None, None, None] ** 2 * torch.eye(2, dtype=x.dtype)  # (batch, k, 2, 2)
    inverse = torch.linalg.inv(noisy)
    offset = x[:, :, None] - MEANS  # (batch, points, k, 2)
    solved = torch.einsum("bkij,bpkj->bpki", inverse, offset)
    log_density = WEIGHTS.log() - 0.5 * torch.logdet(noisy)[:, None] - 0.5 * (offset * solved).sum(-1)
    responsibility = log_density.softmax(-1)
    centre = MEANS + torch.einsum("kij,bpkj->bpki", COVARIANCES, solved)
    return (responsibility[..., None] * centre).sum(2)


def exact_network(objective):
    """The network that this objective's paper would learn from endless data: F(c_in x, c_noise)."""

    def network(z, c_noise):
        c = c_noise[:, None, None]
        if isinstance(objective, RectifiedFlow):
            t = (c + 1) / 2
            x, sigma = z / (1 - t), t / (1 - t)
            x0 = mixture_denoiser(x, sigma[:, 0, 0])
            return (x - x0) / sigma - x0  # E[noise - x0 | x]
        if isinstance(objective, EDM):
            sigma, d = torch.exp(4 * c), objective.sigma_data
            x = z * torch.sqrt(sigma**2 + d**2)
            x0 = mixture_denoiser(x, sigma[:, 0, 0])
            return (x0 - d**2 / (sigma**2 + d**2) * x) * torch.sqrt(sigma**2 + d**2) / (sigma * d)
        t = (c + 1) / 2
        if objective.schedule == "cosine":
            alpha = torch.cos(math.pi * t / 2)
        else:
            alpha = torch.exp(-(19.9 * t**2 / 4) - 0.1 * t / 2)
        s = torch.sqrt(1 - alpha**2)
        x0 = mixture_denoiser(z / alpha, (s / alpha)[:, 0, 0])
        noise = (z - alpha * x0) / s
        return noise if isinstance(objective, DDPMEpsilon) else alpha * noise - s * x0

    return network


def draw_mixture(seed):
    source = torch.Generator().manual_seed(seed)
    which = torch.multinomial(WEIGHTS, SAMPLES, replacement=True, generator=source)
    normal = torch.randn(SAMPLES, 2, dtype=torch.float64, generator=source)
    points = MEANS[which] + torch.einsum("pij,pj->pi", torch.linalg.cholesky(COVARIANCES)[which], normal)
    return points.reshape(BATCH, POINTS, 2)


def assert_mixture(x, *, sigmas=4.5, bias=0.0):
    """Mean, covariance and component weights within `sigmas` standard errors plus `bias` (the sampler's step error)."""
    x = x.reshape(-1, 2)
    assert x.isfinite().all()
    error = (COVARIANCE.diagonal() / SAMPLES).sqrt()
    assert ((x.mean(0) - MEAN).abs() <= sigmas * error + bias).all(), (x.mean(0), MEAN)
    centred = x - MEAN
    products = centred[:, :, None] * centred[:, None]
    error = products.std(0) / math.sqrt(SAMPLES)
    assert ((products.mean(0) - COVARIANCE).abs() <= sigmas * error + bias).all(), (products.mean(0), COVARIANCE)
    # The components hardly overlap, so the share of points that each most probably made is its weight ...
    offset = x[:, None] - MEANS
    distance = torch.einsum("pki,kij,pkj->pk", offset, torch.linalg.inv(COVARIANCES), offset)
    nearest = (WEIGHTS.log() - torch.logdet(COVARIANCES) / 2 - distance / 2).argmax(1)
    share = torch.bincount(nearest, minlength=3) / SAMPLES
    error = (WEIGHTS * (1 - WEIGHTS) / SAMPLES).sqrt()
    assert ((share - WEIGHTS).abs() <= sigmas * error + bias + 0.003).all(), (share, WEIGHTS)
    # ... and each component has its own covariance, not the average one.
    for k in range(3):
        own = torch.cov(x[nearest == k].T)
        assert ((own - COVARIANCES[k]).abs() <= 0.15 * COVARIANCES[k].diagonal().max() + bias).all(), (k, own)


OBJECTIVE_CASES = {
    **{name: cls() for name, cls in OBJECTIVES.items()},
    "ddpm_epsilon_cosine": DDPMEpsilon(schedule="cosine"), "v_linear": VPrediction(schedule="linear"),
}
STEPS = {"ddpm": 250, "ddim": 250, "euler": 250, "dpmpp_2m": 60, "heun": 60}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", OBJECTIVE_CASES)
def test_every_pair_recovers_the_mixture(name, sampler):
    objective = OBJECTIVE_CASES[name]
    sigmas = objective.sigmas(STEPS[sampler])
    x = sigmas[0] * SampleRng(0, ids=range(BATCH)).randn(POINTS, 2).double()
    rng = SampleRng(1, ids=range(BATCH)) if sampler == "ddpm" else None
    x = SAMPLERS[sampler](denoiser(objective, exact_network(objective)), x, sigmas, rng=rng)
    assert_mixture(x, bias=0.01)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_shallow_start_keeps_the_marginal(name, sampler):
    """x0 + start * noise, walked down from `start`, is distributed as x0 again."""
    objective, start = OBJECTIVES[name](), 0.6
    sigmas = objective.sigmas(STEPS[sampler] // 2, start=start)
    x = draw_mixture(3) + sigmas[0] * SampleRng(4, ids=range(BATCH)).randn(POINTS, 2).double()
    rng = SampleRng(5, ids=range(BATCH)) if sampler == "ddpm" else None
    assert_mixture(SAMPLERS[sampler](denoiser(objective, exact_network(objective)), x, sigmas, rng=rng), bias=0.01)


def test_the_oracle_draws_and_judges_the_mixture():
    assert_mixture(draw_mixture(0))
    with pytest.raises(AssertionError):
        assert_mixture(draw_mixture(0) * 1.05)
    with pytest.raises(AssertionError):
        assert_mixture(draw_mixture(0).flip(-1))


@pytest.mark.parametrize("sampler, order", [("euler", 1), ("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_order_of_convergence(sampler, order):
    """For N(0, c^2) data, D = c^2 x / (c^2 + sigma^2) and x_sigma / sqrt(c^2 + sigma^2) is constant along the ODE."""
    c, high, low = 0.7, 8.0, 0.05

    def denoise(x, sigma):
        return c**2 * x / (c**2 + sigma[:, None] ** 2)

    x = torch.ones(1, 1, dtype=torch.float64) * high
    exact = high * math.sqrt((c**2 + low**2) / (c**2 + high**2))
    errors = []
    for steps in (32, 64, 128):
        sigmas = torch.logspace(math.log10(high), math.log10(low), steps + 1, dtype=torch.float64)
        errors.append(abs(SAMPLERS[sampler](denoise, x, sigmas).item() - exact))
    orders = [math.log2(a / b) for a, b in zip(errors[:-1], errors[1:], strict=True)]
    assert all(abs(measured - order) < 0.25 for measured in orders), (errors, orders)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_to_zero_is_the_denoiser_itself(sampler):
    x = torch.randn(2, 3, 5)
    out = SAMPLERS[sampler](lambda x, sigma: 0.25 * x + sigma[:, None, None], x, torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(out, 0.25 * x + 2.0)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m", "heun"])
def test_deterministic_samplers_leave_the_rng_and_the_start_alone(sampler):
    rng, twin = SampleRng(0, ids=[1, 2]), SampleRng(0, ids=[1, 2])
    x = torch.ones(2, 4)
    SAMPLERS[sampler](lambda x, sigma: 0.5 * x, x, EDM().sigmas(5), rng=rng)
    assert torch.equal(rng.randn(3), twin.randn(3))
    assert torch.equal(x, torch.ones(2, 4))


def test_ancestral_sampling_depends_on_the_sample_and_not_on_its_neighbours():
    denoise, sigmas = lambda x, sigma: 0.5 * x, RectifiedFlow().sigmas(6)  # noqa: E731
    together = sample_ddpm(denoise, torch.ones(3, 4), sigmas, rng=SampleRng(0, ids=[7, 8, 9]))
    alone = sample_ddpm(denoise, torch.ones(1, 4), sigmas, rng=SampleRng(0, ids=[8]))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_ancestral_sampling_without_rng_says_so():
    with pytest.raises(UserError, match="give it an rng"):
        sample_ddpm(lambda x, sigma: x, torch.ones(1, 2), EDM().sigmas(3))
    with pytest.raises(UserError, match="eta"):
        sample_ddim(lambda x, sigma: x, torch.ones(1, 2), EDM().sigmas(3), eta=0.5)


def test_ddim_is_euler_at_eta_0_and_ddpm_at_eta_1():
    def denoise(x, sigma):
        return torch.tanh(x) / (1 + sigma[:, None])

    x, sigmas = 80 * torch.randn(2, 6, dtype=torch.float64), EDM().sigmas(9)
    torch.testing.assert_close(sample_ddim(denoise, x, sigmas), sample_euler(denoise, x, sigmas))
    ancestral = sample_ddpm(denoise, x, sigmas, rng=SampleRng(0, ids=[0, 1]))
    torch.testing.assert_close(sample_ddim(denoise, x, sigmas, rng=SampleRng(0, ids=[0, 1]), eta=1.0), ancestral)


def test_ddim_between_the_two_keeps_the_marginal():
    objective = VPrediction()
    sigmas = objective.sigmas(250)
    x = sigmas[0] * SampleRng(0, ids=range(BATCH)).randn(POINTS, 2).double()
    out = sample_ddim(
        denoiser(objective, exact_network(objective)), x, sigmas, rng=SampleRng(1, ids=range(BATCH)), eta=0.5
    )
    assert_mixture(out, bias=0.01)


def test_an_euler_step_is_the_flows_own_euler_step():
    """Walking dx_t / dt = velocity in t, from t = 0.999 to 0, gives what `sample_euler` gives in sigma."""
    objective = RectifiedFlow()

    def velocity(z, c_noise):
        return torch.tanh(z) * (1 + c_noise[:, None])

    sigmas = objective.sigmas(7).double()
    noise = torch.randn(2, 5, dtype=torch.float64)
    t = sigmas / (1 + sigmas)
    z = t[0] * noise
    for now, below in zip(t[:-1], t[1:], strict=True):
        z = z + (below - now) * velocity(z, (2 * now - 1).expand(2))
    torch.testing.assert_close(sample_euler(denoiser(objective, velocity), sigmas[0] * noise, sigmas), z)


def test_second_order_beats_first_for_the_same_number_of_evaluations():
    """What 16 evaluations of the flow leave of the distance to the converged end point."""
    objective = RectifiedFlow()
    denoise = denoiser(objective, exact_network(objective))

    def run(sampler, steps):
        sigmas = objective.sigmas(steps)
        return sampler(denoise, sigmas[0] * SampleRng(0).randn(300, 2).double(), sigmas)

    end = run(sample_heun, 300)
    first, second = ((run(SAMPLERS[name], 16) - end).abs().mean() for name in ("euler", "dpmpp_2m"))
    assert second < 0.7 * first, (first, second)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_stated_number_of_evaluations(sampler):
    calls = []

    def denoise(x, sigma):
        assert sigma.shape == (2,)
        calls.append(sigma[0].item())
        return 0.5 * x

    SAMPLERS[sampler](denoise, torch.ones(2, 3), EDM().sigmas(11), rng=SampleRng(0, ids=[0, 1]))
    assert len(calls) == evaluations(sampler, 11)
    assert min(calls) > 0, "the network is never asked about a level of 0"


def test_unknown_sampler_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="dpmpp_2m"):
        find_sampler("dpmpp2m")
