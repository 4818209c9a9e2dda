"""Sequence to sequence: it reads the notes that sound, plays them, and does not collapse over ten seconds."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from generators.sounding import MEL, course, world
from generators.test_recurrent import trained

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition
from audiogen.core.rng import SampleRng
from audiogen.generators.frame_steps import FrameSampling
from audiogen.generators.note_attention import distance
from audiogen.generators.seq2seq import Seq2SeqConfig, Seq2SeqMel

SMALL = Seq2SeqConfig(
    mel=MEL, group=4, token_dim=24, reader_width=32, alignment_width=16, centre_width=48, decoder_width=48,
    components=2, rank=2, past_dim=24, style_dim=16, vector_dim=3, guide=2.0,
)


def model(seed: int = 0, **fields) -> Seq2SeqMel:
    torch.manual_seed(seed)
    return Seq2SeqMel(dataclasses.replace(SMALL, **fields))


def test_ten_seconds_go_on_as_they_began_and_attention_is_on_what_sounds(tmp_path):
    made, _ = trained(model(), 110, frames=48)
    real = world(6, 861, seed=1)
    clip, weights, notes = made.play(real.condition, 861, rng=SampleRng(0, ids=range(6)))
    (level, change), (real_level, real_change) = course(clip), course(real.mel)
    assert (level - real_level).abs().max() < 1.5  # silence would be 1 to 7 below, in every style
    assert (change > 0.3 * real_change).all()  # no drone
    assert (change < 2 * change[:, :1]).all()  # no blow-up: a tiny model is rough, but no rougher as it goes on
    played, others = [0, 1, 3, 4], [3, 4, 0, 1]  # of the same style, but with other notes
    own, chance = (clip[played] - real.mel[rows] for rows in (played, others))
    assert own.abs().mean() < 0.85 * chance.abs().mean()
    away = distance(notes, torch.arange(0.0, 861, 4))
    assert (weights * (away < 4))[played].sum(-1).mean() > 0.6
    assert (weights[[2, 5], :, 0] == 1).all()  # without a score there is the rest to look at, and nothing else

    task = made.task_type(made, demos=[("a", Condition(*(p if p is None else p[:1, ..., :48] if p.dim() == 3 else p[:1]
                                                         for p in real.condition)), 48)])
    task.demo(made, tmp_path, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_attention.png"]


def test_step_by_step_it_computes_what_it_computes_at_once():
    """Without noise and at temperature 0 a clip is its own teacher: the loss's steps predict it exactly."""
    made = model(components=1, spoil=dataclasses.replace(SMALL.spoil, noise=0, wrong=0, hide=0), drop_vector=0.0,
                 drop_aligned=0.0).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    batch = world(3, 40)
    clip = made.sample(batch.condition, 40, rng=SampleRng(0, ids=[0, 1, 2]), sampling=FrameSampling(0, 0, 0))
    assert made.loss(batch._replace(mel=clip), SampleRng(0, ids=batch.ids))["error"] < 1e-5


def test_a_clip_does_not_depend_on_the_notes_of_its_neighbour():
    made, condition = model().eval(), world(2, 40).condition
    together = made.sample(condition, 40, rng=SampleRng(0, ids=[7, 8]))
    alone = Condition(vector=condition.vector[:1], aligned=condition.aligned[:1])
    torch.testing.assert_close(made.sample(alone, 40, rng=SampleRng(0, ids=[7])), together[:1], rtol=1e-4, atol=1e-4)


def test_odd_settings_are_one_clear_error():
    with pytest.raises(UserError, match="aligned_dim=7"):
        Seq2SeqConfig(aligned_dim=7)
    with pytest.raises(UserError, match="reach=0"):
        Seq2SeqConfig(reach=0)
