"""The weights of a WaveNet in the one block of memory from which `wavenet_generate` reads them, in the order of a step.

A step reads every weight once, so its time is bytes over the bandwidth of the cache that holds them: the block is
contiguous, and as small as its precision allows. Every matrix (rows, columns) is padded with zeros to multiples of 16
and cut into groups of up to 64 rows. Within a group `lanes` columns lie side by side for each row, and the rows side by
side for each such piece: what vectors of rows times a broadcast activation want, be they 4, 8 or 16 wide.

    group 0: [column / lanes][row in group][column % lanes], group 1: ...     lanes: float32 1, bfloat16 2, int8 4

int8 is symmetric with a scale for each row, its largest absolute value / 127; the scales (float32) follow the matrix,
then the sums of its rows (int32), which take out the 128 that instructions with unsigned activations want added.
Activations are quantised as they come, also to 8 bits, with one scale for each vector that a matrix is multiplied with.

The order: the columns of the first layer, its bias; for each layer its taps from the newest to the oldest and the bias,
the residual 1x1 with bias (not in the last layer) and the skip 1x1; the sum of all skip biases; the hidden and the last
layer with their biases. Rows of the taps are interleaved, 16 for the tanh and 16 for the sigmoid, so that a gate is
made where its rows are. The factors of residual and skip are folded into the 1x1s. Every piece starts at a multiple of
64 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PRECISIONS = ("float32", "bfloat16", "int8", "float64")
OUTPUTS = ("softmax", "logistics", "gaussian")
LANES = {"float32": 1, "bfloat16": 2, "int8": 4, "float64": 1}
STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8, "float64": torch.float64}


class WaveNetWeights(NamedTuple):
    """A network as tensors, with weight norms folded; biases may be None."""

    first_weight: Tensor  # (channels, inputs, 1 or 2): inputs 1: amplitudes, else a column a class; oldest sample first
    first_bias: Tensor | None  # (channels,)
    weight: Tensor  # (layers, 2 * gate, channels, 2 or 3), oldest tap first; the first half of the rows -> tanh
    bias: Tensor | None  # (layers, 2 * gate)
    out_weight: Tensor  # (layers - 1, channels, gate): the last layer has no residual
    out_bias: Tensor | None  # (layers - 1, channels)
    skip_weight: Tensor  # (layers, skip, gate)
    skip_bias: Tensor | None  # (layers, skip)
    hidden_weight: Tensor  # (hidden, skip)
    hidden_bias: Tensor | None  # (hidden,)
    last_weight: Tensor  # (outputs, hidden)
    last_bias: Tensor | None  # (outputs,)


def padded(size: int) -> int:
    """The next multiple of 16."""
    return -(-size // 16) * 16


@dataclass(frozen=True)
class Plan:
    """The sizes of a packed network, and what a step does apart from its weights."""

    precision: str
    output: str
    inputs: int
    first_kernel: int
    first_tanh: bool
    kernel: int
    channels: int
    gate: int
    skip: int
    hidden: int
    outputs: int
    dilations: tuple[int, ...]
    residual_scale: float
    log_scale_min: float

    @property
    def slots(self) -> int:
        """Slots of all rings."""
        return sum(self.dilations) * (self.kernel - 1)

    @property
    def padded_channels(self) -> int:
        return padded(self.channels)

    def numbers(self) -> list[int]:
        """The integers, as the op takes them."""
        return [
            PRECISIONS.index(self.precision), OUTPUTS.index(self.output), self.inputs, self.first_kernel,
            int(self.first_tanh), self.kernel, self.channels, self.gate, self.skip, self.hidden, self.outputs,
            *self.dilations,
        ]

    @classmethod
    def of(cls, numbers: list[int], residual_scale: float, log_scale_min: float) -> Plan:
        """The inverse of `numbers`."""
        precision, output, inputs, first_kernel, first_tanh, *sizes = numbers[:11]
        return cls(
            PRECISIONS[precision], OUTPUTS[output], inputs, first_kernel, bool(first_tanh), *sizes,
            tuple(numbers[11:]), residual_scale, log_scale_min,
        )

    def matrices(self) -> Iterator[tuple[str, int, int]]:
        """(name, padded rows, padded columns) of every piece in order; columns 0: a vector in the activations' type."""
        channels, gates, skip = padded(self.channels), 2 * padded(self.gate), padded(self.skip)
        for tap in range(self.first_kernel):
            for column in range(self.inputs):
                yield f"first.{tap}.{column}", channels, 0
        yield "first.bias", channels, 0
        for layer in range(len(self.dilations)):
            for tap in reversed(range(self.kernel)):
                yield f"{layer}.tap.{tap}", gates, channels
            yield f"{layer}.bias", gates, 0
            if layer + 1 < len(self.dilations):
                yield f"{layer}.out", channels, gates // 2
                yield f"{layer}.out_bias", channels, 0
            yield f"{layer}.skip", skip, gates // 2
        yield "skip_bias", skip, 0
        yield "hidden", padded(self.hidden), skip
        yield "hidden_bias", padded(self.hidden), 0
        yield "last", padded(self.outputs), padded(self.hidden)
        yield "last_bias", padded(self.outputs), 0


