"""Generation: cached steps against a network that computes its whole past again, and the kernel against both."""

import math

import pytest
import torch
import torch.nn.functional as F

from audiogen.ops.upsampling import Upsampling
from audiogen.ops.wavenet_generate import WaveNetWeights, pack, start, wavenet_generate, wavenet_parameters

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
