"""The stack of a WaveNet (van den Oord et al. 2016): samples before t -> what sample t is drawn from.

    sample before ─ first_conv ─┬─ gated layer ─┬─ gated layer ─┬─ ...          x[t] sees audio before t alone,
                                │      │        │      │        │               and what conditions the layers
             local, style ─ 1x1 of every layer ...     │
                                       └── skips ──────┴── + ── ReLU, 1x1, ReLU, 1x1 ── distribution of sample t

`WaveNetStack` sees all samples at once, for training; `pack` gives what `audiogen.ops.wavenet_generate` draws from,
sample by sample. Both compute the same. The vocoder conditions it on mel frames (vocoders/wavenet.py), the generator on
style and notes (audiogen/generators/wavenet.py). Modules are named as in r9y9's wavenet_vocoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.nn.wavenet_outputs import LEVELS, Gaussian, Logistics, MuLaw, Output
from audiogen.ops import Upsampling, gated_dilated_layer
from audiogen.ops.upsampling import upsample
from audiogen.ops.wavenet_generate import PackedWaveNet, WaveNetWeights, pack

SKIP_SCALES = ("none", "mean", "recursive")


@dataclass(frozen=True)
class WaveNetStackConfig:
    output: str = "logistics"  # a mixture; or "gaussian"; or "softmax" over mu-law codes
    mixtures: int = 10  # components of "logistics"
    classes: int = 256  # codes of "softmax"
    log_scale_min: float = -16.0  # smaller logarithms of scales are raised to it
    layers: int = 10
    cycle: int = 10  # dilations 1, 2, 4, ... start again after so many layers
    kernel_size: int = 2
    channels: int = 64  # of the residual path
    gate_channels: int = 64  # of each half of the gate
    skip_channels: int = 64
    hidden_channels: int | None = None  # between the last two convolutions; None: skip_channels
    first_kernel: int = 1  # samples that first_conv sees
    first_tanh: bool = False  # after first_conv (an option of nv-wavenet)
    residual_scale: float = 0.5**0.5  # x = (x + out) * residual_scale
    skip_scale: str = "mean"  # sqrt(1 / layers); "none"; "recursive": (skips + new) * sqrt(0.5) at every layer
    silence: int | None = None  # "softmax": the code that stands for the samples before the first; None: classes / 2
    gain: float = 1.0  # the network hears gain * audio, ...
    preemphasis: float = 0.0  # ... less this share of the sample before

    def __post_init__(self) -> None:
        positive = ("mixtures", "classes", "layers", "cycle", "channels", "gate_channels", "skip_channels", "gain")
        for name in positive:
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} must be positive")
        checks = [
            (self.output in ("softmax", "logistics", "gaussian"),
             f"output={self.output!r} must be 'softmax', 'logistics' or 'gaussian'"),
            (self.kernel_size in (2, 3), f"kernel_size={self.kernel_size} must be 2 or 3"),
            (self.first_kernel in (1, 2), f"first_kernel={self.first_kernel} must be 1 or 2"),
            (self.skip_scale in SKIP_SCALES, f"skip_scale={self.skip_scale!r} must be one of {SKIP_SCALES}"),
            (self.silence is None or 0 <= self.silence < self.classes,
             f"silence={self.silence} must be a code below classes={self.classes}"),
            (0 <= self.preemphasis < 1, f"preemphasis={self.preemphasis} must lie in [0, 1)"),
        ]
        for good, message in checks:
            if not good:
                raise UserError(message)

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(2 ** (layer % self.cycle) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Samples before it that a sample's distribution depends on."""
        return self.first_kernel + (self.kernel_size - 1) * sum(self.dilations)

    @property
    def distribution(self) -> Output:
        if self.output == "softmax":
            return MuLaw(self.classes)
        return Logistics(self.mixtures, self.log_scale_min) if self.output == "logistics" else (
            Gaussian(self.log_scale_min)
        )


