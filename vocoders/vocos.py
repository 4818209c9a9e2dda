"""Vocos (Siuzdak 2023): a ConvNeXt network at frame rate says magnitude and phase, one inverse Fourier transform plays
them.

    mel ─ embed ─ norm ─ 8 x ConvNeXt ─ norm ─ linear ─ exp(m) (cos p + i sin p) ─ inverse short-time transform

Nothing runs at sample rate but the transform, so this is the fastest of the trained vocoders. Modules are named as in
the published implementation, without its prefixes `backbone.` and `head.`.

Length: `frames * hop_length` samples for both paddings. The original gives `(frames - 1) * hop_length` where frames are
centred; those samples are the same here, and the last hop, under the second half of the last window, follows them. A
clip of `time` samples has `time // hop_length + 1` centred frames, so that hop is what lets the end of the clip be
heard.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.core.rng import SampleRng
from audiogen.signal.mel import mel_filterbank
from vocoders.griffin_lim import ShortTime
from vocoders.published import load_published, take

LOUDEST = 100.0  # the original's bound on a magnitude


@dataclass(frozen=True)
class VocosConfig:
    mel: MelFormat = MelFormat()
    channels: int = 256
    hidden: int = 768  # between the two linear maps of a block
    layers: int = 6

    def __post_init__(self) -> None:
        for name in ("channels", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"vocos: {name}={getattr(self, name)} must be positive")
        if self.mel.n_fft < 2 * self.mel.hop_length or self.mel.n_fft % 2:
            raise UserError(
                f"vocos: n_fft={self.mel.n_fft} must be even and at least twice hop_length={self.mel.hop_length}, so "
                "that windows overlap everywhere"
            )
        if self.mel.win_length != self.mel.n_fft:
            raise UserError(f"vocos: win_length={self.mel.win_length} must be n_fft={self.mel.n_fft}")


class Vocos(nn.Module):
    """mel -> audio. Nothing is random: `rng` and `offset` change nothing."""

    config_type = VocosConfig
    presets: ClassVar[dict[str, VocosConfig]] = {
        "vocos_24k": VocosConfig(MEL_FORMATS["vocos_24k"], channels=512, hidden=1536, layers=8),
        "vocos_22k": VocosConfig(MelFormat(), channels=512, hidden=1536, layers=8),
    }

    def __init__(self, config: VocosConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VocosConfig()
        format, channels = config.mel, config.channels
        self.embed = nn.Conv1d(format.n_mels, channels, 7, padding=3)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(channels, config.hidden, scale=1.0 / config.layers) for _ in range(config.layers)
        )
        self.final_layer_norm = nn.LayerNorm(channels, eps=1e-6)
        self.out = nn.Linear(channels, format.n_fft + 2)
        self.inverse = InverseTransform(format)
        for layer in (self.embed, *(part for block in self.convnext for part in block.linear_layers())):
            nn.init.trunc_normal_(layer.weight, std=0.02)  # as published
            nn.init.zeros_(layer.bias)

    def forward(self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0) -> Tensor:
        """mel (batch, n_mels, frames) -> audio (batch, 1, frames * hop_length)."""
        self.config.mel.check(mel, model="Vocos")
        x = self.norm(self.embed(mel).transpose(1, 2))                            # (batch, frames, channels)
        for block in self.convnext:
            x = block(x)
        x = self.out(self.final_layer_norm(x))                                    # (batch, frames, n_fft + 2)
        with torch.autocast(mel.device.type, enabled=False):
            log_magnitude, phase = x.float().chunk(2, 2)
            magnitude = log_magnitude.exp().clamp(max=LOUDEST)
            return self.inverse(magnitude * phase.cos(), magnitude * phase.sin())[:, None]

    @property
    def context_frames(self) -> int:
        """Three frames for each convolution of kernel 7, and as many as half a window covers."""
        return 3 * (self.config.layers + 1) + math.ceil(self.config.mel.n_fft / (2 * self.config.mel.hop_length))

    @classmethod
    def from_published(
        cls, content: Mapping[str, Any], settings: Mapping[str, Any], *, mel: MelFormat | None = None
    ) -> Vocos:
        """The original's pytorch_model.bin with its config.yaml (charactr/vocos-mel-24khz), or a checkpoint of its
        training. Without settings the format is vocos-mel-24khz's, and the sizes are those of the weights."""
        state = dict(content.get("state_dict", content))
        # A training checkpoint also holds the discriminators and the mel spectrogram of the loss.
        take(state, [key for key in state if key.startswith(("multiperioddisc.", "multiresddisc.", "melspec_loss."))],
             why="only training reads them")
        format = mel or published_format(settings)
        for name, wanted in (("feature_extractor.mel_spec.spectrogram.window", torch.hann_window(format.win_length)),
                             ("feature_extractor.mel_spec.mel_scale.fb", mel_filterbank(format).T),
                             ("head.istft.window", torch.hann_window(format.n_fft))):
            held = state.pop(name, None)
            # The original's filter bank was made in float32, ours in float64: they differ by up to 1e-4 of 1.
            if held is not None and (held.shape != wanted.shape or (held.float() - wanted).abs().max() > 1e-3):
                raise UserError(
                    f"the checkpoint's {name} {tuple(held.shape)} is another than that of its mel format ({format}): "
                    "give the format that it was trained with"
                )
        state = {re.sub(r"^(backbone|head)\.", "", key): value for key, value in state.items()}
        try:
            channels, n_mels, _ = state["embed.weight"].shape
            hidden, n_fft = state["convnext.0.pwconv1.weight"].shape[0], state["out.weight"].shape[0] - 2
        except (KeyError, ValueError) as reason:
            raise UserError(f"these are no Vocos weights: {reason} is not as it should be") from None
        if (n_mels, n_fft) != (format.n_mels, format.n_fft):
            raise UserError(
                f"the weights are for n_mels={n_mels}, n_fft={n_fft} and the mel format says n_mels={format.n_mels}, "
                f"n_fft={format.n_fft}: give the format that they were trained with"
            )
        layers = len({key.split(".")[1] for key in state if key.startswith("convnext.")})
        model = cls(VocosConfig(format, channels, hidden, layers))
        load_published(model, state, what="the published Vocos")
        return model.eval()


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022, in one dimension: depthwise convolution, norm, two linear maps, a learned scale, residual."""

    def __init__(self, channels: int, hidden: int, *, scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, hidden)
        self.pwconv2 = nn.Linear(hidden, channels)
        self.gamma = nn.Parameter(torch.full((channels,), scale))

    def linear_layers(self) -> tuple[nn.Module, ...]:
        return self.dwconv, self.pwconv1, self.pwconv2

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, frames, channels) -> the same shape."""
        # As a convolution over an image one pixel high, torch keeps channels last: no transposed copies, and twice as
        # fast on a CPU.
        y = x.transpose(1, 2)[:, :, None]
        y = F.conv2d(y, self.dwconv.weight[:, :, None], self.dwconv.bias, padding=(0, 3), groups=x.shape[2])
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(y[:, :, 0].transpose(1, 2)))))
        return torch.addcmul(x, self.gamma, y)


