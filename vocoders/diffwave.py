"""DiffWave (Kong et al. 2021): a WaveNet that is not autoregressive takes noise out of noise, in a few steps.

Diffusion: audio_t = sqrt(level_t) audio + sqrt(1 - level_t) noise, where level_t is the product of 1 - beta_s over
s <= t. The network is trained to say the noise, given audio_t, t and the mel. Rendering starts from noise and goes back
along a schedule of betas; six well chosen steps sound nearly as good as training's fifty (appendix C of the paper).

    step t ─ embedding ─────────────────┬──────────────┐  (`shift`)
    noise ─ 1x1 ─ ReLU ─ gated layer ─ gated layer ─ ... ─ sum of skips ─ 1x1 ─ ReLU ─ 1x1 ─ the noise in it
    mel ─ two transposed convolutions ──┴── 1x1 ───────┘

The layers run on `audiogen.ops.gated_dilated_layer` in WaveNet's order, tanh before sigmoid; the original has them the
other way round, and `from_published` exchanges the halves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.core.rng import SampleRng
from audiogen.ops import gated_dilated_layer
from vocoders.parallel_wavegan import at_each_step
from vocoders.published import load_published, take

SIX_STEPS = (1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5)  # Kong et al., appendix C: for the base model
KEPT_BYTES = 1 << 30  # conditions of layers that are kept from step to step, at most


def steps_between(schedule: Sequence[float], training: Sequence[float]) -> list[float]:
    """For each beta of `schedule` the step of training, with fractions, that has its level of noise (appendix C)."""
    if not schedule or not all(0 < beta < 1 for beta in schedule):
        raise UserError(f"diffwave: schedule={tuple(schedule)} must be betas between 0 and 1")
    amplitude, trained = (np.sqrt(np.cumprod(1 - np.array(betas))) for betas in (schedule, training))
    if amplitude[0] > trained[0] * (1 + 1e-9) or amplitude[-1] < trained[-1] * (1 - 1e-9):
        raise UserError(
            f"diffwave: schedule={tuple(schedule)} has noise levels from {1 - amplitude[0] ** 2:.2g} to "
            f"{1 - amplitude[-1] ** 2:.2g}; training only saw {1 - trained[0] ** 2:.2g} to {1 - trained[-1] ** 2:.2g}"
        )
    return np.interp(-amplitude, -trained, np.arange(len(trained))).astype(np.float32).tolist()


def few_steps(count: int, training: Sequence[float]) -> tuple[float, ...]:
    """`count` betas from the least noise of training to the most, with the logarithm of the ratio of signal and noise
    falling evenly; for other numbers of steps than the six that the paper searched for."""
    if not 1 < count <= len(training):
        raise UserError(f"diffwave: {count} steps of {len(training)} in training: 2 or more are needed, and no more")
    level = np.cumprod(1 - np.array(training))
    ratio = np.log(level / (1 - level))
    wanted = 1 / (1 + np.exp(-np.linspace(ratio[0], ratio[-1], count)))
    return tuple((1 - wanted / np.concatenate([[1.0], wanted[:-1]])).tolist())


@dataclass(frozen=True)
class DiffWaveConfig:
    mel: MelFormat = MelFormat()
    channels: int = 32
    layers: int = 8
    cycle: int = 8  # dilations 1, 2, 4, ... start again after so many layers
    upsample_scales: tuple[int, ...] = (16, 16)
    embedding: int = 128  # width of the embedding of a step
    steps: int = 50  # of training
    beta_first: float = 1e-4  # the betas of training lie on a line
    beta_last: float = 0.05
    schedule: tuple[float, ...] = SIX_STEPS  # betas of rendering, the last step's first; empty: those of training

    def __post_init__(self) -> None:
        for name in ("channels", "layers", "cycle", "embedding"):
            if getattr(self, name) < 1:
                raise UserError(f"diffwave: {name}={getattr(self, name)} must be positive")
        if math.prod(self.upsample_scales) != self.mel.hop_length:
            raise UserError(
                f"diffwave: upsample_scales={self.upsample_scales} must make hop_length={self.mel.hop_length}"
            )
        if self.steps < 2 or not 0 < self.beta_first < self.beta_last < 1:
            raise UserError(
                f"diffwave: steps={self.steps} must be 2 or more and 0 < beta_first={self.beta_first} < "
                f"beta_last={self.beta_last} < 1"
            )
        steps_between(self.schedule or self.betas, self.betas)

    @property
    def betas(self) -> tuple[float, ...]:
        """Of training."""
        return tuple(np.linspace(self.beta_first, self.beta_last, self.steps).tolist())

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(2 ** (layer % self.cycle) for layer in range(self.layers))


class DiffWave(nn.Module):
    """mel -> audio. The same rng gives the same clip; without one the seed is 0."""

    config_type = DiffWaveConfig
    presets: ClassVar[dict[str, DiffWaveConfig]] = {
        "diffwave_22k": DiffWaveConfig(MEL_FORMATS["diffwave_22k"], channels=64, layers=30, cycle=10, embedding=512),
    }

    def __init__(self, config: DiffWaveConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DiffWaveConfig()
        channels, n_mels = config.channels, config.mel.n_mels
        self.input_projection = nn.Conv1d(1, channels, 1)
        self.diffusion_embedding = StepEmbedding(config.steps, config.embedding)
        self.upsampler = SpectrogramUpsampler(config.upsample_scales)
        self.residual_layers = nn.ModuleList(
            ResidualLayer(channels, n_mels, config.embedding, dilation, last=index == config.layers - 1)
            for index, dilation in enumerate(config.dilations)
        )
        self.skip_projection = nn.Conv1d(channels, channels, 1)
        self.output_projection = nn.Conv1d(channels, 1, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d):  # as published
                nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(self.output_projection.weight, std=1e-4)  # published: 0, which starves all others of gradient

    def forward(
        self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0, schedule: Sequence[float] | None = None
    ) -> Tensor:
        """mel (batch, n_mels, frames) -> audio (batch, 1, frames * hop_length) in [-1, 1].

        schedule: betas in place of the config's; the first is that of the last step. `few_steps` makes some.
        """
        self.config.mel.check(mel, model="DiffWave")
        schedule = tuple(schedule) if schedule is not None else self.config.schedule or self.config.betas
        return self.play(mel, self.draw_noise(mel, rng=rng, offset=offset, steps=len(schedule)), schedule=schedule)

    def draw_noise(
        self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0, steps: int | None = None
    ) -> Tensor:
        """What `play` starts from, and what each of its steps but the last adds: (batch, steps, time)."""
        rng, hop_length = rng or SampleRng(0, ids=[0] * mel.shape[0]), self.config.mel.hop_length
        steps = steps or len(self.config.schedule or self.config.betas)
        start, stop = offset * hop_length, (offset + mel.shape[2]) * hop_length
        return rng.tape_randn(steps, start, stop, device=mel.device)

    def play(self, mel: Tensor, noise: Tensor, *, schedule: Sequence[float] | None = None) -> Tensor:
        """`forward` with its noise given: what can be exported. Algorithm 2 of the paper, each step clamped."""
        schedule = tuple(schedule) if schedule is not None else self.config.schedule or self.config.betas
        beta, times = np.array(schedule), self.steps_of(schedule)
        level = np.cumprod(1 - beta)
        spectrogram = self.upsample(mel)                                          # (batch, n_mels, time)
        kept = self._keep(spectrogram) if len(beta) > 1 else []
        audio = noise[:, :1].float()
        for n in reversed(range(len(beta))):
            t = torch.full((mel.shape[0],), float(times[n]), device=mel.device)
            expected = self.noise_in(audio, t, spectrogram, kept=kept).float()
            audio = (audio - float(beta[n] / math.sqrt(1 - level[n])) * expected) / math.sqrt(1 - beta[n])
            if n > 0:
                spread = math.sqrt((1 - level[n - 1]) / (1 - level[n]) * beta[n])
                drawn = len(beta) - n
                audio = audio + spread * noise[:, drawn : drawn + 1]
            audio = audio.clamp(-1.0, 1.0)
        return audio

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """Algorithm 1: the mean distance of the noise that was added and the noise that is expected."""
        assert batch.mel is not None
        audio, level = batch.audio, np.cumprod(1 - np.array(self.config.betas))
        t = (rng.rand(1, device=audio.device)[:, 0] * self.config.steps).long().clamp(max=self.config.steps - 1)
        level = torch.tensor(level, dtype=torch.float32, device=audio.device)[t][:, None, None]
        noise = rng.randn(1, audio.shape[2], device=audio.device)
        noisy = level.sqrt() * audio + (1 - level).sqrt() * noise
        expected = self.noise_in(noisy, t.float(), self.upsample(batch.mel))
        return {"loss": (expected.float() - noise).abs().mean()}

    def upsample(self, mel: Tensor) -> Tensor:
        """mel (batch, n_mels, frames) -> (batch, n_mels, frames * hop_length), of the size of the published mels."""
        # Published mels are 1 + a fifth of the decades below 10: 0 is -80 dB. Other formats are brought there.
        decades = self.config.mel.natural_log(mel) / math.log(10.0)
        return self.upsampler(0.8 + 0.2 * decades)

    def noise_in(self, audio: Tensor, t: Tensor, spectrogram: Tensor, *, kept: Sequence[Tensor] = ()) -> Tensor:
        """audio (batch, 1, time), t (batch,) steps of training, spectrogram of `upsample` -> noise (batch, 1, time).

        kept: the first layers' conditions, where they were already made.
        """
        step = self.diffusion_embedding(t)                                        # (batch, embedding)
        x, skip = F.relu(at_each_step(self.input_projection, audio)), None
        for index, layer in enumerate(self.residual_layers):
            x, skip = layer(x, step, spectrogram, skip, kept[index] if index < len(kept) else None)
        x = F.relu(at_each_step(self.skip_projection, skip / math.sqrt(len(self.residual_layers))))
        return at_each_step(self.output_projection, x)

    def _keep(self, spectrogram: Tensor) -> list[Tensor]:
        """Conditions of the first layers: the same at every step, and a quarter of a layer's work. They are as long as
        the clip, so only so many are kept as fit into KEPT_BYTES. With gradients none are, for each would be saved
        anyway, and none in a graph that is captured for clips of any length."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return []
        one = spectrogram[:, 0].numel() * 2 * self.config.channels * spectrogram.element_size()
        return [layer.condition(spectrogram) for layer in self.residual_layers[: KEPT_BYTES // one]]

    def steps_of(self, schedule: Sequence[float]) -> list[float]:
        """The steps of training, with fractions, at which the levels of noise are those of `schedule`."""
        return steps_between(schedule, self.config.betas)

    @property
    def context_frames(self) -> int:
        """Every step of rendering reaches over the stack; the upsampler reaches one frame and a little more."""
        steps = len(self.config.schedule or self.config.betas)
        return math.ceil(steps * sum(self.config.dilations) / self.config.mel.hop_length) + self.upsampler.reach

    @classmethod
    def from_published(
        cls, content: Mapping[str, Any], settings: Mapping[str, Any], *, mel: MelFormat | None = None
    ) -> DiffWave:
        """weights.pt of the original: {"model": state, "params": ...}; settings override its parameters."""
        if not isinstance(content.get("model"), Mapping):
            raise UserError("this is no checkpoint of DiffWave: it has no model")
        state = dict(content["model"])
        config = published_config({**(content.get("params") or {}), **settings}, mel=mel)
        state = {key.replace("spectrogram_upsampler.", "upsampler."): value for key, value in state.items()}
        for index in range(config.layers):
            layer, last = f"residual_layers.{index}.", index == config.layers - 1
            for part in ("weight", "bias"):
                for name in ("dilated_conv", "conditioner_projection"):
                    if f"{layer}{name}.{part}" in state:
                        sigmoid, tanh = state[f"{layer}{name}.{part}"].chunk(2)
                        state[f"{layer}{name}.{part}"] = torch.cat([tanh, sigmoid])
                if f"{layer}output_projection.{part}" in state:
                    residual, skip = state.pop(f"{layer}output_projection.{part}").chunk(2)
                    state |= {f"{layer}residual.{part}": residual, f"{layer}skip.{part}": skip}
            if last:
                take(state, [f"{layer}residual.weight", f"{layer}residual.bias"],
                     why="the last layer's residual: the original's loop over the layers ends there")
        model = cls(config)
        load_published(model, state, what="the published DiffWave")
        return model.eval()


class ResidualLayer(nn.Module):
    """A gated dilated layer whose input is shifted by the embedding of the diffusion step."""

    def __init__(self, channels: int, n_mels: int, embedding: int, dilation: int, *, last: bool) -> None:
        super().__init__()
        self.dilated_conv = nn.Conv1d(channels, 2 * channels, 3, dilation=dilation)
        self.diffusion_projection = nn.Linear(embedding, channels)
        self.conditioner_projection = nn.Conv1d(n_mels, 2 * channels, 1)
        if not last:
            self.residual = nn.Conv1d(channels, channels, 1)
        self.skip = nn.Conv1d(channels, channels, 1)
        self.last = last

    def condition(self, spectrogram: Tensor) -> Tensor:
        """(batch, n_mels, time) -> (batch, 2 * channels, time)."""
        return at_each_step(self.conditioner_projection, spectrogram)

    def forward(
        self, x: Tensor, step: Tensor, spectrogram: Tensor, skip: Tensor | None, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (batch, channels, time), step (batch, embedding), skip: the sum so far -> x, skip.

        condition: that of the spectrogram, where it was already made. Else it is made in here, where a sharded layer
        has its weights.
        """
        condition = self.condition(spectrogram) if condition is None else condition
        out_weight, out_bias = (None, None) if self.last else (self.residual.weight[:, :, 0], self.residual.bias)
        return gated_dilated_layer(
            x, self.dilated_conv.weight, self.dilated_conv.bias, out_weight, out_bias, self.skip.weight[:, :, 0],
            self.skip.bias, condition, dilation=self.dilated_conv.dilation[0], shift=self.diffusion_projection(step),
            skip=skip, overwrite_skip=True,
        )


class StepEmbedding(nn.Module):
    """Sines and cosines of t at 64 frequencies from 1 to 10^4, then two layers. Fractions of t are interpolated."""

    table: Tensor

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        # In float32, as the original has it: at t * 10^4 the rounding of an angle would show.
        angle = torch.arange(steps)[:, None] * 10.0 ** (torch.arange(64)[None] * 4.0 / 63.0)
        self.register_buffer("table", torch.cat([angle.sin(), angle.cos()], 1), persistent=False)
        self.projection1 = nn.Linear(128, width)
        self.projection2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """t (batch,) in [0, steps - 1] -> (batch, width)."""
        low = self.table[t.floor().long()]
        x = low + (self.table[t.ceil().long()] - low) * (t - t.floor())[:, None]
        return F.silu(self.projection2(F.silu(self.projection1(x))))


class SpectrogramUpsampler(nn.Module):
    """Transposed convolutions over (bands, time), each with leaky ReLU; `conv1`, `conv2`, ..."""

    def __init__(self, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.scales = scales
        for index, scale in enumerate(scales, start=1):
            # Published: twice the stride and half of it cut on either side; odd strides take one stride more.
            kernel, padding = (2 * scale, scale // 2) if scale % 2 == 0 else (3 * scale, scale)
            setattr(self, f"conv{index}", nn.ConvTranspose2d(1, 1, (3, kernel), (1, scale), (1, padding)))

    @property
    def reach(self) -> int:
        """Frames on either side that a sample reads: one step of the rate before, at each of the rates."""
        return math.ceil(sum(1 / math.prod(self.scales[:index]) for index in range(len(self.scales))))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_mels, frames) -> (batch, n_mels, frames * prod(scales))."""
        x = x[:, None]
        for index in range(1, len(self.scales) + 1):
            x = F.leaky_relu(getattr(self, f"conv{index}")(x), 0.4)
        return x[:, 0]


def published_config(params: Mapping[str, Any], *, mel: MelFormat | None = None) -> DiffWaveConfig:
    """The original's params.py, or what its checkpoint says of it -> our configuration."""
    if params.get("unconditional"):
        raise UserError("this DiffWave is unconditional: it takes no mel, so it is no vocoder")
    noise = params.get("noise_schedule") or np.linspace(1e-4, 0.05, 50).tolist()
    if not np.allclose(noise, np.linspace(noise[0], noise[-1], len(noise)), rtol=1e-6):
        raise UserError("noise_schedule does not lie on a line: audiogen's DiffWave is trained on one that does")
    if mel is None:
        base, rate = MEL_FORMATS["diffwave_22k"], params.get("sample_rate", 22050)
        mel = MelFormat(**{
            **vars(base), "sample_rate": rate, "n_fft": params.get("n_fft", 1024), "n_mels": params.get("n_mels", 80),
            "hop_length": params.get("hop_samples", 256), "win_length": 4 * params.get("hop_samples", 256),
            "f_max": rate / 2,
        })
    if mel.hop_length != 256:
        raise UserError(f"hop_length={mel.hop_length}: the original's upsampler makes 256 samples a frame")
    return DiffWaveConfig(
        mel=mel, channels=params.get("residual_channels", 64), layers=params.get("residual_layers", 30),
        cycle=params.get("dilation_cycle_length", 10), embedding=512, steps=len(noise), beta_first=noise[0],
        beta_last=noise[-1], schedule=tuple(params.get("inference_noise_schedule", SIX_STEPS)),
    )