class WaveNetStack(nn.Module):
    """local_dim: rows of what conditions frames or steps; style_dim: of what conditions a whole clip; 0: none."""

    precision = "float32"
    """Of the weights that `pack` gives: "float32", or "bfloat16" and "int8", which are faster and rougher."""

    def __init__(self, config: WaveNetStackConfig, *, local_dim: int = 0, style_dim: int = 0) -> None:
        super().__init__()
        self.config = config
        self.distribution = config.distribution
        self.first_conv = nn.Conv1d(self.distribution.inputs, config.channels, config.first_kernel)
        self.conv_layers = nn.ModuleList(
            CausalLayer(config, dilation, local_dim=local_dim, style_dim=style_dim, last=index == config.layers - 1)
            for index, dilation in enumerate(config.dilations)
        )
        hidden = config.hidden_channels or config.skip_channels
        self.last_conv_layers = nn.Sequential(
            nn.ReLU(), nn.Conv1d(config.skip_channels, hidden, 1),
            nn.ReLU(), nn.Conv1d(hidden, self.distribution.parameters, 1),
        )
        for layer in [self.first_conv, *self.conv_layers.modules(), *self.last_conv_layers]:
            if isinstance(layer, nn.Conv1d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def heard(self, audio: Tensor) -> Tensor:
        """audio (batch, 1, time) -> (batch, time), as the network hears it: with gain and pre-emphasis, in [-1, 1]."""
        if audio.dim() != 3 or audio.shape[1] != 1:
            shape = tuple(audio.shape)
            raise UserError(f"WaveNet hears one channel, (batch, 1, time), and this audio is {shape}: mix it down")
        x = audio[:, 0] * self.config.gain
        if self.config.preemphasis:
            x = x - self.config.preemphasis * F.pad(x, (1, -1))
        return x.clamp(-1.0, 1.0)

    def teacher_forced(
        self, heard: Tensor, frames: Tensor | None = None, styles: Tensor | None = None, band: Upsampling | None = None
    ) -> Tensor:
        """heard (batch, time) -> parameters of each sample's distribution (batch, parameters, time); those of sample t
        saw what was heard before t alone.

        frames (batch, local_dim, frames or time), brought to steps by `band` (None: held); styles (batch, style_dim).
        """
        before = self.distribution.fed_back(heard)[:, :-1]
        silence = before.new_full((len(heard), self.config.first_kernel), self.silence)
        x = self._first(torch.cat([silence, before], 1))                          # (batch, channels, time)
        skip = None
        for layer, factor in zip(self.conv_layers, self.skip_factors, strict=True):
            x, skip = layer(x, skip, frames, styles, band, factor)
        return self.last_conv_layers(skip)

    def likelihood(self, parameters: Tensor, heard: Tensor) -> Tensor:
        """parameters (batch, parameters, time) of `heard` (batch, time) -> log-likelihood in nats (batch, time)."""
        with torch.autocast(heard.device.type, enabled=False):
            wide = torch.promote_types(parameters.dtype, torch.float32)
            return self.distribution.log_prob(parameters.to(wide), heard.to(wide))

    def losses(self, likelihood: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Log-likelihood (batch, time), of which the first `lengths` (batch,) samples are sound -> "loss": nats a
        sample, negative, the mean of those of the clips, each over what is sound; "bits": the same in bits.

        A softmax is measured over its codes, logistics over 16-bit levels, a Gaussian as a density over [-1, 1] (its
        bits as if over 16-bit levels).
        """
        time = torch.arange(likelihood.shape[1], device=likelihood.device)
        sound = time < lengths.to(likelihood.device)[:, None]
        loss = -((likelihood * sound).sum(1) / sound.sum(1).clamp(min=1)).mean()
        bits = loss.detach() / math.log(2)
        return {"loss": loss, "bits": bits + math.log2((LEVELS - 1) / 2) if self.config.output == "gaussian" else bits}

    @property
    def silence(self) -> float:
        """What the network is fed before the first sample: an amplitude, or a code."""
        if self.config.output != "softmax":
            return 0.0
        return self.config.classes // 2 if self.config.silence is None else self.config.silence

    @property
    def skip_factors(self) -> list[float]:
        """What each layer's part of the skip sum is multiplied with."""
        layers = self.config.layers
        if self.config.skip_scale == "recursive":
            return [0.5 ** ((layers - max(layer, 1)) / 2) for layer in range(layers)]
        return [1.0 if self.config.skip_scale == "none" else layers**-0.5] * layers

    def _first(self, fed: Tensor) -> Tensor:
        """What is fed (batch, first_kernel - 1 + time), amplitudes or codes -> (batch, channels, time)."""
        conv = self.first_conv
        if self.distribution.inputs == 1:
            x = conv(fed[:, None].to(conv.weight.dtype))
        else:  # a convolution over one-hot codes: columns of its weight
            taps, time = conv.kernel_size[0], fed.shape[1] - conv.kernel_size[0] + 1
            x = sum(F.embedding(fed[:, tap : tap + time], conv.weight[:, :, tap].T) for tap in range(taps))
            x = (x + conv.bias).transpose(1, 2)
        return torch.tanh(x) if self.config.first_tanh else x

    def conditions(self, steps: Tensor) -> Tensor:
        """Through the 1x1 of every layer at once: (batch, local_dim, n) -> (batch, layers, 2 * gate, n)."""
        weight = torch.cat([layer.conv1x1c.weight for layer in self.conv_layers])
        return F.conv1d(steps, weight).unflatten(1, (self.config.layers, -1))

    def global_conditions(self, style: Tensor) -> Tensor:
        """(batch, style_dim) -> (batch, layers, 2 * gate, 1)."""
        weight = torch.cat([layer.conv1x1g.weight for layer in self.conv_layers])
        return F.conv1d(style[:, :, None], weight).unflatten(1, (self.config.layers, -1))

    def pack(self, precision: str | None = None) -> PackedWaveNet:
        """The weights as `wavenet_generate` wants them; `precision`: the stack's own where None."""
        config, layers = self.config, self.conv_layers
        hidden, last = self.last_conv_layers[1], self.last_conv_layers[3]
        inner = layers[:-1]  # those with a residual
        none = hidden.weight.new_zeros(0, config.channels, config.gate_channels)
        weights = WaveNetWeights(
            first_weight=self.first_conv.weight, first_bias=self.first_conv.bias,
            weight=torch.stack([layer.conv.weight for layer in layers]),
            bias=torch.stack([layer.conv.bias for layer in layers]),
            out_weight=torch.cat([none, *(layer.conv1x1_out.weight[None, :, :, 0] for layer in inner)]),
            out_bias=torch.cat([none[:, :, 0], *(layer.conv1x1_out.bias[None] for layer in inner)]),
            skip_weight=torch.stack([layer.conv1x1_skip.weight[:, :, 0] for layer in layers]),
            skip_bias=torch.stack([layer.conv1x1_skip.bias for layer in layers]),
            hidden_weight=hidden.weight[:, :, 0], hidden_bias=hidden.bias,
            last_weight=last.weight[:, :, 0], last_bias=last.bias,
        )
        double = self.first_conv.weight.dtype == torch.float64
        return pack(
            weights, dilations=config.dilations, output=config.output, residual_scale=config.residual_scale,
            skip_scale={"none": 1.0, "mean": config.layers**-0.5}.get(config.skip_scale, "recursive"),
            first_tanh=config.first_tanh, log_scale_min=config.log_scale_min,
            precision="float64" if double else precision or self.precision,
        )


class CausalLayer(nn.Module):
    """One layer: x -> (x + residual) * residual_scale, and what it adds to the skip sum.

    The last layer's residual would go nowhere: it has none, so that every parameter receives a gradient.
    """

    def __init__(
        self, config: WaveNetStackConfig, dilation: int, *, local_dim: int, style_dim: int, last: bool
    ) -> None:
        super().__init__()
        rows = 2 * config.gate_channels
        self.conv = nn.Conv1d(config.channels, rows, config.kernel_size, dilation=dilation)
        if local_dim:
            self.conv1x1c = nn.Conv1d(local_dim, rows, 1, bias=False)
        if style_dim:
            self.conv1x1g = nn.Conv1d(style_dim, rows, 1, bias=False)
        if not last:
            self.conv1x1_out = nn.Conv1d(config.gate_channels, config.channels, 1)
        self.conv1x1_skip = nn.Conv1d(config.gate_channels, config.skip_channels, 1)
        self.scale, self.last = config.residual_scale, last

    def forward(
        self, x: Tensor, skip: Tensor | None, frames: Tensor | None, style: Tensor | None, band: Upsampling | None,
        factor: float,
    ) -> tuple[Tensor, Tensor]:
        """x (batch, channels, time), skip (batch, skip_channels, time) or None, frames (batch, local_dim, frames or
        time), style (batch, style_dim) -> x, skip."""
        condition = None if frames is None else self.conv1x1c(frames)
        if style is not None:
            constant = self.conv1x1g(style[:, :, None])
            if condition is not None and band is not None:
                # A band need not sum to 1: what is constant is added after it.
                condition, band = upsample(condition, *band, x.shape[2]), None
            condition = constant if condition is None else condition + constant
        out = None if self.last else self.conv1x1_out
        return gated_dilated_layer(
            x, self.conv.weight, self.conv.bias,
            None if out is None else out.weight[:, :, 0], None if out is None else out.bias,
            self.conv1x1_skip.weight[:, :, 0] * factor, self.conv1x1_skip.bias * factor, condition,
            upsampling=band, dilation=self.conv.dilation[0], causal=True, skip=skip, scale=self.scale,
        )
