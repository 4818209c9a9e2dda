"""Parallel WaveGAN (Yamamoto, Song and Kim 2020): a WaveNet without autoregression, conditioned on log-mel frames.

Published form (`ParallelWaveGANConfig.published()`): 30 gated dilated layers at full rate turn white noise into audio.
To spend less, three things are added, each of them a field of the config:

bands       the stack runs on PQMF subbands (Multi-band MelGAN, Yang et al. 2021), 16 times fewer steps a second.
excitation  the input is not white noise but already has the spectrum that the mel asks for (SpecGrad, WaveFit: Koizumi
            et al. 2022): a small network at frame rate says what fine structure a mel band hides, phases run on from
            peak to peak, and a few Griffin-Lim iterations make them agree. The stack then only has to correct it.
refine      last, the bands of the result are scaled to the mel that was asked for, a few times over.

    mel ─ frame_net ─┬─ magnitude ─ phases ─ Griffin-Lim ─ PQMF ─┬─ gated stack ─ gain, addition ─ PQMF⁻¹ ─ refine
                     └─ conditioning of every layer ─────────────┘

The layers run on `audiogen.ops.gated_dilated_layer`, with channels last in memory. Published checkpoints are read by
vocoders/parallel_wavegan_published.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.core.rng import SampleRng
from audiogen.ops.gated_dilated_layer import channels_last, gated_dilated_layer
from audiogen.ops.upsampling import Upsampling, upsample
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
    kernel_size: int = 3
    causal: bool = False  # no layer sees what comes later; for the published form alone
    frame_channels: int = 384  # of the network at frame rate; 0: none, the mel itself conditions
    frame_layers: int = 6
    context: int = 2  # frames that the first convolution sees on either side (causal: before)
    normalise: bool = False  # the mel is shifted and scaled by the buffers `mean` and `scale` (n_mels,), as published
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
        if self.causal and (self.frame_channels or self.bands > 1 or self.refine):
            raise UserError("causal=True needs frame_channels=0, bands=1 and refine=0: those parts look ahead")
        if self.kernel_size < 2 or not (self.causal or self.kernel_size % 2):
            raise UserError(f"kernel_size={self.kernel_size} must be 2 or more, and odd unless causal=True")

    @property
    def dilations(self) -> tuple[int, ...]:
        cycle = self.layers // self.stacks
        return tuple(2 ** (layer % cycle) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Steps of the gated stack that one of its outputs sees: samples / bands."""
        return 1 + (self.kernel_size - 1) * sum(self.dilations)

    @classmethod
    def published(cls, mel: MelFormat = MEL_FORMATS["parallel_wavegan_22k"]) -> ParallelWaveGANConfig:
        """`parallel_wavegan.v1`: 30 layers in 3 stacks, 64 channels, white noise in."""
        return cls(
            mel=mel, bands=1, channels=64, skip_channels=64, layers=30, stacks=3, frame_channels=0, normalise=True,
            upsample_scales=(4, 4, 4, 4), excitation="noise", iterations=0, refine=0,
        )


