from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from audiogen.ops import Upsampling
from audiogen.ops.upsampling import check_upsampling, upsample, upsample_backward


def _stretch(taps: torch.Tensor):
    """Hold each frame for 4 steps, then smooth with `taps` (9,): reaches 4 steps, one frame, to either side."""
    return lambda c: F.conv1d(c.repeat_interleave(4, 2).transpose(0, 1), taps[None, None], padding=4).transpose(0, 1)


def test_held_frames_are_repeated():
    c = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert upsample(c, None, None, 6).tolist() == [[[1.0, 1.0, 2.0, 2.0, 3.0, 3.0]]]


def test_a_step_is_the_weighted_sum_of_its_frames():
    torch.manual_seed(0)
    c, first, weights = torch.randn(2, 3, 5), torch.tensor([0, 3, 1, 2], dtype=torch.int32), torch.randn(4, 2)
    made = upsample(c, first, weights, 4)
    for t in range(4):
        expected = sum(weights[t, j] * c[:, :, first[t] + j] for j in range(2))
        torch.testing.assert_close(made[:, :, t], expected)


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 20])
def test_the_band_of_a_map_is_the_map(frames: int):
    torch.manual_seed(0)
    stretch, c = _stretch(torch.randn(9)), torch.randn(1, 3, frames)
    band = Upsampling.of(stretch, frames, reach=1)
    check_upsampling(c, band, 4 * frames)
    assert band.weights.shape[1] <= 3
    torch.testing.assert_close(upsample(c, *band, 4 * frames), stretch(c))


def test_gradients_flow_into_the_map_through_its_band():
    torch.manual_seed(0)
    taps, c, grad = torch.randn(9, requires_grad=True), torch.randn(1, 3, 6), torch.randn(1, 3, 24)
    expected, = torch.autograd.grad((_stretch(taps)(c) * grad).sum(), taps)
    made, = torch.autograd.grad((upsample(c, *Upsampling.of(_stretch(taps), 6, reach=1), 24) * grad).sum(), taps)
    torch.testing.assert_close(made, expected)


@pytest.mark.parametrize("held", [True, False])
def test_backward_is_the_transpose(held: bool):
    torch.manual_seed(0)
    c, grad = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 12)
    first = None if held else torch.randint(0, 3, (12,), dtype=torch.int32)
    weights = None if held else torch.randn(12, 2, requires_grad=True)
    made = upsample_backward(grad, c.detach(), first, None if weights is None else weights.detach())
    expected = torch.autograd.grad((upsample(c, first, weights, 12) * grad).sum(), (c,) if held else (c, weights))
    for one, other in zip(made, expected, strict=False):
        torch.testing.assert_close(one, other)


def test_what_does_not_fit_is_refused():
    c = torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match="4 frames do not divide 10 steps"):
        check_upsampling(c, None, 10)
    with pytest.raises(ValueError, match="5 taps does not fit into 4 frames"):
        check_upsampling(c, Upsampling(torch.zeros(8, dtype=torch.int32), torch.zeros(8, 5)), 8)
    with pytest.raises(ValueError, match="int32"):
        check_upsampling(c, Upsampling(torch.zeros(8, dtype=torch.int64), torch.zeros(8, 2)), 8)
    with pytest.raises(ValueError, match="must be positive"):
        Upsampling.of(lambda x: x, 0, reach=1)
