"""CUDA kernels of the gated dilated layer against the reference in float64: emulated on the CPU, and on a GPU."""

from __future__ import annotations

import pytest
import torch
from ops.cuda_kernels import PLACES, Where, lines_of, place, surrounded
from torch import Tensor

from audiogen.ops import channels_last
from audiogen.ops.gated_dilated_layer import layer_backward_reference, layer_reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
INPUTS = ("x", "weight", "bias", "out_weight", "out_bias", "skip_weight", "skip_bias", "condition", "first", "band",
          "shift", "skip")
OF_BACKWARD = ("x", "weight", "bias", "out_weight", "skip_weight", "condition", "first", "band", "shift")


@pytest.fixture(params=PLACES)
def where(request: pytest.FixtureRequest) -> Where:
    return place(request.param, "gated_dilated_layer")


def made(
    dtype: torch.dtype, *, batch: int = 2, channels: int = 16, gate: int = 24, skips: int = 8, time: int = 70,
    kernel: int = 3, frames: int | None = None, taps: int = 0, shift: bool = False, last: bool = False,
    bare: bool = False,
) -> dict[str, Tensor | None]:
    """The op's tensors, each in the middle of NaNs; results of about size 1, so that absolute errors mean something."""
    random = torch.Generator().manual_seed(time)

    def normal(*shape: int, size: float = 1.0) -> Tensor:
        return surrounded((size * torch.randn(*shape, generator=random)).to(dtype))

    given: dict[str, Tensor | None] = dict.fromkeys(INPUTS)
    given["x"] = surrounded(channels_last(normal(batch, channels, time)))
    given["weight"] = normal(2 * gate, channels, kernel, size=(channels * kernel) ** -0.5)
    given["skip_weight"] = normal(skips, gate, size=gate**-0.5)
    if not last:
        given["out_weight"] = normal(channels, gate, size=gate**-0.5)
    if not bare:
        given |= {"bias": normal(2 * gate), "skip_bias": normal(skips),
                  "skip": surrounded(channels_last(normal(batch, skips, time)))}
        given["out_bias"] = None if last else normal(channels)
    if shift:
        given["shift"] = normal(batch, channels)
    if frames:
        given["condition"] = normal(batch, 2 * gate, frames)
    if taps:
        given["first"] = (torch.arange(time) * (frames - taps + 1) // time).int()
        given["band"] = torch.rand(time, taps, generator=random)
    return given


def wide(values: list) -> list:
    return [part.double() if isinstance(part, Tensor) and part.is_floating_point() else part for part in values]


def check(results: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    """Each within `tolerance` of the largest number (at least 1) of what is expected."""
    for one, other in zip(results, expected, strict=True):
        assert one.shape == other.shape
        if other.numel():
            torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * max(1, other.abs().max().item()))


def both(where: Where, given: dict[str, Tensor | None], dilation: int, causal: bool) -> tuple[Tensor, ...]:
    """Forward and backward against the reference in float64 -> the results."""
    tolerance = TOLERANCE[given["x"].dtype]
    forward = [*given.values(), dilation, causal, 0.7]
    outputs = where.run("gated_dilated_layer", *forward)
    check(outputs, layer_reference(*wide(forward)), tolerance)
    random = torch.Generator().manual_seed(1)
    x = given["x"]
    of_x = surrounded(channels_last(torch.randn(x.shape, generator=random).to(x.dtype)))
    of_skip = torch.randn(x.shape[0], len(given["skip_weight"]), x.shape[2], generator=random).to(x.dtype)
    backward = [None if given["out_weight"] is None else of_x, of_skip, *(given[name] for name in OF_BACKWARD),
                dilation, causal, 0.7]
    gradients = where.run("gated_dilated_layer_backward", *backward)
    check(gradients, layer_backward_reference(*wide(backward)), tolerance)
    return (*outputs, *gradients)


CASES = {
    "one step": (torch.float32, {"time": 1, "batch": 1, "kernel": 2}, 1, True),
    "shorter than the field": (torch.float32, {"time": 37, "frames": 37}, 64, False),
    "beyond a tile, band, shift": (torch.float32, {"time": 129, "frames": 30, "taps": 3, "shift": True}, 4, False),
    "bfloat16, band, shift": (torch.bfloat16, {"time": 70, "frames": 8, "taps": 3, "shift": True}, 5, False),
    "float16, held, causal": (torch.float16, {"time": 70, "frames": 7}, 3, True),
    "kernel 2": (torch.bfloat16, {"time": 130, "kernel": 2, "batch": 1}, 40, True),
    "several column tiles": (torch.bfloat16, {"channels": 72, "gate": 72, "skips": 136, "batch": 1}, 2, False),
    "several chunks of K": (torch.float32, {"channels": 40, "gate": 40, "skips": 64, "batch": 1}, 2, False),
    "last layer": (torch.float32, {"last": True, "frames": 1}, 2, True),
    "bare": (torch.float32, {"bare": True, "channels": 8, "gate": 8}, 1, False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_forward_and_backward_agree_with_the_reference(where: Where, case: tuple) -> None:
    dtype, sizes, dilation, causal = case
    both(where, made(dtype, **sizes), dilation, causal)


WIDE = {  # tiles of wgmma: more columns of gates and of outputs than one has, K of several chunks, rows beyond a tile
    "128 columns": ({"channels": 72, "gate": 40, "skips": 96, "time": 20}, 3, True),
    "256 columns": ({"channels": 8, "gate": 136, "skips": 256, "time": 130, "batch": 1, "frames": 5, "taps": 2,
                     "shift": True}, 7, False),
}


@pytest.mark.parametrize("case", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize(("way", "dtype"), [("mma", torch.bfloat16), ("wgmma", torch.bfloat16),
                                            ("wgmma", torch.float16)], ids=str)
def test_both_kinds_of_tensor_cores_agree_with_the_reference(
    where: Where, monkeypatch: pytest.MonkeyPatch, way: str, case: tuple, dtype: torch.dtype
) -> None:
    if where.device != "cpu" and way == "wgmma" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("wgmma is Hopper's")
    monkeypatch.setenv("AUDIOGEN_TENSOR_CORES", way)
    sizes, dilation, causal = case
    both(where, made(dtype, **sizes), dilation, causal)


def test_wgmma_serves_hopper_alone_and_other_wishes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    where = place("emulated", "gated_dilated_layer")
    given = made(torch.bfloat16, time=20)
    for wish, capability, reason in (("wgmma", "80", "needs sm_90"), ("wgmma", "100", "needs sm_90"),
                                     ("all", "90", "one of auto, mma, wgmma")):
        monkeypatch.setenv("AUDIOGEN_TENSOR_CORES", wish)
        monkeypatch.setenv("AUDIOGEN_EMULATION_CAPABILITY", capability)
        with pytest.raises(RuntimeError, match=reason):
            where.run("gated_dilated_layer", *given.values(), 2, False, 0.7)


@pytest.mark.parametrize("way", ["mma", "wgmma"])
def test_the_order_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A barrier that is missing, or an atomic sum, would."""
    monkeypatch.setenv("AUDIOGEN_TENSOR_CORES", way)
    where = place("emulated", "gated_dilated_layer")
    given = made(torch.bfloat16, time=70, frames=8, taps=3, shift=True, batch=1)
    results = []
    for order in ("0", "1", "2", "5"):
        monkeypatch.setenv("AUDIOGEN_EMULATION_ORDER", order)
        results.append(both(where, given, 2, False))
    assert all(torch.equal(one, other) for later in results[1:] for one, other in zip(results[0], later, strict=True))


def missed(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, sizes: dict, lines: list[str], orders: str
) -> list[str]:
    """Which of the lines can be left out without a wrong result in any of the orders; all of them are right with none
    left out."""
    where = place("emulated", "gated_dilated_layer")
    given = made(dtype, batch=1, **sizes)
    forward = [*given.values(), 2, False, 0.7]
    exact = layer_reference(*wide(forward))

    def right(line: str) -> bool:
        monkeypatch.setenv("AUDIOGEN_EMULATION_SKIP", line)
        for order in orders:
            monkeypatch.setenv("AUDIOGEN_EMULATION_ORDER", order)
            try:
                check(where.run("gated_dilated_layer", *forward), exact, TOLERANCE[dtype])
            except AssertionError:
                return False
        return True

    assert right("")
    return [line for line in lines if right(line)]


def test_every_barrier_is_needed_and_its_absence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulation sees faults: without any one of the barriers a result is wrong in one of the orders."""
    barriers = [*lines_of("tile_gemm.cuh", "__syncthreads();"), *lines_of("gated_dilated_layer.cuh", "__syncthreads()")]
    assert len(barriers) == 2
    assert missed(monkeypatch, torch.float32, {"time": 70, "gate": 72, "channels": 24}, barriers, "0123") == []


def test_every_barrier_fence_and_wait_of_wgmma_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = ("__syncthreads();", "fence_async_proxy();", "warpgroup_fence();", "warpgroup_commit();",
             "warpgroup_wait<", "copy_async_wait<")
    lines = [line for call in calls for line in lines_of("warpgroup_tile.cuh", call)]
    assert len(lines) == 8
    assert missed(monkeypatch, torch.bfloat16, {"time": 130, "gate": 40, "channels": 136}, lines, "0123") == []


def test_the_narrow_tile_serves_where_shared_memory_is_scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    where = place("emulated", "gated_dilated_layer")
    monkeypatch.setenv("AUDIOGEN_EMULATION_SHARED_BYTES", str(60 * 1024))
    both(where, made(torch.bfloat16, time=130, batch=1), 2, False)


@pytest.mark.parametrize(("dtype", "channels", "time"), [(torch.float64, 16, 20), (torch.float32, 5, 20)], ids=str)
def test_the_reference_serves_what_the_kernels_do_not_take(
    where: Where, dtype: torch.dtype, channels: int, time: int
) -> None:
    given = made(torch.float32, channels=channels, time=time)
    forward = [None if part is None else part.to(dtype) for part in given.values()] + [2, False, 0.7]
    check(where.run("gated_dilated_layer", *forward), layer_reference(*wide(forward)), 1e-5)


def test_any_layout_in_place_and_the_layout_of_results(where: Where) -> None:
    given = made(torch.float32, time=50)
    contiguous = given | {"x": given["x"].contiguous()}
    outputs = both(where, contiguous, 2, False)
    assert where.device != "cpu" or outputs[0].is_contiguous()
    skip = given["skip"].to(where.device, copy=True)
    moved = [None if part is None else part.to(where.device) for part in given.values()]
    x_out = where.ops.gated_dilated_layer_in_place(*moved[:-1], skip, 2, False, 0.7)
    expected = layer_reference(*wide([*given.values(), 2, False, 0.7]))
    check((x_out.cpu(), skip.cpu()), expected, 1e-5)
    assert x_out.stride(1) == 1
