"""WaveNet (van den Oord et al. 2016) as a vocoder: every sample is drawn from what the network says of those before it.

    mel frames ─ upsample_net ─ WaveNetStack (audiogen/nn/wavenet.py) ─ distribution of sample t
                                     └── the samples before t

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
from audiogen.nn.wavenet import WaveNetStack, WaveNetStackConfig
from audiogen.ops import Upsampling
from vocoders.upsampling import TransposedFrames, TransposedPlanes, UpsampleNetwork, suggest_scales

UPSAMPLINGS = ("smooth", "hold", "transposed_planes", "transposed_frames", "none")


@dataclass(frozen=True)
class WaveNetConfig(WaveNetStackConfig):
    """The default is a small network that one core renders faster than real time with the native kernels."""

    mel: MelFormat = MelFormat()
    upsampling: str = "smooth"  # of mel frames, see `UPSAMPLINGS`; "none": the mel only says how long the clip is
    upsample_scales: tuple[int, ...] = ()  # "smooth", "transposed_planes": times each other hop_length; empty: chosen
    context: int = 2  # "smooth": frames on either side that the convolution before it sees
    window: int = 0  # "transposed_frames": samples that a frame reaches over
    bands: int = 3  # "transposed_planes": mel bands that a filter reaches over
    style_dim: int = 0  # of a style or speaker vector that conditions every layer; 0: none
    speakers: int = 0  # where positive, the style is a speaker's number and its vector is learned

    def __post_init__(self) -> None:
        super().__post_init__()
        hop = self.mel.hop_length
        checks = [
            (self.upsampling in UPSAMPLINGS, f"upsampling={self.upsampling!r} must be one of {UPSAMPLINGS}"),
            (not self.upsample_scales or math.prod(self.upsample_scales) == hop,
             f"upsample_scales={self.upsample_scales} must make hop_length={hop} together: try {suggest_scales(hop)}"),
            (self.upsampling != "transposed_frames" or self.window >= hop,
             f"window={self.window} of upsampling='transposed_frames' must be hop_length={hop} or more"),
            (self.context >= 0, f"context={self.context} must not be negative"),
            (self.bands > 0 and self.bands % 2 == 1, f"bands={self.bands} must be odd"),
            (not self.speakers or self.style_dim > 0, f"speakers={self.speakers} need style_dim > 0"),
        ]
        for good, message in checks:
            if not good:
                raise UserError(message)

    @property
    def scales(self) -> tuple[int, ...]:
        return self.upsample_scales or suggest_scales(self.mel.hop_length)


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


class WaveNet(WaveNetStack):
    """mel -> audio, one sample after the other. The same rng gives the same clip; without one the seed is 0."""

    config_type = WaveNetConfig
    presets: ClassVar[dict[str, WaveNetConfig]] = _presets()
    context_frames = None  # a sample depends on all audio before it: `stream` renders chunks and keeps a state

    mean: Tensor
    scale: Tensor

    def __init__(self, config: WaveNetConfig | None = None) -> None:
        config = config or WaveNetConfig()
        local_dim = config.mel.n_mels if config.upsampling != "none" else 0
        super().__init__(config, local_dim=local_dim, style_dim=config.style_dim)
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
        """"loss" and "bits" of all that is sound, as `WaveNetStack.losses`. Nothing is drawn: `rng` is not used."""
        hop = self.config.mel.hop_length
        frames = batch.audio.shape[2] // hop
        if batch.mel is not None:
            frames = min(frames, batch.mel.shape[2])  # "center" has one frame more
        audio = batch.audio[:, :, : frames * hop]
        mel = None if batch.mel is None else batch.mel[:, :, :frames]
        return self.losses(self.log_prob(mel, audio, style=batch.condition.vector), batch.lengths * hop)

    def log_prob(self, mel: Tensor | None, audio: Tensor, *, style: Tensor | None = None) -> Tensor:
        """audio (batch, 1, time) -> log-likelihood (batch, time) in nats of each sample, given those before it.

        It is the likelihood of what the network hears: after gain and pre-emphasis, where the config has them.
        """
        heard = self.heard(audio)
        return self.likelihood(self._parallel(mel, heard, style), heard)

    def parallel(self, mel: Tensor | None, audio: Tensor, *, style: Tensor | None = None) -> Tensor:
        """Teacher forced: audio (batch, 1, frames * hop_length) -> parameters of each sample's distribution (batch,
        parameters, time); those of sample t saw the audio before t alone. Where upsampling is "none", mel may be None.
        """
        return self._parallel(mel, self.heard(audio), style)

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
        frames, band = self._frames(mel)
        return self.teacher_forced(heard, frames, self.style_vector(style, len(heard)), band)

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


def _centre_and_spread(format: MelFormat) -> tuple[float, float]:
    """About the mean and spread of music in this format, which a training starts from: -5 and 3 nats."""
    if format.clip is not None:
        return 0.0, 1.0
    unit = format.scale * (1.0 if format.log == "ln" else 1 / math.log(10.0))
    return format.shift - 5.0 * unit, 3.0 * unit
