"""The CUDA kernel of autoregressive generation against the reference: emulated on the CPU, and on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ops.cuda_kernels import PLACES, Where, lines_of, place
from torch import Tensor

from audiogen.ops.wavenet_generate import (
    PackedWaveNet,
    WaveNetState,
    WaveNetWeights,
    generate_reference,
    pack,
    start,
)

DILATIONS = (1, 2, 4, 1, 3)
TIME, FRAMES = 23, 9


@pytest.fixture(params=PLACES)
def where(request: pytest.FixtureRequest) -> Where:
    return place(request.param, "wavenet_generate")


def network(
    output: str, precision: str = "float32", *, kernel: int = 2, first_kernel: int = 1, **more
) -> PackedWaveNet:
    random = torch.Generator().manual_seed(3)
    inputs, outputs = {"softmax": (32, 32), "logistics": (1, 30), "gaussian": (1, 2)}[output]
    channels, gate, skip, hidden, layers = 24, 24, 40, 80, len(DILATIONS)

    def normal(*shape: int, fan: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=random) * fan**-0.5

    weights = WaveNetWeights(
        normal(channels, inputs, first_kernel), normal(channels),
        normal(layers, 2 * gate, channels, kernel, fan=channels * kernel), normal(layers, 2 * gate),
        normal(layers - 1, channels, gate, fan=gate), normal(layers - 1, channels),
        normal(layers, skip, gate, fan=gate), normal(layers, skip), normal(hidden, skip, fan=skip), normal(hidden),
        normal(outputs, hidden, fan=hidden / 4),
        normal(outputs),
    )
    return pack(weights, dilations=DILATIONS, output=output, precision=precision, **more)


def generated(
    where: Where | None, packed: PackedWaveNet, batch: int, chunks: tuple[int, ...], *, temperature: float = 1.0,
    band: bool = True, given: bool = False,
) -> tuple[Tensor, WaveNetState]:
    """Samples (or, given the samples, what they were to be drawn from), and the state; where None: the reference."""
    random, plan, time = torch.Generator().manual_seed(4), packed.plan, sum(chunks)
    numbers = torch.rand(batch, packed.randoms, time, generator=random)
    if plan.output == "gaussian":
        numbers = torch.randn(batch, 1, time, generator=random)
    told = torch.randint(0, plan.inputs, (batch, time), generator=random).float() if plan.inputs > 1 else numbers[:, 0]
    condition = torch.randn(batch, len(DILATIONS), 2 * plan.gate, FRAMES if band else 1, generator=random) / 2
    first = (torch.arange(time) * (FRAMES - 2) // time).int()
    weights = torch.rand(time, 3, generator=random) / 2
    op, device = (generate_reference, "cpu") if where is None else (where.ops.wavenet_generate, where.device)
    state = WaveNetState(*(part.to(device) for part in start(packed, batch)))
    parts, at = [], 0
    for chunk in chunks:
        now = slice(at, at + chunk)
        samples, parameters = op(
            packed.blob.to(device), plan.numbers(), *state, None if given else numbers[:, :, now].to(device),
            told[:, now].to(device) if given else None, condition.to(device), first[now].to(device) if band else None,
            weights[now].to(device) if band else None, temperature, plan.residual_scale, plan.log_scale_min,
        )
        parts.append((parameters if given else samples).cpu())
        at += chunk
    return torch.cat(parts, 1), WaveNetState(*(part.cpu() for part in state))


def check(where: Where, packed: PackedWaveNet, batch: int, chunks: tuple[int, ...] = (TIME,), **how) -> None:
    expected, state = generated(None, packed, batch, (sum(chunks),), **how)
    results, reached = generated(where, packed, batch, chunks, **how)
    torch.testing.assert_close(results, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(reached.rings, state.rings, rtol=0, atol=1e-5)
    torch.testing.assert_close(reached.last, state.last, rtol=0, atol=1e-5)
    assert reached.position == state.position == sum(chunks)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("output", ["softmax", "logistics", "gaussian"])
def test_the_same_samples_for_the_same_random_numbers(where: Where, output: str, precision: str) -> None:
    """In chunks, 1 step too, the state carried over; rings wrap."""
    check(where, network(output, precision), 2, (10, 1, 12))


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize(("output", "more"), [("softmax", {"kernel": 3}), ("logistics", {"first_kernel": 2}),
                                              ("gaussian", {"first_tanh": True})], ids=str)
def test_tiles_of_streams_draw_the_same_samples(
    where: Where, monkeypatch: pytest.MonkeyPatch, output: str, more: dict, precision: str
) -> None:
    """8 streams together on tensor cores, the last tile not full; in chunks, the state carried over, rings wrap."""
    monkeypatch.setenv("AUDIOGEN_GENERATION", "tiles")
    check(where, network(output, precision, **more), 11, (5, 1, 3))


def test_many_streams_go_as_tiles_and_a_stream_does_not_know(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream alone, from the middle of others' steps on: state goes from tiles to single streams."""
    packed = network("softmax", "int8")
    expected, _ = generated(None, packed, 9, (8,))
    monkeypatch.setenv("AUDIOGEN_GENERATION", "tiles")
    random = torch.Generator().manual_seed(4)
    numbers = torch.rand(9, 1, 8, generator=random)
    torch.randint(0, 32, (9, 8), generator=random)
    condition = torch.randn(9, len(DILATIONS), 48, FRAMES, generator=random) / 2
    first, band = (torch.arange(8) * (FRAMES - 2) // 8).int(), torch.rand(8, 3, generator=random) / 2

    def call(state: WaveNetState, streams: slice, steps: slice) -> Tensor:
        plan, at = packed.plan, where.device
        return where.ops.wavenet_generate(
            packed.blob.to(at), plan.numbers(), *state, numbers[streams, :, steps].to(at), None,
            condition[streams].to(at), first[steps].to(at), band[steps].to(at), 1.0, plan.residual_scale,
            plan.log_scale_min)[0].cpu()

    state = WaveNetState(*(part.to(where.device) for part in start(packed, 9)))
    before = call(state, slice(0, 9), slice(0, 5))
    monkeypatch.setenv("AUDIOGEN_GENERATION", "streams")
    alone = WaveNetState(state.rings[8:].clone(), state.last[8:].clone(), state.position)
    assert torch.equal(torch.cat([before[8:], call(alone, slice(8, 9), slice(5, 8))], 1), expected[8:])


@pytest.mark.parametrize(("wish", "reason"), [("fast", "one of auto, streams, tiles"), ("tiles", "in this precision")])
def test_ways_to_generate_that_there_are_not_are_refused(
    where: Where, monkeypatch: pytest.MonkeyPatch, wish: str, reason: str
) -> None:
    monkeypatch.setenv("AUDIOGEN_GENERATION", wish)
    with pytest.raises(RuntimeError, match=reason):
        generated(where, network("gaussian"), 1, (1,))


def launches(log: Path) -> list[list[int]]:
    """Of the generation kernel: blocks, threads, blocks of a cluster."""
    made = [[int(number) for number in line.split()] for line in log.read_text().splitlines()]
    return [launch[:3] for launch in made if launch[3]]


def test_many_streams_go_as_tiles_few_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """24 multiprocessors, 8 blocks a chain: 3 chains. 64 streams are 22 a chain, but 3 tiles."""
    where, packed = place("emulated", "wavenet_generate"), network("gaussian", "int8")
    monkeypatch.setenv("AUDIOGEN_EMULATION_CAPABILITY", "80")
    monkeypatch.setenv("AUDIOGEN_EMULATION_SHARED_BYTES", "48000")
    for batch in (2, 64):
        blocks = []
        for wish in ("auto", "streams", "tiles"):
            monkeypatch.setenv("AUDIOGEN_GENERATION", wish)
            monkeypatch.setenv("AUDIOGEN_EMULATION_LOG", str(tmp_path / f"{wish}.{batch}"))
            generated(where, packed, batch, (1,))
            blocks.append(launches(tmp_path / f"{wish}.{batch}"))
        assert blocks[0] == blocks[1 if batch == 2 else 2] != blocks[2 if batch == 2 else 1]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("output", ["softmax", "logistics", "gaussian"])
def test_temperatures(where: Where, output: str, temperature: float) -> None:
    check(where, network(output), 1, (12,), temperature=temperature, band=False)


@pytest.mark.parametrize("output", ["softmax", "logistics"])
def test_teacher_forced_parameters_agree(where: Where, output: str) -> None:
    check(where, network(output, kernel=3, first_kernel=2, first_tanh=True), 3, (5, 9), given=True)


WAYS = {  # (capability, bytes of shared memory a block): how the network lies on the chip
    "one cluster": (90, 227 * 1024), "a longer cluster": (90, 40_000), "through L2": (80, 227 * 1024),
    "a longer chain": (80, 40_000), "weights in L2": (80, 12_000),
}
TILE_WAYS = {
    "one cluster": (90, 227 * 1024), "a longer cluster": (90, 64_000), "a longer chain": (80, 48_000),
    "weights in L2": (80, 24_000),
}
LIES = [
    *((way, precision, kernel, batch, "streams") for way in WAYS.values()
      for precision, kernel, batch in (("float32", 3, 1), ("int8", 2, 5))),
    *((way, precision, 2, 9, "tiles") for way in TILE_WAYS.values() for precision in ("bfloat16", "int8")),
]


@pytest.mark.parametrize(("way", "precision", "kernel", "batch", "together"), LIES, ids=str)
def test_every_way_to_lie_on_the_chip_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: tuple[int, int], precision: str, kernel: int, batch: int,
    together: str,
) -> None:
    monkeypatch.setenv("AUDIOGEN_EMULATION_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("AUDIOGEN_EMULATION_CAPABILITY", str(way[0]))
    monkeypatch.setenv("AUDIOGEN_EMULATION_SHARED_BYTES", str(way[1]))
    monkeypatch.setenv("AUDIOGEN_GENERATION", together)
    check(place("emulated", "wavenet_generate"), network("softmax", precision, kernel=kernel), batch, (2, 4))
    made = launches(tmp_path / "log")
    assert made and all((cluster > 1) == (way[0] == 90) for _, _, cluster in made)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_as_many_threads_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setenv("AUDIOGEN_EMULATION_THREADS", "512")
    check(place("emulated", "wavenet_generate"), network("logistics", precision), 2, (1, 4))


@pytest.mark.parametrize(("together", "precision", "batch"), [("streams", "float32", 2), ("tiles", "bfloat16", 9)])
def test_any_order_of_threads_and_missing_barriers(
    monkeypatch: pytest.MonkeyPatch, together: str, precision: str, batch: int
) -> None:
    """Orders change nothing; nearly every barrier, left out, is found (others order what a later wait orders too)."""
    where = place("emulated", "wavenet_generate")
    monkeypatch.setenv("AUDIOGEN_EMULATION_SHARED_BYTES", "48000")
    monkeypatch.setenv("AUDIOGEN_EMULATION_CAPABILITY", "80")
    monkeypatch.setenv("AUDIOGEN_GENERATION", together)
    packed = network("softmax", precision)
    for order in ("0", "1", "7"):
        monkeypatch.setenv("AUDIOGEN_EMULATION_ORDER", order)
        check(where, packed, batch, (3,))
    product = int(lines_of("wavenet_generate.cuh", "Product::run(present")[0].split(":")[1])
    after = [line for line in lines_of("wavenet_generate.cuh", "__syncthreads();") if int(line.split(":")[1]) > product]
    words = lines_of("generation_products.cuh", "__syncthreads();")[-1:] if together == "tiles" else []
    for barrier in (after[0], *words):
        monkeypatch.setenv("AUDIOGEN_EMULATION_SKIP", barrier)
        with pytest.raises(AssertionError):
            for order in ("0", "1"):
                monkeypatch.setenv("AUDIOGEN_EMULATION_ORDER", order)
                check(where, packed, batch, (3,))


def test_weights_of_another_layout_are_refused(where: Where) -> None:
    packed = network("gaussian")
    shorter = PackedWaveNet(packed.blob[:-64].clone(), packed.plan)
    with pytest.raises(RuntimeError, match="another layout"):
        generated(where, shorter, 1, (2,))
