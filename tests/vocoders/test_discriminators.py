from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audiogen.core.errors import UserError
from vocoders.discriminators import BUILDERS, DiscriminatorConfig, Discriminators
from vocoders.discriminators.constant_q import ConstantQ, doubled, half_band
from vocoders.losses import adversarial_loss, verdict_loss

SMALL = dict(
    width=1 / 32, resolutions=((256, 64), (128, 32)), channels=4, windows=((256, 60, 120), (128, 30, 60)),
    band_windows=(256, 128), octaves=((64, 5, 12), (32, 6, 24)),
)

# Of the originals, counted by building them (weight norm as gain and direction; BigVGAN v2's 128 CQT filters).
PUBLISHED = {
    "multi_period": 41_105_770, "multi_scale": 29_618_821, "multi_resolution": 280_902, "multi_band": 1_413_990,
    "sub_band_cqt": 4_454_304,
}


def small(*kinds: str) -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(DiscriminatorConfig(kinds=kinds, **SMALL), sample_rate=8000)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", PUBLISHED)
def test_at_full_width_it_has_as_many_parameters_as_the_published_one(kind):
    part = BUILDERS[kind](DiscriminatorConfig(filters=128), 24000)
    assert sum(p.numel() for p in part.parameters()) == PUBLISHED[kind]


