"""CUDA kernels of the dilated convolution against the reference in float64: emulated on the CPU, and on a GPU."""

from __future__ import annotations

import pytest
import torch
from ops.cuda_kernels import PLACES, Where, lines_of, place, surrounded

from audiogen.ops import channels_last
from audiogen.ops.dilated_conv1d import conv_backward_reference, conv_reference, step_reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}


@pytest.fixture(params=PLACES)
def where(request: pytest.FixtureRequest) -> Where:
    return place(request.param, "dilated_conv1d")


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    assert one.shape == other.shape
    torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * max(1, other.abs().max().item()))


CASES = {
    "kernel 1": (torch.float32, 1, 8, 8, 5, 1, 1, False),
    "centred": (torch.float32, 2, 24, 16, 140, 5, 7, False),
    "causal, long": (torch.bfloat16, 2, 72, 136, 131, 2, 64, True),
    "16 taps": (torch.float16, 1, 8, 16, 70, 16, 3, True),
    "beyond the end": (torch.float32, 1, 16, 8, 20, 3, 1 << 40, True),
    "not for kernels": (torch.float32, 1, 5, 3, 20, 3, 2, False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_convolution_and_gradients_agree_with_the_reference(where: Where, case: tuple) -> None:
    dtype, batch, channels, outputs, time, kernel, dilation, causal = case
    random = torch.Generator().manual_seed(0)
    x = surrounded(channels_last(torch.randn(batch, channels, time, generator=random).to(dtype)))
    weight = torch.randn(outputs, channels, kernel, generator=random) * (channels * kernel) ** -0.5
    weight = surrounded(weight.to(dtype))
    bias = surrounded(torch.randn(outputs, generator=random).to(dtype))
    grad = surrounded(channels_last(torch.randn(batch, outputs, time, generator=random).to(dtype)))
    near = min(dilation, time)  # what is further away is padding, of which the reference would make too much
    y = where.run("dilated_conv1d", x, weight, bias, dilation if channels % 8 == 0 else near, causal)
    close(y, conv_reference(x.double(), weight.double(), bias.double(), near, causal), TOLERANCE[dtype])
    gradients = where.run("dilated_conv1d_backward", grad, x, weight, near, causal)
    expected = conv_backward_reference(grad.double(), x.double(), weight.double(), near, causal)
    for one, other in zip(gradients, expected, strict=True):
        close(one, other, TOLERANCE[dtype])


@pytest.mark.parametrize("outputs", [64, 128, 136])
def test_wgmma_and_mma_agree(where: Where, monkeypatch: pytest.MonkeyPatch, outputs: int) -> None:
    """Tiles of 64, 128 and 256 columns; both round sums in float32 once, to the same 16 bits but for ties."""
    if where.device != "cpu" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("wgmma is Hopper's")
    random = torch.Generator().manual_seed(0)
    x = surrounded(channels_last(torch.randn(1, 72, 131, generator=random).half()))
    weight = surrounded((torch.randn(outputs, 72, 2, generator=random) / 12).half())
    results = []
    for way in ("mma", "wgmma"):
        monkeypatch.setenv("AUDIOGEN_TENSOR_CORES", way)
        results.append(where.run("dilated_conv1d", x, weight, None, 5, True))
    close(results[0], conv_reference(x.double(), weight.double(), None, 5, True), 1e-2)
    torch.testing.assert_close(*results, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_steps_agree_with_the_reference_and_wrap_their_ring(where: Where, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 10, 3, generator=random).to(dtype) / 5
    bias = torch.randn(7, generator=random).to(dtype)
    state = torch.zeros(2, 8, 10, dtype=dtype)
    moved, exact = state.to(where.device, copy=True), state.double()
    for position in range(20):
        x = torch.randn(2, 10, generator=random).to(dtype)
        y = where.ops.dilated_conv1d_step(x.to(where.device), moved, position, weight.to(where.device),
                                          bias.to(where.device), 4)
        expected = step_reference(x.double(), exact, position, weight.double(), bias.double(), 4)
        close(y.cpu(), expected, TOLERANCE.get(dtype, 1e-12))
    assert torch.equal(moved.cpu().double(), exact)


def test_the_order_of_threads_changes_no_bit_and_missing_barriers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    where = place("emulated", "dilated_conv1d")
    random = torch.Generator().manual_seed(0)
    x = channels_last(torch.randn(1, 72, 150, generator=random))
    grad, weight = torch.randn(1, 8, 150, generator=random), torch.randn(8, 72, 2, generator=random) / 12
    expected = conv_backward_reference(grad.double(), x.double(), weight.double(), 3, True)

    def results(order: str) -> tuple[torch.Tensor, ...]:
        monkeypatch.setenv("AUDIOGEN_EMULATION_ORDER", order)
        return where.run("dilated_conv1d_backward", grad, x, weight, 3, True)

    whole = results("0")
    for order in ("1", "2", "3", "8"):
        assert all(torch.equal(one, other) for one, other in zip(whole, results(order), strict=True))
    barriers = lines_of("convolution.cuh", "__syncthreads();")
    assert len(barriers) == 2
    for line in barriers:
        monkeypatch.setenv("AUDIOGEN_EMULATION_SKIP", line)
        wrong = 0
        for order in ("0", "1", "2", "3"):
            try:
                for one, other in zip(results(order), expected, strict=True):
                    close(one, other, 1e-5)
            except AssertionError:
                wrong += 1
        assert wrong, f"the barrier in line {line} could be left out"
