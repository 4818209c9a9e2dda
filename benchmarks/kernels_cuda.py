"""How fast are the CUDA kernels? Each op against eager PyTorch (cuDNN) and torch.compile, beside the chip's ceilings.

    python benchmarks/kernels_cuda.py --out kernels_cuda.json

Times are medians of CUDA events around whole calls, after warming up; results of every op are compared with the
reference before they are timed. FLOP/s count the products of the op's definition, bytes/s the tensors that must come
and go once. Eager PyTorch gets the layout that it is fastest in. Ceilings: a large matrix product in the
same type, and a copy.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from audiogen.ops import channels_last, library  # noqa: E402
from audiogen.ops.anti_aliased_snake import anti_aliased_snake, anti_aliased_snake_reference  # noqa: E402
from audiogen.ops.gated_dilated_layer import gated_dilated_layer, layer_reference  # noqa: E402
from audiogen.ops.wavenet_generate import WaveNetWeights, pack, start, wavenet_generate  # noqa: E402

Row = dict[str, Any]


def seconds(call: Callable[[], object], runs: int = 20) -> float:
    """Median time of a call."""
    for _ in range(3):
        call()
    times = []
    for _ in range(runs):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times)


def ceilings(dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a matrix product, bytes/s of a copy."""
    a = torch.randn(8192, 8192, device="cuda", dtype=dtype)
    block = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    copied = torch.empty_like(block)
    return 2 * 8192**3 / seconds(lambda: a @ a), 2 * block.numel() / seconds(lambda: copied.copy_(block))


def row(name: str, variant: str, time: float, flop: float, size: float, limits: tuple[float, float]) -> Row:
    bound = max(flop / limits[0], size / limits[1])
    print(f"{name:44} {variant:10} {1e6 * time:10.1f} us {flop / time / 1e12:8.1f} TFLOP/s "
          f"{size / time / 1e9:8.0f} GB/s {100 * bound / time:5.1f} % of its bound", flush=True)
    return {"op": name, "variant": variant, "seconds": time, "flop": flop, "bytes": size, "share": bound / time}


def gated(dtype: torch.dtype, channels: int, batch: int = 16, time: int = 16384, hop: int = 256) -> list[Row]:
    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, device="cuda") * scale).to(dtype).requires_grad_()

    with torch.no_grad():
        x, skip = (channels_last(normal(batch, channels, time)) for _ in range(2))
    tensors = (normal(2 * channels, channels, 3, scale=(3 * channels) ** -0.5), normal(2 * channels),
               normal(channels, channels, scale=channels**-0.5), normal(channels),
               normal(channels, channels, scale=channels**-0.5), normal(channels),
               normal(batch, 2 * channels, time // hop))
    x.requires_grad_()

    def native(x: Tensor) -> tuple[Tensor, Tensor]:
        return gated_dilated_layer(x, *tensors, dilation=8, skip=skip)

    def eager(x: Tensor) -> tuple[Tensor, Tensor]:
        return layer_reference(x, *tensors, None, None, None, skip, 8, False, 0.5**0.5)

    with torch.no_grad():
        for one, other in zip(native(x), eager(x), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0.2 if dtype != torch.float32 else 1e-2)
    limits, steps, rows = ceilings(dtype), batch * time, []
    forward, moved = 16 * channels * channels * steps, 4 * channels * steps * x.element_size()
    gradient = torch.ones_like(x)
    plain = x.detach().contiguous().requires_grad_()
    variants = (("kernel", native, x), ("eager", eager, plain), ("compiled", torch.compile(eager), plain))
    for variant, call, given in variants:
        name = f"gated_dilated_layer {str(dtype)[6:]} {channels} channels"
        with torch.no_grad():
            rows.append(row(name, variant, seconds(functools.partial(call, given)), forward, moved, limits))

        def both(call=call, given=given) -> None:
            torch.autograd.backward(call(given), (gradient, gradient))

        rows.append(row(f"{name} with backward", variant, seconds(both), 3 * forward, 3 * moved, limits))
    return rows


def snake(dtype: torch.dtype, batch: int = 4, channels: int = 192, time: int = 1 << 16) -> list[Row]:
    x = torch.randn(batch, channels, time, device="cuda", dtype=dtype)
    alpha, beta = torch.zeros(channels, device="cuda"), torch.zeros(channels, device="cuda")
    taps = torch.hann_window(12, periodic=False, device="cuda") / 5.5
    limits, rows = ceilings(dtype), []
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
                rows.append(row(name, variant, seconds(call), 60 * x.numel(), moved, limits))
            rows.append(row(f"{name} with backward", variant, seconds(functools.partial(both, call, gradient)),
                            190 * x.numel(), 2.5 * moved, limits))
    return rows


def generation(precision: str, layers: int, skip: int, batch: int, time: int) -> Row:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape) * shape[-1] ** -0.5

    weights = WaveNetWeights(
        normal(64, 256, 1), None, normal(layers, 128, 64, 2) / 8, None, normal(layers - 1, 64, 64), None,
        normal(layers, skip, 64), None, normal(256, skip), None, normal(256, 256), None,
    )
    packed = pack(weights, dilations=tuple(2 ** (layer % 10) for layer in range(layers)), output="softmax",
                  precision=precision).to("cuda")
    numbers = torch.rand(batch, 1, time, device="cuda")
    state = start(packed, batch)
    took = seconds(lambda: wavenet_generate(packed, state, numbers), runs=5)
    print(f"wavenet_generate {precision:9} {layers} layers, skip {skip}, {batch:4} streams: "
          f"{time / took:10.0f} samples/s a stream, {batch * time / took:12.0f} together", flush=True)
    return {"op": "wavenet_generate", "precision": precision, "layers": layers, "skip": skip, "streams": batch,
            "samples_per_second": batch * time / took}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not library.loaded("cuda"):
        print("no CUDA kernels are loaded: python -m audiogen.ops.build cuda, on a machine with a GPU", file=sys.stderr)
        return 2
    rows: list[Row] = []
    cases: list[Callable[[], Any]] = [
        *(lambda dtype=dtype, channels=channels: gated(dtype, channels)
          for dtype in (torch.bfloat16, torch.float32) for channels in (64, 128)),
        *(lambda dtype=dtype: snake(dtype) for dtype in (torch.bfloat16, torch.float32)),
        *(lambda precision=precision, batch=batch: generation(precision, 30, 256, batch, 4000 if batch == 1 else 1000)
          for precision in ("float32", "bfloat16", "int8") for batch in (1, 64, 256)),
    ]
    failed = 0
    for case in cases:
        try:
            made = case()
            rows += made if isinstance(made, list) else [made]
        except (RuntimeError, AssertionError) as reason:
            failed += 1
            print(f"FAILED: {str(reason).splitlines()[0]}", flush=True)
    if options.out:
        git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "commit": git.stdout.strip()}
        options.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
