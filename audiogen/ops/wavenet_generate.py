"""Autoregressive generation with a WaveNet (van den Oord et al. 2016), sample by sample, as one operation.

    x = first(samples before t)                                     a 1x1 over the last sample, or embedding columns
    per layer:  z = W_0 x[t - (kernel - 1) d] + ... + W_k x[t] + bias + conditioning
                h = tanh(z_a) * sigmoid(z_b)
                x = (x + out h) * residual_scale                    not in the last layer
                skip += skip_scale * (skip_weights h)
    parameters = last(relu(hidden(relu(skip))))
    sample t   = drawn from softmax(parameters), a mixture of logistics or a Gaussian, with given random numbers

What a layer saw lies in a ring of dilation * (kernel - 1) slots: a step reads the oldest slot and writes it again, and
nothing is ever moved (fast WaveNet generation, Le Paine et al. 2016). `pack` arranges the weights once, as described in
wavenet_pack.py. This file holds the schema and the reference, cached steps in plain PyTorch; csrc/ holds kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.ops.upsampling import Upsampling, check_upsampling
from audiogen.ops.wavenet_pack import Network, PackedWaveNet, Plan, WaveNetWeights, pack, unpack

__all__ = ["PackedWaveNet", "WaveNetState", "WaveNetWeights", "pack", "start", "wavenet_generate", "wavenet_parameters"]


class WaveNetState(NamedTuple):
    """Where a stream stands. The functions below move it on in place, so that the next call goes on exactly."""

    rings: Tensor  # (batch, slots, channels padded to 16): what the layers saw, x[t] in slot t % length of each's part
    last: Tensor  # (batch, 1 or 2): the samples before the next one, oldest first; class numbers too are floating point
    position: Tensor  # () int64: how many samples were made

    def clone(self) -> WaveNetState:
        """A copy to come back to."""
        return WaveNetState(*(tensor.clone() for tensor in self))


def start(packed: PackedWaveNet, batch: int, *, previous: float | None = None) -> WaveNetState:
    """Before the first sample: all layers have seen zeros.

    previous: what stands in for the samples before the first one: an amplitude, or a class (-1: none, so that only the
    bias of the first layer is left). None: silence, amplitude 0 or the middle class.
    """
    plan = packed.plan
    if previous is None:
        previous = 0.0 if plan.inputs == 1 else plan.inputs // 2
    if plan.inputs > 1 and not (previous == int(previous) and -1 <= previous < plan.inputs):
        raise ValueError(f"previous={previous}: a class from -1 to {plan.inputs - 1} is needed")
    kwargs = {"dtype": packed.activation_dtype, "device": packed.blob.device}
    return WaveNetState(
        torch.zeros(batch, plan.slots, plan.padded_channels, **kwargs),
        torch.full((batch, plan.first_kernel), float(previous), **kwargs),
        torch.zeros((), dtype=torch.int64, device=packed.blob.device),
    )


def wavenet_generate(
    packed: PackedWaveNet,
    state: WaveNetState,
    random: Tensor,
    condition: Tensor | None = None,
    *,
    upsampling: Upsampling | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """-> the next samples (batch, time): classes, int64, of a softmax; else amplitudes in [-1, 1], floating point.

    random       (batch, numbers, time). softmax: one, uniform in [0, 1). logistics: two, uniform: the first chooses the
                 component, the second is drawn from. gaussian: one, normal.
    condition    (batch, layers, 2 * gate, frames), after each layer's own 1x1 and with every global conditioning added.
    upsampling   from frames to the steps of this call, a band or None (held): see `Upsampling`. A stream keeps one
                 condition and gives each call its own rows of the band.
    temperature  divides logits and multiplies spreads. 0: the likeliest class, or the mean of the likeliest component.

    `state` moves on by `time`. ValueError where shapes do not fit.
    """
    plan = packed.plan
    if random.dim() != 3 or random.shape[:2] != (state.last.shape[0], packed.randoms):
        raise ValueError(f"random {tuple(random.shape)}: ({state.last.shape[0]}, {packed.randoms}, time) is needed")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature} must be 0 or more")
    samples, _ = _call(packed, state, random.to(packed.activation_dtype), None, condition, upsampling, temperature)
    return samples.long() if plan.output == "softmax" else samples


def wavenet_parameters(
    packed: PackedWaveNet,
    state: WaveNetState,
    samples: Tensor,
    condition: Tensor | None = None,
    *,
    upsampling: Upsampling | None = None,
) -> Tensor:
    """Teacher forced: samples (batch, time) are given -> what each of them was to be drawn from (batch, outputs, time).

    Column t saw the samples before t alone. Otherwise as `wavenet_generate`.
    """
    if samples.dim() != 2 or samples.shape[0] != state.last.shape[0]:
        raise ValueError(f"samples {tuple(samples.shape)}: ({state.last.shape[0]}, time) is needed")
    if packed.plan.inputs > 1 and samples.numel() and not -1 <= samples.min() <= samples.max() < packed.plan.inputs:
        raise ValueError(f"samples must be classes below {packed.plan.inputs}, not {samples.min()} to {samples.max()}")
    _, parameters = _call(packed, state, None, samples.to(packed.activation_dtype), condition, upsampling, 1.0)
    return parameters.transpose(1, 2)


def _call(
    packed: PackedWaveNet, state: WaveNetState, random: Tensor | None, given: Tensor | None, condition: Tensor | None,
    upsampling: Upsampling | None, temperature: float,
) -> tuple[Tensor, Tensor]:
    plan, dtype = packed.plan, packed.activation_dtype
    batch, time = state.last.shape[0], (given if random is None else random).shape[-1]
    if state.rings.shape != (batch, plan.slots, plan.padded_channels) or state.rings.dtype != dtype:
        raise ValueError(f"the state {tuple(state.rings.shape)} {state.rings.dtype} was made for another network")
    if condition is not None:
        wanted = (batch, len(plan.dilations), 2 * plan.gate)
        if condition.dim() != 4 or condition.shape[:3] != wanted:
            raise ValueError(f"condition {tuple(condition.shape)}: {(*wanted, 'frames')} is needed")
        check_upsampling(condition, upsampling, time)
        condition = condition.to(dtype)
    elif upsampling is not None:
        raise ValueError("an upsampling without a condition to bring to steps")
    first, band = upsampling or (None, None)
    band = None if band is None else band.to(dtype)
    # float64 is for proofs: the reference itself, past the dispatcher and so past any kernel.
    function = generate_reference if packed.precision == "float64" else generate
    return function(
        packed.blob, plan.numbers(), state.rings, state.last, state.position, random, given, condition, first, band,
        float(temperature), plan.residual_scale, plan.log_scale_min,
    )


def generate_reference(
    blob: Tensor, plan: list[int], rings: Tensor, last: Tensor, position: Tensor, random: Tensor | None,
    given: Tensor | None, condition: Tensor | None, first: Tensor | None, band: Tensor | None, temperature: float,
    residual_scale: float, log_scale_min: float,
) -> tuple[Tensor, Tensor]:
    """-> samples (batch, time), and parameters (batch, time, outputs); the one that was not asked for is empty.

    A loop over steps, with everything that a step needs of the past in `rings`, `last` and `position`, which move on.
    """
    shape = Plan.of(plan, residual_scale, log_scale_min)
    net, time, now = unpack(blob, shape), (given if random is None else random).shape[-1], int(position)
    samples = last.new_empty(len(last), time if given is None else 0)
    parameters = last.new_empty(len(last), 0 if given is None else time, shape.outputs)
    for t in range(time):
        added = None if condition is None else _interleaved(_frame(condition, first, band, t, time), shape.gate)
        logits = _step(net, shape, rings, last, now + t, added)
        if given is None:
            drawn = _draw(logits, random[:, :, t], shape, temperature)
            samples[:, t] = drawn
        else:
            drawn = given[:, t]
            parameters[:, t] = logits
        last.copy_(torch.cat([last[:, 1:], drawn[:, None]], 1))
    position += time
    return samples, parameters


def _step(net: Network, shape: Plan, rings: Tensor, last: Tensor, now: int, added: Tensor | None) -> Tensor:
    """One step of all streams -> parameters (batch, outputs). added: the conditioning (batch, layers, gate rows)."""
    x = _first(net, last)                                                      # (batch, padded channels)
    skip, start_slot = net.skip_bias, 0
    for number, (layer, dilation) in enumerate(zip(net.layers, shape.dilations, strict=True)):
        slots = dilation * (shape.kernel - 1)
        ring = rings[:, start_slot : start_slot + slots]
        start_slot += slots
        z = layer.bias + layer.taps[-1].times(x)
        for tap, matrix in enumerate(layer.taps[:-1]):
            z = z + matrix.times(ring[:, (now - (shape.kernel - 1 - tap) * dilation) % slots])
        if added is not None:
            z = z + added[:, number]
        ring[:, now % slots] = x  # this was the oldest slot, read above
        a, b = z.unflatten(1, (-1, 2, 16)).unbind(2)
        h = (torch.tanh(a) * torch.sigmoid(b)).flatten(1)                      # (batch, padded gate)
        skip = skip + layer.skip.times(h)
        if layer.out is not None:
            x = x * shape.residual_scale + layer.out.times(h) + layer.out_bias
    hidden = torch.relu(net.hidden.times(torch.relu(skip)) + net.hidden_bias)
    return (net.last.times(hidden) + net.last_bias)[:, : shape.outputs]


def _first(net: Network, last: Tensor) -> Tensor:
    """last (batch, taps) -> (batch, padded channels)."""
    x = net.first_bias
    for tap, table in enumerate(net.first):
        if len(table) == 1:
            x = x + last[:, tap, None] * table
        else:
            known = last[:, tap] >= 0
            x = x + table[last[:, tap].clamp(min=0).long()] * known[:, None]
    return torch.tanh(x) if net.first_tanh else x


def _frame(condition: Tensor, first: Tensor | None, band: Tensor | None, t: int, time: int) -> Tensor:
    """condition (batch, layers, 2 * gate, frames) -> at step t (batch, layers, 2 * gate)."""
    if first is None or band is None:
        return condition[..., t * condition.shape[-1] // time]
    start_frame = int(first[t])
    return condition[..., start_frame : start_frame + band.shape[1]] @ band[t]


def _interleaved(rows: Tensor, gate: int) -> Tensor:
    """(..., 2 * gate) -> both halves padded to a multiple of 16 and taken 16 by 16 in turn, as the taps' rows are."""
    halves = F.pad(rows.unflatten(-1, (2, gate)), (0, -gate % 16))
    return halves.unflatten(-1, (-1, 16)).transpose(-2, -3).flatten(-3)


