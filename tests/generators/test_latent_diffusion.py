from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.autoencoder import AutoencoderConfig
from audiogen.generators.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, Sampling, pooled
from audiogen.generators.networks.gated import GatedConfig

MELS, STYLE, ROLL = 10, 6, 5
FIRST = AutoencoderConfig(
    mel=MelFormat(n_mels=MELS), latent_dim=6, widths=(8, 8, 12, 12), modulation=8, vector_dim=STYLE, aligned_dim=ROLL,
    gaussian=True, kl=1.0,
)
TINY = LatentDiffusionConfig(
    mel=FIRST.mel, first=FIRST, gated=GatedConfig(width=16, depth=2, modulation=8, means=(), bands=1),
    vector_dim=STYLE, aligned_dim=ROLL,
)
MIDDLE = Sampling(temperature=1.0, guidance=1.0, grain=0.0, texture_grain=0.0)


def build(config=TINY):
    """A first stage that has something to say, and an untrained network above it."""
    torch.manual_seed(0)
    model = LatentDiffusion(config)
    for parameter in model.first.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch_of(count=3, frames=24, lengths=None):
    source = torch.Generator().manual_seed(1)
    condition = Condition(vector=torch.randn(count, STYLE, generator=source),
                          aligned=torch.rand(count, ROLL, frames, generator=source))
    mel = torch.randn(count, MELS, frames, generator=source) - 3
    return Batch(torch.zeros(count, 1, 1), mel, torch.tensor(lengths or [frames] * count), condition,
                 torch.arange(count))


@pytest.mark.parametrize("from_prior", [True, False])
def test_untrained_it_draws_from_the_autoencoders_prior(from_prior, monkeypatch):
    """EDM's denoiser of a network that says 0 is exact for N(0, 1): mean and deviation of z must come out."""
    model = build(replace(TINY, from_prior=from_prior))
    model.first.latent_mean.normal_(generator=torch.Generator().manual_seed(2))
    model.first.latent_std.fill_(1.7)
    seen = []
    decode = model.first.decode
    monkeypatch.setattr(model.first, "decode", lambda z, *rest, **named: seen.append(z) or decode(z, *rest, **named))
    count = 400
    condition = Condition(*(part[:1].expand(count, *part.shape[1:]) if part is not None else None
                            for part in batch_of(frames=16).condition))
    model.sample(condition, 16, rng=SampleRng(0, ids=range(count)), sampling=replace(MIDDLE, steps=40))
    prior = model.first.prior_of(condition, 16) if from_prior else None
    mean = prior.mean[0] if from_prior else model.first.latent_mean.expand(6, 2)
    deviation = prior.log_std[0].exp() if from_prior else model.first.latent_std.expand(6, 2)
    z = seen[0]
    assert ((z.mean(0) - mean).abs() < 4 * deviation / count**0.5).all()
    torch.testing.assert_close(z.std(0), deviation, rtol=0.15, atol=0)


def test_the_first_stage_is_frozen_and_travels_along():
    model, batch = build().train(), batch_of()
    before = {key: value.clone() for key, value in model.first.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        model.loss(batch, SampleRng(0, step=step, ids=batch.ids))["loss"].backward()
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.first.state_dict().items())
    assert all(parameter.grad is None for parameter in model.first.parameters())
    assert {f"first.{key}" for key in before} <= set(model.state_dict())


def test_what_is_diffused_has_unit_variance_where_the_prior_fits():
    """Latents that are drawn from the prior itself."""
    model, batch = build(replace(TINY, drop_vector=0.0, drop_aligned=0.0)), batch_of(64)
    prior = model.first.prior_of(batch.condition, 24)
    model.first.posterior = lambda mel, lengths: prior
    losses = model.loss(batch, SampleRng(0, ids=batch.ids))
    assert float(losses["spread"]) == pytest.approx(1.0, abs=0.05)
    assert float(losses["loss"].detach()) == pytest.approx(1.0, abs=0.1)  # EDM's loss of a network that says 0


