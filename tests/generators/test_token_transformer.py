from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.mel_codec import MelCodecConfig
from audiogen.generators.networks.gated import GatedConfig
from audiogen.generators.token_transformer import (
    Sampling,
    TokenTransformer,
    TokenTransformerConfig,
    delayed,
    undelayed,
)
from audiogen.nn.transformer import TransformerConfig
from audiogen.nn.vector_quantiser import QuantiserConfig

MELS, STYLE, ROLL, BOOKS, SIZE = 10, 6, 5, 3, 16
MEL = MelFormat(n_mels=MELS)
TINY = TokenTransformerConfig(
    mel=MEL,
    first=MelCodecConfig(mel=MEL, latent_dim=12, widths=(8, 8, 12), quantiser=QuantiserConfig(books=BOOKS, size=SIZE),
                         vector_dim=STYLE, aligned_dim=ROLL),
    network=TransformerConfig(width=16, layers=2, heads=2, reach=6), context=GatedConfig(8, 2, means=(), bands=1),
    context_dim=3, vector_dim=STYLE, aligned_dim=ROLL, span=3,
)
ALL = Sampling(temperature=1.0, guidance=1.0, top_p=1.0)


def build(config=TINY, *, spoiled=0.2):
    """A model whose layers that begin at zero do something."""
    torch.manual_seed(0)
    model = TokenTransformer(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=spoiled)
    return model.eval()


def conditions(batch=2, frames=37, seed=1):
    source = torch.Generator().manual_seed(seed)
    return Condition(vector=torch.randn(batch, STYLE, generator=source),
                     aligned=torch.rand(batch, ROLL, frames, generator=source))


def batch_of(mel, condition, lengths=None):
    count, _, frames = mel.shape
    lengths = torch.tensor(lengths if lengths is not None else [frames] * count)
    return Batch(torch.zeros(count, 1, 1), mel, lengths, condition, torch.arange(count))


def mels(batch=2, frames=37, seed=0):
    return torch.randn(batch, MELS, frames, generator=torch.Generator().manual_seed(seed)) - 3


def some_codes(batch=2, steps=10, seed=0):
    return torch.randint(SIZE, (batch, BOOKS, steps), generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------- the delay pattern


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_book_k_comes_k_places_later_and_back(steps):
    codes = some_codes(steps=steps)
    places = delayed(codes, SIZE)
    assert places.shape == (2, BOOKS, steps + BOOKS - 1)
    for book in range(BOOKS):
        for place in range(places.shape[2]):
            step = place - book
            expected = codes[:, book, step] if 0 <= step < steps else torch.full((2,), SIZE)
            assert torch.equal(places[:, book, place], expected)
    assert torch.equal(undelayed(places), codes)


def test_a_code_is_told_earlier_places_and_nothing_else():
    """Book k of step s is at place s + k: it depends on what lies at places before that, within reach, and only on
    that."""
    model, condition = build(replace(TINY, network=replace(TINY.network, reach=None))), conditions(1)
    codes = some_codes(1)
    with torch.no_grad():
        before = model(codes, condition, 37)
        for book, step in ((0, 4), (1, 5), (2, 3)):
            changed = codes.clone()
            changed[0, book, step] = (changed[0, book, step] + 5) % SIZE
            moved = (model(changed, condition, 37) - before).abs().amax(dim=-1)[0] > 1e-6  # (books, steps)
            for other in range(BOOKS):
                for later in range(10):
                    assert bool(moved[other, later]) == (later + other > step + book), (book, step, other, later)


# ------------------------------------------------------------------------- with and without a cache


def test_place_by_place_it_says_what_it_says_of_all_at_once():
    model, condition, codes = build(), conditions(), some_codes()
    with torch.no_grad():
        whole = model(codes, condition, 37)
        context, _ = model._context(condition)
        state, places = model.network.begin(), delayed(codes, SIZE)
        before = torch.full((2, BOOKS), SIZE)
        parts = []
        for place in range(places.shape[2]):
            parts.append(model.step(before, context[:, place], state))
            before = places[..., place]
    torch.testing.assert_close(undelayed(torch.stack(parts, dim=1).transpose(1, 2)), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_at_temperature_zero_every_code_is_the_likeliest_of_all_that_were_before(guidance):
    model, condition = build(), conditions()
    sampling = replace(ALL, temperature=0.0, guidance=guidance)
    with torch.no_grad():
        codes = model.draw(condition, 37, rng=SampleRng(0, ids=[0, 1]), sampling=sampling)
        logits = model(codes, condition, 37)
        if guidance != 1:
            without = model(codes, condition._replace(vector=torch.zeros(2, STYLE)), 37)
            logits = without + guidance * (logits - without)
    assert codes.shape == (2, BOOKS, 10) and torch.equal(codes, logits.argmax(dim=-1))
    same = model.draw(condition, 37, rng=SampleRng(5, ids=[0, 1]), sampling=replace(sampling, temperature=1.0, top_k=1))
    assert torch.equal(codes, same)


def test_a_score_and_a_texture_have_temperatures_and_grains_of_their_own():
    model, condition = build(), conditions()
    still = Sampling(temperature=0, texture_temperature=0, grain=0, texture_grain=0)
    with torch.no_grad():
        for given, prefix in ((condition, ""), (condition._replace(aligned=None), "texture_")):
            def made(seed, sampling, given=given):
                return model.sample(given, 37, rng=SampleRng(seed, ids=[0, 1]), sampling=sampling)

            assert torch.equal(made(0, still), made(1, still))
            for name in ("temperature", "grain"):
                assert not torch.equal(made(0, still), made(0, replace(still, **{prefix + name: 1.0})))
                other = "" if prefix else "texture_"
                assert torch.equal(made(0, still), made(0, replace(still, **{other + name: 1.0})))


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 201])
def test_any_length_comes_out_exactly(frames):
    mel = build().sample(conditions(frames=frames), frames, rng=SampleRng(0, ids=[0, 1]))
    assert mel.shape == (2, MELS, frames) and torch.isfinite(mel).all()


