"""Native kernels of the snake without aliasing against its definition in float64, at every level of instructions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from audiogen.ops import channels_last
from audiogen.ops.anti_aliased_snake import _backward_operator, _operator, anti_aliased_snake_reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2, torch.float64: 1e-12}


def made(dtype: torch.dtype, channels: int, time: int, taps: int = 12) -> list[Tensor]:
    """x, alpha, beta, filters; the filters not symmetric, so that a mirrored one would show."""
    random = torch.Generator().manual_seed(channels + time)
    x = torch.randn(2, channels, time, generator=random).to(dtype)
    alpha, beta = 0.3 * torch.randn(2, channels, generator=random).to(dtype)
    up, down = torch.rand(2, taps, generator=random).to(dtype)
    return [x, alpha, beta, up / up.sum(), down / down.sum()]


def agree(given: list[Tensor], logscale: bool = True) -> None:
    """Forward and all three gradients, against autograd through the definition in float64."""
    tolerance = TOLERANCE[given[0].dtype]
    exact = [part.double() for part in given]
    leaves = [part.requires_grad_() for part in exact[:3]]
    expected = anti_aliased_snake_reference(*leaves, *exact[3:], logscale=logscale)
    result = _operator(*given, logscale)
    if min(given[0].shape) > 1:
        assert result.stride() == given[0].stride()
    grad = torch.cos(5 * given[0].contiguous()).to(given[0].dtype)
    results = (result, *_backward_operator(grad, *given, logscale))
    expected = (expected.detach(), *torch.autograd.grad(expected, leaves, grad.double()))
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * max(1, other.abs().max().item()))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(("channels", "time"), [(1, 1), (3, 2), (24, 7), (8, 159), (70, 161), (130, 330)])
def test_types_and_sizes_agree_with_the_definition(level: str, dtype: torch.dtype, channels: int, time: int) -> None:
    given = made(dtype, channels, time)
    agree(given)
    agree([channels_last(given[0]), *given[1:]])


@pytest.mark.parametrize("taps", [2, 4, 6, 14])
@pytest.mark.parametrize("time", [1, 3, 20, 163])
def test_filters_of_any_even_length_agree_with_the_definition(level: str, taps: int, time: int) -> None:
    given = made(torch.float32, 9, time, taps)
    agree(given)
    agree([given[0], given[1].exp(), given[2].exp(), *given[3:]], logscale=False)
    agree([*given[:3], given[3], made(torch.float32, 9, time, 10)[4]])  # two lengths


def test_large_arguments_of_the_sine_agree_with_the_definition(level: str) -> None:
    """Up to 1e4 the multiple of pi is taken out here, beyond it the C library does it."""
    given = made(torch.float32, 16, 60)
    for size in (30.0, 3e3, 1e6):
        given[1] = torch.full((16,), size).log()
        x = given[0].double()
        result = _operator(*given, True).double()
        expected = anti_aliased_snake_reference(x, *(part.double() for part in given[1:]), logscale=True)
        # What a last bit of u alone can do to the sine is no error of the kernel.
        error = (result - expected).abs().max()
        assert error < 1e-5 + 3 * size * 2**-23
        assert torch.isfinite(result).all()


def test_nan_and_infinity_come_through(level: str) -> None:
    given = made(torch.float32, 8, 50)
    given[0][0, 2, 10], given[0][1, 3, 40] = float("nan"), float("inf")
    exact = anti_aliased_snake_reference(*given)
    assert torch.equal(_operator(*given, True).isnan(), exact.isnan()) and exact.isnan().any()


def test_a_result_is_the_same_with_any_number_of_threads(level: str) -> None:
    given, threads = made(torch.float32, 70, 700), torch.get_num_threads()
    try:
        one = _operator(*given, True)
        torch.set_num_threads(2)
        assert torch.equal(_operator(*given, True), one)
        first, second = (_backward_operator(given[0], *given, True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    finally:
        torch.set_num_threads(threads)