@pytest.mark.parametrize("from_prior", [True, False])
def test_padding_neither_trains_nor_leaks(from_prior):
    model = build(replace(TINY, from_prior=from_prior))
    torch.nn.init.normal_(model.network.out.weight, std=0.3, generator=torch.Generator().manual_seed(3))
    batch = batch_of(2, lengths=[24, 11])
    other = batch._replace(mel=batch.mel.clone(), condition=batch.condition._replace(
        aligned=batch.condition.aligned.clone()))
    other.mel[1, :, 11:] = 7.0
    other.condition.aligned[1, :, 11:] = 3.0
    gradients = []
    for each in (batch, other):
        model.zero_grad()
        model.loss(each, SampleRng(0, ids=each.ids))["loss"].backward()
        gradients.append([parameter.grad.clone() for parameter in model.network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 7, 8, 13, 16])
def test_rolls_are_pooled_over_the_frames_that_are_there(frames):
    x = torch.randn(2, 3, frames, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([part.mean(dim=2) for part in x.split(8, dim=2)], dim=2)
    torch.testing.assert_close(pooled(x, 8), expected)
    mel = build().sample(Condition(aligned=torch.ones(2, ROLL, frames)), frames, rng=SampleRng(0, ids=[0, 1]))
    assert mel.shape == (2, MELS, frames)


def test_guidance_and_the_unwanted_style_change_what_is_drawn_and_nothing_else_does():
    model, condition = build(), batch_of(2).condition
    for layer in (model.network.out, *(block.modulate for block in model.network.layers)):
        torch.nn.init.normal_(layer.weight, std=0.3, generator=torch.Generator().manual_seed(3))

    def drawn(negative=None, **chosen):
        return model.sample(condition, 24, rng=SampleRng(0, ids=[0, 1]), negative=negative,
                            sampling=replace(MIDDLE, **chosen))

    plain, unwanted = drawn(), -condition.vector
    assert torch.equal(plain, drawn(unwanted))  # without guidance there is no away
    assert not torch.allclose(plain, drawn(guidance=3.0), atol=1e-3)
    assert not torch.allclose(drawn(guidance=3.0), drawn(unwanted, guidance=3.0), atol=1e-3)
    torch.testing.assert_close(plain, drawn(guidance=3.0, interval=(1e4, 1e5)))  # no level lies there


def test_mels_and_latents_are_the_autoencoders():
    model, mel = build(), batch_of().mel
    torch.testing.assert_close(model.encode(mel), model.first.encode(mel))
    torch.testing.assert_close(model.decode(model.encode(mel), 24), model.first.reconstruct(mel))
    torch.testing.assert_close(model.interpolate(mel, mel.flip(0), 0.3), model.first.interpolate(mel, mel.flip(0), 0.3))


def test_it_learns_what_the_prior_leaves_open():
    """All latents of a clip are one number: the prior cannot tell which, and its draws differ from frame to frame."""
    torch.manual_seed(0)
    model = LatentDiffusion(replace(TINY, drop_guide=0.0)).train()
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=1e-2)
    history = []
    for step in range(80):
        rng = SampleRng(0, step=step, ids=range(16))
        batch = batch_of(16)._replace(condition=Condition(torch.zeros(16, STYLE), aligned=torch.zeros(16, ROLL, 24)))
        z = rng.fork("clip").randn(1, 1).expand(16, 6, 3)
        model.first.draw = lambda q, rng, z=z: z
        losses = model.loss(batch, rng)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(float(losses["loss"].detach()))
    assert sum(history[-10:]) < 0.6 * sum(history[:5]) * 2


def test_what_does_not_fit_together_is_said():
    with pytest.raises(UserError, match="latent diffusion and its autoencoder"):
        LatentDiffusion(replace(TINY, mel=MelFormat(n_mels=MELS, sample_rate=24000, f_max=11025.0)))
    with pytest.raises(ValueError, match="autoencoder takes"):
        LatentDiffusion(replace(TINY, vector_dim=STYLE + 1))
    for fields in (dict(steps=0), dict(guidance=float("nan")), dict(texture_grain=3), dict(sampler="heunn")):
        with pytest.raises(UserError, match=next(iter(fields))):
            Sampling(**fields)
    with pytest.raises(UserError, match="objective"):
        replace(TINY, objective="edn")
