"""Generation: cached steps against a network that computes its whole past again, and the kernel against both."""

import ctypes
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from audiogen.ops import build, library
from audiogen.ops.upsampling import Upsampling, upsample
from audiogen.ops.wavenet_generate import (
    PackedWaveNet,
    WaveNetWeights,
    generate,
    generate_reference,
    pack,
    start,
    wavenet_generate,
    wavenet_parameters,
)

DILATIONS = (1, 2, 4, 1, 3, 5)
SHAPES = {  # odd sizes, and sizes that fill vectors
    "odd": dict(channels=12, gate=10, skip=20, hidden=24),
    "full": dict(channels=32, gate=32, skip=80, hidden=48),
}


def made(output="softmax", *, shape="odd", kernel=2, first_kernel=1, biases=True, dilations=DILATIONS, seed=0):
    """Random weights of a size that keeps all activations near 1."""
    rng = torch.Generator().manual_seed(seed)
    inputs, outputs = {"softmax": (16, 16), "logistics": (1, 12), "gaussian": (1, 2)}[output]
    channels, gate, skip, hidden = (SHAPES[shape][name] for name in ("channels", "gate", "skip", "hidden"))
    layers = len(dilations)

    def normal(*size, fan_in=4):
        return torch.randn(*size, generator=rng, dtype=torch.float64) * fan_in**-0.5

    def bias(*size):
        return normal(*size, fan_in=9) if biases else None

    return WaveNetWeights(
        normal(channels, inputs, first_kernel, fan_in=first_kernel), bias(channels),
        normal(layers, 2 * gate, channels, kernel, fan_in=channels * kernel), bias(layers, 2 * gate),
        normal(layers - 1, channels, gate, fan_in=gate / 2), bias(layers - 1, channels),
        normal(layers, skip, gate, fan_in=gate / 2), bias(layers, skip),
        normal(hidden, skip, fan_in=skip), bias(hidden), normal(outputs, hidden, fan_in=hidden / 2), bias(outputs),
    )


def parallel(w, fed, dilations, condition=None, *, residual_scale=0.5**0.5, skip_scale=1.0, first_tanh=False):
    """The definition, with whole convolutions: fed (batch, time) is what the network sees -> (batch, outputs, time).

    condition (batch, layers, 2 * gate, time), at the rate of samples.
    """
    x = fed[:, None] if w.first_weight.shape[1] == 1 else F.one_hot(fed.long(), w.first_weight.shape[1]).mT
    pad = w.first_weight.shape[2] - 1
    before = x[:, :, :1].expand(-1, -1, pad)  # what came before the first sample is what `start` says: the same again
    x = F.conv1d(torch.cat([before, x], 2).to(w.weight.dtype), w.first_weight, w.first_bias)
    x = torch.tanh(x) if first_tanh else x
    skips, layers = None, len(dilations)
    for layer, dilation in enumerate(dilations):
        z = F.conv1d(F.pad(x, (dilation * (w.weight.shape[3] - 1), 0)), w.weight[layer],
                     None if w.bias is None else w.bias[layer], dilation=dilation)
        if condition is not None:
            z = z + condition[:, layer]
        a, b = z.chunk(2, 1)
        h = torch.tanh(a) * torch.sigmoid(b)
        skip = F.conv1d(h, w.skip_weight[layer, :, :, None], None if w.skip_bias is None else w.skip_bias[layer])
        if skip_scale == "recursive":
            skips = skip if skips is None else (skips + skip) * 0.5**0.5
        else:
            skips = skip if skips is None else skips + skip
        if layer + 1 < layers:
            out = F.conv1d(h, w.out_weight[layer, :, :, None], None if w.out_bias is None else w.out_bias[layer])
            x = (x + out) * residual_scale
    skips = skips if skip_scale == "recursive" else skips * skip_scale
    hidden = torch.relu(F.conv1d(torch.relu(skips), w.hidden_weight[:, :, None], w.hidden_bias))
    return F.conv1d(hidden, w.last_weight[:, :, None], w.last_bias)


def fed_for(samples, previous):
    """What the network sees when it is to say `samples`: one sample late."""
    return F.pad(samples[:, :-1], (1, 0), value=previous)