@dataclass(frozen=True)
class PackedWaveNet:
    """What `pack` made: an opaque block of bytes and its plan."""

    blob: Tensor  # (bytes,) uint8
    plan: Plan

    @property
    def precision(self) -> str:
        return self.plan.precision

    @property
    def activation_dtype(self) -> torch.dtype:
        return torch.float64 if self.plan.precision == "float64" else torch.float32

    @property
    def randoms(self) -> int:
        """Random numbers that a sample takes."""
        return 2 if self.plan.output == "logistics" else 1

    def to(self, device: torch.device | str) -> PackedWaveNet:
        """The same network on another device."""
        return PackedWaveNet(self.blob.to(device), self.plan)


class Matrix(NamedTuple):
    """A matrix as the reference multiplies with it: weight (rows, columns), and for int8 the scale of each row."""

    weight: Tensor
    scale: Tensor | None = None

    def times(self, x: Tensor) -> Tensor:
        """x (batch, columns) -> (batch, rows). int8: x is rounded to 255 steps of its own largest absolute value."""
        if self.scale is None:
            return F.linear(x, self.weight)
        step = x.abs().amax(1, keepdim=True) / 127
        whole = torch.round(x * torch.where(step > 0, 1 / step, 0))
        return F.linear(whole, self.weight) * self.scale * step  # sums of integers below 2^24: exact in float32


def pack(
    weights: WaveNetWeights, *, dilations: tuple[int, ...], output: str, residual_scale: float = 0.5**0.5,
    skip_scale: float | str = 1.0, first_tanh: bool = False, log_scale_min: float = -16.0, precision: str = "float32",
) -> PackedWaveNet:
    """Arrange a network for `wavenet_generate`. Do it once; the weights that are packed are copies.

    output         softmax over classes, which are then fed back (outputs == inputs); logistics (K of them: logits |
                   means | log scales) or gaussian (mean, log scale), which feed amplitudes back (inputs 1).
    residual_scale x = (x + out) * residual_scale.
    skip_scale     a factor on the sum over layers; "recursive": skip = (skip + layer's) * sqrt(0.5) from the second on.
    first_tanh     tanh after the first layer (nv-wavenet's option).
    log_scale_min  log scales below it are raised to it.
    precision      of the weights. float64 runs the reference alone.

    ValueError where shapes do not fit.
    """
    plan = _plan(weights, tuple(dilations), output, residual_scale, first_tanh, log_scale_min, precision)
    layers = len(plan.dilations)
    if skip_scale == "recursive":
        skip_scales = [0.5 ** ((layers - max(layer, 1)) / 2) for layer in range(layers)]
    elif isinstance(skip_scale, str):
        raise ValueError(f"skip_scale={skip_scale!r} must be a number or 'recursive'")
    else:
        skip_scales = [float(skip_scale)] * layers
    wide = WaveNetWeights(*(None if t is None else t.detach().double().cpu() for t in weights))

    def bias(tensor: Tensor | None, rows: int) -> Tensor:
        return torch.zeros(rows, dtype=torch.float64) if tensor is None else tensor

    def gates(matrix: Tensor) -> Tensor:
        """(2 * gate, ...) -> both halves padded to 16 rows and interleaved."""
        halves = torch.stack([_pad(half, padded(plan.gate)) for half in matrix.chunk(2)])  # (2, padded gate, ...)
        return halves.unflatten(1, (-1, 16)).transpose(0, 1).flatten(0, 2)

    pieces = {f"first.{tap}.{column}": wide.first_weight[:, column, tap]
              for tap in range(plan.first_kernel) for column in range(plan.inputs)}
    pieces["first.bias"] = bias(wide.first_bias, plan.channels)
    for layer, scale in enumerate(skip_scales):
        for tap in range(plan.kernel):
            pieces[f"{layer}.tap.{tap}"] = gates(wide.weight[layer, :, :, tap])
        pieces[f"{layer}.bias"] = gates(bias(None if wide.bias is None else wide.bias[layer], 2 * plan.gate))
        if layer + 1 < layers:
            pieces[f"{layer}.out"] = wide.out_weight[layer] * residual_scale
            pieces[f"{layer}.out_bias"] = residual_scale * bias(
                None if wide.out_bias is None else wide.out_bias[layer], plan.channels
            )
        pieces[f"{layer}.skip"] = wide.skip_weight[layer] * scale
    scales = torch.tensor(skip_scales, dtype=torch.float64)
    pieces["skip_bias"] = bias(None if wide.skip_bias is None else scales @ wide.skip_bias, plan.skip)
    pieces["hidden"], pieces["hidden_bias"] = wide.hidden_weight, bias(wide.hidden_bias, plan.hidden)
    pieces["last"], pieces["last_bias"] = wide.last_weight, bias(wide.last_bias, plan.outputs)

    blob = [piece for name, rows, columns in plan.matrices() for piece in _arranged(pieces[name], rows, columns, plan)]
    return PackedWaveNet(torch.cat(blob).to(weights.first_weight.device), plan)


