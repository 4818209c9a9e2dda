"""Training a vocoder: spectral losses first, a discriminator later.

The generator learns from auraloss's multi-resolution STFT loss and the log-mel distance; from step `start` on small
discriminators sharpen what these leave blurred. Two players share one rendering: the generator's turn keeps its clip
for the discriminator's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from audiogen.core.audio import Audio
from audiogen.core.interfaces import Batch, Player
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.signal.mel import MelSpectrogram
from vocoders.discriminators import (
    DiscriminatorConfig,
    MultiResolutionDiscriminator,
    adversarial_loss,
    feature_loss,
    verdict_loss,
)
from vocoders.parallel_wavegan import ParallelWaveGAN


@dataclass(frozen=True)
class GANConfig:
    """Weights of the losses."""

    stft: float = 1.0  # auraloss, three resolutions: spectral convergence + log magnitude
    mel: float = 2.0  # mean distance of the log-mel spectra
    magnitude: float = 0.1  # of the frame network's own spectrum, where the model has one
    adversarial: float = 0.2
    features: float = 0.3
    refine: int = 2  # passes of the model's `refine` that the losses look through
    magnitude_steps: int = 8_000  # so long only the network at frame rate learns, by "magnitude" alone
    start: int = 11_500  # the discriminator's first step
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    discriminator_rate: float | None = None  # its learning rate; None: the run's


class VocoderTask:
    """What `audiogen.training.fit` trains. `clips` (1, time) are rendered again from their own mel as demos."""

    room = "vocoder"

    def __init__(
        self, model: ParallelWaveGAN, config: GANConfig | None = None, *, clips: Sequence[Tensor] = ()
    ) -> None:
        self.model, self.mel = model, model.config.mel
        self.config = config or GANConfig()
        self.discriminator = MultiResolutionDiscriminator(self.config.discriminator)
        self.spectral = SpectralLoss(self.mel)
        self.clips = [clip[:, : clip.shape[1] // self.mel.hop_length * self.mel.hop_length] for clip in clips]
        self._rendered: dict[tuple[int, ...], Tensor] = {}  # ids -> the clips of this step's generator turn

    def players(self) -> list[Player]:
        """The generator first: the discriminator then judges the clips that are already made."""
        players = [Player("generator", self.model, self.generator_loss)]
        if self.config.adversarial or self.config.features:
            players.append(Player(
                "discriminator", self.discriminator, self.discriminator_loss,
                start=self.config.start, learning_rate=self.config.discriminator_rate,
            ))
        return players

    def generator_loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        config = self.config
        if rng.step < config.magnitude_steps and self.model.config.excitation != "noise":
            return self._magnitude_only(batch)
        audio, log_magnitude = self._render(batch, rng)
        with torch.autocast(audio.device.type, enabled=False):
            losses = self.spectral.to(audio.device)(audio, batch.audio)
            total = config.stft * losses["stft"] + config.mel * losses["mel"]
            if log_magnitude is not None:
                losses["magnitude"] = magnitude_loss(log_magnitude, self.model.short_time, batch.audio)
                total = total + config.magnitude * losses["magnitude"]
        if rng.step >= config.start and (config.adversarial or config.features):
            self._rendered[_key(batch)] = audio.detach()
            with frozen(self.discriminator):
                real, fake = self._judge(batch.audio, audio)
                losses["adversarial"], losses["features"] = adversarial_loss(fake), feature_loss(real, fake)
            total = total + config.adversarial * losses["adversarial"] + config.features * losses["features"]
        return {"loss": total, **losses}

    def _magnitude_only(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.mel is not None
        log_magnitude = self.model.log_magnitude(batch.mel)
        with torch.autocast(batch.audio.device.type, enabled=False):
            loss = magnitude_loss(log_magnitude, self.model.short_time, batch.audio)
        # Times 0: so DDP sees a gradient of every parameter, and that of the others is 0.
        rest = torch.stack([parameter.sum() for parameter in self.model.parameters()]).sum()
        return {"loss": loss + 0.0 * rest, "magnitude": loss}

    def discriminator_loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        audio = self._rendered.pop(_key(batch), None)
        if audio is None:
            with torch.no_grad():
                audio, _ = self._render(batch, rng)
        real, fake = self._judge(batch.audio, audio)
        return {"loss": verdict_loss(real, fake)}

    def demo(self, model: nn.Module, folder: Path, step: int) -> None:
        """Copy synthesis: WAV and spectrogram of every clip, and at the first step the originals beside them."""
        from audiogen.signal.picture import save_spectrogram

        device = next(model.parameters()).device
        front_end = MelSpectrogram(self.mel).to(device)
        for index, clip in enumerate(self.clips):
            mel = front_end(clip[None].to(device))
            versions = {"copy": model(mel, rng=SampleRng(0, ids=[index]))[0].cpu()}
            if step == 0:
                versions["original"] = clip
            for name, samples in versions.items():
                path = Path(folder) / f"clip_{index}_{name}.wav"
                Audio(samples.clamp(-1, 1), self.mel.sample_rate).save(path)
                save_spectrogram(samples[0], path.with_suffix(".png"), format=self.mel)

    def _render(self, batch: Batch, rng: SampleRng) -> tuple[Tensor, Tensor | None]:
        assert batch.mel is not None
        audio, log_magnitude = self.model.render(batch.mel, rng=rng)
        if self.config.refine:
            audio = self.model.refine(audio, batch.mel, passes=self.config.refine)
        return audio, log_magnitude

    def _judge(self, real: Tensor, fake: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """One pass over real and fake clips together."""
        both = self.discriminator(torch.cat([real, fake]))
        split = [[feature.chunk(2) for feature in part] for part in both]
        return [[r for r, _ in part] for part in split], [[f for _, f in part] for part in split]


class SpectralLoss(nn.Module):
    """auraloss's multi-resolution STFT loss and the log-mel distance, float32, finite on silence."""

    def __init__(self, format: MelFormat) -> None:
        super().__init__()
        from auraloss.freq import MultiResolutionSTFTLoss

        self.stft = MultiResolutionSTFTLoss()  # 1024/120/600, 2048/240/1200, 512/50/240
        for part in self.stft.stft_losses:
            part.stft = _Magnitude(part)
        self.front_end = MelSpectrogram(format)

    def forward(self, audio: Tensor, target: Tensor) -> dict[str, Tensor]:
        """audio, target (batch, 1, time), time > 1024 -> "stft" and "mel"."""
        audio, target = audio.float(), target.float()
        # Spectral convergence is a distance as a share of the target's size: against silence it has no meaning and no
        # bound. There the sound that should not be is counted instead.
        loud = target.abs().amax((1, 2)) > 1e-3
        stft = (audio * ~loud[:, None, None]).abs().mean()
        if loud.any():
            stft = stft + self.stft(audio[loud], target[loud]) * loud.float().mean()
        return {"stft": stft, "mel": (self.front_end(audio) - self.front_end(target)).abs().mean()}