@pytest.mark.parametrize("kind", BUILDERS)
def test_every_parameter_learns_and_so_does_the_clip(kind):
    judge, audio = small(kind), noise(2, 1, 1024).requires_grad_()
    judged = judge(audio)
    assert len(judged) == 1 and all(map_.shape[0] == 2 for part in judged[0] for map_ in part)
    sum(map_.square().mean() for part in judged[0] for map_ in part).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.parameters())
    assert audio.grad.isfinite().all() and audio.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_clip_is_judged_alone_as_in_a_batch(kind):
    judge, audio = small(kind).eval(), noise(3, 1, 1000)
    together, alone = judge(audio), judge(audio[1:2])
    for a, b in zip(together[0], alone[0], strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x[1:2], y, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", BUILDERS)
def test_silence_gives_finite_values_and_gradients(kind):
    judge, audio = small(kind), torch.zeros(1, 1, 1024, requires_grad=True)
    sum(part[-1].square().sum() for part in judge(audio)[0]).backward()
    assert audio.grad.isfinite().all() and audio.grad.abs().max() < 1e5
    assert all(p.grad.isfinite().all() for p in judge.parameters())


@pytest.mark.parametrize("kind", BUILDERS)
def test_under_autocast_the_spectra_stay_exact(kind):
    """Convolutions in bf16 are off by a hundredth; a transform in bf16 would be off by far more, or not exist."""
    judge, audio = small(kind).eval(), noise(1, 1, 1024)
    whole = judge(audio)[0]
    with torch.autocast("cpu", torch.bfloat16):
        half = judge(audio)[0]
    for a, b in zip(whole, half, strict=True):
        scale = a[0].abs().max()
        assert (a[0] - b[0].float()).abs().max() < 0.05 * scale


def test_the_period_discriminator_sees_every_nth_sample_only():
    """With period p a change at sample n must not reach the columns of other residues."""
    part = small("multi_period").parts[0].discriminators[1]  # period 3
    audio = noise(1, 1, 999)
    changed = audio.clone()
    changed[..., 500] += 1.0
    before, after = part(audio), part(changed)
    for a, b in zip(before, after, strict=True):
        moved = (a != b).flatten(0, 2).any(0)
        assert moved.tolist() == [False, False, True]  # 500 = 2 modulo 3


def test_kinds_stand_side_by_side_with_their_weights():
    judge = Discriminators(DiscriminatorConfig(kinds=("multi_period", "multi_band"), weights=(1.0, 0.1), **SMALL))
    judged = judge(noise(1, 1, 1024))
    assert [len(kind) for kind in judged] == [5, 2] and judge.weights == (1.0, 0.1)
    assert judge.shortest() == 129  # half of the largest window and one


def test_it_can_learn_to_tell_tones_from_noise():
    judge = small("spectrum", "multi_period")
    optimizer = torch.optim.Adam(judge.parameters(), 1e-2)
    real = torch.sin(torch.arange(1024) * torch.tensor([[0.2], [0.5]]))[:, None] * 0.5
    fake, losses = noise(2, 1, 1024), []
    for _ in range(15):
        loss = verdict_loss(judge(real), judge(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert adversarial_loss(judge(real)) < adversarial_loss(judge(fake))


@pytest.mark.parametrize(
    "fields, said",
    [(dict(kinds=("multi_periot",)), "multi_period"), (dict(weights=(1.0, 2.0)), "2 discriminator weights for 1"),
     (dict(kinds=()), "one at least"), (dict(width=0.0), "width=0.0")],
)
def test_an_impossible_config_is_one_clear_line(fields, said):
    with pytest.raises(UserError, match=said):
        DiscriminatorConfig(**fields)


# ------------------------------------------------------------------------- the constant-Q transform


def direct_cqt(audio: np.ndarray, rate: int, hop: int, octaves: int, bins: int, f_min: float) -> np.ndarray:
    """The definition: inner products with windowed waves at the full rate, no octave trick."""
    quality, found = 1 / (2 ** (1 / bins) - 1), []
    for k in range(octaves * bins):
        frequency = f_min * 2 ** (k / bins)
        length = math.ceil(quality * rate / frequency)
        time = np.arange(-length // 2, -length // 2 + length)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
        wave = np.conj(window * np.exp(2j * np.pi * frequency * time / rate)) / window.sum() * math.sqrt(length)
        padded = np.pad(audio, length)
        found.append([padded[t + length + time[0] : t + length + time[0] + length] @ wave
                      for t in range(0, len(audio) + 1, hop)])
    return np.array(found)


def test_the_constant_q_transform_is_its_definition():
    rate, audio = 8000, noise(4000).double().numpy()
    found = torch.complex(*ConstantQ(rate, 80 // 5 * 4, 5, 12, f_min=100.0)(torch.from_numpy(audio).float()[None])[0])
    expected = direct_cqt(audio, rate, 64, 5, 12, 100.0)
    found = found[:, : expected.shape[1]].numpy()
    top = slice(48, 60)  # no decimation: exact but for float32
    assert np.abs(found[top] - expected[top]).max() < 1e-5 * np.abs(expected).max()
    assert np.linalg.norm(found - expected) < 0.04 * np.linalg.norm(expected)  # lengths are rounded at the lower rates


def test_the_constant_q_transform_agrees_with_librosa(librosa):

    rate, bins = 16000, 12
    time = torch.arange(rate) / rate
    audio = sum(0.3 * torch.sin(2 * math.pi * f * time) for f in (110.0, 440.0, 1000.0, 3000.0))
    transform = ConstantQ(rate, 64, 6, bins, f_min=100.0)
    found = torch.complex(*transform(audio[None])[0]).abs().numpy()
    alpha = (2 ** (2 / bins) - 1) / (2 ** (2 / bins) + 1)  # librosa's Q is filter_scale / alpha
    expected = np.abs(librosa.cqt(
        audio.numpy(), sr=rate, hop_length=64, fmin=100.0, n_bins=72, bins_per_octave=bins, sparsity=0,
        filter_scale=alpha * transform.quality, res_type="soxr_vhq", pad_mode="constant",
    ))
    middle = slice(60, 180)  # away from the edges
    assert np.linalg.norm(found[:, middle] - expected[:, middle]) < 0.03 * np.linalg.norm(expected[:, middle])


def test_octaves_that_the_rate_or_hop_cannot_carry_are_refused():
    with pytest.raises(UserError, match="at most 7 octaves"):
        ConstantQ(16000, 512, 9, 24)
    with pytest.raises(UserError, match="multiple of 256"):
        ConstantQ(48000, 480, 9, 24)


def test_doubling_the_rate_keeps_the_sound_and_adds_no_image():
    time = torch.arange(800)
    slow = torch.sin(0.7 * time)[None]
    fast = doubled(slow, half_band(31)[None, None])
    expected = torch.sin(0.35 * torch.arange(1600))
    torch.testing.assert_close(fast[0, 100:1500], expected[100:1500], atol=1e-3, rtol=0)