class InverseTransform(nn.Module):
    """Real and imaginary parts -> audio, by windowed overlap-add, least squares."""

    basis: Tensor

    def __init__(self, format: MelFormat) -> None:
        super().__init__()
        self.short_time = ShortTime(format)
        self.register_buffer("basis", inverse_basis(format.n_fft), persistent=False)

    def forward(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """real, imaginary (batch, frames, bins) -> (batch, frames * hop_length)."""
        if torch.compiler.is_exporting():  # other runtimes know no complex numbers; the product is 20 times slower
            pieces = torch.cat([real, imaginary], 2) @ self.basis
        else:
            pieces = torch.fft.irfft(torch.complex(real, imaginary))              # (batch, frames, n_fft)
        return self.short_time.cut(self.short_time.join(pieces), real.shape[1])


def inverse_basis(n_fft: int) -> Tensor:
    """(2 * bins, n_fft): the inverse real Fourier transform as a matrix, for real parts and then imaginary parts.

    x[n] = 1/N sum_k w_k (re_k cos(2 pi k n / N) - im_k sin(2 pi k n / N)), w = 1 at both ends of the spectrum, else 2.
    """
    k, n = torch.arange(n_fft // 2 + 1)[:, None], torch.arange(n_fft)[None]
    angle = (k * n % n_fft).double() * (2 * math.pi / n_fft)
    twice = torch.where((k == 0) | (k == n_fft // 2), 1.0, 2.0).double() / n_fft
    return torch.cat([twice * angle.cos(), -twice * angle.sin()]).float()


def published_format(settings: Mapping[str, Any]) -> MelFormat:
    """The mel format of a config.yaml of the original. An unknown class or option is a `UserError` that names it."""
    settings = settings.get("model", {}).get("init_args", settings)
    if not settings:
        return MEL_FORMATS["vocos_24k"]
    arguments = {}
    for part, known in (("feature_extractor", "MelSpectrogramFeatures"), ("backbone", "VocosBackbone"),
                        ("head", "ISTFTHead")):
        given = settings.get(part) or {}
        name = str(given.get("class_path", "nothing")).rpartition(".")[2]
        if name != known:
            raise UserError(f"the configuration's {part} is {name}: audiogen reads Vocos with {known}")
        arguments[part] = given.get("init_args") or {}
    if arguments["backbone"].get("adanorm_num_embeddings"):
        raise UserError("adanorm_num_embeddings is for Vocos on EnCodec tokens: audiogen reads Vocos on mels")
    mel, head = arguments["feature_extractor"], arguments["head"]
    # The defaults of the original's signatures stand here.
    values = {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": "center"} | mel
    unknown = sorted(set(values) - {"sample_rate", "n_fft", "hop_length", "n_mels", "padding"})
    if unknown:
        raise UserError(f"the configuration's feature_extractor has {', '.join(unknown)}, which audiogen does not know")
    for name, default in (("n_fft", None), ("hop_length", None), ("padding", "same")):
        if head.get(name, default) != values[name]:
            raise UserError(
                f"the configuration's head has {name}={head.get(name, default)!r} and its feature_extractor "
                f"{name}={values[name]!r}: they must be the same"
            )
    return MelFormat(
        **values, win_length=values["n_fft"], f_min=0.0, f_max=float(values["sample_rate"] // 2), mel_scale="htk",
        norm=None, floor=1e-7,
    )