class ParallelWaveGAN(nn.Module):
    """mel -> audio. The same rng gives the same clip; without one the seed is 0.

    Modules are named as in the published implementation (`first_conv`, `conv_layers.3.conv1x1_aux`, ...).
    """

    config_type = ParallelWaveGANConfig
    presets: ClassVar[dict[str, ParallelWaveGANConfig]] = {
        "parallel_wavegan_22k": ParallelWaveGANConfig.published(),
        "parallel_wavegan_24k": replace(
            ParallelWaveGANConfig.published(), mel=MEL_FORMATS["parallel_wavegan_24k"], upsample_scales=(4, 5, 3, 5)
        ),
        "multiband_22k": ParallelWaveGANConfig(),
    }

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
            self.upsample_net = UpsampleNetwork(aux, context, config.upsample_scales, causal=config.causal)
        self.first_conv = nn.Conv1d(2 * bands if shaped else bands, config.channels, 1)
        self.conv_layers = nn.ModuleList(
            GatedLayer(
                config.channels, config.skip_channels, aux, config.kernel_size, dilation, causal=config.causal,
                last=index == config.layers - 1,
            )
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
        if config.normalise:
            # Until a corpus says its own: about zero mean and unit variance for music, as in FrameNetwork.
            per_ln = 1.0 if format.log == "ln" else math.log(10.0)
            self.register_buffer("mean", torch.full((format.n_mels,), -5.0 / per_ln))
            self.register_buffer("scale", torch.full((format.n_mels,), 3.0 / per_ln))
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

    @classmethod
    def from_published(
        cls, content: Mapping[str, Any], settings: Mapping[str, Any], *, mel: MelFormat | None = None
    ) -> ParallelWaveGAN:
        """checkpoint-*.pkl of the original, its config.yml, and in settings["stats"] its stats.h5 or stats.npy."""
        from vocoders.parallel_wavegan_published import read

        return read(content, settings, mel=mel)

    def forward(self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0) -> Tensor:
        """mel (batch, n_mels, frames) -> audio (batch, 1, frames * hop_length)."""
        self.config.mel.check(mel, model="Parallel WaveGAN")
        draws = self._draw(mel, rng, offset)
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
        self.config.mel.check(mel, model="Parallel WaveGAN")
        return self._play(mel, *self._draw(mel, rng, 0))

    def draw_noise(self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0) -> Tensor:
        """The white noise that `forward` feeds to the stack: (batch, bands, frames * hop_length / bands)."""
        rng = rng or SampleRng(0, ids=[0] * mel.shape[0])
        steps = self.config.mel.hop_length // self.config.bands
        start, stop = offset * steps, (offset + mel.shape[2]) * steps
        return rng.tape_randn(self.config.bands, start, stop, device=mel.device)

    def play(self, mel: Tensor, noise: Tensor) -> Tensor:
        """`forward` with its noise (of `draw_noise`) given, where the excitation is "noise": what can be exported."""
        if self.config.excitation != "noise":
            raise ValueError(f"excitation={self.config.excitation!r} draws more than noise: call forward")
        audio, _ = self._play(mel, noise)
        return self.refine(audio, mel) if self.config.refine else audio

    @property
    def context_frames(self) -> int | None:
        """Mel frames on either side that a frame's audio depends on; None with Griffin-Lim, whose iterations and
        running phases reach over the whole clip."""
        config, n_fft, hop_length = self.config, self.config.mel.n_fft, self.config.mel.hop_length
        if config.excitation == "griffin_lim":
            return None
        samples = (config.receptive_field - 1) * config.bands // (1 if config.causal else 2)
        frames = config.context
        if config.frame_channels:
            frames += config.frame_layers + 1                                     # 1: of the ramp
        if config.upsample_scales:
            frames += self.upsample_net.upsample.reach
        if config.bands > 1:
            samples += self.pqmf.taps // 2 + config.bands
        if config.excitation == "shaped_noise":  # the transform there and back, then the analysis filters
            samples += n_fft + self.pqmf.taps // 2 + config.bands
        return math.ceil((samples + config.refine * n_fft) / hop_length) + frames

    def _draw(self, mel: Tensor, rng: SampleRng | None, offset: int) -> tuple[Tensor, ...]:
        """All that is random: noise (batch, bands, steps), and what the excitation begins with (batch, numbers)."""
        config, hop_length = self.config, self.config.mel.hop_length
        rng = rng or SampleRng(0, ids=[0] * mel.shape[0])
        noise = self.draw_noise(mel, rng=rng, offset=offset)
        if config.excitation == "griffin_lim":
            return noise, 2 * math.pi * rng.rand(config.mel.n_fft // 2 + 1, device=mel.device)
        if config.excitation == "shaped_noise":
            start, stop = offset * hop_length, (offset + mel.shape[2]) * hop_length
            return noise, rng.fork("excitation").tape_randn(1, start, stop, device=mel.device)[:, 0]
        return (noise,)

    def _play(self, mel: Tensor, noise: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        frames = self._frames(mel)                                                # (batch, aux, frames)
        if start is None:
            return self._synthesis(self._stack(noise, frames)), None
        log_magnitude = self._correct(mel, frames)
        excitation, envelope = self._excite(log_magnitude, start)        # (batch, bands, steps), both
        whitened = (excitation.detach() / envelope).clamp(-10.0, 10.0)
        gain, addition = self._stack(torch.cat([whitened, noise], 1), frames).float().chunk(2, 1)
        return self._synthesis(excitation * (1 + gain) + envelope * addition), log_magnitude

    def _frames(self, mel: Tensor) -> Tensor:
        """mel (batch, n_mels, frames) -> what conditions the stack, (batch, aux, frames)."""
        if self.config.normalise:
            mel = (mel - self.mean[:, None]) / self.scale[:, None]
        return self.frame_net(mel) if self.config.frame_channels else mel

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
        return self._correct(mel, self._frames(mel))

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
        x = at_each_step(self.first_conv, x)
        if self.config.frame_channels:
            x = x + self.ramp(frames)
        upsampling, skip = None, None
        if self.config.upsample_scales:
            frames = self.upsample_net.before(frames)
            with torch.autocast(x.device.type, enabled=False):
                upsampling = self.upsample_net.upsample.band(frames.shape[2])
        x = channels_last(x)
        for layer in self.conv_layers:
            x, skip = layer(x, frames, upsampling, skip)
        _, before, _, after = self.last_conv_layers
        x = at_each_step(before, F.relu(skip * math.sqrt(1.0 / len(self.conv_layers))))
        return at_each_step(after, F.relu(x))

    def _synthesis(self, subbands: Tensor) -> Tensor:
        with torch.autocast(subbands.device.type, enabled=False):
            return self.pqmf.synthesis(subbands.float()) if self.config.bands > 1 else subbands.float()


class GatedLayer(nn.Module):
    """One layer of WaveNet: x -> (x + residual) / sqrt 2, and what it adds to the output.

    The last layer's residual would go nowhere: it has none, so that every parameter receives a gradient.
    """

    def __init__(
        self, channels: int, skip_channels: int, aux: int, kernel_size: int, dilation: int, *, causal: bool, last: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 2 * channels, kernel_size, dilation=dilation)
        self.conv1x1_aux = nn.Conv1d(aux, 2 * channels, 1, bias=False)
        if not last:
            self.conv1x1_out = nn.Conv1d(channels, channels, 1)
        self.conv1x1_skip = nn.Conv1d(channels, skip_channels, 1)
        self.causal, self.last = causal, last

    def forward(
        self, x: Tensor, frames: Tensor, upsampling: Upsampling | None, skip: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x (batch, channels, steps), frames (batch, aux, frames), skip: the sum so far (batch, skip_channels, steps)
        -> x, skip. `skip` is given away: it may come back changed in place."""
        # A 1x1 convolution and bringing frames to steps commute: the convolution is done at frame rate.
        condition = self.conv1x1_aux(frames)
        kernel_size, dilation = self.conv.kernel_size[0], self.conv.dilation[0]
        if kernel_size > 3:
            return self._wide(x, condition, upsampling, skip)
        out_weight, out_bias = (None, None) if self.last else (self.conv1x1_out.weight[:, :, 0], self.conv1x1_out.bias)
        return gated_dilated_layer(
            x, self.conv.weight, self.conv.bias, out_weight, out_bias, self.conv1x1_skip.weight[:, :, 0],
            self.conv1x1_skip.bias, condition, upsampling=upsampling, dilation=dilation, causal=self.causal, skip=skip,
            overwrite_skip=True,
        )

    def _wide(
        self, x: Tensor, condition: Tensor, upsampling: Upsampling | None, skip: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The same for kernels that the operation has no code for (parallel_wavegan.v3 has kernel 5)."""
        reach = (self.conv.kernel_size[0] - 1) * self.conv.dilation[0]
        z = self.conv(F.pad(x, (reach, 0) if self.causal else (reach // 2, reach // 2)))
        a, b = (z + upsample(condition, *(upsampling or (None, None)), x.shape[2])).chunk(2, 1)
        h = torch.tanh(a) * torch.sigmoid(b)
        added = self.conv1x1_skip(h)
        return (x if self.last else (x + self.conv1x1_out(h)) * math.sqrt(0.5)), added if skip is None else skip + added


def at_each_step(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """A 1x1 convolution of x (batch, channels, steps) whose result has its channels last in memory."""
    return F.linear(x.transpose(1, 2), layer.weight[:, :, 0], layer.bias).transpose(1, 2)


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
