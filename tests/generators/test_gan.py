"""The GAN's two players: what each learns from, what noise does, and that padding does nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from audiogen.conditioning.piano_roll import ROLL_DIM
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.rng import SampleRng
from audiogen.generators.gan import GANConfig, GANMel, GANSampling
from audiogen.generators.mel_discriminators import MelDiscriminatorConfig
from audiogen.generators.networks.gated import GatedConfig

SMALL = GANConfig(
    residual=GatedConfig(width=16, depth=2, means=()), mean=GatedConfig(width=16, depth=2, means=()), noise_dim=4,
    clip_noise_dim=2, discriminator=MelDiscriminatorConfig(widths=(4, 4, 4), recurrent_width=8), vector_dim=6,
    penalty_every=2, drop_vector=0.0, drop_aligned=0.0,
)


def model(seed: int = 0, **fields) -> GANMel:
    torch.manual_seed(seed)
    return GANMel(dataclasses.replace(SMALL, **fields))


def batch(frames: int = 24) -> Batch:
    source = torch.Generator().manual_seed(0)
    aligned = torch.zeros(2, ROLL_DIM, frames)
    aligned[:, 40, 4:12] = aligned[:, -1] = 1
    given = Condition(vector=torch.randn(2, 6, generator=source), aligned=aligned)
    mel = torch.randn(2, 80, frames, generator=source)
    return Batch(torch.zeros(2, 1, 1), mel, torch.tensor([frames, frames - 8]), given, torch.tensor([3, 4]))


def test_the_adversary_moves_the_residual_and_the_likelihood_the_mean():
    made = model()
    task, given = made.task_type(made), batch()
    losses = task.generator_loss(given, SampleRng(0, ids=given.ids))
    losses["adversarial"].backward(retain_graph=True)
    assert all(p.grad is None for p in made.mean.parameters()) and made.grain.weight.grad.any()
    made.zero_grad()
    made.regression(made.make(given.condition, made.noise(SampleRng(0, ids=given.ids), 24)), given)["loss"].backward()
    assert made.grain.weight.grad is None and made.mean.network.out.weight.grad.any()


def test_the_discriminators_judge_the_clips_of_the_generators_turn():
    made = model()
    task, given = made.task_type(made), batch()
    rng = SampleRng(0, step=1, ids=given.ids, stream="generator")
    task.generator_loss(given, rng)
    kept = task._made[tuple(given.ids.tolist())][0]
    torch.testing.assert_close(kept, made.make(given.condition, made.noise(rng, 24)).x)
    first = task.discriminator_loss(given, SampleRng(0, step=1, ids=given.ids, stream="discriminator"))["loss"]
    assert not task._made
    again = task.discriminator_loss(given, rng)["loss"]  # made anew, of the same noise
    torch.testing.assert_close(first, again)


@pytest.mark.parametrize("preset", ["gan", "gan_hinge", "gan_wgan_gp", "plain"])
def test_penalties_are_lazy_and_every_preset_trains(preset):
    known = {"gan": GANConfig(), "plain": GANConfig(mean=None, features=1.0, l1=1.0)} | GANMel.presets
    chosen = known[preset]
    fields = ("adversarial", "r1", "gradient_penalty", "features", "l1")
    judge = dataclasses.replace(SMALL.discriminator, spectral_norm=chosen.discriminator.spectral_norm)
    made = model(**{name: getattr(chosen, name) for name in fields}, discriminator=judge,
                 **({"mean": None} if chosen.mean is None else {}))
    task, given = made.task_type(made), batch()
    for step in range(3):
        for player in task.players():
            for other in task.players():
                other.module.requires_grad_(other.name == player.name)
            losses = player.loss(given, SampleRng(0, step=step, ids=given.ids, stream=player.name))
            losses["loss"].backward()
            if player.name == "discriminator":
                held = chosen.r1 or chosen.gradient_penalty
                assert ("penalty" in losses) == bool(held and step % 2 == 0)
            grown = [p.grad for p in player.module.parameters() if p.grad is not None]
            assert grown and all(torch.isfinite(g).all() for g in grown)
            player.module.zero_grad()


def test_noise_of_the_frames_and_of_the_clip():
    noise = model().noise(SampleRng(0, ids=[1, 2]), 200)
    assert noise.shape == (2, 6, 200)
    assert torch.equal(noise[:, 4:, :1].expand(-1, -1, 200), noise[:, 4:])
    assert noise[:, :4].std() == pytest.approx(1, abs=0.1) and not torch.equal(noise[0], noise[1])


def test_each_seed_has_a_clip_and_temperature_zero_has_one():
    made, given = model().eval(), batch().condition
    draw = lambda seed, t: made.sample(given, 24, rng=SampleRng(seed, ids=[0, 1]), sampling=GANSampling(t))  # noqa: E731
    assert not torch.equal(draw(0, 1.0), draw(1, 1.0))
    assert torch.equal(draw(0, 0.0), draw(1, 0.0))


def test_guidance_moves_away_from_the_unwanted_style():
    made, given = model().eval(), batch().condition
    with torch.no_grad():
        for parameter in made.mean.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    unwanted = torch.randn(2, 6)
    sample = lambda g, n: made.sample(  # noqa: E731
        given, 24, rng=SampleRng(0, ids=[0, 1]), sampling=GANSampling(0.0, g), negative=n
    )
    plain = sample(1.0, unwanted)
    assert torch.equal(plain, sample(1.0, None))
    mean = made._mean(given)[0]
    away = mean - made._mean(given._replace(vector=unwanted))[0]
    moved = sample(2.0, unwanted) - plain
    assert (moved * away).sum() > 0


def test_odd_settings_are_one_clear_error():
    with pytest.raises(UserError, match="gradient_penalty=10"):
        GANConfig(adversarial="wgan")
    with pytest.raises(UserError, match="'hinge'"):
        GANConfig(adversarial="hing")
    with pytest.raises(UserError, match="temperature"):
        GANSampling(temperature=-1)
