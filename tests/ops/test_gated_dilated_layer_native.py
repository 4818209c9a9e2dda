"""Native kernels of the gated dilated layer against the reference in float64, at every level of instructions."""

from __future__ import annotations

import time as clock

import pytest
import torch
from torch import Tensor

from audiogen.ops import channels_last
from audiogen.ops.gated_dilated_layer import layer, layer_backward, layer_backward_reference, layer_reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2, torch.float64: 1e-12}
TYPES = list(TOLERANCE)
NAMES = ("x", "weight", "bias", "out_weight", "out_bias", "skip_weight", "skip_bias", "condition", "first", "band",
         "shift", "skip")
BACKWARD = ("x", "weight", "bias", "out_weight", "skip_weight", "condition", "first", "band", "shift")


def made(
    dtype: torch.dtype, *, batch: int = 2, channels: int = 16, gate: int = 24, skips: int = 8, time: int = 50,
    kernel: int = 3, conditioned: str = "band", last: bool = False, bare: bool = False,
) -> dict[str, Tensor | None]:
    """The op's tensors; results of about size 1, so that absolute errors mean something."""
    random = torch.Generator().manual_seed(time)

    def normal(*shape: int, size: float = 1.0) -> Tensor:
        return (size * torch.randn(*shape, generator=random)).to(dtype)

    given = dict.fromkeys(NAMES)
    given |= {
        "x": channels_last(normal(batch, channels, time)),
        "weight": normal(2 * gate, channels, kernel, size=(channels * kernel) ** -0.5),
        "skip_weight": normal(skips, gate, size=gate**-0.5),
    }
    if not last:
        given["out_weight"] = normal(channels, gate, size=gate**-0.5)
    if not bare:
        given |= {"bias": normal(2 * gate), "skip_bias": normal(skips), "shift": normal(batch, channels),
                  "skip": channels_last(normal(batch, skips, time)), "out_bias": None if last else normal(channels)}
    if conditioned == "held":
        given["condition"] = normal(batch, 2 * gate, time // next(n for n in (5, 3, 1) if time % n == 0))
    elif conditioned == "band":
        given["condition"] = normal(batch, 2 * gate, 6)
        given["first"] = torch.arange(time, dtype=torch.int32) * 4 // time
        given["band"] = normal(time, 3, size=0.5).to(torch.promote_types(dtype, torch.float32))
    return given


def wide(given: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: part.double() if part is not None and part.is_floating_point() else part
            for name, part in given.items()}


def check(results: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    """Each within `tolerance` of the largest number (at least 1) of what is expected."""
    for one, other in zip(results, expected, strict=True):
        assert one.shape == other.shape
        if other.numel():
            torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * max(1, other.abs().max().item()))


def both(given: dict[str, Tensor | None], dilation: int = 1, causal: bool = False) -> None:
    """Forward and backward, native against the reference in float64."""
    tolerance, exact = TOLERANCE[given["x"].dtype], wide(given)
    check(layer(*given.values(), dilation, causal, 0.7), layer_reference(*exact.values(), dilation, causal, 0.7),
          tolerance)
    random = torch.Generator().manual_seed(1)
    x = given["x"]
    of_x_out = torch.randn(x.shape, generator=random).to(x.dtype) if given["out_weight"] is not None else None
    of_skip = torch.randn(x.shape[0], given["skip_weight"].shape[0], x.shape[2], generator=random).to(x.dtype)
    results = layer_backward(of_x_out, of_skip, *(given[name] for name in BACKWARD), dilation, causal, 0.7)
    expected = layer_backward_reference(
        None if of_x_out is None else of_x_out.double(), of_skip.double(), *(exact[name] for name in BACKWARD),
        dilation, causal, 0.7,
    )
    check(results, expected, tolerance)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("time", [1, 5, 97, 203])
def test_lengths_types_and_dilations_agree_with_the_reference(level: str, dtype: torch.dtype, time: int) -> None:
    """Shorter than the receptive field, not a multiple of anything, several tiles."""
    for kernel, causal, dilation in ((3, False, 1), (3, False, 64), (3, True, 3), (2, True, 1), (2, True, 150)):
        both(made(dtype, time=time, kernel=kernel), dilation, causal)


@pytest.mark.parametrize(("channels", "gate", "skips"), [(8, 8, 8), (64, 64, 64), (40, 72, 136), (5, 7, 3), (1, 1, 1)])
def test_channels_agree_with_the_reference(level: str, channels: int, gate: int, skips: int) -> None:
    both(made(torch.float32, channels=channels, gate=gate, skips=skips, time=100), 4)


@pytest.mark.parametrize("conditioned", ["none", "held", "band"])
@pytest.mark.parametrize(("last", "bare"), [(False, True), (True, True), (True, False)])
def test_what_is_left_out_agrees_with_the_reference(level: str, conditioned: str, last: bool, bare: bool) -> None:
    both(made(torch.float32, conditioned=conditioned, last=last, bare=bare, time=45), 2)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_any_memory_layout_agrees_with_the_reference(level: str, dtype: torch.dtype) -> None:
    given = made(dtype, time=60)
    given["x"] = given["x"].contiguous()
    both(given, 2)
    given["x"] = torch.stack([given["x"], given["x"]], 3)[:, :, :, 0].flip(2)[:, :, ::2]  # every fourth number
    given |= {"skip": given["skip"][:, :, 10:40], "first": given["first"][:30], "band": given["band"][:30].T.clone().T,
              "weight": given["weight"].transpose(0, 2).contiguous().transpose(0, 2)}
    both(given, 2)


def test_a_tap_that_is_one_step_off_is_found(native: None) -> None:
    given = made(torch.float32, conditioned="none")
    exact = layer_reference(*wide(given).values(), 2, False, 0.7)
    check(layer(*given.values(), 2, False, 0.7), exact, 1e-5)
    late = torch.zeros(given["weight"].shape[:2] + (3,))
    late[:, :, 2] = given["weight"][:, :, 2]  # the last tap reads x as it was one step before
    given["weight"] = given["weight"].clone()
    given["weight"][:, :, 2] = 0
    shifted = dict(wide(given))
    shifted["condition"] = torch.nn.functional.conv1d(
        torch.nn.functional.pad((given["x"] + given["shift"][:, :, None]).double(), (1, 1)), late.double(),
        padding=1, dilation=1,
    )[:, :, : given["x"].shape[2]]
    with pytest.raises(AssertionError):
        check(layer_reference(*shifted.values(), 2, False, 0.7), exact, 1e-5)


@pytest.mark.parametrize("channels", [16, 20])  # whole vectors, read and written in place; and not
@pytest.mark.parametrize("dilation", [1, 4, 60])
def test_a_result_is_the_same_in_any_chunk_and_with_any_number_of_threads(
    level: str, dilation: int, channels: int
) -> None:
    """To the last bit. Chunks begin where a block of pairs does, and end anywhere; any number of steps at the ends."""
    given = made(torch.float32, time=397, conditioned="none", channels=channels, skips=channels)
    inputs = ("x", "skip")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = layer(*given.values(), dilation, False, 0.7)
        for count in (2, 3):
            torch.set_num_threads(count)
            again = layer(*given.values(), dilation, False, 0.7)
            assert all(torch.equal(one, other) for one, other in zip(again, whole, strict=True))
        for start, stop in ((0, 3 * dilation + 1), (2 * dilation, 397), (120, 251), (240, 397)):
            part = given | {name: given[name][:, :, start:stop] for name in inputs}
            inside = layer(*part.values(), dilation, False, 0.7)
            first, last = start + dilation if start else 0, stop - dilation if stop < 397 else 397
            for one, other in zip(inside, whole, strict=True):
                assert torch.equal(one[:, :, first - start : last - start], other[:, :, first:last])
    finally:
        torch.set_num_threads(threads)


def test_a_chunk_that_begins_within_a_pair_differs_by_rounding_alone(level: str) -> None:
    """Other steps are paired then."""
    given = made(torch.float32, time=200, conditioned="none")
    whole = [part.double() for part in layer(*given.values(), 4, False, 0.7)]
    part = given | {"x": given["x"][:, :, 41:120], "skip": given["skip"][:, :, 41:120]}
    inside = layer(*part.values(), 4, False, 0.7)
    check([one[:, :, 4:-4] for one in inside], [other[:, :, 45:116] for other in whole], 2e-6)


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_pairs_keep_the_precision_of_single_steps(level: str, size: float) -> None:
    """At 128 channels, x of deviation `size`: within 1e-6, or where torch's own float32 is worse, 3 times its error.

    The sums of two numbers that the products take cost a bit or two. Where z is large, both err by its last bits.
    """
    given = made(torch.float32, channels=128, gate=128, skips=32, time=101, conditioned="none")
    given["x"] = size * given["x"]
    for dilation in (1, 7):
        exact = layer_reference(*wide(given).values(), dilation, False, 0.7)
        single = layer_reference(*given.values(), dilation, False, 0.7)
        for one, other, right in zip(layer(*given.values(), dilation, False, 0.7), single, exact, strict=True):
            largest = right.abs().max().clamp(min=1)
            error, usual = ((part.double() - right).abs().max() / largest for part in (one, other))
            assert error < max(1e-6, 3 * usual)


def test_gradients_are_the_same_every_time(level: str) -> None:
    given, threads = made(torch.float32, time=500), torch.get_num_threads()
    of_x, of_skip = torch.ones_like(given["x"]), torch.ones_like(given["skip"])
    try:
        torch.set_num_threads(2)
        first, second = (layer_backward(of_x, of_skip, *(given[name] for name in BACKWARD), 8, False, 0.7)
                         for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_the_number_of_threads_is_that_of_torch(native: None) -> None:
    """With one thread all the work is this thread's; with two, another has a good share of it."""
    given, threads = made(torch.float32, channels=64, gate=64, skips=64, time=4000), torch.get_num_threads()

    def of_others(count: int) -> float:
        torch.set_num_threads(count)
        layer(*given.values(), 1, False, 0.7)
        start = clock.process_time(), clock.thread_time()
        for _ in range(5):
            layer(*given.values(), 1, False, 0.7)
        whole, own = clock.process_time() - start[0], clock.thread_time() - start[1]
        return 1 - own / whole

    try:
        assert of_others(1) < 0.1
        assert of_others(2) > 0.25
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dilation", [2, 40])
def test_nan_and_infinity_come_through_and_go_no_further(level: str, dilation: int) -> None:
    """NaN exactly where the reference has it. Infinity: z of a pair is made of sums and differences, so it is NaN where
    the reference's gates may be shut. That in the steps that read it, and all others keep their bits.
    """
    given = made(torch.float32, conditioned="none", time=230)
    before = layer(*given.values(), dilation, False, 0.7)
    for at in (7, 100, 101, 229):  # the first of a pair and the second, one that has no second
        given["x"] = channels_last(given["x"].clone())
        was = given["x"][1, 3, at].item()
        readers = [t for t in (at - dilation, at, at + dilation) if 0 <= t < 230]
        for wrong in (float("nan"), float("inf"), float("-inf")):
            given["x"][1, 3, at] = wrong
            results = layer(*given.values(), dilation, False, 0.7)
            expected = layer_reference(*given.values(), dilation, False, 0.7)
            for one, other, right in zip(results, before, expected, strict=True):
                assert (one != other)[1].any(0).nonzero().flatten().tolist() == readers
                assert torch.equal(one[0], other[0])
                assert (one.isnan() | right.isfinite() | right.isinf()).all()  # no NaN is lost
                if wrong != wrong:
                    assert torch.equal(one.isnan(), right.isnan())
            assert not results[0][1, 3, at].isfinite()
        given["x"][1, 3, at] = was


@pytest.mark.parametrize("dilation", [1, 3, 40, 200])
@pytest.mark.parametrize(("kernel", "causal"), [(3, False), (3, True), (2, True)])
def test_gradients_end_where_the_receptive_field_does(level: str, kernel: int, causal: bool, dilation: int) -> None:
    """In tiles of whole blocks of pairs and of parts of one: not zero at each tap, exactly zero elsewhere."""
    time, at = 900, 450
    given = made(torch.float32, batch=1, time=time, kernel=kernel, conditioned="none", last=True)
    of_skip = torch.zeros(1, 8, time)
    of_skip[:, :, at] = 1
    of_x = layer_backward(None, of_skip, *(given[name] for name in BACKWARD), dilation, causal, 0.7)[0]
    reached = of_x.abs().amax((0, 1)).nonzero().flatten() - at
    first = -(kernel - 1) * dilation if causal else -dilation
    assert reached.tolist() == [first + tap * dilation for tap in range(kernel)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tanh_and_sigmoid_are_within_a_millionth(level: str, dtype: torch.dtype) -> None:
    z = torch.linspace(-30, 30, 24001, dtype=dtype)
    given = dict.fromkeys(NAMES)
    # One channel in, one gate: the halves of z are x and 1.7 x, and skip is h itself.
    given |= {"x": z[None, None], "weight": torch.tensor([[[0, 1.0, 0]], [[0, 1.7, 0]]], dtype=dtype),
              "skip_weight": torch.ones(1, 1, dtype=dtype)}
    _, h = layer(*given.values(), 1, False, 1.0)
    expected = torch.tanh(z.double()) * torch.sigmoid(1.7 * z.double())
    assert (h[0, 0].double() - expected).abs().max() < (1e-6 if dtype == torch.float32 else 1e-14)
