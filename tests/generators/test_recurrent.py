"""The recurrent model: step by step what it computes at once, and no collapse over ten seconds."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from generators.sounding import MEL, course, world

from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.generators.frame_steps import FrameSampling, own_past, to_steps
from audiogen.generators.networks.gated import GatedConfig
from audiogen.generators.recurrent import RecurrentConfig, RecurrentMel

SMALL = RecurrentConfig(
    mel=MEL, width=48, depth=1, components=2, rank=2, context=GatedConfig(width=32, depth=3, means=()), context_dim=16,
    past_dim=32, vector_dim=3,
)


def model(seed: int = 0, **fields) -> RecurrentMel:
    torch.manual_seed(seed)
    return RecurrentMel(dataclasses.replace(SMALL, **fields))


def trained(made, steps: int, frames: int = 64):
    """A minute model of the made world, in seconds."""
    data = world(24, frames)
    flat = data.mel.transpose(1, 2).flatten(0, 1)
    made.set_statistics(flat.mean(0), flat.std(0))
    optimizer = torch.optim.AdamW(made.parameters(), lr=4e-3, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1, (step + 1) / 20) * (1 - step / steps) + 1e-4
        rows = slice(6 * (step % 4), 6 * (step % 4) + 6)
        batch = data._replace(
            audio=data.audio[rows], mel=data.mel[rows], lengths=data.lengths[rows], ids=data.ids[rows],
            condition=data.condition._replace(
                vector=data.condition.vector[rows], aligned=data.condition.aligned[rows]
            ),
        )
        optimizer.zero_grad()
        losses = made.loss(batch, SampleRng(0, step=step, ids=batch.ids))
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
    return made.eval(), losses


@pytest.mark.parametrize("cell, steps", [("lstm", 110), ("gru", 80)])
def test_ten_seconds_go_on_as_they_began(cell, steps):
    made, _ = trained(model(cell=cell), steps)
    real = world(6, 861, seed=1)
    clip = made.sample(real.condition, 861, rng=SampleRng(0, ids=range(6)))
    (level, change), (real_level, real_change) = course(clip), course(real.mel)
    assert (level - real_level).abs().max() < 1.5  # silence would be 1 to 7 below, in every style
    assert (change > 0.3 * real_change).all()  # no drone
    assert (change < 2 * change[:, :1]).all()  # no blow-up: a tiny model is rough, but no rougher as it goes on
    played, others = [0, 1, 3, 4], [3, 4, 0, 1]  # of the same style, but with other notes
    own, chance = (clip[played] - real.mel[rows] for rows in (played, others))
    assert own.abs().mean() < 0.85 * chance.abs().mean()


@pytest.mark.parametrize("cell, group", [("lstm", 2), ("gru", 3)])
def test_step_by_step_it_computes_what_it_computes_at_once(cell, group):
    made = model(cell=cell, group=group, depth=2).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    condition = world(3, 25).condition
    clip = made.sample(condition, 25, rng=SampleRng(0, ids=[0, 1, 2]), sampling=FrameSampling(0, 0, 0))
    x = to_steps(made.standardise(clip), group)
    parts = [own_past(x[:, s - 1] if s else None, torch.zeros_like(x[:, 0]), 0.0) for s in range(x.shape[1])]
    past = type(parts[0])(*(torch.stack(part, 1) for part in zip(*parts, strict=True)))
    centre, features = made._context(condition)
    hidden, _ = made.recurrent(torch.cat((made.past(past.features()), features), -1))
    before = torch.cat((centre[:, :1], centre[:, :-1]), 1)
    mixture = made.output(hidden + made.beside(features), centre, before, past)
    best = mixture.logits.argmax(-1)[..., None, None].expand(-1, -1, 1, x.shape[-1])
    torch.testing.assert_close(mixture.mean.gather(2, best)[:, :-1, 0], x[:, :-1], rtol=1e-4, atol=1e-4)


def test_guidance_moves_the_clip_away_from_the_unwanted_style():
    made, _ = trained(model(), 30)
    condition = world(2, 40, seed=2).condition  # the first two styles
    draw = lambda guidance, negative: made.sample(  # noqa: E731
        condition, 40, rng=SampleRng(0, ids=[0, 1]), sampling=FrameSampling(0, 0, 0, guidance), negative=negative
    )
    noise = torch.eye(3)[[2, 2]]
    assert torch.equal(draw(1.0, noise), draw(1.0, None))
    assert draw(2.0, noise).mean() < draw(1.0, noise).mean()  # the third style is the loudest by far


def test_odd_settings_are_one_clear_error():
    with pytest.raises(UserError, match="'lstm' or 'gru'"):
        RecurrentConfig(cell="rnn")
    with pytest.raises(UserError, match="group=0"):
        RecurrentConfig(group=0)
