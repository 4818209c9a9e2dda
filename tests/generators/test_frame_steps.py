"""Steps of frames and back; a past that is spoiled as said, and tells nothing of what comes."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.generators.frame_steps import (
    MOST_KEPT,
    FrameOutput,
    FrameSampling,
    Past,
    SpoilConfig,
    frame_losses,
    own_past,
    spoiled_past,
    to_frames,
    to_steps,
    whole_steps,
)
from audiogen.generators.mixture_density import mixture_mean


@pytest.mark.parametrize("frames, group", [(7, 1), (7, 2), (8, 4), (1, 3)])
def test_frames_come_back_out_of_steps(frames, group):
    x = torch.randn(2, 5, frames)
    steps = to_steps(x, group)
    assert steps.shape == (2, -(-frames // group), 5 * group)
    assert torch.equal(steps[0, 0, :5], x[0, :, 0])
    assert torch.equal(to_frames(steps, group, frames), x)


def test_a_step_counts_where_all_of_its_frames_are_sound():
    assert whole_steps(torch.tensor([5, 4, 0, 9]), 4, 2).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [1] * 4]


def test_an_unspoiled_past_is_the_step_before():
    steps = torch.randn(3, 6, 4)
    past = spoiled_past(steps, torch.zeros(4), SampleRng(0, ids=[1, 2, 3]), SpoilConfig(noise=0, wrong=0, hide=0))
    assert torch.equal(past.frames[:, 1:], steps[:, :-1]) and not past.frames[:, 0].any()
    assert past.seen[:, :, 0].tolist() == [[0, 1, 1, 1, 1, 1]] * 3


def test_noise_has_the_level_that_the_model_is_told():
    steps = torch.zeros(64, 50, 40)
    config = SpoilConfig(noise=0.8, wrong=0, hide=0)
    past = spoiled_past(steps, torch.zeros(40), SampleRng(0, ids=range(64)), config)
    found = past.frames[:, 1:].std(dim=(1, 2))
    torch.testing.assert_close(found, past.level[:, 0, 0], rtol=0.1, atol=0.005)
    assert 0.3 < past.level.mean() < 0.5 and past.level.max() <= 0.8


def test_wrong_frames_and_hidden_steps_are_as_many_as_said():
    steps, silence = torch.ones(400, 86, 2), torch.full((2,), -7.0)
    past = spoiled_past(steps, silence, SampleRng(0, ids=range(400)), SpoilConfig(noise=0, wrong=0.6, hide=0.25))
    assert past.seen[:, 1:].mean() == pytest.approx(0.75, abs=0.02)
    seen = past.seen[:, 1:, 0] > 0
    wrong = (past.frames[:, 1:, 0] != 1) & seen
    assert wrong.sum() / seen.sum() == pytest.approx(0.3, abs=0.04)  # shares of a clip lie evenly in 0 .. 0.6
    silent = (past.frames[:, 1:, 0] == -7) & seen
    assert silent.sum() / wrong.sum() == pytest.approx(0.5, abs=0.08)


def test_the_past_of_a_sample_does_not_depend_on_its_batch():
    steps, silence = torch.randn(3, 40, 4), torch.full((4,), -3.0)
    together = spoiled_past(steps, silence, SampleRng(3, step=2, ids=[4, 5, 6]), SpoilConfig())
    alone = spoiled_past(steps[1:2], silence, SampleRng(3, step=2, ids=[5]), SpoilConfig())
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a[1:2], b)


def test_replaced_frames_come_from_far_away():
    """A ramp of times: what stands for the step before is never one of the next few steps."""
    count = 80
    steps = torch.arange(count).float()[None, :, None].expand(200, count, 1)
    past = spoiled_past(steps, torch.full((1,), 1e6), SampleRng(0, ids=range(200)), SpoilConfig(noise=0, hide=0))
    time = torch.arange(count).float()
    ahead = (past.frames[..., 0] - time).abs()
    ahead = ahead[(past.frames[..., 0] < 1e5) & (past.frames[..., 0] != time - 1) & (time > 0)]
    assert len(ahead) and (torch.minimum(ahead, count - ahead) > 0.25 * count - 6).all()  # 6: the change of level


def test_what_went_astray_dies_out_whatever_was_learned():
    torch.manual_seed(0)
    output = FrameOutput(6, 4, 2, components=2, rank=0)
    with torch.no_grad():
        output.keep.bias.fill_(100)  # keep all that may be kept
        output.density.out.weight.zero_()
        output.density.out.bias.zero_()
    centre, step = torch.randn(1, 8), torch.full((1, 8), 1000.0)
    for _ in range(100):
        past = own_past(step, torch.zeros(1, 8), 0.0)
        step = mixture_mean(output(torch.randn(1, 6), centre, centre, past))
    assert (step - centre).abs().max() < 1000 * MOST_KEPT**98


def test_a_hidden_past_moves_nothing():
    torch.manual_seed(0)
    output = FrameOutput(6, 4, 2, components=2, rank=0)
    hidden, centre = torch.randn(1, 6), torch.randn(1, 8)
    column = torch.zeros(1, 1)
    a, b = (output(hidden, centre, centre, Past(frames, column, column)) for frames in torch.randn(2, 1, 8))
    assert torch.equal(a.mean, b.mean)


def test_losses_are_means_over_the_steps_that_count():
    torch.manual_seed(0)
    output = FrameOutput(6, 4, 1, components=2, rank=2)
    hidden, centre = torch.randn(2, 5, 6), torch.randn(2, 5, 4)
    past = Past(torch.zeros(2, 5, 4), torch.zeros(2, 5, 1), torch.zeros(2, 5, 1))
    x, made = torch.randn(2, 5, 4), output(hidden, centre, centre, past)
    weight = torch.tensor([[1.0] * 5, [1, 1, 0, 0, 0]])
    found = frame_losses(x, made, centre, output.density, weight=weight, centre_weight=0.5)
    nll = -output.density.log_likelihood(x, made) / 4
    likelihood = (nll[0].mean() + nll[1, :2].mean()) / 2
    off = (x - centre).abs().mean(-1)
    torch.testing.assert_close(found["likelihood"], likelihood.detach())
    torch.testing.assert_close(found["loss"], likelihood + 0.5 * (off[0].mean() + off[1, :2].mean()) / 2)


@pytest.mark.parametrize("field", [{"temperature": 3}, {"texture_temperature": -1}, {"history_noise": float("nan")}])
def test_odd_settings_are_one_clear_error(field):
    with pytest.raises(UserError, match=next(iter(field))):
        FrameSampling(**field)
    with pytest.raises(UserError, match="spoil"):
        SpoilConfig(wrong=1.0)
