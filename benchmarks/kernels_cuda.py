"""How fast are the CUDA kernels? Each op against eager PyTorch (cuDNN) and torch.compile, beside the chip's ceilings.

    python benchmarks/kernels_cuda.py --out kernels_cuda.json

Times are medians of CUDA events around whole calls, after warming up; results of every op are compared with the
reference before they are timed. FLOP/s count the products of the op's definition, bytes/s the tensors that must come
and go once. Eager PyTorch gets the layout that it is fastest in. Ceilings: a large matrix product in the
same type, and a copy.

Where a kernel has two ways, both are measured in one call: products by mma and by wgmma (AUDIOGEN_TENSOR_CORES;
wgmma is Hopper's, 16-bit), generation of streams one by one and in tiles of 8 (AUDIOGEN_GENERATION). A way that the
chip or the type does not have is named and left out. The JSON is written after every case, for machines that are lent.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import time as clock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from audiogen.ops import channels_last, library  # noqa: E402
from audiogen.ops.anti_aliased_snake import anti_aliased_snake, anti_aliased_snake_reference  # noqa: E402
from audiogen.ops.dilated_conv1d import dilated_conv1d  # noqa: E402
from audiogen.ops.gated_dilated_layer import gated_dilated_layer, layer_reference  # noqa: E402
from audiogen.ops.wavenet_generate import WaveNetWeights, pack, start, wavenet_generate  # noqa: E402

Row = dict[str, Any]


def seconds(call: Callable[[], object], device: str, runs: int = 20) -> float:
    """Median time of a call: by CUDA events, on a CPU by its clock."""
    for _ in range(3):
        call()
    times = []
    for _ in range(runs):
        if device == "cpu":
            began = clock.perf_counter()
            call()
            times.append(clock.perf_counter() - began)
            continue
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times)


@functools.cache
def ceilings(dtype: torch.dtype, device: str, size: int = 8192) -> tuple[float, float]:
    """FLOP/s of a matrix product, bytes/s of a copy."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    block = torch.empty(16 * size * size, device=device, dtype=torch.uint8)
    copied = torch.empty_like(block)
    flops = 2 * size**3 / seconds(lambda: a @ a, device)
    speed = 2 * block.numel() / seconds(lambda: copied.copy_(block), device)
    print(f"ceilings {str(dtype)[6:]}: {flops / 1e12:.1f} TFLOP/s, {speed / 1e9:.0f} GB/s", flush=True)
    return flops, speed


def row(name: str, variant: str, time: float, flop: float, size: float, limits: tuple[float, float]) -> Row:
    bound = max(flop / limits[0], size / limits[1])
    print(f"{name:44} {variant:10} {1e6 * time:10.1f} us {flop / time / 1e12:8.1f} TFLOP/s "
          f"{size / time / 1e9:8.0f} GB/s {100 * bound / time:5.1f} % of its bound", flush=True)
    return {"op": name, "variant": variant, "seconds": time, "flop": flop, "bytes": size, "share": bound / time}


@contextlib.contextmanager
def chosen(variable: str, way: str | None) -> Iterator[None]:
    """The way that a kernel is to go, by its environment variable; None: not touched."""
    before = os.environ.get(variable)
    if way is not None:
        os.environ[variable] = way
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before


Call = Callable[[Tensor], Any]


