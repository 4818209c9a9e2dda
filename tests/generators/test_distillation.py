"""A student learns its teacher's two steps as one, guidance included."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.rng import SampleRng
from audiogen.generators.diffusion import MelDiffusion, MelDiffusionConfig, Sampling
from audiogen.generators.distillation import Distillation, begin_student
from audiogen.generators.networks.gated import GatedConfig
from audiogen.generators.samplers import sample_ddim

TINY = GatedConfig(width=16, depth=2, modulation=16)
FRAMES = 16


def teacher() -> MelDiffusion:
    torch.manual_seed(0)
    model = MelDiffusion(MelDiffusionConfig(gated=TINY, coarse=TINY, vector_dim=8,
                                            sampling=Sampling(steps=8, guidance=2.0)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def batch() -> Batch:
    source = torch.Generator().manual_seed(0)
    mel = torch.randn(4, 80, FRAMES, generator=source) - 5
    condition = Condition(vector=torch.randn(4, 8, generator=source), aligned=torch.zeros(4, 265, FRAMES))
    return Batch(torch.zeros(4, 1, 1), mel, torch.full((4,), FRAMES), condition, torch.arange(4))


def test_a_student_begins_as_its_teacher_with_fewer_steps_and_no_guidance():
    old = teacher()
    new = begin_student(old, 4)
    sampling = new.config.sampling
    assert (sampling.sampler, sampling.steps, sampling.guidance) == ("ddim", 4, 1.0)
    assert old.config.sampling.steps == 8
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
    assert next(new.parameters()) is not next(old.parameters())
    with pytest.raises(UserError, match="steps=0"):
        begin_student(old, 0)


def test_the_two_steps_are_the_samplers_own(batch):
    old = teacher()
    task = Distillation(old, begin_student(old, 4))
    _, _, coarse = task._residual(batch)
    denoise = task._teacher_of(batch.condition, coarse)
    levels = old.objective.sigmas(8)[2:5]
    x = torch.randn(4, 80, FRAMES, generator=torch.Generator().manual_seed(1)) * levels[0]
    with torch.no_grad():
        ours = task._two_steps(denoise, x, *(level.expand(4) for level in levels))
        torch.testing.assert_close(ours, sample_ddim(denoise, x, levels), rtol=1e-5, atol=1e-5)


def test_a_student_that_ends_where_the_teacher_ends_has_no_loss(batch, monkeypatch):
    """D* through the student's one DDIM step is the teacher's end, so a student that says D* is perfect."""
    old = teacher()
    student = begin_student(old, 4)
    task = Distillation(old, student)
    said = {}

    def perfect(x, sigma, condition, coarse):
        levels = old.objective.sigmas(8)
        index = torch.stack([(levels - s).abs().argmin() for s in sigma])
        denoise = task._teacher_of(condition, coarse)
        with torch.no_grad():
            end = task._two_steps(denoise, x, sigma, levels[index + 1], levels[index + 2])
        ratio = (levels[index + 2] / sigma)[:, None, None]
        said["levels"] = index
        return (end - ratio * x) / (1 - ratio)

    monkeypatch.setattr(student, "denoise", perfect)
    losses = task.loss(batch, SampleRng(0, ids=range(4)))
    assert losses["loss"] < 1e-8 and (said["levels"] % 2 == 0).all()
    monkeypatch.undo()
    assert task.loss(batch, SampleRng(0, ids=range(4)))["loss"] > 1e-3  # guidance is not learned yet


def test_training_brings_the_student_nearer(batch):
    old = teacher()
    task = Distillation(old, begin_student(old, 4))
    before = {key: value.clone() for key, value in old.state_dict().items()}
    (player,) = task.players()
    optimizer = torch.optim.Adam(player.module.parameters(), lr=3e-3)
    history = []
    for step in range(80):
        losses = player.loss(batch, SampleRng(0, step=step, ids=range(4)))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(float(losses["loss"].detach()))
    assert sum(history[-15:]) < 0.6 * sum(history[:15])
    assert all(torch.equal(before[key], value) for key, value in old.state_dict().items())  # the teacher stays
