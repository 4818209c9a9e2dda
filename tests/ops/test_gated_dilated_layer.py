"""The op against a triple loop, its gradients against finite differences; each on the path that is live here.
That native kernels agree with the reference: test_gated_dilated_layer_native.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from audiogen.ops import Upsampling, channels_last, gated_dilated_layer
from audiogen.ops.gated_dilated_layer import layer, layer_in_place

BATCH, CHANNELS, GATE, SKIPS = 2, 5, 3, 4


def made(time: int = 12, kernel: int = 3, *, dtype: torch.dtype = torch.float64, band: bool = False) -> dict:
    """Keyword arguments of `gated_dilated_layer`."""
    torch.manual_seed(time + kernel)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    frames = 4 if band else 3
    first = torch.arange(time, dtype=torch.int32) * 3 // time
    return dict(
        x=normal(BATCH, CHANNELS, time), weight=normal(2 * GATE, CHANNELS, kernel), bias=normal(2 * GATE),
        out_weight=normal(CHANNELS, GATE), out_bias=normal(CHANNELS), skip_weight=normal(SKIPS, GATE),
        skip_bias=normal(SKIPS), condition=normal(BATCH, 2 * GATE, frames),
        upsampling=Upsampling(first, normal(time, 2)) if band else None, shift=normal(BATCH, CHANNELS),
        skip=normal(BATCH, SKIPS, time),
    )


def flat(given: dict, dilation: int = 1, causal: bool = False, scale: float = 0.7) -> list:
    """The same as the positional arguments of the op."""
    first, band = given["upsampling"] or (None, None)
    names = ("x", "weight", "bias", "out_weight", "out_bias", "skip_weight", "skip_bias", "condition")
    return [*(given[name] for name in names), first, band, given["shift"], given["skip"], dilation, causal, scale]


def looped(given: dict, dilation: int, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """One number after the other."""
    x, weight = given["x"].tolist(), given["weight"].tolist()
    time, kernel, frames = len(x[0][0]), len(weight[0][0]), given["condition"].shape[2]
    x_out, skip_out = given["x"].clone(), given["skip"].clone()
    for item in range(BATCH):
        for t in range(time):
            z = given["bias"].tolist()
            for row in range(2 * GATE):
                for channel in range(CHANNELS):
                    for tap in range(kernel):
                        at = t + dilation * (tap - (kernel - 1 if causal else 1))
                        if 0 <= at < time:
                            read = x[item][channel][at] + float(given["shift"][item, channel])
                            z[row] += weight[row][channel][tap] * read
                if given["upsampling"] is None:
                    z[row] += float(given["condition"][item, row, t * frames // time])
                else:
                    first, band = given["upsampling"]
                    for tap in range(band.shape[1]):
                        z[row] += float(band[t, tap] * given["condition"][item, row, int(first[t]) + tap])
            h = [math.tanh(z[g]) / (1 + math.exp(-z[GATE + g])) for g in range(GATE)]
            for channel in range(CHANNELS):
                out = sum(float(given["out_weight"][channel, g]) * h[g] for g in range(GATE))
                x_out[item, channel, t] = (x[item][channel][t] + out + float(given["out_bias"][channel])) * scale
            for channel in range(SKIPS):
                added = sum(float(given["skip_weight"][channel, g]) * h[g] for g in range(GATE))
                skip_out[item, channel, t] += added + float(given["skip_bias"][channel])
    return x_out, skip_out


@pytest.mark.parametrize("band", [False, True], ids=["held", "band"])
@pytest.mark.parametrize(
    ("kernel", "causal", "dilation", "time"), [(3, False, 1, 12), (3, False, 4, 9), (3, True, 2, 6), (2, True, 8, 3)]
)
def test_the_layer_is_what_a_triple_loop_makes(kernel: int, causal: bool, dilation: int, time: int, band: bool) -> None:
    given = made(time, kernel, band=band)
    expected = looped(given, dilation, causal, 0.7)
    torch.testing.assert_close(gated_dilated_layer(**given, dilation=dilation, causal=causal, scale=0.7), expected)


def test_what_is_not_given_is_not_added() -> None:
    given = made()
    plain = {**given, "bias": None, "out_bias": None, "skip_bias": None, "condition": None, "shift": None, "skip": None}
    zeros = {name: None if given[name] is None else torch.zeros_like(given[name])
             for name, value in plain.items() if value is None}
    torch.testing.assert_close(gated_dilated_layer(**plain), gated_dilated_layer(**{**given, **zeros}))


def test_the_last_layer_returns_x_as_it_is() -> None:
    given = made()
    x_out, skip_out = gated_dilated_layer(**{**given, "out_weight": None, "out_bias": None})
    assert x_out is given["x"]
    torch.testing.assert_close(skip_out, gated_dilated_layer(**given)[1])


def test_results_take_the_memory_layout_of_x_and_the_same_values() -> None:
    given = made(dtype=torch.float32)
    straight = gated_dilated_layer(**given)
    given["x"] = channels_last(given["x"])
    across = gated_dilated_layer(**given)
    assert all(part.is_contiguous() for part in straight)
    assert all(part.transpose(1, 2).is_contiguous() for part in across)
    torch.testing.assert_close(across, straight, rtol=0, atol=1e-6)


def test_skip_is_overwritten_only_where_that_is_allowed_and_no_gradient_is_recorded() -> None:
    given = made()
    before = given["skip"].clone()
    expected = gated_dilated_layer(**given)
    assert torch.equal(given["skip"], before)
    given["weight"].requires_grad_()
    gated_dilated_layer(**given, overwrite_skip=True)
    assert torch.equal(given["skip"], before)
    with torch.no_grad():
        made_in_place = gated_dilated_layer(**given, overwrite_skip=True)
    assert made_in_place[1] is given["skip"]
    torch.testing.assert_close(made_in_place, tuple(part.detach() for part in expected))


@pytest.mark.parametrize("band", [False, True], ids=["held", "band"])
@pytest.mark.parametrize(("kernel", "causal", "dilation"), [(3, False, 2), (2, True, 3)])
def test_gradients_are_those_of_finite_differences(kernel: int, causal: bool, dilation: int, band: bool) -> None:
    given = made(6, kernel, band=band)
    arguments = flat(given, dilation, causal)
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.is_floating_point():
            argument.requires_grad_()
    assert torch.autograd.gradcheck(layer, arguments, fast_mode=True)
    last = [None if place in (3, 4, 11) else argument for place, argument in enumerate(arguments)]
    assert torch.autograd.gradcheck(lambda *all: layer(*all)[1], last, fast_mode=True)


def test_a_gradient_reaches_the_ends_of_the_receptive_field_and_no_further() -> None:
    for kernel, causal, reach in ((3, False, (-3, 0, 3)), (3, True, (-6, -3, 0)), (2, True, (-3, 0))):
        given = made(24, kernel)
        given["x"].requires_grad_()
        _, skip_out = gated_dilated_layer(**given, dilation=3, causal=causal)
        skip_out[:, :, 12].sum().backward()
        read = given["x"].grad.abs().sum((0, 1)).nonzero().flatten() - 12
        assert tuple(read.tolist()) == reach


def test_pytorch_takes_the_ops_for_sound() -> None:
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    given = made()
    torch.library.opcheck(layer, flat(given), test_utils=quick)
    torch.library.opcheck(layer_in_place, flat(given), test_utils=quick)
    trained = [part.requires_grad_() if isinstance(part, Tensor) and part.is_floating_point() else part
               for part in flat(made(band=True))]
    trained[0] = channels_last(trained[0].detach()).requires_grad_()
    torch.library.opcheck(layer, trained)


def test_it_compiles_into_one_graph_with_its_gradient() -> None:
    given = made(band=True)
    parts = [given[name].requires_grad_() for name in ("x", "weight", "condition", "shift", "skip")]

    def run(given: dict) -> Tensor:
        x_out, skip_out = gated_dilated_layer(**given, dilation=2)
        return x_out.square().sum() + skip_out.sin().sum()

    expected = torch.autograd.grad(run(given), parts)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(given), parts), expected)


def test_under_autocast_the_layer_runs_in_its_type() -> None:
    given = made(dtype=torch.float32)
    expected = gated_dilated_layer(**given)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = gated_dilated_layer(**given)
    assert [part.dtype for part in narrow] == [torch.bfloat16] * 2
    for one, other in zip(narrow, expected, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.02, atol=0.1)


def test_an_empty_batch_is_an_empty_result() -> None:
    given = made()
    empty = {name: given[name][:0] for name in ("x", "condition", "shift", "skip")}
    given["weight"].requires_grad_()
    x_out, skip_out = gated_dilated_layer(**{**given, **empty})
    assert x_out.shape == (0, CHANNELS, 12) and skip_out.shape == (0, SKIPS, 12)
    (x_out.sum() + skip_out.sum()).backward()
    assert not given["weight"].grad.any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight": torch.zeros(6, 5, 2)}, "kernel 3"), ({"weight": torch.zeros(7, 5, 3)}, "even number of rows"),
        ({"bias": torch.zeros(5)}, r"bias \(5,\): \(6,\)"), ({"dilation": 0}, "dilation=0"),
        ({"skip": torch.zeros(2, 4, 11)}, "skip"), ({"condition": torch.zeros(2, 6, 5)}, "5 frames do not divide 12"),
        ({"condition": None, "upsampling": Upsampling(torch.zeros(12, dtype=torch.int32), torch.zeros(12, 1))},
         "without a condition"),
        ({"out_weight": None}, "out_bias without"), ({"x": torch.zeros(2, 5, 0)}, "time >= 1"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        gated_dilated_layer(**{**made(), **change})
