"""How fast are the native kernels? Each op against plain PyTorch and torch.compile, beside this machine's own ceilings.

    python benchmarks/kernels.py                                all ops, one thread, into benchmarks/results
    python benchmarks/kernels.py --op gated_dilated_layer dilated_conv1d --no-compile
    python benchmarks/kernels.py --audio FOLDER --minutes 5     and what bf16 and int8 cost, on a network trained there

Times are the least of several runs, in CPU time of the thread that runs them (with more threads: wall-clock time), so
that what else the machine does counts little. GFLOP/s count the products of the op's definition, whatever was computed;
GB/s the tensors that must come and go once. Ceilings: multiply-adds in registers, and reading arrays that fit into the
first cache, the second, and none, measured at the start and at the end; shares are of the higher one. "plain" is the
op's reference in the memory layout in which it is fastest; for wavenet_generate a Python loop over cached steps. At the
end stands where we lose: to another path, or against the goals that the project has set itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from audiogen.ops import channels_last, dilated_conv1d, dilated_conv1d_step, library, step_state  # noqa: E402
from audiogen.ops.anti_aliased_snake import anti_aliased_snake, anti_aliased_snake_reference  # noqa: E402
from audiogen.ops.dilated_conv1d import conv_reference, step_reference  # noqa: E402
from audiogen.ops.gated_dilated_layer import layer, layer_in_place, layer_reference  # noqa: E402
from benchmarks.wavenet_generate import evidence, generation_rows  # noqa: E402

Row = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """Native kernels against plain PyTorch."""

    op: tuple[str, ...] = ()  # of OPS; none: all
    threads: int = 1
    compile: bool = True  # torch.compile too: some minutes
    runs: int = 15  # each of 20 ms or more; the fastest counts
    audio: Path | None = None  # a folder of .wav and .flac files: evidence for bf16 and int8 too
    minutes: float = 5  # of training, for the evidence
    json: Path | None = field(default=ROOT / "benchmarks/results/kernels_cpu.json")

    def run(self) -> int:
        unknown = set(self.op) - set(OPS)
        if unknown:
            print(f"--op {', '.join(unknown)}: none of {', '.join(OPS)}", file=sys.stderr)
            return 2
        if library.loaded("cpu") is None:
            print(f"no native kernels to measure: {library.state()}", file=sys.stderr)
            return 2
        torch.set_num_threads(self.threads)
        load = os.getloadavg()[0]
        ceilings, rows = measure_ceilings(self), []
        print(f"{library.state()}; {_processor()}; torch {torch.__version__}; {self.threads} thread(s)")
        for name in self.op or OPS:
            for row in OPS[name](self):
                rows.append({"op": name, **row})
                print(_line(rows[-1]), flush=True)
        ceilings = {name: max(value, again) for (name, value), again in
                    zip(ceilings.items(), measure_ceilings(self).values(), strict=True)}
        for row in rows:
            if "gflops" in row:
                threads = row.get("threads", self.threads)
                row["share_of_peak"] = row["gflops"] / (ceilings["gflops"] * threads)
                if row["op"] in PAIRED and row["path"] == "native":
                    executed = PAIRED[row["op"]][row["case"].endswith("gradients")]
                    row["share_of_peak_executed"] = executed * row["share_of_peak"]
        result = {
            "kernels": library.state(), "machine": _processor(), "torch": torch.__version__, "threads": self.threads,
            "commit": _commit(), "processes that want a core, before and after": [load, os.getloadavg()[0]],
            "cores": os.cpu_count(), "ceilings": ceilings, "rows": rows, "against plain": _against(rows),
        }
        result["where we lose"] = where_we_lose(rows, result["against plain"])
        print(json.dumps({"ceilings": ceilings, "against plain": result["against plain"]}, indent=1))
        print("Where we lose:", *(result["where we lose"] or ["nowhere"]), sep="\n  ", flush=True)
        self.write(result)
        if self.audio:
            self.write(result | {"evidence": evidence(self.audio, self.minutes)})
        return 0

    def write(self, result: dict[str, Any]) -> None:
        if self.json:
            self.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    def reading(self, size: int) -> float:
        """GB/s at which one core reads an array of so many bytes again and again."""
        native = ctypes.CDLL(str(library.loaded("cpu")))
        native.audiogen_read_numbers.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
        numbers, times = torch.zeros(size // 512 * 128), max(1, 2**22 // size)

        def read() -> None:
            native.audiogen_read_numbers(numbers.data_ptr(), numbers.numel(), times)

        return 4e-9 * numbers.numel() * times / self.seconds(read)

    def seconds(self, work: Callable[[], Any], threads: int | None = None) -> float:
        """The least time of one call."""
        clock = time.thread_time if (threads or self.threads) == 1 else time.perf_counter
        work()
        best = float("inf")
        for _ in range(self.runs):
            start, count = clock(), 0
            while count == 0 or clock() - start < 0.02:  # short work is repeated
                work()
                count += 1
            best = min(best, (clock() - start) / count)
        return best

    def row(
        self, case: str, path: str, work: Callable[[], Any], *, steps: int, flop: float, number_bytes: float,
        threads: int | None = None,
    ) -> Row:
        seconds = self.seconds(work, threads)
        return {
            "case": case, "path": path, "milliseconds": 1e3 * seconds, "steps_per_second": steps / seconds,
            "gflops": flop / seconds / 1e9, "gigabytes_per_second": number_bytes / seconds / 1e9,
        }


def measure_ceilings(benchmark: Benchmark) -> dict[str, float]:
    """Of one core: GFLOP/s, and GB/s read from an array of 16 KB, 256 KB and 128 MB."""
    native = ctypes.CDLL(str(library.loaded("cpu")))
    native.audiogen_multiply_adds.restype = ctypes.c_double
    found = {"gflops": native.audiogen_multiply_adds(1) * 1e6}
    found["gflops"] /= benchmark.seconds(lambda: native.audiogen_multiply_adds(ctypes.c_long(1_000_000))) * 1e9
    for name, size in (("L1_GB_per_second", 2**14), ("L2_GB_per_second", 2**18), ("memory_GB_per_second", 2**27)):
        found[name] = benchmark.reading(size)
    return found


def gated_dilated_layer_rows(benchmark: Benchmark) -> Iterator[Row]:
    """64 and 128 channels, kernel 3; conditioning held from frames; forward as in rendering, and with its gradients."""
    for channels, dilation, time_, dtype in (
        (64, 1, 22050, torch.float32), (64, 512, 22050, torch.float32), (128, 16, 11025, torch.float32),
        (64, 16, 22050, torch.bfloat16),
    ):
        torch.manual_seed(0)
        shapes = {
            "x": (1, channels, time_), "weight": (2 * channels, channels, 3), "bias": (2 * channels,),
            "out_weight": (channels, channels), "out_bias": (channels,), "skip_weight": (channels, channels),
            "skip_bias": (channels,), "condition": (1, 2 * channels, time_ // 225),
        }
        given = {name: (0.1 * torch.randn(shape)).to(dtype) for name, shape in shapes.items()}
        plain = [*given.values(), None, None, None, torch.zeros(1, channels, time_, dtype=dtype)]
        native = [channels_last(part) if part is not None and part.dim() == 3 and part.shape[2] == time_ else part
                  for part in plain]
        settings = (dilation, False, 0.5**0.5)
        forward = 2 * (3 * channels * 2 * channels + channels * 2 * channels) * time_
        counts = {"steps": time_, "flop": forward, "number_bytes": 4 * channels * time_ * native[0].element_size()}
        case = f"{channels} channels, dilation {dilation}, {str(dtype)[6:]}"
        with torch.inference_mode():
            yield benchmark.row(case, "native", lambda n=native, s=settings: layer_in_place(*n, *s), **counts)
            yield benchmark.row(case, "plain", lambda p=plain, s=settings: layer_reference(*p, *s), **counts)
            if benchmark.compile and dtype == torch.float32:
                compiled = torch.compile(layer_reference)
                yield benchmark.row(case, "compile", lambda p=plain, s=settings, c=compiled: c(*p, *s), **counts)
        if dtype != torch.float32:
            continue
        counts = {"steps": time_, "flop": 3 * forward, "number_bytes": 7 * channels * time_ * 4}
        for path, function, inputs in (("native", layer, native), ("plain", layer_reference, plain),
                                       *([("compile", torch.compile(layer_reference), plain)] * benchmark.compile)):
            leaves = [part if part is None else part.detach().requires_grad_() for part in inputs]
            trained = [leaf for leaf in leaves if leaf is not None]
            grads = [torch.ones_like(inputs[0]), torch.ones_like(inputs[-1])]

            def train(function=function, leaves=leaves, trained=trained, grads=grads, settings=settings) -> None:
                torch.autograd.grad(function(*leaves, *settings), trained, grads)

            yield benchmark.row(f"{case}, with gradients", path, train, **counts)


def dilated_conv1d_rows(benchmark: Benchmark) -> Iterator[Row]:
    torch.manual_seed(0)
    for channels, dilation, time_ in ((64, 8, 22050), (256, 1, 2048)):
        x, weight, bias = torch.randn(1, channels, time_), torch.randn(channels, channels, 3), torch.randn(channels)
        counts = {"steps": time_, "flop": 2 * 3 * channels * channels * time_, "number_bytes": 8 * channels * time_}
        case, across = f"{channels} channels, dilation {dilation}", channels_last(x)
        trained = {**counts, "flop": 3 * counts["flop"], "number_bytes": 2.5 * counts["number_bytes"]}
        for path, function, given in (
            ("native", lambda x, w, b, d=dilation: dilated_conv1d(x, w, b, dilation=d), across),
            ("plain", lambda x, w, b, d=dilation: conv_reference(x, w, b, d, False), x),
        ):
            with torch.inference_mode():
                yield benchmark.row(case, path, lambda f=function, g=given, w=weight, b=bias: f(g, w, b), **counts)
            parts = [part.detach().requires_grad_() for part in (given, weight, bias)]
            grad = torch.ones_like(given)
            yield benchmark.row(
                f"{case}, with gradients", path,
                lambda f=function, p=parts, g=grad: torch.autograd.grad(f(*p), p, g), **trained,
            )


def dilated_conv1d_step_rows(benchmark: Benchmark) -> Iterator[Row]:
    torch.manual_seed(0)
    for channels, batch in ((64, 1), (64, 16), (256, 1)):
        x, weight = torch.randn(batch, channels), torch.randn(2 * channels, channels, 2)
        state = step_state(x, 2, 64)
        counts = {"steps": batch, "flop": 2 * batch * weight.numel(), "number_bytes": 4 * weight.numel()}
        case = f"{channels} to {2 * channels} channels, kernel 2, batch {batch}"
        with torch.inference_mode():
            yield benchmark.row(
                case, "native", lambda x=x, s=state, w=weight: dilated_conv1d_step(x, s, 5, w, dilation=64), **counts
            )
            yield benchmark.row(
                case, "plain", lambda x=x, s=state, w=weight: step_reference(x, s, 5, w, None, 64), **counts
            )


def anti_aliased_snake_rows(benchmark: Benchmark) -> Iterator[Row]:
    """As in BigVGAN: many channels at a low rate, few at a high one. 62 operations a number, a sine counted as 12."""
    torch.manual_seed(0)
    for channels, time_ in ((768, 1024), (48, 16384)):
        x, alpha = torch.randn(1, channels, time_), 0.1 * torch.randn(channels)
        taps = torch.hann_window(14)[1:-1]
        taps = taps / taps.sum()
        numbers = x.numel()
        counts = {"steps": time_, "flop": 62 * numbers, "number_bytes": 8 * numbers}
        trained = {"steps": time_, "flop": 3 * 62 * numbers, "number_bytes": 20 * numbers}
        for path, function in (("native", anti_aliased_snake), ("plain", anti_aliased_snake_reference)):
            with torch.inference_mode():
                yield benchmark.row(f"{channels} channels", path,
                                    lambda f=function, x=x, a=alpha, t=taps: f(x, a, a, t, t), **counts)
            parts = [part.detach().requires_grad_() for part in (x, alpha)]
            grad = torch.ones_like(x)
            yield benchmark.row(
                f"{channels} channels, with gradients", path,
                lambda f=function, p=parts, t=taps, g=grad: torch.autograd.grad(f(p[0], p[1], p[1], t, t), p, g),
                **trained,
            )


def parallel_wavegan_rows(benchmark: Benchmark) -> Iterator[Row]:
    """The whole published model, v1 at 22.05 kHz, one second; plain PyTorch in a process of its own."""
    yield _parallel_wavegan(benchmark, "native")
    code = (f"import json, sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'benchmarks')]!r}; import kernels, torch;"
            f"torch.set_num_threads({benchmark.threads});"
            f"print(json.dumps(kernels._parallel_wavegan(kernels.Benchmark(threads={benchmark.threads}, runs=3),"
            " 'plain')))")
    said = subprocess.run([sys.executable, "-c", code], env={**os.environ, "AUDIOGEN_KERNELS": "off"}, check=True,
                          capture_output=True, text=True).stdout
    yield json.loads(said.splitlines()[-1])


def _parallel_wavegan(benchmark: Benchmark, path: str) -> Row:
    from vocoders.parallel_wavegan import ParallelWaveGAN, ParallelWaveGANConfig

    torch.manual_seed(0)
    model = ParallelWaveGAN(ParallelWaveGANConfig.published()).eval()
    frames = 86
    mel = torch.randn(1, 80, frames)
    samples = frames * model.config.mel.hop_length
    layer_flop = 2 * (3 * 64 * 128 + 64 * 128)
    with torch.inference_mode():
        row = benchmark.row("v1, 30 layers of 64 channels", path, lambda: model(mel), steps=samples,
                            flop=30 * layer_flop * samples, number_bytes=0)
    return row | {"times_real_time": row["steps_per_second"] / model.config.mel.sample_rate}


OPS: dict[str, Callable[[Benchmark], Iterator[Row]]] = {
    "gated_dilated_layer": gated_dilated_layer_rows,
    "dilated_conv1d": dilated_conv1d_rows,
    "dilated_conv1d_step": dilated_conv1d_step_rows,
    "anti_aliased_snake": anti_aliased_snake_rows,
    "wavenet_generate": generation_rows,
    "parallel_wavegan": parallel_wavegan_rows,
}

# What pairs of steps (csrc/cpu/pairs.h) execute of the products that the definition has: forward, and with gradients.
PAIRED = {"gated_dilated_layer": (0.75, 11 / 12), "parallel_wavegan": (0.75, 11 / 12)}

# What the kernels are to reach on one core: op, beginning of the case, what, at least. Samples/s: of an AVX-512 core.
GOALS = (
    ("gated_dilated_layer", "64 channels, dilation 1, float32", "share_of_peak", 0.65),
    ("gated_dilated_layer", "64 channels, dilation 512, float32", "share_of_peak", 0.65),
    ("gated_dilated_layer", "64 channels, dilation 1, float32", "times_plain", 3),
    ("gated_dilated_layer", "64 channels, dilation 512, float32", "times_plain", 3),
    ("gated_dilated_layer", "64 channels, dilation 1, float32, with gradients", "times_plain", 2),
    ("gated_dilated_layer", "64 channels, dilation 512, float32, with gradients", "times_plain", 2),
    ("wavenet_generate", "20 layers, kernel 2, 64/128/256, float32, 1 stream", "samples_per_second", 13_000),
    ("wavenet_generate", "20 layers, kernel 2, 64/128/256, bfloat16, 1 stream", "samples_per_second", 35_000),
    ("wavenet_generate", "20 layers, kernel 2, 64/128/256, int8, 1 stream", "samples_per_second", 100_000),
    ("wavenet_generate", "30 layers, kernel 2, 64/256/256, bfloat16, 1 stream, 2 threads", "samples_per_second", 16e3),
    ("wavenet_generate", "30 layers, kernel 2, 64/256/256, int8, 1 stream", "samples_per_second", 60_000),
    ("parallel_wavegan", "v1, 30 layers of 64 channels", "times_real_time", 2.8),
)


def _line(row: Row) -> str:
    real_time = f"  {row['times_real_time']:.2f} x real time" if "times_real_time" in row else ""
    return (f"{row['op']:<20} {row['case']:<48} {row['path']:<8} {row['milliseconds']:10.3f} ms "
            f"{row['steps_per_second']:12.0f}/s {row['gflops']:8.1f} GFLOP/s "
            f"{row['gigabytes_per_second']:7.2f} GB/s{real_time}")


def _against(rows: list[Row]) -> dict[str, dict[str, float]]:
    """For each case how many times faster than plain PyTorch each other path is; below 1 we lose."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        for plain in rows:
            if plain["path"] == "plain" != row["path"] and (plain["op"], plain["case"]) == (row["op"], row["case"]):
                times = row["steps_per_second"] / plain["steps_per_second"]  # a loop in Python makes fewer steps
                found.setdefault(f"{row['op']}: {row['case']}", {})[row["path"]] = round(times, 2)
    return found


def where_we_lose(rows: list[Row], against: dict[str, dict[str, float]]) -> list[str]:
    """Lines: the cases in which another path is faster, and the goals that were missed."""
    lines = []
    for case, times in against.items():
        if times.get("native", 1) < 1:
            lines.append(f"{case}: plain PyTorch is {1 / times['native']:.2f} times as fast")
        if times.get("compile", 0) > times.get("native", 0) > 0:
            lines.append(f"{case}: torch.compile is {times['compile'] / times['native']:.2f} times as fast")
    for op, case, what, least in GOALS:
        for row in rows:
            if (row["op"], row["case"], row["path"]) == (op, case, "native"):
                found = against.get(f"{op}: {case}", {}).get("native") if what == "times_plain" else row.get(what)
                if found is not None and found < least:
                    lines.append(f"{op}: {case}: {what.replace('_', ' ')} {found:,.2f}, goal {least:,}")
    return lines


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    said = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return said.stdout.strip()


if __name__ == "__main__":
    import tyro

    sys.exit(tyro.cli(Benchmark, description=__doc__).run())
