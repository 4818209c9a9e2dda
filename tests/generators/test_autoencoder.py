from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.autoencoder import Autoencoder, AutoencoderConfig, Sampling

MELS, STYLE, ROLL = 10, 6, 5
TINY = AutoencoderConfig(
    mel=MelFormat(n_mels=MELS), latent_dim=12, widths=(8, 8, 12, 12), modulation=8, vector_dim=STYLE, aligned_dim=ROLL
)
GAUSSIAN = replace(TINY, gaussian=True, kl=1.0)
SEEING = dict(drop_vector=0.0, drop_aligned=0.0, blind=0.0)


def build(config=TINY, *, spoiled=0.2):
    """A model whose layers that begin at zero do something."""
    torch.manual_seed(0)
    model = Autoencoder(config)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=spoiled)
    return model.eval()


def batch_of(mel, lengths=None, seed=1):
    count, _, frames = mel.shape
    source = torch.Generator().manual_seed(seed)
    condition = Condition(vector=torch.randn(count, STYLE, generator=source),
                          aligned=torch.rand(count, ROLL, frames, generator=source))
    lengths = torch.tensor(lengths if lengths is not None else [frames] * count)
    return Batch(torch.zeros(count, 1, 1), mel, lengths, condition, torch.arange(count))


def mels(batch=2, frames=13, seed=0):
    return torch.randn(batch, MELS, frames, generator=torch.Generator().manual_seed(seed)) - 3


# ------------------------------------------------------------------------- shapes and lengths


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 16, 61])
@pytest.mark.parametrize("config", [TINY, GAUSSIAN], ids=["plain", "gaussian"])
def test_any_length_comes_back_exactly(frames, config):
    model, mel = build(config), mels(frames=frames)
    z = model.encode(mel)
    assert z.shape == (2, 12, math.ceil(frames / 8)) and model.decode(z, frames).shape == mel.shape
    assert model.sample(Condition(), frames, rng=SampleRng(0, ids=[0, 1])).shape == mel.shape
    with pytest.raises(ValueError, match="latents"):
        model.decode(z, frames + 8)


@pytest.mark.parametrize("frames", [8, 13])
def test_untrained_it_is_a_cosine_transform_and_back(frames):
    torch.manual_seed(0)
    model = Autoencoder(replace(TINY, latent_dim=8 * MELS)).eval()  # all terms of a patch: nothing is lost
    mel = mels(frames=frames)
    torch.testing.assert_close(model.reconstruct(mel), mel, rtol=0, atol=1e-4)
    model = Autoencoder(replace(TINY, latent_dim=1)).eval()  # one term: the mean of a patch
    expected = mel[..., :8].mean(dim=(1, 2), keepdim=True).expand(2, MELS, 8)
    torch.testing.assert_close(model.reconstruct(mel)[..., :8], expected, rtol=0, atol=1e-4)


def test_a_frame_changes_what_is_near_and_nothing_far_away():
    model, mel = build(), mels(batch=1, frames=200)
    changed = mel.clone()
    changed[..., 100] += 1
    difference = (model.reconstruct(changed) - model.reconstruct(mel)).abs().amax(dim=(0, 1))
    assert difference[100] > 0.1 and difference[:20].max() < 1e-5 and difference[180:].max() < 1e-5


def test_what_is_no_mel_of_its_format_is_refused():
    with pytest.raises(UserError, match="NaN"):
        build().encode(mels() * float("nan"))
    with pytest.raises(UserError, match="mel bands"):
        build().encode(mels()[:, 1:])


# ------------------------------------------------------------------------- padding


@pytest.mark.parametrize("config", [TINY, GAUSSIAN], ids=["plain", "gaussian"])
def test_padding_neither_trains_nor_leaks(config):
    model = build(config)
    batch = batch_of(mels(frames=24), lengths=[24, 11])
    other = batch._replace(mel=batch.mel.clone(), condition=batch.condition._replace(
        aligned=batch.condition.aligned.clone()))
    other.mel[1, :, 11:] = 7.0
    other.condition.aligned[1, :, 11:] = 3.0
    gradients = []
    for each in (batch, other):
        model.zero_grad()
        model.loss(each, SampleRng(0, ids=each.ids))["loss"].backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_padded_clip_is_what_it_is_alone():
    model, mel = build(replace(TINY, **SEEING)), mels(batch=1, frames=24)
    lengths = torch.tensor([11])
    torch.testing.assert_close(model.encode(mel, lengths)[..., :2], model.encode(mel[..., :11]))
    batch = batch_of(mel, lengths=[11])
    alone = batch._replace(mel=mel[..., :11], condition=batch.condition._replace(
        aligned=batch.condition.aligned[..., :11]))
    padded, whole = (model.loss(each, SampleRng(0, ids=each.ids)) for each in (batch, alone))
    for name in whole:
        torch.testing.assert_close(padded[name], whole[name], rtol=1e-4, atol=1e-5)