def compared(
    name: str, native: Call, eager: Call, x: Tensor, *, flop: float, moved: float, tolerance: float, compiled: bool,
    limits: tuple[float, float],
) -> list[Row]:
    """Rows forward, and with the gradient of all that has one, of both kinds of tensor cores, eager and compiled."""
    def outputs(result: Any) -> tuple[Tensor, ...]:
        return result if isinstance(result, tuple) else (result,)

    plain, rows = x.detach().contiguous().requires_grad_(), []
    variants: list[tuple[str, str | None, Call, Tensor]] = [
        ("mma", "mma", native, x), ("wgmma", "wgmma", native, x), ("eager", None, eager, plain),
    ]
    if compiled:
        variants.append(("compiled", None, torch.compile(eager), plain))
    for variant, way, call, given in variants:
        if way == "wgmma" and (x.dtype == torch.float32 or x.device.type == "cpu"):
            continue
        try:
            with chosen("AUDIOGEN_TENSOR_CORES", way):
                with torch.no_grad():
                    for one, other in zip(outputs(call(given)), outputs(eager(plain)), strict=True):
                        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)
                    forward = seconds(functools.partial(call, given), x.device.type)
                gradients = [torch.ones_like(part) for part in outputs(call(given))]

                def both(call=call, given=given, gradients=gradients) -> None:
                    torch.autograd.backward(outputs(call(given)), gradients)

                whole = seconds(both, x.device.type)
        except RuntimeError as reason:
            if "needs sm_90" not in str(reason):
                raise
            print(f"{name:44} {variant:10} not on this chip", flush=True)
            continue
        rows.append(row(name, variant, forward, flop, moved, limits))
        rows.append(row(f"{name} with backward", variant, whole, 3 * flop, 3 * moved, limits))
    return rows


