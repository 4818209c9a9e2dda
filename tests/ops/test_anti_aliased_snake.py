"""The operator against its definition written as loops, a tone that must not fold back, and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audiogen.ops.anti_aliased_snake import _operator, anti_aliased_snake, anti_aliased_snake_reference


def _inputs(batch: int = 2, channels: int = 3, time: int = 21, *, taps: int = 12, dtype=torch.float64):
    source = torch.Generator().manual_seed(taps + time)
    x = torch.randn(batch, channels, time, generator=source, dtype=dtype)
    alpha, beta = 0.3 * torch.randn(2, channels, generator=source, dtype=dtype)
    up, down = torch.rand(2, taps, generator=source, dtype=dtype)  # not symmetric: a mirrored filter would show
    return x, alpha, beta, up / up.sum(), down / down.sum()


def _loops(x, alpha, beta, up, down, logscale):
    """The docstring's three equations, sample by sample."""
    (batch, channels, time), taps = x.shape, len(up)
    y = np.zeros(x.shape)
    for b in range(batch):
        for c in range(channels):
            a, e = (math.exp(alpha[c]), math.exp(beta[c])) if logscale else (alpha[c], beta[c])
            u = [sum(2 * up[n + taps // 2 - 1 - 2 * m] * x[b, c, min(max(m, 0), time - 1)]
                     for m in range(-taps, time + taps) if 0 <= n + taps // 2 - 1 - 2 * m < taps)
                 for n in range(2 * time)]
            v = [value + math.sin(a * value) ** 2 / (e + 1e-9) for value in u]
            for t in range(time):
                y[b, c, t] = sum(down[j] * v[min(max(2 * t + j - taps // 2 + 1, 0), 2 * time - 1)] for j in range(taps))
    return y


@pytest.mark.parametrize("taps", [2, 4, 6, 12])
@pytest.mark.parametrize("time", [1, 2, 9, 40])
@pytest.mark.parametrize("logscale", [True, False])
def test_it_is_the_definition(taps: int, time: int, logscale: bool) -> None:
    inputs = _inputs(time=time, taps=taps)
    if not logscale:
        inputs = (inputs[0], inputs[1], inputs[2].abs() + 0.5, *inputs[3:])
    expected = torch.from_numpy(_loops(*(tensor.tolist() if tensor.dim() == 1 else tensor.numpy() for tensor in inputs),
                                       logscale))
    for made in (anti_aliased_snake, anti_aliased_snake_reference):
        assert (made(*inputs, logscale=logscale) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("channels, time", [(1, 70_001), (3, 30_000), (40, 2_500), (9_000, 3)])
def test_chunks_leave_no_seam(channels: int, time: int) -> None:
    """More numbers than are worked on at a time, in both layouts."""
    inputs = _inputs(1, channels, time)
    expected = anti_aliased_snake_reference(*inputs)
    assert (anti_aliased_snake(*inputs) - expected).abs().max() < 1e-12
    last = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert (anti_aliased_snake(last, *inputs[1:]) - expected).abs().max() < 1e-12


def test_the_layout_of_the_input_is_kept() -> None:
    x, *rest = _inputs()
    assert anti_aliased_snake(x, *rest).is_contiguous()
    last = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert anti_aliased_snake(last, *rest).stride() == last.stride()


def test_the_gradient_is_that_of_finite_differences() -> None:
    x, alpha, beta, up, down = _inputs(time=7)
    free = [tensor.requires_grad_() for tensor in (x, alpha, beta)]
    assert torch.autograd.gradcheck(lambda *three: anti_aliased_snake(*three, up, down), free)
    assert torch.autograd.gradcheck(lambda x, a: anti_aliased_snake(x, a, a, up, down), free[:2])  # plain Snake


def test_the_operator_is_registered_as_it_behaves() -> None:
    x, alpha, beta, up, down = _inputs(time=4, dtype=torch.float32)
    x, alpha, beta = x.requires_grad_(), alpha.requires_grad_(), beta.requires_grad_()
    torch.library.opcheck(_operator, (x, alpha, beta, up, down, True), test_utils=[
        "test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static"])
    last = x.detach().transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(_operator, (last, alpha, beta, up, down, True), test_utils="test_faketensor")


def test_half_precision_is_rounded_once() -> None:
    inputs = _inputs(channels=8, time=64, dtype=torch.float32)
    half = inputs[0].to(torch.bfloat16)
    exact = anti_aliased_snake(half.float(), *inputs[1:])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = anti_aliased_snake(half, *inputs[1:])
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.to(torch.bfloat16))


def test_overtones_do_not_fold_back() -> None:
    """sin² of a tone at 0.325 of the sample rate lies at 0.65, which without the doubled rate is heard at 0.35."""
    from vocoders.hifigan import low_pass

    x = torch.sin(2 * torch.pi * 0.325 * torch.arange(4000, dtype=torch.float64))[None, None]
    zero, taps = torch.zeros(1, dtype=torch.float64), torch.from_numpy(low_pass())

    def at(y: torch.Tensor, frequency: float) -> float:
        window = torch.hann_window(4000, dtype=torch.float64)
        return float(torch.fft.rfft((y[0, 0] - y.mean()) * window).abs()[round(frequency * 4000)] / window.sum() * 2)

    folded = at(x + torch.sin(x).square(), 0.35)
    assert folded > 0.3
    assert at(anti_aliased_snake(x, zero, zero, taps, taps), 0.35) < 0.25 * folded


@pytest.mark.parametrize(
    "change, named",
    [({0: torch.zeros(2, 3)}, r"\(2, 3\)"), ({0: torch.zeros(2, 3, 0)}, "time >= 1"), ({1: torch.zeros(4)}, r"\(3,\)"),
     ({3: torch.zeros(5)}, "even"), ({4: torch.zeros(1, 12)}, "even")],
)
def test_shapes_that_do_not_fit_are_refused(change: dict, named: str) -> None:
    inputs = [change.get(index, tensor) for index, tensor in enumerate(_inputs(dtype=torch.float32))]
    with pytest.raises(ValueError, match=named):
        anti_aliased_snake(*inputs)