def test_the_elbo_of_a_batch_is_the_mean_of_those_of_its_parts():
    model, batch = build(GAUSSIAN), batch_of(mels(batch=4), lengths=[13, 9, 13, 2])
    parts = [Batch(*(part[half] if torch.is_tensor(part) else part for part in batch[:3]),
                   Condition(vector=batch.condition.vector[half], aligned=batch.condition.aligned[half]),
                   batch.ids[half]) for half in (slice(0, 2), slice(2, 4))]
    whole = model.loss(batch, SampleRng(0, ids=batch.ids))
    halves = [model.loss(part, SampleRng(0, ids=part.ids)) for part in parts]
    for name in ("nll", "kl", "elbo", "mel_l1", "loss"):
        torch.testing.assert_close(whole[name], (halves[0][name] + halves[1][name]) / 2, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------- the evidence lower bound


class Linear(nn.Module):
    """Encoder and decoder of x = W z + b + spread * noise with orthogonal columns, where everything is known."""

    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(3)
        basis = torch.linalg.qr(torch.randn(6, 2, generator=source)).Q
        self.weight, self.bias, self.spread, self.off = basis * torch.tensor([2.0, 0.5]), torch.randn(
            6, generator=source), 0.7, off
        self.posterior = 1 / (1 + self.weight.square().sum(0) / self.spread**2)  # variance

    def encode(self, x, at):
        mean = self.posterior * ((x.flatten(1) - self.bias) @ self.weight) / self.spread**2 + self.off
        raw = 2 + 6 * torch.atanh(self.posterior.sqrt().log() / 6)  # the inverse of what the model does to it
        return torch.cat((mean, raw.expand_as(mean)), dim=1)[..., None]

    def decode(self, z, notes, vector, at):
        mean = (z[..., 0] @ self.weight.T + self.bias).unflatten(1, (3, 2))
        return mean, torch.full_like(mean, math.log(self.spread))


@pytest.mark.parametrize("off", [0.0, 0.4])
def test_the_elbo_is_the_exact_marginal_likelihood_of_a_linear_model(off):
    """With the true posterior the bound is met; with one that is `off`, it lies below by exactly their KL."""
    config = AutoencoderConfig(
        mel=MelFormat(n_mels=3), latent_dim=2, widths=(4, 4), modulation=4, vector_dim=STYLE, aligned_dim=ROLL,
        gaussian=True, kl=1.0, edges=0.0, likelihood="gaussian", blind=1.0,  # told nothing, the prior is N(0, 1)
    )
    model, exact = build(config), Linear(off)
    model.encoder.forward, model.decoder.forward = exact.encode, exact.decode
    count = 4000
    source = torch.Generator().manual_seed(1)
    z = torch.randn(count, 2, generator=source)
    x = z @ exact.weight.T + exact.bias + exact.spread * torch.randn(count, 6, generator=source)
    with torch.no_grad():
        losses = model.loss(batch_of(x.unflatten(1, (3, 2))), SampleRng(0, ids=range(count)))
    covariance = exact.weight @ exact.weight.T + exact.spread**2 * torch.eye(6)
    marginal = MultivariateNormal(exact.bias, covariance).log_prob(x).mean() / 6  # in nats a mel value
    gap = (off**2 / exact.posterior / 2).sum() / 6
    assert float(losses["elbo"]) == pytest.approx(float(marginal - gap), abs=4e-3 + 0.02 * float(gap))
    assert float(losses["loss"]) == pytest.approx(-float(losses["elbo"]), abs=1e-6)
    assert float(losses["kl"]) > 0.1  # and not because nothing is told


def test_prior_and_posterior_together_get_the_gradient_of_the_elbo():
    model, batch = build(replace(GAUSSIAN, edges=0.0)), batch_of(mels())
    model.loss(batch, SampleRng(0, ids=batch.ids))["loss"].backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    seen = []
    from audiogen.generators import autoencoder

    whole = autoencoder.gaussian_kl
    try:  # the same KL, whose two sides are not held apart
        autoencoder.gaussian_kl = lambda q, p: seen.append((q, p)) or whole(q, p)
        losses = model.loss(batch, SampleRng(0, ids=batch.ids))
    finally:
        autoencoder.gaussian_kl = whole
    q, p = seen[0][0], seen[1][1]  # with gradients: the posterior of the first call, the prior of the second
    (losses["nll"] + whole(q, p).sum(dim=(1, 2)).mean() / (MELS * 13)).backward()
    for a, b in zip(ours, (parameter.grad for parameter in model.parameters()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_weight_warms_up_and_free_bits_cost_nothing():
    batch = batch_of(mels())
    losses = {step: build(replace(GAUSSIAN, kl=3.0, warmup=10)).loss(batch, SampleRng(0, step=step, ids=batch.ids))
              for step in (0, 4, 50)}
    for step, weight in ((0, 0.3), (4, 1.5), (50, 3.0)):
        rest = losses[step]["nll"] + 0.2 * losses[step]["edges"]
        torch.testing.assert_close(losses[step]["loss"], rest + weight * losses[step]["kl"])
    free = build(replace(GAUSSIAN, free_bits=1e3, edges=0.0))
    found = free.loss(batch, SampleRng(0, ids=batch.ids))
    cost = float((found["loss"] - found["nll"]).detach())
    assert cost == pytest.approx(1e3 * 12 * 2 / (MELS * 13))  # 12 dimensions, 2 latent frames
    (found["loss"] - found["nll"]).backward()
    assert not free.encoder.out.weight.grad.any()  # nothing is gained by telling less


def test_a_collapsed_posterior_is_seen():
    model, batch = build(GAUSSIAN), batch_of(mels(batch=8))
    losses = model.loss(batch, SampleRng(0, ids=batch.ids))
    assert losses["active"] == 12 and losses["kl_low"] > 0
    for layer in (model.encoder.straight, model.encoder.out):
        nn.init.zeros_(layer.weight)
    losses = model.loss(batch, SampleRng(0, ids=batch.ids))
    assert losses["active"] == 0
    kl, variance = model.usage(batch)
    assert kl.shape == (12,) and variance.max() < 1e-6


# ------------------------------------------------------------------------- codes, prior, sampling


def test_plain_codes_get_a_prior_of_their_own_mean_and_spread():
    model = build(spoiled=0.02).train()
    batch = batch_of(mels(batch=6, frames=40))
    for step in range(3):
        model.loss(batch, SampleRng(0, step=step, ids=batch.ids))
    codes = model.eval().encode(batch.mel).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model.latent_mean[:, 0], codes.mean(1), rtol=1e-3, atol=1e-3)
    prior = model.prior_of(model.complete(Condition(), 1, 40), 40)
    torch.testing.assert_close(prior.mean[0, :, 0], codes.mean(1), rtol=1e-3, atol=1e-3)
    measured = model.latent_std[:, 0]
    assert ((measured / codes.std(1, correction=0)).log().abs() < 0.7).all()  # settles over a hundred batches
    torch.testing.assert_close(prior.log_std[0, :, 0].exp(), measured)


def test_told_nothing_the_prior_of_gaussian_latents_is_the_standard_normal():
    model = build(GAUSSIAN)
    prior = model.prior_of(model.complete(Condition(), 2, 9), 9)
    assert not prior.mean.any() and not prior.log_std.any()
    told = model.prior_of(model.complete(batch_of(mels(frames=9)).condition, 2, 9), 9)
    assert told.mean.all() and told.log_std.all()


def test_interpolation_ends_at_the_reconstructions():
    for config in (TINY, GAUSSIAN):
        model = build(config)
        a, b = mels(seed=1), mels(seed=2)
        torch.testing.assert_close(model.interpolate(a, b, 0.0), model.reconstruct(a))
        torch.testing.assert_close(model.interpolate(a, b, 1.0), model.reconstruct(b))
        between = model.interpolate(a, b, 0.5)
        assert not torch.allclose(between, model.reconstruct(a)) and not torch.allclose(between, model.reconstruct(b))
        torch.testing.assert_close(between, model.interpolate(b, a, 0.5), rtol=1e-4, atol=1e-5)
    for bad in (b[..., 1:], b[:1]):
        with pytest.raises(ValueError, match="of one shape"):
            model.interpolate(a, bad, 0.5)
    with pytest.raises(ValueError, match="0..1"):
        model.interpolate(a, b, float("nan"))


def test_temperature_and_grain_of_zero_leave_nothing_to_chance():
    model, condition = build(GAUSSIAN), batch_of(mels()).condition
    silent = Sampling(temperature=0, texture_temperature=0, grain=0, texture_grain=0)

    def drawn(seed, sampling, condition=condition):
        return model.sample(condition, 13, rng=SampleRng(seed, ids=[0, 1]), sampling=sampling)

    assert torch.equal(drawn(0, silent), drawn(1, silent))
    for name in ("temperature", "grain"):  # there is a score, so its own two count
        assert not torch.equal(drawn(0, replace(silent, **{name: 1.0})), drawn(1, replace(silent, **{name: 1.0})))
        texture = replace(silent, **{f"texture_{name}": 1.0})
        assert torch.equal(drawn(0, texture), drawn(1, texture))
        bare = condition._replace(aligned=None)
        assert not torch.equal(drawn(0, texture, bare), drawn(1, texture, bare))


def test_grain_is_noise_of_the_likelihoods_kind_and_spread():
    for kind, deviation in (("laplace", math.sqrt(2)), ("gaussian", 1.0)):
        model = build(replace(TINY, likelihood=kind))
        noise = model._noise(SampleRng(0, ids=range(40)), torch.zeros(40, 50, 50))
        assert float(noise.mean()) == pytest.approx(0, abs=0.02) and noise.isfinite().all()
        assert float(noise.std()) == pytest.approx(deviation, rel=0.02)


def test_it_learns_to_play_what_it_is_asked_and_guidance_pushes_further():
    """Two styles with a mel each: after a few steps `sample` knows them apart, and whom to go away from."""
    torch.manual_seed(0)
    model = Autoencoder(GAUSSIAN).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    patterns = torch.stack((torch.linspace(1, -1, MELS), torch.linspace(-1, 1, MELS)))[..., None]  # (2, n_mels, 1)
    vectors = torch.eye(STYLE)[:2]
    which = torch.tensor([0, 1, 0, 1])
    for step in range(70):
        rng = SampleRng(0, step=step, ids=range(4))
        mel = patterns[which] + 0.3 * rng.fork("mel").randn(MELS, 16)
        batch = batch_of(mel)._replace(condition=Condition(vectors[which], aligned=torch.zeros(4, ROLL, 16)))
        model.loss(batch, rng)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()

    def likeness(**options):
        """Of what is drawn in style 0, averaged over time, to the patterns of both: (2,)."""
        mel = model.sample(Condition(vector=vectors[:1].expand(8, -1)), 16, rng=SampleRng(1, ids=range(8)), **options)
        return (mel.mean(dim=2) @ patterns[..., 0].T / patterns[0].square().sum()).mean(dim=0)

    plain = likeness(sampling=Sampling(guidance=1.0))
    assert plain[0] == pytest.approx(1, abs=0.25)
    assert likeness(sampling=Sampling(guidance=2.0))[0] > plain[0] + 0.1
    away = likeness(sampling=Sampling(guidance=2.0), negative=vectors[1:].expand(8, -1))
    assert away[0] > plain[0] + 0.3


def test_what_cannot_be_is_one_clear_line():
    for fields, said in [(dict(latent_dim=0), "latent_dim=0"), (dict(widths=(8,)), "two levels"),
                         (dict(likelihood="cauchy"), "cauchy"), (dict(kl=1.0), "gaussian=True"),
                         (dict(latent_dim=81), "80 mel values")]:
        with pytest.raises(UserError, match=said):
            replace(TINY, **fields)
    for fields in (dict(temperature=3), dict(grain=-1), dict(guidance=float("nan"))):
        with pytest.raises(UserError, match=next(iter(fields))):
            Sampling(**fields)


@pytest.mark.parametrize("name", Autoencoder.presets)
def test_every_preset_trains(name):
    config = replace(Autoencoder.presets[name], mel=TINY.mel, latent_dim=12, widths=TINY.widths, modulation=8,
                     vector_dim=STYLE, aligned_dim=ROLL)
    torch.manual_seed(0)
    model, batch = Autoencoder(config).train(), batch_of(mels(batch=3, frames=16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for step in range(20):
        losses = model.loss(batch, SampleRng(0, step=step, ids=batch.ids))
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(float(losses["nll"].detach()))
    assert history[-1] < history[0] - 0.1
    assert ("mmd" in losses) == (name == "infovae")
