"""WaveNet (van den Oord et al. 2016) as a vocoder: every sample is drawn from what the network says of those before it.

    sample before ─ first_conv ─┬─ gated layer ─┬─ gated layer ─┬─ ...          x[t] sees audio before t alone,
                                │      │        │      │        │               and the mel frames around it
                 mel ─ upsample_net ─ conv1x1c ...     │
                                       └── skips ──────┴── + ── ReLU, 1x1, ReLU, 1x1 ── distribution of sample t

Training sees all samples at once (`parallel`, `loss`); rendering goes sample by sample, with what each layer has seen
in a ring (`audiogen.ops.wavenet_generate`). Both compute the same. Published forms are rows of `WaveNet.presets`:
r9y9's wavenet_vocoder (2018 and 2020) and nv-wavenet; modules are named as in the former.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.core.rng import SampleRng
from audiogen.ops import Upsampling, gated_dilated_layer
from audiogen.ops.upsampling import upsample
from audiogen.ops.wavenet_generate import PackedWaveNet, WaveNetWeights, pack
from vocoders.upsampling import TransposedFrames, TransposedPlanes, UpsampleNetwork, suggest_scales
from vocoders.wavenet_outputs import LEVELS, Gaussian, Logistics, MuLaw, Output

UPSAMPLINGS = ("smooth", "hold", "transposed_planes", "transposed_frames", "none")
SKIP_SCALES = ("none", "mean", "recursive")


@dataclass(frozen=True)
class WaveNetConfig:
    """The default is a small network that one core renders faster than real time with the native kernels."""

    mel: MelFormat = MelFormat()
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
    upsampling: str = "smooth"  # of mel frames, see `UPSAMPLINGS`; "none": the mel only says how long the clip is
    upsample_scales: tuple[int, ...] = ()  # "smooth", "transposed_planes": times each other hop_length; empty: chosen
    context: int = 2  # "smooth": frames on either side that the convolution before it sees
    window: int = 0  # "transposed_frames": samples that a frame reaches over
    bands: int = 3  # "transposed_planes": mel bands that a filter reaches over
    style_dim: int = 0  # of a style or speaker vector that conditions every layer; 0: none
    speakers: int = 0  # where positive, the style is a speaker's number and its vector is learned
    silence: int | None = None  # "softmax": the code that stands for the samples before the first; None: classes / 2
    gain: float = 1.0  # the network hears gain * audio, ...
    preemphasis: float = 0.0  # ... less this share of the sample before

    def __post_init__(self) -> None:
        hop = self.mel.hop_length
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
            (self.upsampling in UPSAMPLINGS, f"upsampling={self.upsampling!r} must be one of {UPSAMPLINGS}"),
            (not self.upsample_scales or math.prod(self.upsample_scales) == hop,
             f"upsample_scales={self.upsample_scales} must make hop_length={hop} together: try {suggest_scales(hop)}"),
            (self.upsampling != "transposed_frames" or self.window >= hop,
             f"window={self.window} of upsampling='transposed_frames' must be hop_length={hop} or more"),
            (self.context >= 0, f"context={self.context} must not be negative"),
            (self.bands > 0 and self.bands % 2 == 1, f"bands={self.bands} must be odd"),
            (not self.speakers or self.style_dim > 0, f"speakers={self.speakers} need style_dim > 0"),
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
    def scales(self) -> tuple[int, ...]:
        return self.upsample_scales or suggest_scales(self.mel.hop_length)

    @property
    def distribution(self) -> Output:
        if self.output == "softmax":
            return MuLaw(self.classes)
        return Logistics(self.mixtures, self.log_scale_min) if self.output == "logistics" else (
            Gaussian(self.log_scale_min)
        )


def _presets() -> dict[str, WaveNetConfig]:
    r9y9 = {
        "mel": MEL_FORMATS["r9y9_22k"], "layers": 24, "cycle": 6, "kernel_size": 3, "channels": 128,
        "gate_channels": 128, "skip_channels": 128, "upsample_scales": (4, 4, 4, 4), "gain": 0.55, "preemphasis": 0.85,
    }
    return {
        "wavenet_mol_22k": WaveNetConfig(**r9y9),
        "wavenet_gaussian_22k": WaveNetConfig(**{**r9y9, "output": "gaussian"}),
        "wavenet_mulaw_22k": WaveNetConfig(
            **{**r9y9, "output": "softmax", "layers": 30, "cycle": 10, "silence": 127, "log_scale_min": -9.0}
        ),
        "wavenet_mol_2018_22k": WaveNetConfig(
            mel=MEL_FORMATS["r9y9_2018_22k"], layers=24, cycle=6, kernel_size=3, channels=512, gate_channels=256,
            skip_channels=256, skip_scale="recursive", upsampling="transposed_planes", upsample_scales=(4, 4, 4, 4),
            log_scale_min=math.log(1e-14),
        ),
        "nv_wavenet_16k": WaveNetConfig(
            mel=MEL_FORMATS["nv_wavenet_16k"], output="softmax", layers=16, cycle=8, kernel_size=2, channels=64,
            gate_channels=64, skip_channels=256, residual_scale=1.0, skip_scale="none",
            upsampling="transposed_frames", window=800,
        ),
    }


class WaveNet(nn.Module):
    """mel -> audio, one sample after the other. The same rng gives the same clip; without one the seed is 0.

    `precision` of the weights while rendering: "float32", or "bfloat16" and "int8", which are faster and rougher.
    """

    config_type = WaveNetConfig
    presets: ClassVar[dict[str, WaveNetConfig]] = _presets()
    context_frames = None  # a sample depends on all audio before it: `stream` renders chunks and keeps a state

    mean: Tensor
    scale: Tensor

    def __init__(self, config: WaveNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or WaveNetConfig()
        self.precision = "float32"
        self.distribution = config.distribution
        n_mels, hop = config.mel.n_mels, config.mel.hop_length
        for name, value in zip(("mean", "scale"), _centre_and_spread(config.mel), strict=True):
            self.register_buffer(name, torch.full((n_mels,), value))
        if config.upsampling == "smooth":
            self.upsample_net = UpsampleNetwork(n_mels, config.context, config.scales)
        elif config.upsampling == "transposed_planes":
            self.upsample_net = TransposedPlanes(config.scales, config.bands)
        elif config.upsampling == "transposed_frames":
            self.upsample_net = TransposedFrames(n_mels, hop, config.window)
        if config.speakers:
            self.embed_speakers = nn.Embedding(config.speakers, config.style_dim)
        self.first_conv = nn.Conv1d(self.distribution.inputs, config.channels, config.first_kernel)
        self.conv_layers = nn.ModuleList(
            CausalLayer(config, dilation, last=index == config.layers - 1)
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

    @classmethod
    def from_published(
        cls, content: dict[str, Any], settings: dict[str, Any], *, mel: MelFormat | None = None
    ) -> WaveNet:
        """A model from r9y9's wavenet_vocoder (2018 or later) or nv-wavenet: see vocoders/wavenet_published.py."""
        from vocoders.wavenet_published import read  # which needs the classes of this file

        return read(cls, content, settings, mel)

    @torch.no_grad()
    def forward(
        self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0, style: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """mel (batch, n_mels, frames) -> audio (batch, 1, frames * hop_length), float32.

        style        (batch, style_dim), or (batch,) speakers' numbers, where the model is conditioned on them.
        temperature  1: drawn as the network says; below: nearer to its best guess; 0: the best guess itself.
        offset       frames of the clip before this mel: the noise goes on from there. The network's memory does not;
                     for chunks that continue each other use `stream`.
        """
        self.config.mel.check(mel, model="WaveNet")
        stream = self.stream(batch=mel.shape[0], rng=rng, offset=offset, style=style, temperature=temperature)
        return torch.cat([stream.push(mel), stream.finish()], 2)

    def stream(
        self, *, batch: int = 1, rng: SampleRng | None = None, offset: int = 0, style: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Any:
        """A `WaveNetStream`: push mels of any length, get the audio that they allow; all together equals `forward`."""
        from vocoders.wavenet_stream import WaveNetStream  # which needs the classes of this file

        return WaveNetStream(self, batch=batch, rng=rng, offset=offset, style=style, temperature=temperature)

    @property
    def lookahead_frames(self) -> int:
        """Mel frames after its own that must be known before a frame's first sample can be drawn."""
        return self.config.context + self.upsample_net.upsample.reach if self.config.upsampling == "smooth" else 0

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss": negative log-likelihood in nats a sample, the mean over all that is sound; "bits": the same in bits.

        A softmax is measured over its codes, logistics over 16-bit levels, a Gaussian as a density over [-1, 1] (its
        bits as if over 16-bit levels). Nothing is drawn: `rng` is not used.
        """
        hop = self.config.mel.hop_length
        frames = batch.audio.shape[2] // hop
        if batch.mel is not None:
            frames = min(frames, batch.mel.shape[2])  # "center" has one frame more
        audio = batch.audio[:, :, : frames * hop]
        mel = None if batch.mel is None else batch.mel[:, :, :frames]
        nats = -self.log_prob(mel, audio, style=batch.condition.vector)
        sound = torch.arange(nats.shape[1], device=nats.device) < (batch.lengths.to(nats.device) * hop)[:, None]
        loss = (nats * sound).sum() / sound.sum().clamp(min=1)
        bits = loss.detach() / math.log(2)
        return {"loss": loss, "bits": bits + math.log2((LEVELS - 1) / 2) if self.config.output == "gaussian" else bits}

    def log_prob(self, mel: Tensor | None, audio: Tensor, *, style: Tensor | None = None) -> Tensor:
        """audio (batch, 1, time) -> log-likelihood (batch, time) in nats of each sample, given those before it.

        It is the likelihood of what the network hears: after gain and pre-emphasis, where the config has them.
        """
        heard = self.heard(audio)
        parameters = self._parallel(mel, heard, style)
        with torch.autocast(audio.device.type, enabled=False):
            wide = torch.promote_types(parameters.dtype, torch.float32)
            return self.distribution.log_prob(parameters.to(wide), heard.to(wide))

    def parallel(self, mel: Tensor | None, audio: Tensor, *, style: Tensor | None = None) -> Tensor:
        """Teacher forced: audio (batch, 1, frames * hop_length) -> parameters of each sample's distribution (batch,
        parameters, time); those of sample t saw the audio before t alone. Where upsampling is "none", mel may be None.
        """
        return self._parallel(mel, self.heard(audio), style)

    def heard(self, audio: Tensor) -> Tensor:
        """audio (batch, 1, time) -> (batch, time), as the network hears it: with gain and pre-emphasis, in [-1, 1]."""
        if audio.dim() != 3 or audio.shape[1] != 1:
            shape = tuple(audio.shape)
            raise UserError(f"WaveNet hears one channel, (batch, 1, time), and this audio is {shape}: mix it down")
        x = audio[:, 0] * self.config.gain
        if self.config.preemphasis:
            x = x - self.config.preemphasis * F.pad(x, (1, -1))
        return x.clamp(-1.0, 1.0)

    def _parallel(self, mel: Tensor | None, heard: Tensor, style: Tensor | None) -> Tensor:
        config, time = self.config, heard.shape[1]
        if mel is not None:
            config.mel.check(mel, model="WaveNet")
            if mel.shape[2] * config.mel.hop_length != time or mel.shape[0] != heard.shape[0]:
                raise UserError(
                    f"a mel of {mel.shape[0]} x {mel.shape[2]} frames goes with {mel.shape[2] * config.mel.hop_length} "
                    f"samples each, and this audio is {tuple(heard.shape)}"
                )
        elif config.upsampling != "none":
            raise UserError("this WaveNet is conditioned on mels, and none was given")
        before = self.distribution.fed_back(heard)[:, :-1]
        silence = before.new_full((len(heard), config.first_kernel), self.silence)
        x = self._first(torch.cat([silence, before], 1))                          # (batch, channels, time)
        frames, band = self._frames(mel)
        styles = self.style_vector(style, len(heard))
        skip = None
        for layer, factor in zip(self.conv_layers, self.skip_factors, strict=True):
            x, skip = layer(x, skip, frames, styles, band, factor)
        return self.last_conv_layers(skip)

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

    def _frames(self, mel: Tensor | None) -> tuple[Tensor | None, Upsampling | None]:
        """mel -> what conditions the layers (batch, n_mels, frames or steps), and the band that makes frames steps."""
        kind = self.config.upsampling
        if kind == "none" or mel is None:
            return None, None
        x = self.standardized(mel)
        if kind == "hold":
            return x, None
        if kind != "smooth":
            return self.upsample_net(x), None
        context = self.config.context
        x = self.upsample_net.conv_in(F.pad(x, (context, context), mode="replicate"))
        return x, self.upsample_net.upsample.band(mel.shape[2])

    def standardized(self, mel: Tensor) -> Tensor:
        """With the mean and scale of each band, as the corpus had them that the network learned from."""
        return (mel - self.mean[:, None]) / self.scale[:, None]

    def style_vector(self, style: Tensor | None, batch: int) -> Tensor | None:
        """style (batch, style_dim), or speakers' numbers (batch,) or (batch, 1) -> (batch, style_dim)."""
        config = self.config
        if not config.style_dim:
            return None  # a batch may carry styles that this model does not use
        if style is None:
            what = f"the number of one of {config.speakers} speakers" if config.speakers else (
                f"a vector of {config.style_dim} numbers"
            )
            raise UserError(f"this WaveNet is conditioned on a style: give style={what} for each clip")
        if config.speakers:
            numbers = style.reshape(-1).long()
            if len(numbers) != batch or not 0 <= int(numbers.min()) <= int(numbers.max()) < config.speakers:
                raise UserError(f"speakers {numbers.tolist()}: {batch} numbers below {config.speakers} are needed")
            return self.embed_speakers(numbers)
        if style.shape != (batch, config.style_dim):
            raise UserError(f"style of shape {tuple(style.shape)}: ({batch}, {config.style_dim}) is needed")
        return style.to(self.first_conv.weight.dtype)

    def conditions(self, steps: Tensor) -> Tensor:
        """Through the 1x1 of every layer at once: (batch, n_mels, n) -> (batch, layers, 2 * gate, n)."""
        weight = torch.cat([layer.conv1x1c.weight for layer in self.conv_layers])
        return F.conv1d(steps, weight).unflatten(1, (self.config.layers, -1))

    def global_conditions(self, style: Tensor) -> Tensor:
        """(batch, style_dim) -> (batch, layers, 2 * gate, 1)."""
        weight = torch.cat([layer.conv1x1g.weight for layer in self.conv_layers])
        return F.conv1d(style[:, :, None], weight).unflatten(1, (self.config.layers, -1))

    def pack(self) -> PackedWaveNet:
        """The weights as `wavenet_generate` wants them."""
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
            precision="float64" if double else self.precision,
        )


