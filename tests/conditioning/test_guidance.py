"""Guidance: identities of its algebra; dropout: right share, independent routes, same choice in any batch."""

from __future__ import annotations

import pytest
import torch

from audiogen.conditioning.guidance import classifier_guided, drop, guided, scale_at
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition
from audiogen.core.rng import SampleRng


def pair():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 5, generator=rng), 2 * torch.randn(3, 4, 5, generator=rng) + 1


def test_scale_0_is_unconditional_and_1_is_conditional():
    conditional, free = pair()
    torch.testing.assert_close(guided(conditional, free, 0.0), free)
    torch.testing.assert_close(guided(conditional, free, 1.0), conditional)


def test_guiding_gaussians_moves_the_mean_as_bayes_says():
    # Scores of N(m, 1): -(x - m). p(x|c)^w / p(x)^(w-1) is again a Gaussian of variance 1, with mean m0 + w (m1 - m0).
    x, m0, m1, w = torch.linspace(-2, 2, 9)[None], 0.3, 1.1, 2.5
    torch.testing.assert_close(guided(-(x - m1), -(x - m0), w), -(x - (m0 + w * (m1 - m0))))


def test_scale_may_differ_in_the_batch():
    conditional, free = pair()
    together = guided(conditional, free, torch.tensor([0.0, 1.0, 3.0]))
    for i, scale in enumerate([0.0, 1.0, 3.0]):
        torch.testing.assert_close(together[i], guided(conditional[i : i + 1], free[i : i + 1], scale)[0])


def test_full_rescale_brings_the_spread_back():
    conditional, free = pair()
    strong = guided(conditional, free, 7.0)
    back = guided(conditional, free, 7.0, rescale=1.0)
    torch.testing.assert_close(back.std((1, 2)), conditional.std((1, 2)))
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(back.flatten(1), strong.flatten(1)), torch.ones(3))
    half = guided(conditional, free, 7.0, rescale=0.5)
    torch.testing.assert_close(half, (back + strong) / 2)


def test_interval_guides_only_inside():
    level = torch.tensor([0.1, 0.2, 0.5, 0.8, 0.9])
    assert scale_at(3.0, level, (0.2, 0.8)).tolist() == [1.0, 1.0, 3.0, 3.0, 1.0]
    assert scale_at(3.0, level, None).tolist() == [3.0] * 5
    assert float(scale_at(3.0, 0.5, (0.2, 0.8))) == 3.0
    with pytest.raises(UserError, match="empty"):
        scale_at(3.0, level, (0.8, 0.2))


def condition(batch: int) -> Condition:
    return Condition(
        vector=torch.ones(batch, 6), tokens=torch.ones(batch, 2, 6), mask=torch.ones(batch, 2, dtype=torch.bool),
        aligned=torch.ones(batch, 5, 7),
    )


def test_each_route_is_dropped_whole_at_its_own_rate_and_independently():
    batch = 4000
    rates = {"vector": 0.1, "aligned": 0.4, "tokens": 0.25}
    dropped = drop(condition(batch), rates, SampleRng(0, step=3, ids=range(batch)))
    lost = {}
    for name, rate in rates.items():
        route = getattr(dropped, name).flatten(1)
        assert torch.equal(route.min(1).values, route.max(1).values)  # all or nothing, the "score given" row too
        lost[name] = route[:, 0] == 0
        assert abs(lost[name].float().mean() - rate) < 4 * (rate * (1 - rate) / batch) ** 0.5
    assert torch.equal(dropped.mask.any(1), ~lost["tokens"])
    both = (lost["vector"] & lost["aligned"]).float().mean()
    assert abs(both - 0.04) < 4 * (0.04 / batch) ** 0.5


def test_choice_depends_on_the_sample_and_not_on_its_company():
    rates = {"vector": 0.5, "aligned": 0.5}
    together = drop(condition(8), rates, SampleRng(1, step=2, ids=range(8)))
    for i in range(8):
        alone = drop(condition(1), rates, SampleRng(1, step=2, ids=[i]))
        assert torch.equal(alone.vector[0], together.vector[i]) and torch.equal(alone.aligned[0], together.aligned[i])
    without = drop(condition(8)._replace(aligned=None), rates, SampleRng(1, step=2, ids=range(8)))
    assert torch.equal(without.vector, together.vector)
    other_step = drop(condition(64), rates, SampleRng(1, step=3, ids=range(64))).vector
    assert not torch.equal(other_step, drop(condition(64), rates, SampleRng(1, step=2, ids=range(64))).vector)


def test_nothing_asked_nothing_dropped():
    whole = condition(3)
    assert all(a is b for a, b in zip(drop(whole, {}, SampleRng(0, ids=range(3))), whole, strict=True))


@pytest.mark.parametrize(("rates", "says"), [({"vektor": 0.1}, "vector"), ({"vector": 1.5}, "0 to 1")])
def test_bad_rates_are_refused(rates, says):
    with pytest.raises(UserError, match=says):
        drop(condition(1), rates, SampleRng(0, ids=[0]))


def test_the_true_classifier_makes_the_class_own_denoiser_of_the_unconditional_one():
    """Two classes, N(-1, 0.5) and N(2, 1): both denoisers and the classifier of noisy data are known exactly."""
    means, variances = torch.tensor([-1.0, 2.0]), torch.tensor([0.25, 1.0])

    def log_density(x, sigma):  # of each class at noise level sigma, (batch, 2)
        return torch.distributions.Normal(means, (variances + sigma[:, None] ** 2).sqrt()).log_prob(x)

    def of_class(x, sigma):  # (batch, 2)
        return (x * variances + means * sigma[:, None] ** 2) / (variances + sigma[:, None] ** 2)

    def unconditional(x, sigma):
        return (log_density(x, sigma).softmax(dim=1) * of_class(x, sigma)).sum(dim=1, keepdim=True)

    def second(x, sigma):  # log p(class 1 | x)
        return log_density(x, sigma).log_softmax(dim=1)[:, 1]

    x, sigma = torch.linspace(-4, 5, 50)[:, None], torch.linspace(0.1, 6, 50)
    steered = classifier_guided(unconditional, second, 1.0)(x, sigma)
    torch.testing.assert_close(steered, of_class(x, sigma)[:, 1:], rtol=1e-4, atol=1e-4)
    assert torch.equal(classifier_guided(unconditional, second, 0.0)(x, sigma), unconditional(x, sigma))