def _draw(parameters: Tensor, random: Tensor, shape: Plan, temperature: float) -> Tensor:
    """parameters (batch, outputs), random (batch, numbers) -> the samples (batch,)."""
    if shape.output == "softmax":
        return _choose(parameters, random[:, 0], temperature).to(parameters.dtype)
    if shape.output == "gaussian":
        mean, log_scale = parameters.unbind(1)
        spread = random[:, 0]
    else:
        logits, means, log_scales = parameters.chunk(3, dim=1)
        component = _choose(logits, random[:, 0], temperature)[:, None]
        mean, log_scale = means.gather(1, component)[:, 0], log_scales.gather(1, component)[:, 0]
        uniform = random[:, 1].clamp(1e-5, 1 - 1e-5)
        spread = torch.log(uniform) - torch.log1p(-uniform)
    scale = torch.exp(log_scale.clamp(min=shape.log_scale_min)) * temperature
    return (mean + scale * spread).clamp(-1, 1)


def _choose(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """The smallest class whose cumulative probability exceeds `uniform`; at temperature 0 the likeliest."""
    if temperature == 0:
        return logits.argmax(1)
    weight = torch.exp((logits - logits.amax(1, keepdim=True)) / temperature)
    below = weight.double().cumsum(1)
    target = uniform.double()[:, None] * below[:, -1:]
    return (below <= target).sum(1).clamp(max=logits.shape[1] - 1)


def _fake(
    blob, plan, rings, last, position, random, given, condition, first, band, temperature, residual_scale, log_scale_min
):
    batch = last.shape[0]
    if given is None:
        return last.new_empty(batch, random.shape[2]), last.new_empty(batch, 0, plan[10])
    return last.new_empty(batch, 0), last.new_empty(batch, given.shape[1], plan[10])


# The op, and one of the same body that no kernel takes the place of.
generate, generate_without_kernel = (
    torch.library.custom_op(f"audiogen::{name}", generate_reference, mutates_args=("rings", "last", "position"))
    for name in ("wavenet_generate", "wavenet_generate_reference")
)
generate.register_fake(_fake)
generate_without_kernel.register_fake(_fake)