class Layer(NamedTuple):
    """One layer, unpacked; all sizes padded and gate rows interleaved, as packed."""

    taps: list[Matrix]  # oldest first
    bias: Tensor
    out: Matrix | None
    out_bias: Tensor | None
    skip: Matrix


class Network(NamedTuple):
    """A packed network, unpacked."""

    first: Tensor  # (taps, inputs, channels)
    first_bias: Tensor
    first_tanh: bool
    layers: list[Layer]
    skip_bias: Tensor
    hidden: Matrix
    hidden_bias: Tensor
    last: Matrix
    last_bias: Tensor


def unpack(blob: Tensor, plan: Plan) -> Network:
    """The rounded weights, in the type of the activations, for the reference."""
    found, offset = {}, 0
    for name, rows, columns in plan.matrices():
        found[name], offset = _read(blob, offset, rows, columns, plan)
    layers = [
        Layer(
            [found[f"{layer}.tap.{tap}"] for tap in range(plan.kernel)], found[f"{layer}.bias"].weight,
            found.get(f"{layer}.out"), found[f"{layer}.out_bias"].weight if f"{layer}.out" in found else None,
            found[f"{layer}.skip"],
        )
        for layer in range(len(plan.dilations))
    ]
    first = torch.stack([
        torch.stack([found[f"first.{tap}.{column}"].weight for column in range(plan.inputs)])
        for tap in range(plan.first_kernel)
    ])
    return Network(
        first, found["first.bias"].weight, plan.first_tanh, layers, found["skip_bias"].weight, found["hidden"],
        found["hidden_bias"].weight, found["last"], found["last_bias"].weight,
    )


def _pad(tensor: Tensor, rows: int, columns: int = 0) -> Tensor:
    wanted = [columns - tensor.shape[1], rows - tensor.shape[0]] if tensor.dim() == 2 and columns else None
    if wanted is None:
        return F.pad(tensor, (*[0] * (2 * tensor.dim() - 1), rows - tensor.shape[0]))
    return F.pad(tensor, (0, wanted[0], 0, wanted[1]))


def _bytes(tensor: Tensor) -> Tensor:
    """The memory of `tensor`, padded to a multiple of 64 bytes."""
    flat = tensor.contiguous().flatten().view(torch.uint8)
    return F.pad(flat, (0, -len(flat) % 64))


