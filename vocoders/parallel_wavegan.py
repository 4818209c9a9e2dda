"""Parallel WaveGAN (Yamamoto, Song and Kim 2020): a WaveNet without autoregression, conditioned on log-mel frames.

Published form (`ParallelWaveGANConfig.published()`): 30 gated dilated layers at full rate turn white noise into audio.
A CPU cannot afford that, so three things are added, each of them a field of the config:

bands       the stack runs on PQMF subbands (Multi-band MelGAN, Yang et al. 2021), 16 times fewer steps a second.
excitation  the input is not white noise but already has the spectrum that the mel asks for (SpecGrad, WaveFit: Koizumi
            et al. 2022): a small network at frame rate says what fine structure a mel band hides, phases run on from
            peak to peak, and a few Griffin-Lim iterations make them agree. The stack then only has to correct it.
refine      last, the bands of the result are scaled to the mel that was asked for, a few times over.

    mel ─ frame_net ─┬─ magnitude ─ phases ─ Griffin-Lim ─ PQMF ─┬─ gated stack ─ gain, addition ─ PQMF⁻¹ ─ refine
                     └─ conditioning of every layer ─────────────┘
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.core.rng import SampleRng
from audiogen.signal.pqmf import PQMF
from vocoders.griffin_lim import MelInverse, ShortTime, griffin_lim, peak_phase
from vocoders.upsampling import UpsampleNetwork


@dataclass(frozen=True)
class ParallelWaveGANConfig:
    mel: MelFormat = MelFormat()
    bands: int = 16  # 1: full band, no PQMF
    channels: int = 96  # of the residual path; the gate has twice as many
    skip_channels: int = 96
    layers: int = 10
    stacks: int = 2  # dilations 1, 2, 4, ... start again so many times
    frame_channels: int = 384  # of the network at frame rate; 0: none, the mel itself conditions
    frame_layers: int = 6
    context: int = 2  # frames that the first convolution sees on either side
    upsample_scales: tuple[int, ...] = ()  # published: 4, 4, 4, 4, smoothed after each; empty: frames are held
    excitation: str = "griffin_lim"  # "noise": white, as published; "shaped_noise": with the mel's spectrum
    iterations: int = 32  # of Griffin-Lim in the excitation
    refine: int = 24  # corrections of the mel at the end

    def __post_init__(self) -> None:
        if self.excitation not in ("noise", "shaped_noise", "griffin_lim"):
            raise UserError(f"excitation={self.excitation!r} must be 'noise', 'shaped_noise' or 'griffin_lim'")
        if self.bands < 1 or self.mel.hop_length % self.bands:
            raise UserError(f"bands={self.bands} must divide hop_length={self.mel.hop_length}")
        if self.layers < 1 or self.stacks < 1 or self.layers % self.stacks:
            raise UserError(f"layers={self.layers} must be a positive multiple of stacks={self.stacks}")
        if self.upsample_scales and math.prod(self.upsample_scales) * self.bands != self.mel.hop_length:
            raise UserError(
                f"upsample_scales={self.upsample_scales} times bands={self.bands} must make "
                f"hop_length={self.mel.hop_length}"
            )
        if self.excitation != "noise" and not (self.frame_channels and self.bands > 1):
            raise UserError(f"excitation={self.excitation!r} needs frame_channels > 0 and bands > 1")

    @property
    def dilations(self) -> tuple[int, ...]:
        cycle = self.layers // self.stacks
        return tuple(2 ** (layer % cycle) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Steps of the gated stack that one of its outputs sees: samples / bands."""
        return 1 + 2 * sum(self.dilations)

    @classmethod
    def published(cls, mel: MelFormat = MEL_FORMATS["parallel_wavegan_22k"]) -> ParallelWaveGANConfig:
        """`parallel_wavegan.v1`: 30 layers in 3 stacks, 64 channels, white noise in."""
        return cls(
            mel=mel, bands=1, channels=64, skip_channels=64, layers=30, stacks=3, frame_channels=0,
            upsample_scales=(4, 4, 4, 4), excitation="noise", iterations=0, refine=0,
        )


