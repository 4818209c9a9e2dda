"""The classifier of noisy mels: its likelihood, and guidance by it."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.rng import SampleRng
from audiogen.generators.diffusion import MelDiffusion, MelDiffusionConfig, Sampling
from audiogen.generators.networks.gated import GatedConfig
from audiogen.generators.style_classifier import StyleClassifier

TINY = GatedConfig(width=16, depth=2, modulation=16, means=(), bands=1)
FRAMES = 16


def test_the_likelihood_is_that_of_a_diagonal_gaussian_and_padding_does_not_count():
    torch.manual_seed(0)
    classifier = StyleClassifier(TINY, channels=6, vector_dim=5)
    x, level, vector = torch.randn(3, 6, FRAMES), torch.zeros(3), torch.randn(3, 5)
    mean, log_spread = classifier(x, level)
    expected = torch.distributions.Normal(mean, log_spread.exp()).log_prob(vector).mean(dim=1)
    torch.testing.assert_close(classifier.log_probability(x, level, vector), expected)
    mask = torch.ones(3, 1, FRAMES)
    torch.testing.assert_close(classifier.log_probability(x, level, vector, mask), expected)
    mask[:, :, -1] = 0
    assert not torch.allclose(classifier.log_probability(x, level, vector, mask), expected)


@pytest.fixture(scope="module")
def model() -> MelDiffusion:
    """Trained a little: style k of four lies in mel bands 20 k .. 20 k + 19."""
    torch.manual_seed(0)
    made = MelDiffusion(MelDiffusionConfig(gated=TINY, coarse=None, classifier=TINY, vector_dim=4,
                                           sampling=Sampling(steps=8, guidance=1.0)))
    made.set_statistics(torch.full((80,), -5.0), torch.ones(80))
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    for step in range(120):
        vector = torch.eye(4)
        mel = torch.full((4, 80, FRAMES), -6.0)
        for style in range(4):
            mel[style, 20 * style : 20 * style + 20] = -3.0
        batch = Batch(torch.zeros(4, 1, 1), mel, torch.full((4,), FRAMES),
                      Condition(vector=vector, aligned=torch.zeros(4, 265, FRAMES)), torch.arange(4))
        losses = made.loss(batch, SampleRng(0, step=step, ids=range(4)))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["classifier"] < 0.5
    return made.eval()


def test_the_classifier_alone_leads_an_unconditional_model_to_the_style(model, monkeypatch):
    """The diffusion network is told no style; only the classifier's gradient knows it."""
    blind = model.denoise
    monkeypatch.setattr(model, "denoise", lambda x, sigma, condition, coarse: blind(
        x, sigma, condition._replace(vector=torch.zeros_like(condition.vector)), coarse))
    condition = Condition(vector=torch.eye(4).repeat(4, 1))

    def hits(scale: float) -> float:
        mel = model.sample(condition, FRAMES, rng=SampleRng(3, ids=range(16)),
                           sampling=Sampling(steps=16, guidance=1.0, classifier_guidance=scale, temperature=1.0))
        loudest = mel.mean(dim=2).reshape(16, 4, 20).mean(dim=2).argmax(dim=1)
        return float((loudest == torch.arange(16) % 4).float().mean())

    assert hits(0.0) < 0.6 and hits(8.0) > hits(0.0) + 0.25


def test_without_a_classifier_it_cannot_be_asked_for():
    plain = MelDiffusion(MelDiffusionConfig(gated=TINY, coarse=None, vector_dim=4))
    with pytest.raises(UserError, match="no classifier; train one with --preset diffusion_classifier"):
        plain.sample(Condition(), FRAMES, rng=SampleRng(0), sampling=Sampling(classifier_guidance=1.0))