def _arranged(piece: Tensor, rows: int, columns: int, plan: Plan) -> Iterator[Tensor]:
    """A vector, or a matrix (and its scales), as bytes."""
    wide = torch.float64 if plan.precision == "float64" else torch.float32
    if not columns:
        yield _bytes(_pad(piece, rows).to(wide))
        return
    matrix, scale = _pad(piece, rows, columns), None
    if plan.precision == "int8":
        scale = (matrix.abs().amax(1, keepdim=True) / 127).float().double()
        matrix = torch.round(matrix / scale.clamp(min=1e-30))
    lanes = LANES[plan.precision]
    groups = [group.unflatten(1, (-1, lanes)).transpose(0, 1).flatten() for group in matrix.split(64)]
    yield _bytes(torch.cat(groups).to(STORED[plan.precision]))
    if scale is not None:
        yield _bytes(scale.float())
        yield _bytes(matrix.sum(1).to(torch.int32))


def _read(blob: Tensor, offset: int, rows: int, columns: int, plan: Plan) -> tuple[Matrix, int]:
    """The inverse of `_arranged` -> the piece, and where the next one starts."""
    def take(count: int, dtype: torch.dtype) -> Tensor:
        nonlocal offset
        size = count * torch.empty(0, dtype=dtype).element_size()
        begin, offset = offset, offset + size + -size % 64
        return blob[begin : begin + size].view(dtype)

    wide = torch.float64 if plan.precision == "float64" else torch.float32
    if not columns:
        return Matrix(take(rows, wide)), offset
    lanes = LANES[plan.precision]
    flat = take(rows * columns, STORED[plan.precision]).to(wide)
    groups = [
        part.view(columns // lanes, -1, lanes).transpose(0, 1).flatten(1)
        for part in flat.split([columns * min(64, rows - top) for top in range(0, rows, 64)])
    ]
    scale = None
    if plan.precision == "int8":
        scale, _ = take(rows, torch.float32), take(rows, torch.int32)
    return Matrix(torch.cat(groups), scale), offset


def _plan(
    weights: WaveNetWeights, dilations: tuple[int, ...], output: str, residual_scale: float, first_tanh: bool,
    log_scale_min: float, precision: str,
) -> Plan:
    if precision not in PRECISIONS or output not in OUTPUTS:
        raise ValueError(f"precision={precision!r} must be one of {PRECISIONS} and output={output!r} of {OUTPUTS}")
    if weights.weight.dim() != 4 or weights.first_weight.dim() != 3:
        raise ValueError(
            f"weight {tuple(weights.weight.shape)}, first_weight {tuple(weights.first_weight.shape)}: "
            "(layers, 2 * gate, channels, kernel) and (channels, inputs, 1 or 2) are needed"
        )
    layers, rows, channels, kernel = weights.weight.shape
    inputs, first_kernel = weights.first_weight.shape[1:]
    skip, hidden, outputs = weights.skip_weight.shape[1], weights.hidden_weight.shape[0], weights.last_weight.shape[0]
    if rows % 2 or kernel not in (2, 3) or first_kernel not in (1, 2):
        raise ValueError(f"{rows} gate rows, kernel {kernel}, first kernel {first_kernel}: even, 2|3, 1|2 are needed")
    if len(dilations) != layers or layers < 1 or min(dilations) < 1:
        raise ValueError(f"dilations {dilations}: {layers} positive ones are needed")
    gate = rows // 2
    for name, shape in (
        ("first_weight", (channels, inputs, first_kernel)), ("first_bias", (channels,)), ("bias", (layers, rows)),
        ("out_weight", (layers - 1, channels, gate)), ("out_bias", (layers - 1, channels)),
        ("skip_weight", (layers, skip, gate)), ("skip_bias", (layers, skip)),
        ("hidden_weight", (hidden, skip)), ("hidden_bias", (hidden,)),
        ("last_weight", (outputs, hidden)), ("last_bias", (outputs,)),
    ):
        tensor = getattr(weights, name)
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} {tuple(tensor.shape)}: {shape} is needed")
    fits = {
        "softmax": inputs == outputs > 1, "logistics": inputs == 1 and outputs % 3 == 0,
        "gaussian": inputs == 1 and outputs == 2,
    }
    if not fits[output]:
        raise ValueError(f"output {output!r} does not fit {inputs} inputs and {outputs} outputs")
    if not math.isfinite(residual_scale) or not math.isfinite(log_scale_min):
        raise ValueError(f"residual_scale={residual_scale} and log_scale_min={log_scale_min} must be finite")
    return Plan(
        precision, output, inputs, first_kernel, first_tanh, kernel, channels, gate, skip, hidden, outputs, dilations,
        float(residual_scale), float(log_scale_min),
    )
