from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.mel_codec import MelCodec, MelCodecConfig, Sampling
from audiogen.nn.vector_quantiser import QuantiserConfig

MELS, STYLE, ROLL = 10, 6, 5
TINY = MelCodecConfig(
    mel=MelFormat(n_mels=MELS), latent_dim=12, widths=(8, 8, 12), quantiser=QuantiserConfig(books=3, size=16),
    vector_dim=STYLE, aligned_dim=ROLL,
)


def build(config=TINY, *, spoiled=0.2):
    """A model whose layers that begin at zero do something."""
    torch.manual_seed(0)
    model = MelCodec(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=spoiled)
    return model.eval()


def mels(batch=2, frames=13, seed=0):
    return torch.randn(batch, MELS, frames, generator=torch.Generator().manual_seed(seed)) - 3


def batch_of(mel, lengths=None):
    count, _, frames = mel.shape
    lengths = torch.tensor(lengths if lengths is not None else [frames] * count)
    return Batch(torch.zeros(count, 1, 1), mel, lengths, Condition(), torch.arange(count))


def trained(steps=40, config=TINY, batch=8, frames=32):
    torch.manual_seed(0)
    model = MelCodec(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for step in range(steps):
        losses = model.loss(batch_of(mels(batch, frames, seed=step % 4)), SampleRng(0, step=step, ids=range(batch)))
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    return model.eval(), history


# ------------------------------------------------------------------------- codes and lengths


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 16, 61])
def test_any_length_comes_back_exactly(frames):
    model, mel = build(), mels(frames=frames)
    codes = model.encode(mel)
    assert codes.shape == (2, 3, math.ceil(frames / 4)) and codes.dtype == torch.int64
    assert 0 <= codes.min() and codes.max() < 16
    assert model.decode(codes, frames).shape == mel.shape == model.reconstruct(mel).shape
    assert model.decode(codes).shape == (2, MELS, 4 * math.ceil(frames / 4))
    assert model.sample(Condition(), frames, rng=SampleRng(0, ids=[0, 1])).shape == mel.shape
    with pytest.raises(ValueError, match="steps"):
        model.decode(codes, frames + 4)


def test_untrained_it_is_a_cosine_transform_rounded_to_its_codes():
    """With all terms and the very latents among the vectors, nothing is lost; latents keep distances."""
    torch.manual_seed(0)
    config = replace(TINY, latent_dim=4 * MELS, quantiser=QuantiserConfig(books=1, size=6))
    model, mel = MelCodec(config).eval(), mels(frames=12)
    z = model.encoder(model.standardise(mel), model_levels(12))
    torch.testing.assert_close(4 * z.square().sum().sqrt(), mel.square().sum().sqrt(), rtol=1e-4, atol=0)
    model.quantiser.vectors[0] = z.transpose(1, 2).flatten(0, 1).detach()
    torch.testing.assert_close(model.reconstruct(mel), mel, rtol=0, atol=1e-4)
    assert sorted(model.encode(mel).flatten().tolist()) == list(range(6))


def model_levels(frames):
    from audiogen.generators.latents import levels

    return levels(frames, 3)


def test_a_clip_is_coded_as_it_is_alone():
    model, mel = build(), mels(batch=3, frames=24)
    codes = model.encode(mel, torch.tensor([24, 11, 6]))
    for sample, length in enumerate((24, 11, 6)):
        alone = model.encode(mel[sample : sample + 1, :, :length])
        assert torch.equal(codes[sample : sample + 1, :, : alone.shape[2]], alone)


def test_a_frame_changes_what_is_near_and_nothing_far_away():
    model, mel = build(), mels(batch=1, frames=200)
    changed = mel.clone()
    changed[..., 100] += 3
    difference = (model.reconstruct(changed) - model.reconstruct(mel)).abs().amax(dim=(0, 1))
    assert difference[90:110].max() > 0.1 and difference[:60].max() < 1e-5 and difference[140:].max() < 1e-5


# ------------------------------------------------------------------------- training