def samples_for(output, batch, time, seed=1):
    rng = torch.Generator().manual_seed(seed)
    if output == "softmax":
        return torch.randint(16, (batch, time), generator=rng)
    return 2 * torch.rand(batch, time, generator=rng, dtype=torch.float64) - 1


def randoms(output, batch, time, seed=2):
    rng = torch.Generator().manual_seed(seed)
    if output == "gaussian":
        return torch.randn(batch, 1, time, generator=rng)
    return torch.rand(batch, 1 if output == "softmax" else 2, time, generator=rng)


@pytest.mark.parametrize("options", [
    dict(kernel=2, first_kernel=2), dict(kernel=3, skip_scale=0.4, residual_scale=1.0), dict(skip_scale="recursive"),
    dict(output="logistics", kernel=3, biases=False), dict(output="gaussian", first_kernel=2, first_tanh=True),
])
def test_cached_steps_are_the_whole_convolutions(options):
    """In float64, over rings that wrap several times; the oracle knows neither rings nor folded scales."""
    of_net = {name: options[name] for name in ("output", "kernel", "first_kernel", "biases") if name in options}
    rest = {name: value for name, value in options.items() if name not in of_net}
    output = options.get("output", "softmax")
    weights, samples = made(**of_net), samples_for(output, 2, 40)
    condition = torch.randn(2, len(DILATIONS), 20, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    packed = pack(weights, dilations=DILATIONS, output=output, precision="float64", **rest)
    state = start(packed, 2)
    got = wavenet_parameters(packed, state, samples, condition)
    wanted = parallel(weights, fed_for(samples, 8 if output == "softmax" else 0), DILATIONS, condition, **rest)
    assert wanted.std() > 0.1
    assert (got - wanted).abs().max() < 1e-12
    assert state.position == 40


def drawn(parameters, random, output, temperature):
    """What one stream's parameters (outputs,) and random numbers say, by the textbook."""
    if output == "softmax":
        cumulative = (parameters / temperature).softmax(0).cumsum(0)
        return int(torch.searchsorted(cumulative, random[:1], right=True))
    if output == "gaussian":
        return min(1.0, max(-1.0, float(parameters[0] + temperature * parameters[1].exp() * random[0])))
    logits, means, log_scales = parameters.reshape(3, -1)
    component = int(torch.searchsorted((logits / temperature).softmax(0).cumsum(0), random[:1], right=True))
    spread = math.log(random[1] / (1 - random[1]))
    return min(1.0, max(-1.0, float(means[component] + temperature * log_scales[component].exp() * spread)))


@pytest.mark.parametrize("output", ["softmax", "logistics", "gaussian"])
def test_generation_is_drawing_from_a_network_that_computes_all_its_past_again(output):
    weights, time = made(output, kernel=3), 14
    packed = pack(weights, dilations=DILATIONS, output=output, precision="float64")
    random = randoms(output, 2, time).double()
    got = wavenet_generate(packed, start(packed, 2), random, temperature=0.8)
    for stream in range(2):
        samples = torch.zeros(1, 0, dtype=torch.float64)
        for t in range(time):
            fed = F.pad(samples, (1, 0), value=8 if output == "softmax" else 0)
            parameters = parallel(weights, fed, DILATIONS)[0, :, -1]
            sample = drawn(parameters, random[stream, :, t], output, 0.8)
            samples = torch.cat([samples, torch.tensor([[sample]], dtype=torch.float64)], 1)
        assert (got[stream] - samples[0]).abs().max() < 1e-10
    assert len(set(got.flatten().tolist())) > 5


def test_frames_reach_the_steps_through_their_band():
    packed = pack(made(), dilations=DILATIONS, output="softmax", precision="float64")
    rng = torch.Generator().manual_seed(4)
    condition = torch.randn(2, len(DILATIONS), 20, 6, generator=rng, dtype=torch.float64)
    samples = samples_for("softmax", 2, 24)
    band = Upsampling((torch.arange(24) // 6).int(), torch.rand(24, 3, generator=rng, dtype=torch.float64))
    for upsampling in (None, band):
        at_rate = upsample(condition.flatten(1, 2), *(upsampling or (None, None)), 24).unflatten(1, (6, 20))
        wanted = wavenet_parameters(packed, start(packed, 2), samples, at_rate)
        got = wavenet_parameters(packed, start(packed, 2), samples, condition, upsampling=upsampling)
        assert (got - wanted).abs().max() < 1e-12


def test_no_class_before_the_first_leaves_the_bias_alone():
    weights = made()
    packed = pack(weights, dilations=DILATIONS, output="softmax", precision="float64")
    got = wavenet_parameters(packed, start(packed, 1, previous=-1), torch.tensor([[3]]))
    bias_alone = weights._replace(first_weight=torch.zeros_like(weights.first_weight))
    assert (got - parallel(bias_alone, torch.zeros(1, 1), DILATIONS)).abs().max() < 1e-12


def by_reference(packed, state, random, given, condition, band, temperature=1.0):
    plan = packed.plan
    return generate_reference(packed.blob, plan.numbers(), *state, random, given, condition, *(band or (None, None)),
                              temperature, plan.residual_scale, plan.log_scale_min)


def conditioned(shape, batch, time, seed=5):
    rng = torch.Generator().manual_seed(seed)
    frames = torch.randn(batch, len(DILATIONS), 2 * SHAPES[shape]["gate"], 6, generator=rng)
    return frames, Upsampling((torch.arange(time) * 4 // time).int(), torch.rand(time, 3, generator=rng) - 0.2)


@pytest.mark.parametrize(("output", "shape", "kernel", "batch", "precision"), [
    ("softmax", "odd", 2, 1, "float32"), ("softmax", "full", 3, 3, "float32"), ("logistics", "full", 2, 7, "float32"),
    ("gaussian", "odd", 3, 2, "float32"), ("softmax", "full", 2, 5, "bfloat16"), ("logistics", "odd", 3, 1, "bfloat16"),
])
def test_the_kernel_says_what_the_reference_says(level, output, shape, kernel, batch, precision):
    """Parameters within 1e-5, and the same samples for the same random numbers; rings wrap."""
    weights = made(output, shape=shape, kernel=kernel, first_kernel=kernel - 1)
    packed = pack(weights, dilations=DILATIONS, output=output, first_tanh=kernel == 3, precision=precision)
    time = 40
    condition, band = conditioned(shape, batch, time)
    state, other = start(packed, batch), start(packed, batch)
    random = randoms(output, batch, time)
    got = wavenet_generate(packed, state, random, condition, upsampling=band, temperature=0.9)
    wanted, _ = by_reference(packed, other, random, None, condition, band, 0.9)
    assert (got - wanted).abs().max() <= (0 if output == "softmax" else 1e-5)
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(state, other, strict=True))
    parameters = wavenet_parameters(packed, start(packed, batch), got, condition, upsampling=band)
    _, wanted = by_reference(packed, start(packed, batch), None, got.float(), condition, band)
    assert wanted.std() > 0.1
    assert (parameters - wanted.mT).abs().max() < 1e-5


def noise_to_signal(got, wanted):
    """Root mean square of the difference, over that of what is wanted less its mean over outputs."""
    return ((got - wanted).square().mean() / (wanted - wanted.mean(1, keepdim=True)).square().mean()).sqrt()


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-6), ("bfloat16", 1e-2), ("int8", 4e-2)])
def test_what_rounding_the_weights_costs(level, precision, bound):
    """Against the definition in float64. bf16 has 8 bits of precision, int8 7 in weights and 7 in activations."""
    weights, samples = made(shape="full"), samples_for("softmax", 3, 60)
    packed = pack(weights, dilations=DILATIONS, output="softmax", precision=precision)
    got = wavenet_parameters(packed, start(packed, 3), samples).double()
    wanted = parallel(weights, fed_for(samples, 8), DILATIONS)
    assert bound / 30 < noise_to_signal(got, wanted) < bound


def test_int8_counts_as_the_reference_counts(level):
    """Sums of bytes are exact, so only a number that falls on the other side of a half may differ: few do."""
    packed = pack(made(shape="full", kernel=3), dilations=DILATIONS, output="softmax", precision="int8")
    samples = samples_for("softmax", 5, 50)
    got = wavenet_parameters(packed, start(packed, 5), samples)
    _, wanted = by_reference(packed, start(packed, 5), None, samples.float(), None, None)
    assert (got - wanted.mT).abs().median() < 1e-6
    assert noise_to_signal(got, wanted.mT) < 5e-3


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_largest_bytes_do_not_saturate(level, precision):
    """All weights and activations at their limits: sums of pairs just fit into 16 bits, those of offset ones do not."""
    weights = made(shape="full", biases=False)
    ones = weights._replace(hidden_weight=torch.ones_like(weights.hidden_weight),
                            last_weight=torch.ones_like(weights.last_weight),
                            skip_weight=torch.full_like(weights.skip_weight, 1e3), skip_bias=torch.ones(6, 80).double())
    samples = samples_for("softmax", 1, 8)
    packed = pack(ones, dilations=DILATIONS, output="softmax", precision=precision)
    wanted = parallel(ones, fed_for(samples, 8), DILATIONS)
    got = wavenet_parameters(packed, start(packed, 1), samples)
    assert wanted.abs().max() > 1e4
    assert (got - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_chunks_go_on_exactly(level, precision):
    """Chunks of any length, and a state put aside in mid-stream, give the very bits of one call."""
    packed = pack(made("logistics", kernel=3), dilations=DILATIONS, output="logistics", precision=precision)
    condition, band = conditioned("odd", 2, 50)
    random, whole, parts = randoms("logistics", 2, 50), start(packed, 2), start(packed, 2)
    wanted = wavenet_generate(packed, whole, random, condition, upsampling=band)

    def chunk(state, begin, end):
        rows = Upsampling(band.first[begin:end], band.weights[begin:end])
        return wavenet_generate(packed, state, random[:, :, begin:end], condition, upsampling=rows)

    edges = [0, 1, 2, 9, 30, 50]
    got = torch.cat([chunk(parts, *edge) for edge in zip(edges[:3], edges[1:4], strict=True)], 1)
    aside = parts.clone()
    chunk(parts, 9, 30)
    got = torch.cat([got, chunk(aside, 9, 30), chunk(aside, 30, 50)], 1)
    assert torch.equal(got, wanted)
    assert all(torch.equal(a, b) for a, b in zip(aside, whole, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_streams_do_not_know_of_each_other(level, precision):
    """Seven streams (in passes of four, two and one) are to the bit what each is alone."""
    packed = pack(made(shape="full"), dilations=DILATIONS, output="softmax", precision=precision)
    condition, band = conditioned("full", 7, 30)
    samples = samples_for("softmax", 7, 30)
    together = wavenet_parameters(packed, start(packed, 7), samples, condition, upsampling=band)
    for i in range(7):
        one = slice(i, i + 1)
        alone = wavenet_parameters(packed, start(packed, 1), samples[one], condition[one], upsampling=band)
        assert torch.equal(alone, together[one])


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def large(precision="float32"):
    """More than a megabyte of weights, of which two threads take half of the rows each."""
    rng = torch.Generator().manual_seed(6)
    layers, channels, skip = 10, 64, 192 if precision == "float32" else 1280

    def normal(*size):
        return torch.randn(*size, generator=rng) / size[-1] ** 0.5

    weights = WaveNetWeights(
        normal(channels, 16, 1) * 4, None, normal(layers, 128, 2, channels).mT, normal(layers, 128),
        normal(layers - 1, channels, channels), None, normal(layers, skip, channels), None, normal(64, skip), None,
        normal(16, 64), None,
    )
    packed = pack(weights, dilations=(1, 2, 3, 4, 5) * 2, output="softmax", precision=precision)
    assert packed.blob.numel() >= 2**20
    return packed


AS_IT_PAYS, NEVER, IN_TURN = range(3)  # Sharing in csrc/cpu/crew_room.h


@pytest.fixture
def kernels(native):
    """The library, for `audiogen_set_sharing` and the steps that two threads have made together so far."""
    found = ctypes.CDLL(str(library.loaded("cpu")))
    found.audiogen_shared_steps.restype = ctypes.c_long
    yield found
    found.audiogen_set_sharing(AS_IT_PAYS)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_two_threads_share_a_stream(level, two_threads, kernels, precision):
    """Five steps by two, with half of the rows each, three by one, and so on: the very bits of one thread."""
    packed = large(precision)
    random, both, one = randoms("softmax", 1, 60), start(packed, 1), start(packed, 1)
    kernels.audiogen_set_sharing(IN_TURN)
    before = kernels.audiogen_shared_steps()
    got = [wavenet_generate(packed, both, random[:, :, part]) for part in (slice(0, 23), slice(23, 60))]
    assert kernels.audiogen_shared_steps() == before + 3 * 5 + 5 * 5
    torch.set_num_threads(1)
    wanted = wavenet_generate(packed, one, random)
    assert torch.equal(torch.cat(got, 1), wanted)
    assert all(torch.equal(a, b) for a, b in zip(both, one, strict=True))


def test_two_threads_lose_little_where_other_work_takes_their_cores(two_threads, kernels):
    """One busy process more than there are cores: two threads take at most twice as long as one."""
    packed, random = large(), randoms("softmax", 1, 3000)
    spin = "import time; end = time.time() + 30\nwhile time.time() < end: pass"
    busy = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range((os.cpu_count() or 1) + 1)]
    took = {NEVER: math.inf, AS_IT_PAYS: math.inf}
    try:
        for how in (NEVER, AS_IT_PAYS) * 3:
            kernels.audiogen_set_sharing(how)
            begin = time.perf_counter()
            wavenet_generate(packed, start(packed, 1), random)
            took[how] = min(took[how], time.perf_counter() - begin)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert took[AS_IT_PAYS] < 2 * took[NEVER] + 0.1


@pytest.mark.parametrize("change", ["dilation", "taps"])
def test_a_shift_by_one_tap_would_be_seen(native, change):
    """The parity above is no accident: the same test fails for a network one of whose taps lies elsewhere."""
    weights, samples = made(), samples_for("softmax", 2, 40)
    wanted = parallel(weights, fed_for(samples, 8), DILATIONS)
    dilations = (1, 2, 5, 1, 3, 5) if change == "dilation" else DILATIONS
    if change == "taps":
        before, turned, after = weights.weight.split([2, 1, 3])
        weights = weights._replace(weight=torch.cat([before, turned.flip(3), after]))
    packed = pack(weights, dilations=dilations, output="softmax")
    got = wavenet_parameters(packed, start(packed, 2), samples)
    assert (got - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["reference", "kernel"])
def test_classes_come_as_often_as_they_should(kind, request):
    """2000 streams with evenly spread random numbers: each class as often as its probability says, to within one."""
    if kind == "kernel":
        request.getfixturevalue("native")
    precision = "float64" if kind == "reference" else "float32"
    weights = made(dilations=(1,))
    packed = pack(weights, dilations=(1,), output="softmax", precision=precision)
    uniform = (torch.arange(2000) + 0.5) / 2000
    got = wavenet_generate(packed, start(packed, 2000), uniform[:, None, None], temperature=0.7)[:, 0]
    wanted = 2000 * (parallel(weights, torch.tensor([[8]]), (1,))[0, :, 0] / 0.7).softmax(0)
    assert (torch.bincount(got, minlength=16) - wanted).abs().max() <= 1
    coldest = wavenet_generate(packed, start(packed, 3), uniform[:3, None, None], temperature=0)
    assert (coldest == wanted.argmax()).all()


COUNTER = r"""
#define _GNU_SOURCE
#include <stddef.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
static long count;
long allocations(void) { return count; }
void *malloc(size_t n) { ++count; return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { ++count; return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { ++count; return __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { ++count; return __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { ++count; return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) { ++count; *p = __libc_memalign(a, n); return *p ? 0 : 12; }
"""

COUNTED = """
import ctypes, gc, sys
import torch
from audiogen.ops import library
from audiogen.ops.wavenet_generate import start, wavenet_generate
library.load()
assert library.loaded("cpu")
torch.set_num_threads(1)
counter = ctypes.CDLL(sys.argv[1]).allocations
counter.restype = ctypes.c_long
packed = torch.load(sys.argv[2], weights_only=False)
state = start(packed, 1)
gc.disable()
def allocations(steps):
    random = torch.rand(1, 1, steps)
    before = counter()
    wavenet_generate(packed, state, random)
    return counter() - before
allocations(8)
few, many = (min(allocations(steps) for _ in range(5)) for steps in (16, 1024))
print(few, many)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is counted by the GNU C library's hooks")
def test_nothing_is_allocated_in_the_loop(native, tmp_path):
    """Every malloc of the process is counted: a call of 1024 steps makes as many as one of 16."""
    source, counter, network = tmp_path / "counter.c", tmp_path / "counter.so", tmp_path / "network.pt"
    source.write_text(COUNTER)
    done = subprocess.run([build.compiler(), "-x", "c", "-shared", "-fPIC", source, "-o", counter], capture_output=True)
    if done.returncode:
        pytest.skip(f"the counter does not compile: {done.stderr.decode()[:200]}")
    torch.save(pack(made(), dilations=DILATIONS, output="softmax"), network)
    environment = {**os.environ, "LD_PRELOAD": str(counter), "AUDIOGEN_KERNELS": "require", "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(Path(library.__file__).parents[2])}
    said = subprocess.run([sys.executable, "-c", COUNTED, str(counter), str(network)], env=environment, text=True,
                          capture_output=True)
    assert said.returncode == 0, said.stderr
    few, many = map(int, said.stdout.split())
    assert 0 < few == many


@pytest.mark.parametrize("given", [False, True])
def test_the_op_keeps_its_promises(given):
    """Schema (which arguments are changed), shapes of results without computing them."""
    packed = pack(made(), dilations=DILATIONS, output="softmax")
    condition, band = conditioned("odd", 2, 4)
    random, samples = randoms("softmax", 2, 4), samples_for("softmax", 2, 4).float()
    plan = packed.plan
    torch.library.opcheck(generate, (
        packed.blob, plan.numbers(), *start(packed, 2), None if given else random, samples if given else None,
        condition, *band, 1.0, plan.residual_scale, plan.log_scale_min,
    ))


def test_what_does_not_fit_is_refused():
    weights = made()
    with pytest.raises(ValueError, match="out_weight"):
        pack(weights._replace(out_weight=weights.out_weight[:-1]), dilations=DILATIONS, output="softmax")
    with pytest.raises(ValueError, match="does not fit"):
        pack(weights, dilations=DILATIONS, output="gaussian")
    with pytest.raises(ValueError, match="6 positive"):
        pack(weights, dilations=(1, 2), output="softmax")
    packed = pack(weights, dilations=DILATIONS, output="softmax")
    state = start(packed, 2)
    with pytest.raises(ValueError, match="random"):
        wavenet_generate(packed, state, torch.rand(2, 2, 5))
    with pytest.raises(ValueError, match="condition"):
        wavenet_generate(packed, state, torch.rand(2, 1, 5), torch.zeros(2, 6, 21, 5))
    with pytest.raises(ValueError, match="classes below 16"):
        wavenet_parameters(packed, state, torch.full((2, 3), 16))
    with pytest.raises(ValueError, match="another network"):
        wavenet_generate(packed, state._replace(rings=state.rings[:, 1:]), torch.rand(2, 1, 5))
    with pytest.raises(ValueError, match="previous=16"):
        start(packed, 1, previous=16)
    assert isinstance(packed.to("cpu"), PackedWaveNet)


def test_the_kernel_refuses_a_band_that_leaves_the_frames(native):
    packed = pack(made(), dilations=DILATIONS, output="softmax")
    condition, band = conditioned("odd", 1, 4)
    with pytest.raises(RuntimeError, match="leaves the frames"):
        wavenet_generate(packed, start(packed, 1), torch.rand(1, 1, 4), condition,
                         upsampling=Upsampling(band.first + 4, band.weights))