# ------------------------------------------------------------------------- training


def test_padding_neither_trains_nor_leaks():
    batch = batch_of(mels(frames=24), conditions(frames=24), lengths=[24, 11])
    other = batch._replace(mel=batch.mel.clone(), condition=batch.condition._replace(
        aligned=batch.condition.aligned.clone()))
    other.mel[1, :, 11:] = 7.0
    other.condition.aligned[1, :, 11:] = 3.0
    model, found = build().train(), []
    for each in (batch, other):
        model.zero_grad()
        model.loss(each, SampleRng(0, ids=each.ids))["loss"].backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_codec_does_not_change_in_training():
    model, batch = build().train(), batch_of(mels(), conditions())
    before = {name: value.clone() for name, value in model.first.state_dict().items()}
    model.loss(batch, SampleRng(0, ids=batch.ids))["loss"].backward()
    assert all(parameter.grad is None for parameter in model.first.parameters())
    for name, value in model.first.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_loss_is_the_cross_entropy_of_the_codes():
    model, condition = build(replace(TINY, drop_vector=0.0, drop_aligned=0.0)), conditions()
    batch = batch_of(mels(), condition)
    with torch.no_grad():
        found = model.loss(batch, SampleRng(0, ids=batch.ids))
        codes = model.first.encode(batch.mel)
        chances = model(codes, condition, 37).softmax(dim=-1)
    nats = -torch.log(chances.gather(-1, codes[..., None])[..., 0])
    torch.testing.assert_close(found["codes"], nats.mean())
    torch.testing.assert_close(found["book_2"], nats[:, 1].mean())
    torch.testing.assert_close(found["loss"], found["codes"] + found["centre"])


def test_the_past_is_spoiled_as_much_as_is_said():
    model = build(replace(TINY, wrong=0.6, hide=0.0))
    codes = some_codes(400, steps=40)
    spoiled = model._spoiled(codes, SampleRng(0, ids=range(400)))
    assert ((spoiled >= 0) & (spoiled < SIZE)).all()
    share = (spoiled != codes).any(dim=1).float().mean()  # of another time, a step may be the same by chance
    assert float(share) == pytest.approx(0.3, abs=0.03)  # each clip draws its own share, up to 0.6
    hidden = build(replace(TINY, wrong=0.0, hide=0.25))._spoiled(codes, SampleRng(0, ids=range(400)))
    gone = (hidden == SIZE).all(dim=1)
    assert float(gone.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(hidden.masked_fill(gone[:, None], 0), codes.masked_fill(gone[:, None], 0))
    nothing = torch.full_like(codes, SIZE)
    assert torch.equal(model._spoiled(nothing, SampleRng(0, ids=range(400))), nothing)  # padding stays padding


def test_it_learns_to_play_what_it_is_asked_and_guidance_pushes_further():
    """Two styles with a mel each: after a few steps `sample` knows them apart, and whom to go away from."""
    torch.manual_seed(0)
    model = TokenTransformer(replace(TINY, drop_vector=0.3)).train()
    patterns = torch.stack((torch.linspace(2, -2, MELS), torch.linspace(-2, 2, MELS)))[..., None]  # (2, n_mels, 1)
    vectors, which = torch.eye(STYLE)[:2], torch.tensor([0, 1] * 4)
    for step in range(4):  # a codec that knows these mels; its decoder is the inverse cosine transform as it is
        mel = patterns[which] + 0.8 * torch.randn(8, MELS, 24)
        model.first.loss(batch_of(mel, Condition()), SampleRng(0, step=step, ids=range(8)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    first = last = 0.0
    for step in range(60):
        rng = SampleRng(0, step=step, ids=range(8))
        mel = patterns[which] + 0.8 * rng.fork("mel").randn(MELS, 24)
        losses = model.loss(batch_of(mel, Condition(vectors[which], aligned=torch.zeros(8, ROLL, 24))), rng)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        last = float(losses["codes"])
        first = first or last
    assert last < first - 0.3
    model.eval()

    def likeness(**options):
        """Of what is drawn in style 0, averaged over time, to its pattern."""
        sampling = Sampling(texture_temperature=1.0, top_p=1.0, texture_grain=0.0, **options.pop("change", {}))
        mel = model.sample(Condition(vector=vectors[:1].expand(16, -1)), 24, rng=SampleRng(1, ids=range(16)),
                           sampling=sampling, **options)
        return float((mel.mean(dim=2) @ patterns[0] / patterns[0].square().sum()).mean())

    plain = likeness(change=dict(guidance=1.0))
    assert plain > 0.5
    away = likeness(change=dict(guidance=3.0), negative=vectors[1:].expand(16, -1))
    assert away > plain + 0.02


def test_what_cannot_be_is_one_clear_line():
    for fields in (dict(temperature=3), dict(grain=-1), dict(guidance=float("nan")), dict(top_k=-1), dict(top_p=0)):
        with pytest.raises(UserError, match=next(iter(fields))):
            Sampling(**fields)
    for fields in (dict(wrong=1.0), dict(hide=-0.1), dict(span=0),
                   dict(network=replace(TINY.network, context_width=8))):
        said = "context_width" if "network" in fields else next(iter(fields))
        with pytest.raises(UserError, match=said):
            replace(TINY, **fields)
    with pytest.raises((UserError, ValueError), match="codec"):
        TokenTransformer(replace(TINY, mel=MelFormat(n_mels=MELS + 1)))