def gated(
    dtype: torch.dtype, channels: int, *, batch: int = 16, time: int = 16384, hop: int = 256, device: str = "cuda",
    compiled: bool = True, size: int = 8192,
) -> list[Row]:
    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, device=device) * scale).to(dtype).requires_grad_()

    with torch.no_grad():
        x, skip = (channels_last(normal(batch, channels, time)) for _ in range(2))
    tensors = (normal(2 * channels, channels, 3, scale=(3 * channels) ** -0.5), normal(2 * channels),
               normal(channels, channels, scale=channels**-0.5), normal(channels),
               normal(channels, channels, scale=channels**-0.5), normal(channels),
               normal(batch, 2 * channels, time // hop))

    def native(x: Tensor) -> tuple[Tensor, Tensor]:
        return gated_dilated_layer(x, *tensors, dilation=8, skip=skip)

    def eager(x: Tensor) -> tuple[Tensor, Tensor]:
        return layer_reference(x, *tensors, None, None, None, skip, 8, False, 0.5**0.5)

    steps = batch * time
    return compared(
        f"gated_dilated_layer {str(dtype)[6:]} {channels} channels", native, eager, x.requires_grad_(),
        flop=16 * channels * channels * steps, moved=4 * channels * steps * x.element_size(),
        tolerance=1e-2 if dtype == torch.float32 else 0.2, compiled=compiled, limits=ceilings(dtype, device, size),
    )


def convolution(
    dtype: torch.dtype, channels: int, *, batch: int = 16, time: int = 16384, device: str = "cuda",
    compiled: bool = True, size: int = 8192,
) -> list[Row]:
    x = channels_last(torch.randn(batch, channels, time, device=device, dtype=dtype)).requires_grad_()
    weight = torch.randn(channels, channels, 3, device=device) * (3 * channels) ** -0.5
    weight, bias = (part.to(dtype).requires_grad_() for part in (weight, torch.zeros(channels, device=device)))
    steps = batch * time
    return compared(
        f"dilated_conv1d {str(dtype)[6:]} {channels} channels", lambda x: dilated_conv1d(x, weight, bias, dilation=8),
        lambda x: F.conv1d(x, weight, bias, padding=8, dilation=8), x, flop=6 * channels * channels * steps,
        moved=2 * channels * steps * x.element_size(), tolerance=1e-2 if dtype == torch.float32 else 0.1,
        compiled=compiled, limits=ceilings(dtype, device, size),
    )


def snake(
    dtype: torch.dtype, *, batch: int = 4, channels: int = 192, time: int = 1 << 16, device: str = "cuda",
    size: int = 8192,
) -> list[Row]:
    x = torch.randn(batch, channels, time, device=device, dtype=dtype)
    alpha, beta = torch.zeros(channels, device=device), torch.zeros(channels, device=device)
    taps = torch.hann_window(12, periodic=False, device=device) / 5.5
    limits, rows = ceilings(dtype, device, size), []
    for layout, given in (("contiguous", x), ("channels last", channels_last(x))):
        inputs = given.detach().requires_grad_()
        scales = [part.clone().requires_grad_() for part in (alpha, beta)]
        plain = [part.to(dtype) for part in (*scales, taps, taps)]
        variants: tuple[tuple[str, Callable[[], Tensor]], ...] = (
            ("kernel", lambda inputs=inputs, scales=scales: anti_aliased_snake(inputs, *scales, taps, taps)),
            ("eager", lambda inputs=inputs, plain=plain: anti_aliased_snake_reference(inputs, *plain)),
        )
        moved = 2 * x.numel() * x.element_size()

        gradient = torch.ones_like(inputs)

        def both(call: Callable[[], Tensor], gradient: Tensor) -> None:
            call().backward(gradient)

        for variant, call in variants:
            name = f"anti_aliased_snake {str(dtype)[6:]} {layout}"
            with torch.no_grad():
                rows.append(row(name, variant, seconds(call, device), 60 * x.numel(), moved, limits))
            rows.append(row(f"{name} with backward", variant, seconds(functools.partial(both, call, gradient), device),
                            190 * x.numel(), 2.5 * moved, limits))
    return rows


def generation(
    precision: str, *, layers: int = 30, skip: int = 256, batch: int = 1, time: int = 1000, device: str = "cuda",
    runs: int = 5,
) -> list[Row]:
    """Streams one by one, and (bfloat16, int8) in tiles of 8; the tiles' samples are compared with the streams'."""
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape) * shape[-1] ** -0.5

    weights = WaveNetWeights(
        normal(64, 256, 1), None, normal(layers, 128, 64, 2) / 8, None, normal(layers - 1, 64, 64), None,
        normal(layers, skip, 64), None, normal(256, skip), None, normal(256, 256), None,
    )
    packed = pack(weights, dilations=tuple(2 ** (layer % 10) for layer in range(layers)), output="softmax",
                  precision=precision).to(device)
    numbers = torch.rand(batch, 1, time, device=device)
    rows, samples = [], {}
    for way in ("streams", "tiles"):
        if way == "tiles" and precision == "float32":
            continue
        with chosen("AUDIOGEN_GENERATION", way):
            samples[way] = wavenet_generate(packed, start(packed, batch), numbers)
            state = start(packed, batch)
            took = seconds(lambda state=state: wavenet_generate(packed, state, numbers), device, runs)
        print(f"wavenet_generate {precision:9} {way:8} {layers} layers, skip {skip}, {batch:4} streams: "
              f"{time / took:10.0f} samples/s a stream, {batch * time / took:12.0f} together", flush=True)
        rows.append({"op": "wavenet_generate", "variant": way, "precision": precision, "layers": layers, "skip": skip,
                     "streams": batch, "samples_per_second": batch * time / took})
    if len(samples) == 2:
        # One class that falls on the other side of a rounding error changes all that follow it in that stream.
        first = (samples["streams"] == samples["tiles"])[:, : min(time, 50)]
        rows[-1]["agreement"] = float(first.float().mean())
        if rows[-1]["agreement"] < 0.9:
            raise AssertionError(f"tiles draw other samples than streams: {rows[-1]['agreement']:.2f} of them agree")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not library.loaded("cuda"):
        print("no CUDA kernels are loaded: python -m audiogen.ops.build cuda, on a machine with a GPU", file=sys.stderr)
        return 2
    rows: list[Row] = []
    cases: list[Callable[[], list[Row]]] = [
        *(functools.partial(measure, dtype, channels) for dtype in (torch.bfloat16, torch.float32)
          for channels in (64, 128) for measure in (gated, convolution)),
        *(functools.partial(snake, dtype) for dtype in (torch.bfloat16, torch.float32)),
        *(functools.partial(generation, precision, batch=batch, time=4000 if batch == 1 else 1000)
          for precision in ("float32", "bfloat16", "int8") for batch in (1, 64, 256, 1024)),
    ]
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "commit": git.stdout.strip()}
    failed = 0
    for case in cases:
        try:
            rows += case()
        except (RuntimeError, AssertionError) as reason:
            failed += 1
            print(f"FAILED: {(str(reason) or repr(reason)).splitlines()[0]}", flush=True)
        if options.out:
            options.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