def test_it_learns_and_every_book_makes_the_mel_finer():
    model, history = trained()
    assert history[-1]["loss"] < history[0]["loss"] - 0.2
    mel = mels(8, 32, seed=1)
    with torch.no_grad():
        codes = model.encode(mel)
        errors = [float((model.decode(codes[:, :books]) - mel).abs().mean()) for books in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    left = [history[-1][f"left_{book}"] for book in (1, 2, 3)]
    assert 1 > left[0] > left[1] > left[2] > 0
    assert all(1 < history[-1][f"perplexity_{book}"] <= 16 for book in (1, 2, 3))


def test_the_vectors_move_in_training_and_never_in_evaluation():
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = batch_of(mels())
    model.loss(batch, SampleRng(0, ids=batch.ids))
    model.encode(batch.mel)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.train().loss(batch, SampleRng(0, ids=batch.ids))
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == ["quantiser.vectors", "quantiser.counts", "quantiser.sums", "quantiser.begun"]


def test_a_trained_codec_comes_back_with_its_vectors_and_goes_on_alike():
    model, _ = trained(steps=3)
    other = MelCodec(TINY)
    other.load_state_dict(model.state_dict())
    batch = batch_of(mels(seed=9))
    for each in (model, other):
        each.train().loss(batch, SampleRng(0, step=3, ids=batch.ids))
    assert torch.equal(model.eval().encode(batch.mel), other.eval().encode(batch.mel))
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_the_encoder_gets_the_gradient_of_the_decoder_as_if_nothing_were_rounded():
    model, mel = build(replace(TINY, commitment=0.0)), mels()
    model.quantiser.vectors.mul_(0)  # every code stands for 0: what a decoder of exact latents would say to z = 0
    at, grads = model_levels(13), []
    for straight in (True, False):
        z = model.encoder(model.standardise(mel), at)
        z.retain_grad()
        values = model.quantiser(z).values if straight else z - z.detach()
        mean, _ = model.decoder(values, at)
        mean.square().sum().backward()
        grads.append(z.grad)
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(*grads)


def test_fewer_books_are_trained_as_often_as_is_said():
    model = build(replace(TINY, fewer=0.4))
    books = model._books(SampleRng(0, ids=range(2000)), torch.device("cpu"))
    share = torch.bincount(books, minlength=4).double() / 2000
    torch.testing.assert_close(share, torch.tensor([0, 0.2, 0.2, 0.6]).double(), rtol=0, atol=0.03)
    one = build(replace(TINY, fewer=1.0, quantiser=QuantiserConfig(books=1, size=16)))
    assert (one._books(SampleRng(0, ids=range(9)), torch.device("cpu")) == 1).all()


# ------------------------------------------------------------------------- sampling


def test_codes_are_drawn_as_often_as_they_were_used():
    model, frames = build(), 4 * 2000
    model.quantiser.counts[:] = torch.arange(16.0)
    seen = []
    model.quantiser.decode = lambda codes: seen.append(codes) or torch.zeros(1, 12, 2000)
    for temperature in (1.0, 0.5, 0.0):
        model.sample(Condition(), frames, rng=SampleRng(0), sampling=Sampling(temperature=temperature))
    for codes, power in zip(seen[:2], (1, 2), strict=True):
        share = torch.bincount(codes.flatten(), minlength=16).double() / 6000
        expected = torch.arange(16.0).double() ** power
        torch.testing.assert_close(share, expected / expected.sum(), rtol=0, atol=0.02)
    assert (seen[2] == 15).all()


def test_grain_is_noise_of_the_decoders_spread():
    model = build()
    codes = torch.zeros(40, 3, 10).long()
    with torch.no_grad():
        middle, spread = model.decoder(model.quantiser.decode(codes), model_levels(40))
    model.mel_mean.fill_(20.0)  # so that the floor of the format cuts nothing
    noisy = model.decode(codes, rng=SampleRng(0, ids=range(40)), grain=torch.full((40,), 0.5)).detach() - 20.0
    noise = (noisy - middle) / torch.exp(spread)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(0.5 * math.sqrt(2), rel=0.03)  # Laplace
    still = model.decode(codes, rng=SampleRng(0, ids=range(40)), grain=0.0)
    torch.testing.assert_close(still, model.decode(codes))


def test_what_cannot_be_is_one_clear_line():
    for fields, said in [(dict(latent_dim=0), "latent_dim=0"), (dict(widths=(8,)), "two levels"),
                         (dict(latent_dim=41), "40 mel values"), (dict(fewer=2.0), "fewer=2.0")]:
        with pytest.raises(UserError, match=said):
            replace(TINY, **fields)
    for fields in (dict(temperature=3), dict(grain=-1)):
        with pytest.raises(UserError, match=next(iter(fields))):
            Sampling(**fields)
    with pytest.raises(UserError, match="NaN"):
        build().encode(mels() * float("nan"))
