from __future__ import annotations

import pytest
import torch
from torch import Tensor

from audiogen.ops import channels_last, dilated_conv1d, dilated_conv1d_step, step_state
from audiogen.ops.dilated_conv1d import conv, conv_backward, conv_backward_reference, conv_reference, step

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2, torch.float64: 1e-12}


def made(channels: int, outputs: int, kernel: int, time: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, weight, bias; results of about size 1."""
    random = torch.Generator().manual_seed(time + kernel)
    size = (channels * kernel) ** -0.5
    shapes = ((2, channels, time), 1.0), ((outputs, channels, kernel), size), ((outputs,), 1.0)
    return [(size * torch.randn(shape, generator=random)).to(dtype) for shape, size in shapes]


def close(one: Tensor, other: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=tolerance * max(1, other.abs().max().item()))


@pytest.mark.parametrize(("kernel", "causal", "dilation"), [(3, False, 2), (3, True, 2), (2, True, 5), (5, False, 1)])
def test_the_convolution_is_what_a_triple_loop_makes(kernel: int, causal: bool, dilation: int) -> None:
    x, weight, bias = made(3, 2, kernel, 9)
    expected = bias[None, :, None].repeat(2, 1, 9)
    for t in range(9):
        for tap in range(kernel):
            at = t + dilation * (tap - (kernel - 1 if causal else kernel // 2))
            if 0 <= at < 9:
                for output in range(2):
                    for channel in range(3):
                        expected[:, output, t] += weight[output, channel, tap] * x[:, channel, at]
    close(dilated_conv1d(x, weight, bias, dilation=dilation, causal=causal), expected, 1e-12)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("time", [1, 7, 205])
def test_native_agrees_with_the_reference(level: str, dtype: torch.dtype, time: int) -> None:
    for channels, outputs, kernel, causal, dilation in (
        (8, 16, 3, False, 1), (24, 40, 2, True, 3), (64, 64, 3, True, 100), (5, 7, 1, False, 1), (16, 1, 7, False, 4)
    ):
        x, weight, bias = made(channels, outputs, kernel, time, dtype)
        for laid in (x, channels_last(x)):
            exact = [part.double() for part in (laid, weight, bias)]
            result = conv(laid, weight, bias, dilation, causal)
            close(result, conv_reference(*exact, dilation, causal), TOLERANCE[dtype])
            grad = torch.cos(3 * result)
            results = conv_backward(grad, laid, weight, dilation, causal)
            expected = conv_backward_reference(grad.double(), exact[0], exact[1], dilation, causal)
            for one, other in zip(results, expected, strict=True):
                close(one, other, TOLERANCE[dtype])


def test_gradients_are_those_of_finite_differences() -> None:
    parts = [part.requires_grad_() for part in made(3, 4, 3, 7)]
    assert torch.autograd.gradcheck(conv, (*parts, 2, False), fast_mode=True)
    assert torch.autograd.gradcheck(conv, (parts[0], parts[1], None, 3, True), fast_mode=True)


def test_a_gradient_reaches_the_ends_of_the_receptive_field_and_no_further() -> None:
    x, weight, bias = made(3, 4, 3, 20)
    dilated_conv1d(x.requires_grad_(), weight, bias, dilation=4)[:, :, 10].sum().backward()
    assert x.grad.abs().sum((0, 1)).nonzero().flatten().tolist() == [6, 10, 14]


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(("kernel", "dilation"), [(2, 1), (2, 5), (3, 4), (1, 1)])
def test_step_by_step_is_the_whole(dtype: torch.dtype, kernel: int, dilation: int) -> None:
    """On the path that is live; three times around the ring."""
    x, weight, bias = made(24, 9, kernel, 3 * dilation * kernel + 1, dtype)
    whole = conv_reference(x.double(), weight.double(), bias.double(), dilation, True)
    state = step_state(x[:, :, 0], kernel, dilation)
    for t in range(x.shape[2]):
        y = dilated_conv1d_step(x[:, :, t], state, t, weight, bias, dilation=dilation)
        close(y, whole[:, :, t], TOLERANCE[dtype])


def test_native_steps_agree_with_the_whole(level: str) -> None:
    x, weight, bias = made(37, 50, 3, 40, torch.float32)
    whole = conv_reference(x.double(), weight.double(), bias.double(), 6, True)
    state = step_state(x[:, :, 0], 3, 6)
    for t in range(40):
        if t == 25:  # a state that was saved and restored goes on as if nothing had been
            state = state.clone()
        close(dilated_conv1d_step(x[:, :, t], state, t, weight, bias, dilation=6), whole[:, :, t], 1e-5)


def test_pytorch_takes_the_ops_for_sound() -> None:
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    x, weight, bias = made(3, 4, 3, 7)
    for layout in (x, channels_last(x)):
        torch.library.opcheck(conv, (layout, weight.requires_grad_(), bias, 2, False), test_utils=quick)
    torch.library.opcheck(
        step, (x[:, :, 0], step_state(x[:, :, 0], 3, 2), 3, weight.detach(), bias, 2), test_utils=quick
    )


def test_it_compiles_into_one_graph_with_its_gradient() -> None:
    x, weight, bias = (part.requires_grad_() for part in made(3, 4, 3, 7))

    def run() -> Tensor:
        return dilated_conv1d(x, weight, bias, dilation=2, causal=True).sin().sum()

    expected = torch.autograd.grad(run(), (x, weight, bias))
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(), (x, weight, bias)), expected)


def test_what_does_not_fit_is_refused() -> None:
    x, weight, bias = made(3, 4, 2, 7)
    with pytest.raises(ValueError, match="odd kernel"):
        dilated_conv1d(x, weight, bias)
    with pytest.raises(ValueError, match=r"bias \(3,\)"):
        dilated_conv1d(x, weight, bias[:3], causal=True)
    with pytest.raises(ValueError, match="dilation=0"):
        dilated_conv1d(x, weight, bias, dilation=0, causal=True)
    with pytest.raises(ValueError, match="time >= 1"):
        dilated_conv1d(x[:, :, :0], weight, bias, causal=True)
    with pytest.raises(ValueError, match="state"):
        dilated_conv1d_step(x[:, :, 0], torch.zeros(2, 3, 3), 0, weight, bias, dilation=1)
