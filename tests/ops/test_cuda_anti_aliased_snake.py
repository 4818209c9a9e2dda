"""CUDA kernels of the snake without aliasing against the reference in float64: emulated on the CPU, and on a GPU."""

from __future__ import annotations

import pytest
import torch
from ops.cuda_kernels import PLACES, Where, lines_of, place, surrounded

from audiogen.ops import channels_last
from audiogen.ops.anti_aliased_snake import anti_aliased_snake_reference


@pytest.fixture(params=PLACES)
def where(request: pytest.FixtureRequest) -> Where:
    return place(request.param, "anti_aliased_snake")


def made(batch: int, channels: int, time: int, dtype: torch.dtype, taps: int = 12) -> list[torch.Tensor]:
    """x, gradient, alpha, beta, two filters: any filters, for the kernels must not count on their symmetry."""
    random = torch.Generator().manual_seed(time)
    sizes = ((batch, channels, time), (batch, channels, time), (channels,), (channels,), (taps,), (taps,))
    x, grad, alpha, beta, up, down = (surrounded(torch.randn(size, generator=random)) for size in sizes)
    return [surrounded(x.to(dtype)), surrounded(grad.to(dtype)), alpha / 2, beta / 2, up / 6, down / 3]


def check(where: Where, given: list[torch.Tensor], logscale: bool) -> list[torch.Tensor]:
    x, grad, *scales, up, down = given
    exact = [part.double().requires_grad_() for part in (x, *scales)]
    expected = anti_aliased_snake_reference(*exact, up.double(), down.double(), logscale=logscale)
    gradients = torch.autograd.grad(expected, exact, grad.double())
    y = where.run("anti_aliased_snake", x, *scales, up, down, logscale)
    results = [y, *where.run("anti_aliased_snake_backward", grad, x, *scales, up, down, logscale)]
    for one, other in zip(results, (expected.detach(), *gradients), strict=True):
        assert one.shape == other.shape
        size = max(1, other.abs().max().item())
        rounding = 1e-5 if one.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(one.double(), other, rtol=0, atol=rounding * size)
    return results


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("time", [1, 2, 3, 7, 15, 16, 17, 18, 19, 127, 128, 129, 146])
def test_every_length_near_the_tiles_edges_agrees(where: Where, time: int, layout: str) -> None:
    given = made(1, 2, time, torch.float32)
    if layout == "channels last":
        given[:2] = [surrounded(channels_last(part)) for part in given[:2]]
    result, of_x, *_ = check(where, given, logscale=True)
    if time > 1 and where.device == "cpu":
        assert result.stride() == of_x.stride() == given[0].stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_types_channels_and_batches_agree(where: Where, dtype: torch.dtype) -> None:
    given = made(2, 33, 150, dtype)
    given[2], given[3] = given[2].abs() + 0.1, given[3].abs() + 0.1
    check(where, given, logscale=False)


def test_large_arguments_of_the_sine(where: Where) -> None:
    given = made(1, 2, 40, torch.float32)
    given[2] = torch.tensor([5.0, 6.0])  # alpha e^5 and e^6: hundreds of turns
    x, _, alpha, beta, up, down = given
    y = where.run("anti_aliased_snake", x, alpha, beta, up, down, True)
    exact = anti_aliased_snake_reference(x.double(), alpha.double(), beta.double(), up.double(), down.double())
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=2e-3)  # u alpha itself is known to 1e-4 in float32


@pytest.mark.parametrize(("taps", "dtype"), [(8, torch.float32), (12, torch.float64)])
def test_the_reference_serves_what_the_kernels_do_not_take(where: Where, taps: int, dtype: torch.dtype) -> None:
    check(where, [part.to(dtype) for part in made(1, 2, 20, dtype, taps)], logscale=True)


def test_the_order_of_threads_changes_no_bit_and_missing_barriers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    where = place("emulated", "anti_aliased_snake")
    given = made(1, 34, 140, torch.float32)
    results = []
    for order in ("0", "1", "2", "3", "9"):
        monkeypatch.setenv("AUDIOGEN_EMULATION_ORDER", order)
        results.append(check(where, given, logscale=True))
    for later in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], later, strict=True))
    barriers = lines_of("anti_aliased_snake.cuh", "__syncthreads();")
    assert len(barriers) == 6
    for line in barriers:
        monkeypatch.setenv("AUDIOGEN_EMULATION_SKIP", line)
        wrong = 0
        for order in ("0", "1", "2", "3"):
            monkeypatch.setenv("AUDIOGEN_EMULATION_ORDER", order)
            try:
                check(where, given, logscale=True)
            except AssertionError:
                wrong += 1
        assert wrong, f"the barrier in line {line} could be left out"