class CausalLayer(nn.Module):
    """One layer: x -> (x + residual) * residual_scale, and what it adds to the skip sum.

    The last layer's residual would go nowhere: it has none, so that every parameter receives a gradient.
    """

    def __init__(self, config: WaveNetConfig, dilation: int, *, last: bool) -> None:
        super().__init__()
        rows = 2 * config.gate_channels
        self.conv = nn.Conv1d(config.channels, rows, config.kernel_size, dilation=dilation)
        if config.upsampling != "none":
            self.conv1x1c = nn.Conv1d(config.mel.n_mels, rows, 1, bias=False)
        if config.style_dim:
            self.conv1x1g = nn.Conv1d(config.style_dim, rows, 1, bias=False)
        if not last:
            self.conv1x1_out = nn.Conv1d(config.gate_channels, config.channels, 1)
        self.conv1x1_skip = nn.Conv1d(config.gate_channels, config.skip_channels, 1)
        self.scale, self.last = config.residual_scale, last

    def forward(
        self, x: Tensor, skip: Tensor | None, frames: Tensor | None, style: Tensor | None, band: Upsampling | None,
        factor: float,
    ) -> tuple[Tensor, Tensor]:
        """x (batch, channels, time), skip (batch, skip_channels, time) or None, frames (batch, n_mels, frames or time),
        style (batch, style_dim) -> x, skip."""
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


def _centre_and_spread(format: MelFormat) -> tuple[float, float]:
    """About the mean and spread of music in this format, which a training starts from: -5 and 3 nats."""
    if format.clip is not None:
        return 0.0, 1.0
    unit = format.scale * (1.0 if format.log == "ln" else 1 / math.log(10.0))
    return format.shift - 5.0 * unit, 3.0 * unit