class ParallelWaveGAN(nn.Module):
    """mel -> audio. The same rng gives the same clip; without one the seed is 0.

    Modules are named as in the published implementation (`first_conv`, `conv_layers.3.conv1x1_aux`, ...).
    """

    config_type = ParallelWaveGANConfig

    def __init__(self, config: ParallelWaveGANConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ParallelWaveGANConfig()
        format, bands = config.mel, config.bands
        shaped = config.excitation != "noise"
        aux = config.frame_channels or format.n_mels
        if config.frame_channels:
            self.frame_net = FrameNetwork(format, config.frame_channels, config.frame_layers, config.context)
            self.ramp = nn.ConvTranspose1d(aux, config.channels, *_smooth(format.hop_length // bands))
        if config.upsample_scales:
            context = 0 if config.frame_channels else config.context
            self.upsample_net = UpsampleNetwork(aux, context, config.upsample_scales)
        self.first_conv = nn.Conv1d(2 * bands if shaped else bands, config.channels, 1)
        self.conv_layers = nn.ModuleList(
            GatedLayer(config.channels, config.skip_channels, aux, dilation, last=index == config.layers - 1)
            for index, dilation in enumerate(config.dilations)
        )
        self.last_conv_layers = nn.Sequential(
            nn.ReLU(), nn.Conv1d(config.skip_channels, config.skip_channels, 1),
            nn.ReLU(), nn.Conv1d(config.skip_channels, 2 * bands if shaped else bands, 1),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d):  # as published
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if config.frame_channels:
            self.frame_net.shrink()
        if bands > 1:
            self.pqmf = PQMF(bands, taps=62 if bands == 4 else 16 * bands)
        if shaped or config.refine:
            self.short_time = ShortTime(format)
            self.inverse = MelInverse(format)
        if shaped:
            self.magnitude = nn.Conv1d(aux, format.n_fft // 2 + 1, 1)
            nn.init.zeros_(self.magnitude.weight)
            nn.init.normal_(self.last_conv_layers[3].weight, std=1e-3)  # the first clip is the excitation itself
            self.register_buffer("in_band", _bins_of_bands(format, bands), persistent=False)  # (bins, bands)
        if config.refine:
            share = self.inverse.filterbank / self.inverse.filterbank.sum(0, keepdim=True).clamp(min=1e-8)
            self.register_buffer("share", share, persistent=False)  # (n_mels, bins): each bin's bands, summing to 1
            self.register_buffer("unheard", 1 - share.sum(0), persistent=False)  # (bins,) 1 where no band lies

    def forward(self, mel: Tensor, *, rng: SampleRng | None = None) -> Tensor:
        """mel (batch, n_mels, frames) -> audio (batch, 1, frames * hop_length)."""
        self._check(mel)
        draws = self._draw(mel, rng)
        clips = []
        for index in range(mel.shape[0]):
            # One by one: Griffin-Lim blows the last bit, in which a larger batch may differ, up to an audible 1e-3, and
            # a clip must be the same whatever it was made beside.
            one = slice(index, index + 1)
            audio, _ = self._play(mel[one], *(part[one] for part in draws))
            clips.append(self.refine(audio, mel[one]) if self.config.refine else audio)
        return torch.cat(clips)

    def render(self, mel: Tensor, *, rng: SampleRng | None = None) -> tuple[Tensor, Tensor | None]:
        """What training sees: audio (batch, 1, time) before `refine`, and the log magnitude (batch, frames, bins) that
        the frame network expects; None where the excitation is white noise."""
        self._check(mel)
        return self._play(mel, *self._draw(mel, rng))

    def _check(self, mel: Tensor) -> None:
        n_mels = self.config.mel.n_mels
        if mel.dim() != 3 or 0 in mel.shape or mel.shape[1] != n_mels:
            raise ValueError(f"mel of shape {tuple(mel.shape)}: (batch >= 1, {n_mels}, frames >= 1) is needed")

    def _draw(self, mel: Tensor, rng: SampleRng | None) -> tuple[Tensor, ...]:
        """All that is random: noise (batch, bands, steps), and what the excitation begins with (batch, numbers)."""
        config, time = self.config, mel.shape[2] * self.config.mel.hop_length
        rng = rng or SampleRng(0, ids=[0] * mel.shape[0])
        noise = rng.randn(config.bands, time // config.bands, device=mel.device)
        if config.excitation == "griffin_lim":
            return noise, 2 * math.pi * rng.rand(config.mel.n_fft // 2 + 1, device=mel.device)
        return (noise, rng.randn(time, device=mel.device)) if config.excitation == "shaped_noise" else (noise,)

    def _play(self, mel: Tensor, noise: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        config = self.config
        frames = self.frame_net(mel) if config.frame_channels else mel            # (batch, aux, frames)
        if start is None:
            return self._synthesis(self._stack(noise, frames)), None
        log_magnitude = self._correct(mel, frames)
        excitation, envelope = self._excite(log_magnitude, start)        # (batch, bands, steps), both
        whitened = (excitation.detach() / envelope).clamp(-10.0, 10.0)
        gain, addition = self._stack(torch.cat([whitened, noise], 1), frames).float().chunk(2, 1)
        return self._synthesis(excitation * (1 + gain) + envelope * addition), log_magnitude

    def refine(self, audio: Tensor, mel: Tensor, *, passes: int | None = None) -> Tensor:
        """Scale what each mel band of `audio` (batch, 1, time) holds to what `mel` says, `passes` times over.

        The fine structure stays; each pass is one short-time transform there and back.
        """
        with torch.autocast(audio.device.type, enabled=False):
            wanted = self.inverse.linear(mel.float())                             # (batch, frames, n_mels)
            floor, short_time, power = self.config.mel.floor, self.short_time, self.config.mel.power
            audio = audio[:, 0].float()
            for _ in range(self.config.refine if passes is None else passes):
                spectrum = short_time.transform(short_time.extend(audio))[:, : wanted.shape[1]]
                present = (spectrum.abs().pow(power) @ self.inverse.filterbank.T).clamp(min=floor)
                gain = (wanted / present).pow(1.0 / power).clamp(0.05, 20.0)
                audio = short_time.audio(spectrum * (gain @ self.share + self.unheard))
            return audio[:, None]

    def log_magnitude(self, mel: Tensor) -> Tensor:
        """mel (batch, n_mels, frames) -> log magnitude (batch, frames, bins), as in `render`."""
        return self._correct(mel, self.frame_net(mel))

    def _correct(self, mel: Tensor, frames: Tensor) -> Tensor:
        correction = self.magnitude(frames).float().transpose(1, 2)               # (batch, frames, bins)
        with torch.autocast(mel.device.type, enabled=False), torch.no_grad():
            base = self.inverse(mel.float())
            # Where the pseudo-inverse is clipped at 0 the logarithm needs something to start from: a tenth of the
            # neighbourhood.
            around = F.avg_pool1d(base, 9, stride=1, padding=4)
            base = torch.maximum(base, 0.1 * around).clamp(min=1e-6).log()
        return base + correction.clamp(-6.0, 6.0)

    def _excite(self, log_magnitude: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """start: phases (batch, bins) of the first frame, or white noise (batch, time) where the excitation is shaped
        noise -> excitation and its envelope, both (batch, bands, steps)."""
        config = self.config
        hop_length = config.mel.hop_length
        with torch.autocast(log_magnitude.device.type, enabled=False):
            magnitude = log_magnitude.exp()
            if config.excitation == "shaped_noise":
                spectrum = self.short_time.transform(self.short_time.extend(start))[:, : magnitude.shape[1]]
                spectrum = magnitude * spectrum / self.short_time.window.square().sum().sqrt()
            else:
                phase = peak_phase(magnitude.detach(), start, hop_length)
                spectrum = griffin_lim(magnitude, phase, self.short_time, iterations=config.iterations)
            excitation = self.pqmf.analysis(self.short_time.audio(spectrum)[:, None])
            power = (magnitude.square() @ self.in_band).transpose(1, 2)           # (batch, bands, frames)
            power = power / (self.short_time.window.square().sum() * config.bands) + 1e-12
            steps = excitation.shape[2]
            envelope = F.interpolate(power.detach().log(), size=steps, mode="linear").mul(0.5).exp()
            return excitation, envelope

    def _stack(self, x: Tensor, frames: Tensor) -> Tensor:
        """x (batch, inputs, steps), frames (batch, aux, frames) -> (batch, outputs, steps)."""
        x = self.first_conv(x)
        if self.config.frame_channels:
            x = x + self.ramp(frames)
        aux = self.upsample_net(frames) if self.config.upsample_scales else frames
        skips = 0
        for layer in self.conv_layers:
            x, skip = layer(x, aux)
            skips = skips + skip
        return self.last_conv_layers(skips * math.sqrt(1.0 / len(self.conv_layers)))

    def _synthesis(self, subbands: Tensor) -> Tensor:
        with torch.autocast(subbands.device.type, enabled=False):
            return self.pqmf.synthesis(subbands.float()) if self.config.bands > 1 else subbands.float()


class GatedLayer(nn.Module):
    """One layer of WaveNet, not causal: x -> (x + residual) / sqrt 2, and what it adds to the output.

    The last layer's residual would go nowhere: it has none, so that every parameter receives a gradient.
    """

    def __init__(self, channels: int, skip_channels: int, aux: int, dilation: int, *, last: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 2 * channels, 3, padding=dilation, dilation=dilation)
        self.conv1x1_aux = nn.Conv1d(aux, 2 * channels, 1, bias=False)
        if not last:
            self.conv1x1_out = nn.Conv1d(channels, channels, 1)
        self.conv1x1_skip = nn.Conv1d(channels, skip_channels, 1)
        self.last = last

    def forward(self, x: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, channels, steps), aux (batch, aux, steps or frames) -> x, skip (batch, skip_channels, steps)."""
        # A 1x1 convolution and holding a frame for some steps commute: the convolution is done at frame rate.
        z = hold_and_add(self.conv(x), self.conv1x1_aux(aux))
        a, b = z.chunk(2, 1)
        h = torch.tanh(a) * torch.sigmoid(b)
        skip = self.conv1x1_skip(h)
        return (x if self.last else (x + self.conv1x1_out(h)) * math.sqrt(0.5)), skip


def hold_and_add(x: Tensor, aux: Tensor) -> Tensor:
    """x (batch, channels, frames * n) + aux (batch, channels, frames), each frame held for n steps."""
    batch, channels, frames = aux.shape
    return (x.reshape(batch, channels, frames, -1) + aux[..., None]).reshape(x.shape)


class FrameNetwork(nn.Module):
    """Residual convolutions over mel frames: what lies within the bands, from the bands and frames around."""

    def __init__(self, format: MelFormat, channels: int, layers: int, context: int) -> None:
        super().__init__()
        self.to_ln = 1.0 if format.log == "ln" else math.log(10.0)
        self.before = nn.Conv1d(format.n_mels, channels, 2 * context + 1, padding=context)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LeakyReLU(0.1), nn.Conv1d(channels, channels, 3, padding=1),
                nn.LeakyReLU(0.1), nn.Conv1d(channels, channels, 1),
            )
            for _ in range(layers)
        )

    def shrink(self) -> None:
        """Begin near the identity: the blocks are residual."""
        for block in self.blocks:
            nn.init.normal_(block[3].weight, std=0.01)

    def forward(self, mel: Tensor) -> Tensor:
        """mel (batch, n_mels, frames) -> (batch, channels, frames)."""
        x = self.before((mel * self.to_ln + 5.0) / 3.0)  # about zero mean and unit variance for music
        for block in self.blocks:
            x = x + block(x)
        return F.leaky_relu(x, 0.1)


def _smooth(stride: int) -> tuple[int, int, int]:
    """kernel, stride, padding of a transposed convolution that makes exactly `stride` steps of each frame."""
    return (stride, stride, 0) if stride < 2 or stride % 2 else (2 * stride, stride, stride // 2)


def _bins_of_bands(format: MelFormat, bands: int) -> Tensor:
    """(bins, bands): the mean over the bins of each PQMF band."""
    bins = format.n_fft // 2 + 1
    band = (torch.arange(bins) * bands // (bins - 1)).clamp(max=bands - 1)
    member = F.one_hot(band, bands).float()
    return member / member.sum(0, keepdim=True)
