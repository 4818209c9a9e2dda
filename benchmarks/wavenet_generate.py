"""Generation with a WaveNet, for benchmarks/kernels.py: its speed, and what bf16 and int8 weights cost.

Speed: samples/s of the native kernels, of the reference (a Python loop over cached PyTorch steps) and of the same steps
compiled by torch.compile, one step a call. GB/s are the bytes of all weights per second, beside what one core reads
from an array of the same size again and again: the bound for one stream, since every sample needs every weight. Rows
with two threads, where the rows of one stream or the streams are split, are in wall-clock time.

Evidence: a network is trained on a folder of audio; on the last tenth of its clips, which the training has not heard,
teacher forced: negative log-likelihood in nats a sample, its change against float32, and the signal-to-noise ratio of
the logits against those of the parallel network in float64, in dB, both less their means over classes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from audiogen.ops.wavenet_generate import (  # noqa: E402
    WaveNetWeights,
    generate_reference,
    pack,
    start,
    wavenet_generate,
    wavenet_parameters,
)
from audiogen.ops.wavenet_pack import PackedWaveNet, unpack  # noqa: E402

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


def compiled_steps(packed: PackedWaveNet, steps: int, random: Tensor) -> Callable[[], None]:
    """Greedy PyTorch: one step as one compiled graph; slots come as a tensor, so that it is compiled once."""
    net, plan = unpack(packed.blob, packed.plan), packed.plan
    sizes = torch.tensor(plan.dilations)
    starts = sizes.cumsum(0) - sizes
    rings, last = torch.zeros(plan.slots, plan.padded_channels), torch.zeros((), dtype=torch.long)

    def step(rings: Tensor, last: Tensor, slots: Tensor, uniform: Tensor) -> Tensor:
        x, skip = net.first_bias + net.first[0].index_select(0, last[None])[0], net.skip_bias
        past, heard = rings[slots], []
        for number, layer in enumerate(net.layers):
            z = layer.bias + layer.taps[0].weight @ past[number] + layer.taps[1].weight @ x
            heard.append(x)
            a, b = z.unflatten(0, (-1, 2, 16)).unbind(1)
            h = (torch.tanh(a) * torch.sigmoid(b)).flatten()
            skip = skip + layer.skip.weight @ h
            if layer.out is not None:
                x = x * plan.residual_scale + layer.out.weight @ h + layer.out_bias
        rings[slots] = torch.stack(heard)
        hidden = torch.relu(net.hidden.weight @ torch.relu(skip) + net.hidden_bias)
        weights = torch.softmax(net.last.weight @ hidden + net.last_bias, 0).cumsum(0)
        return (weights <= uniform).sum().clamp(max=plan.outputs - 1)

    compiled = torch.compile(step, fullgraph=True)

    def run() -> None:
        sample = last
        with torch.inference_mode():
            for t in range(steps):
                sample = compiled(rings, sample, starts + t % sizes, random[t])

    return run


def generation_rows(benchmark: Any) -> Iterator[dict[str, Any]]:
    """Rows for each shape and precision, one stream and eight, with one thread and two."""
    for shape, sizes in SHAPES.items():
        layers, kernel, channels, skip, classes = sizes
        products = layers * (2 * channels * channels * kernel + skip * channels) + (layers - 1) * channels**2
        flop = 2 * (products + skip * classes + classes**2)
        for precision in PRECISIONS:
            packed = pack(random_weights(*sizes), dilations=tuple(2 ** (i % 10) for i in range(layers)),
                          output="softmax", precision=precision)
            ceiling = benchmark.reading(packed.blob.numel() // 4 * 4)
            for threads, batch in ((1, 1), (2, 1), (1, 8), (2, 8)):
                state, steps = start(packed, batch), 2 * HOP
                condition, random = torch.randn(batch, layers, 2 * channels, 2), torch.rand(batch, 1, steps)
                case = f"{shape}, {precision}, {_count(batch, 'stream')}" + (", 2 threads" if threads == 2 else "")

                def native(packed=packed, state=state, random=random, condition=condition) -> None:
                    wavenet_generate(packed, state, random, condition)

                def python(packed=packed, state=state, random=random[:, :, :50], condition=condition[..., :1]) -> None:
                    plan = packed.plan
                    generate_reference(packed.blob, plan.numbers(), *state, random, None, condition, None, None, 1.0,
                                       plan.residual_scale, plan.log_scale_min)

                paths: list[tuple[str, int, Callable[[], None]]] = [("native", steps, native)]
                if (precision, threads, batch) == ("float32", 1, 1):
                    paths.append(("plain", 50, python))
                    if benchmark.compile:
                        paths.append(("compile", 50, compiled_steps(packed, 50, random[0, 0])))
                for path, steps, work in paths:
                    torch.set_num_threads(threads)
                    found = benchmark.row(case, path, work, steps=batch * steps, flop=flop * batch * steps,
                                          number_bytes=packed.blob.numel() * steps, threads=threads)
                    torch.set_num_threads(benchmark.threads)
                    yield found | {
                        "samples_per_second": found["steps_per_second"], "threads": threads,
                        "times_real_time": found["steps_per_second"] / batch / 22_050,
                        "reading_ceiling_GB_per_second": ceiling,
                    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def evidence(folder: Path, minutes: float, batch_size: int = 4) -> dict[str, Any]:
    """Train on the folder, then compare precisions on clips that were held out."""
    import soundfile
    import soxr

    from audiogen.core.interfaces import Batch, Condition
    from audiogen.core.mel_format import MEL_FORMATS
    from audiogen.core.rng import SampleRng
    from audiogen.signal.mel import MelSpectrogram
    from vocoders.wavenet import WaveNet, WaveNetConfig

    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac"))
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
    while (progress := (time.perf_counter() - begin) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20) * max(0.05, 1 - progress)
        starts = torch.randint(len(heard) - 20 * HOP, (batch_size,), generator=rng).tolist()
        audio = torch.stack([heard[first : first + 20 * HOP] for first in starts])
        mel = front(audio)[:, :, :20]
        ids = torch.arange(batch_size)
        batch = Batch(audio[:, None], mel, torch.full((batch_size,), 20), Condition(), ids)
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
