"""The known part comes back as it is, and the rest is drawn given it: on Gaussians the conditional moments return."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.diffusion import MelDiffusion, MelDiffusionConfig, Sampling
from audiogen.generators.inpainting import Known, begin, keeping
from audiogen.generators.networks.gated import GatedConfig
from audiogen.generators.objectives import make_objective
from audiogen.generators.samplers import find_sampler

CORRELATION, GIVEN, DRAWS = 0.8, 1.5, 8000
COVARIANCE = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]])


def exact(x, sigma):
    """The denoiser of a Gaussian of two correlated frames; x (batch, 1, 2)."""
    noisy = COVARIANCE + sigma[0] ** 2 * torch.eye(2)
    return x @ torch.linalg.solve(noisy, COVARIANCE)


def completed(sampler: str, steps: int, guide) -> torch.Tensor:
    sigmas = make_objective("rectified_flow").sigmas(steps)
    noise = sigmas[0] * torch.randn(DRAWS, 1, 2, generator=torch.Generator().manual_seed(0))
    known = torch.full((DRAWS, 1, 2), GIVEN)
    fixed = torch.tensor([True, False]).expand(DRAWS, 1, 2)
    start, sigmas = begin(known, fixed, noise, sigmas, 1.0)
    return find_sampler(sampler)(guide(known, fixed), start, sigmas)[:, 0]


def replaced(known, fixed):
    return lambda x, sigma: torch.where(fixed, known, exact(x, sigma))


@pytest.mark.parametrize("sampler, steps", [("dpmpp_2m", 8), ("dpmpp_2m", 16), ("euler", 16)])
def test_the_rest_has_the_conditional_mean_and_spread(sampler, steps):
    made = completed(sampler, steps, lambda known, fixed: keeping(exact, known, fixed))
    assert torch.equal(made[:, 0], torch.full((DRAWS,), GIVEN))
    mean, spread = CORRELATION * GIVEN, math.sqrt(1 - CORRELATION**2)
    assert made[:, 1].mean() == pytest.approx(mean, rel=0.12)
    assert made[:, 1].std() == pytest.approx(spread, rel=0.15)


def test_replacement_alone_would_leave_the_rest_half_ignorant():
    made = completed("dpmpp_2m", 8, replaced)
    assert made[:, 1].mean() < 0.6 * CORRELATION * GIVEN


@pytest.fixture(scope="module")
def model() -> MelDiffusion:
    torch.manual_seed(0)
    tiny = GatedConfig(width=16, depth=2, modulation=16)
    made = MelDiffusion(MelDiffusionConfig(gated=tiny, coarse=tiny, sampling=Sampling(steps=4))).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


FRAMES = 40


def sample(model, known=None, seed=0):
    with torch.no_grad():
        return model.sample(Condition(), FRAMES, rng=SampleRng(seed, ids=[0]), known=known)


def test_a_model_keeps_the_known_frames_and_draws_the_others(model):
    mel = torch.randn(1, MelFormat().n_mels, FRAMES) - 5
    mask = torch.ones(1, FRAMES, dtype=torch.bool)
    mask[:, 15:25] = False
    first, other = (sample(model, Known(mel, mask), seed) for seed in (0, 1))
    assert torch.equal(first[:, :, mask[0]], mel[:, :, mask[0]])
    assert torch.isfinite(first).all() and not torch.equal(first[:, :, 15:25], other[:, :, 15:25])
    changed = mel.clone()
    changed[:, :, :15] += 2.0  # what is known is heard by what is not
    assert not torch.equal(sample(model, Known(changed, mask))[:, :, 15:25], first[:, :, 15:25])
    assert torch.equal(sample(model, Known(mel, mask)), first)


def test_less_strength_stays_nearer_to_what_was_there(model):
    mel = sample(model, seed=7)
    mask = torch.zeros(1, FRAMES, dtype=torch.bool)
    away = [float((sample(model, Known(mel, mask, strength), seed=1) - mel).abs().mean())
            for strength in (0.25, 0.5, 1.0)]
    assert away == sorted(away) and away[0] < 0.8 * away[-1]


@pytest.mark.parametrize("bad, error", [
    (Known(torch.zeros(1, 80, FRAMES - 1), torch.zeros(1, FRAMES, dtype=torch.bool)), ValueError),
    (Known(torch.zeros(1, 80, FRAMES), torch.zeros(1, FRAMES)), ValueError),
    (Known(torch.zeros(1, 80, FRAMES), torch.zeros(1, FRAMES, dtype=torch.bool), 0.0), UserError),
])
def test_what_does_not_fit_is_refused(model, bad, error):
    with pytest.raises(error, match="known mel|strength"):
        sample(model, bad)