class _Magnitude:
    """`STFTLoss.stft` without the phase that the default loss computes and throws away: a third of its time."""

    def __init__(self, part: nn.Module) -> None:
        self.size, self.eps = (part.fft_size, part.hop_size, part.win_length), part.eps
        self.window = part.window

    def __call__(self, x: Tensor) -> tuple[Tensor, None]:
        self.window = self.window.to(x.device)
        spectrum = torch.stft(x, *self.size, self.window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=self.eps).sqrt(), None


def magnitude_loss(log_magnitude: Tensor, short_time: nn.Module, audio: Tensor) -> Tensor:
    """The same two terms for a spectrum that is predicted frame by frame: log_magnitude (batch, frames, bins)."""
    real = short_time.transform(short_time.extend(audio[:, 0]))[:, : log_magnitude.shape[1]].abs()
    log_distance = (real.clamp(min=1e-4).log() - log_magnitude.clamp(min=math.log(1e-4))).abs().mean()
    distance = (real - log_magnitude.exp()).square().sum((1, 2)).add(1e-12).sqrt()
    return log_distance + (distance / (real.square().sum((1, 2)).sqrt() + 1e-2)).mean()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the parameters of `module`; they pass through it all the same."""
    before = [parameter.requires_grad for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, value in zip(module.parameters(), before, strict=True):
            parameter.requires_grad_(value)


def _key(batch: Batch) -> tuple[int, ...]:
    return tuple(batch.ids.tolist())
