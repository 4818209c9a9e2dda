"""How fast does a WaveNet speak on this CPU, and what do bf16 and int8 weights cost it?

    python benchmarks/wavenet_generate.py                               speed, one thread, random weights
    python benchmarks/wavenet_generate.py --threads 2 --batches 1 8
    python benchmarks/wavenet_generate.py --audio FOLDER --minutes 10   evidence too: trains a network on the folder

Speed: samples/s of the native kernels and of the reference, a Python loop over cached PyTorch steps. Times are the
least of several runs, of the process' CPU where there is one thread, else of the clock. "GB/s" are the bytes of all
weights per second of a step, beside what one core reads from an array of the same size again and again: the bound for
one stream, since every sample needs every weight.

Evidence: on the last tenth of the folder's clips, which the training has not heard, teacher forced: negative
log-likelihood in nats a sample, its change against float32, and the signal-to-noise ratio of the logits against those
of the parallel network in float64, in dB, both less their means over classes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from audiogen.core.files import whole_file  # noqa: E402
from audiogen.ops import library  # noqa: E402
from audiogen.ops.wavenet_generate import (  # noqa: E402
    WaveNetWeights,
    generate_reference,
    pack,
    start,
    wavenet_generate,
    wavenet_parameters,
)

SHAPES = {  # layers, kernel, channels, skip, classes; dilations 1 .. 512 again and again
    "20 layers, kernel 2, 64/128/256": (20, 2, 64, 128, 256),
    "30 layers, kernel 2, 64/256/256": (30, 2, 64, 256, 256),
}
PRECISIONS = ("float32", "bfloat16", "int8")
SAMPLE_RATE = 16_000
HOP = 200


def random_weights(layers: int, kernel: int, channels: int, skip: int, classes: int) -> WaveNetWeights:
    rng = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng) / (size[1:] or (1,))[-1] ** 0.5

    return WaveNetWeights(
        normal(channels, classes, 1), normal(channels), normal(layers, 2 * channels, kernel, channels).mT,
        normal(layers, 2 * channels), normal(layers - 1, channels, channels), normal(layers - 1, channels),
        normal(layers, skip, channels), normal(layers, skip), normal(classes, skip), normal(classes),
        normal(classes, classes), normal(classes),
    )


def least_seconds(work: Callable[[], object], threads: int, runs: int) -> float:
    clock = time.process_time if threads == 1 else time.perf_counter
    times = []
    for _ in range(runs):
        begin = clock()
        work()
        times.append(clock() - begin)
    return min(times[1:] or times)  # the first warms up


def reading_ceiling(size: int) -> float | None:
    """GB/s at which one core reads an array of so many bytes again and again."""
    path = library.loaded("cpu")
    native = ctypes.CDLL(str(path)) if path else None
    if native is None or not hasattr(native, "audiogen_read_numbers"):
        return None
    native.audiogen_read_numbers.argtypes = [ctypes.c_void_p, ctypes.c_long]
    numbers = torch.zeros(size // 4)
    times = 1 + 2**25 // size

    def read() -> None:
        for _ in range(times):
            native.audiogen_read_numbers(numbers.data_ptr(), numbers.numel())

    return size * times / least_seconds(read, 1, 9) / 1e9


def speeds(args: argparse.Namespace) -> list[dict]:
    """One row for each shape, precision, batch and path."""
    rows = []
    for shape, sizes in SHAPES.items():
        layers = sizes[0]
        for precision in PRECISIONS:
            packed = pack(random_weights(*sizes), dilations=tuple(2 ** (i % 10) for i in range(layers)),
                          output="softmax", precision=precision)
            ceiling = reading_ceiling(packed.blob.numel())
            for batch in args.batches:
                for path in ("native", "python"):
                    if path == "native" and library.loaded("cpu") is None or (
                        path == "python" and (batch > 1 or precision != "float32")
                    ):
                        continue
                    steps = HOP * (args.frames if path == "native" else 1)
                    state = start(packed, batch)
                    condition = torch.randn(batch, layers, 2 * sizes[2], steps // HOP)
                    random = torch.rand(batch, 1, steps)

                    def work(path=path, packed=packed, state=state, random=random, condition=condition) -> None:
                        if path == "native":
                            wavenet_generate(packed, state, random, condition)
                        else:
                            plan = packed.plan
                            generate_reference(packed.blob, plan.numbers(), *state, random, None, condition, None, None,
                                               1.0, plan.residual_scale, plan.log_scale_min)

                    seconds = least_seconds(work, args.threads, args.runs if path == "native" else 2) / steps
                    rows.append({
                        "shape": shape, "precision": precision, "path": path, "batch": batch,
                        "samples_per_second": batch / seconds, "times_real_time_16k": batch / seconds / SAMPLE_RATE,
                        "times_real_time_22k": batch / seconds / 22_050, "microseconds_a_step": 1e6 * seconds,
                        "weights_megabytes": packed.blob.numel() / 1e6,
                        "weights_gigabytes_per_second": packed.blob.numel() / seconds / 1e9,
                        "reading_ceiling_gigabytes_per_second": ceiling,
                    })
                    print("{shape}  {precision:9}{path:7} batch {batch:<3} {samples_per_second:9.0f} samples/s "
                          "{times_real_time_22k:6.2f} x 22 kHz {microseconds_a_step:8.1f} us "
                          "{weights_megabytes:.2f} MB {weights_gigabytes_per_second:.0f} GB/s".format(**rows[-1]),
                          f"(ceiling {ceiling:.0f})" if ceiling else "", flush=True)
    return rows


def evidence(args: argparse.Namespace) -> dict:
    """Train on the folder, then compare precisions on clips that were held out."""
    import soundfile
    import soxr

    from audiogen.core.interfaces import Batch, Condition
    from audiogen.core.mel_format import MEL_FORMATS
    from audiogen.core.rng import SampleRng
    from audiogen.signal.mel import MelSpectrogram
    from vocoders.wavenet import WaveNet, WaveNetConfig

    paths = sorted(path for path in args.audio.rglob("*") if path.suffix in (".wav", ".flac"))
    clips = []
    for path in paths[:: max(1, len(paths) // 400)]:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mono = soxr.resample(samples[: 10 * rate].mean(1), rate, SAMPLE_RATE)
        if len(mono) > SAMPLE_RATE // 4:
            clips.append(torch.from_numpy(mono / max(1e-3, abs(mono).max()) * 0.9))
    held_out = max(2, len(clips) // 10)
    heard, kept = torch.cat(clips[:-held_out]), torch.cat(clips[-held_out:])
    torch.manual_seed(0)
    mel_format = MEL_FORMATS["nv_wavenet_16k"]
    config = WaveNetConfig(mel=mel_format, output="softmax", layers=20, cycle=10, kernel_size=2, skip_channels=128,
                           hidden_channels=256)
    model, front = WaveNet(config), MelSpectrogram(mel_format)
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    begin, step = time.perf_counter(), 0
    while (progress := (time.perf_counter() - begin) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20) * max(0.05, 1 - progress)
        starts = torch.randint(len(heard) - 20 * HOP, (args.batch,), generator=rng).tolist()
        audio = torch.stack([heard[first : first + 20 * HOP] for first in starts])
        mel = front(audio)[:, :, :20]
        ids = torch.arange(args.batch)
        batch = Batch(audio[:, None], mel, torch.full((args.batch,), 20), Condition(), ids)
        loss = model.loss(batch, SampleRng(0, ids=ids.tolist()))["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            print(f"step {step}: {loss.item():.3f} nats a sample", flush=True)
    model.eval()
    audio = kept[: 4 * SAMPLE_RATE // HOP * HOP][None, None]
    with torch.no_grad():
        mel = front(audio[:, 0])[:, :, : audio.shape[2] // HOP]
        classes = model.distribution.fed_back(model.heard(audio)).long()[:, : audio.shape[2]]
        model.double()
        exact = model.parallel(mel.double(), audio.double())                       # (1, classes, time)
        model.float()
        frames, band = model._frames(mel)
        condition = model.conditions(frames)
    result = {"clips": len(clips), "seconds_heard": len(heard) / SAMPLE_RATE,
              "seconds_held_out": audio.shape[2] / SAMPLE_RATE,
              "steps": step, "training_loss": loss.item()}
    likelihood = {}
    centred = exact - exact.mean(1, keepdim=True)
    for precision in PRECISIONS:
        model.precision = precision
        packed = model.pack()
        state = start(packed, 1, previous=model.silence)
        logits = wavenet_parameters(packed, state, classes, condition, upsampling=band)
        likelihood[precision] = F.cross_entropy(logits.double(), classes).item()
        noise = logits.double() - logits.double().mean(1, keepdim=True) - centred
        result[precision] = {
            "nats_a_sample": likelihood[precision],
            "change_against_float32": likelihood[precision] - likelihood["float32"],
            "logits_snr_db": (10 * torch.log10(centred.square().sum() / noise.square().sum())).item(),
        }
        print(precision, result[precision], flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--frames", type=int, default=20, help=f"of {HOP} samples, in a run")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--audio", type=Path, help="a folder of .wav and .flac files: prints the evidence too")
    parser.add_argument("--minutes", type=float, default=10, help="of training, for the evidence")
    parser.add_argument("--batch", type=int, default=4, help="pieces of 4000 samples in a step of training")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{library.state()}; {platform.processor() or platform.machine()}; torch {torch.__version__}; "
          f"{args.threads} thread(s)")
    result = {"kernels": library.state(), "torch": torch.__version__, "threads": args.threads}
    if not args.no_speed:
        result["speed"] = speeds(args)
    if args.audio:
        result["evidence"] = evidence(args)
    if args.json:
        with whole_file(args.json) as path:
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
