"""The CUDA kernel of autoregressive generation against the reference: emulated on the CPU, and on a GPU."""

from __future__ import annotations

import pytest
import torch
from ops.cuda_kernels import PLACES, Where, place
from ops.emulation.emulated import CUDA
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


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("precision", "kernel", "batch"), [("float32", 3, 1), ("int8", 2, 5)])
def test_every_way_to_lie_on_the_chip_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, way: tuple[int, int], precision: str, kernel: int, batch: int
) -> None:
    monkeypatch.setenv("AUDIOGEN_EMULATION_CAPABILITY", str(way[0]))
    monkeypatch.setenv("AUDIOGEN_EMULATION_SHARED_BYTES", str(way[1]))
    check(place("emulated", "wavenet_generate"), network("softmax", precision, kernel=kernel), batch, (3, 8))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_as_many_threads_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setenv("AUDIOGEN_EMULATION_THREADS", "512")
    check(place("emulated", "wavenet_generate"), network("logistics", precision), 2, (1, 4))


def test_any_order_of_threads_and_missing_barriers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders change nothing; nearly every barrier, left out, is found (others order what a later wait orders too)."""
    where = place("emulated", "wavenet_generate")
    monkeypatch.setenv("AUDIOGEN_EMULATION_SHARED_BYTES", "40000")
    monkeypatch.setenv("AUDIOGEN_EMULATION_CAPABILITY", "80")
    packed = network("softmax")
    for order in ("0", "1", "7"):
        monkeypatch.setenv("AUDIOGEN_EMULATION_ORDER", order)
        check(where, packed, 2, (4,))
    source = (CUDA / "wavenet_generate.cuh").read_text().splitlines()
    product = next(n for n, line in enumerate(source, 1) if "Product::run(present" in line)
    barrier = next(n for n, line in enumerate(source, 1) if n > product and "__syncthreads();" in line)
    monkeypatch.setenv("AUDIOGEN_EMULATION_SKIP", f"wavenet_generate.cuh:{barrier}")
    with pytest.raises(AssertionError):
        for order in ("0", "1"):
            monkeypatch.setenv("AUDIOGEN_EMULATION_ORDER", order)
            check(where, packed, 2, (4,))


def test_weights_of_another_layout_are_refused(where: Where) -> None:
    packed = network("gaussian")
    shorter = PackedWaveNet(packed.blob[:-64].clone(), packed.plan)
    with pytest.raises(RuntimeError, match="another layout"):
        generated(where, shorter, 1, (2,))
