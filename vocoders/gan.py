"""Training a vocoder, whichever of the table: what `audiogen.training.fit` asks of a task.

A model with a `loss` of its own (WaveNet: likelihood; DiffWave: noise prediction) is one player. All others learn from
spectral distances first, and from step `start` on against discriminators, a second player. The two share one rendering:
the generator's turn keeps its clip for the discriminator's.

A model with `log_magnitude` (Parallel WaveGAN) says more about its training: `render(mel, rng=)` -> the clip before its
last, unlearned corrections, and the log magnitudes that its excitation was made from, which have a loss of their own;
`refine(audio, mel, passes=)` -> those corrections, as many as the losses shall look through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from audiogen.core.audio import Audio
from audiogen.core.interfaces import Batch, Player
from audiogen.core.rng import SampleRng
from audiogen.signal.mel import MelSpectrogram
from vocoders.discriminators import DiscriminatorConfig, Discriminators
from vocoders.losses import (
    Judged,
    MultiScaleMelLoss,
    SpectralLoss,
    adversarial_loss,
    feature_loss,
    magnitude_loss,
    verdict_loss,
)


@dataclass(frozen=True)
class GANConfig:
    """Weights of the losses. A model with a loss of its own needs none of them."""

    stft: float = 1.0
    """auraloss, three resolutions: spectral convergence + log magnitude."""
    mel: float = 2.0
    """Mean distance of the log-mel spectra."""
    multi_scale_mel: float = 0.0
    """Distance of log10-mel spectra, summed over seven resolutions (BigVGAN v2: 15)."""
    magnitude: float = 0.1
    """Of the frame network's own spectrum, where the model has one."""
    adversarial: float = 0.2
    features: float = 0.3
    """Distance of the discriminators' feature maps."""
    hinge: bool = False
    """Hinge loss; least squares otherwise."""
    relative_features: bool = True
    """Each feature map's distance as a share of its size; published models take the plain distance."""
    reduce: Literal["mean", "sum"] = "mean"
    """Over the sub-discriminators; HiFi-GAN and BigVGAN sum."""
    refine: int = 2
    """Passes of the model's `refine` that the losses look through."""
    magnitude_steps: int = 8_000
    """So long only a network at frame rate learns, by "magnitude" alone, where the model has one."""
    start: int = 11_500
    """The discriminators' first step."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    discriminator_rate: float | None = None
    """The discriminators' learning rate; None: the run's."""


class VocoderTask:
    """What `audiogen.training.fit` trains. `clips` (1, time) are rendered again from their own mel as demos."""

    room = "vocoder"

    def __init__(
        self, model: nn.Module, config: GANConfig | None = None, *, clips: Sequence[Tensor] = ()
    ) -> None:
        self.model, self.mel = model, model.config.mel
        self.config = config or GANConfig()
        self.adversarial = not hasattr(model, "loss")
        if self.adversarial:
            self.discriminator = Discriminators(self.config.discriminator, sample_rate=self.mel.sample_rate)
            self.spectral = SpectralLoss(self.mel)
            self.scales = MultiScaleMelLoss(self.mel.sample_rate) if self.config.multi_scale_mel else None
        self.clips = [clip[:, : clip.shape[1] // self.mel.hop_length * self.mel.hop_length] for clip in clips]
        self._rendered: dict[tuple[int, ...], Tensor] = {}  # ids -> the clips of this step's generator turn
        self._step = -1

    @property
    def shortest(self) -> int:
        """Samples that a training segment must have for every loss to be defined."""
        return max(1025, self.discriminator.shortest()) if self.adversarial else 1

    @property
    def overfit_below(self) -> tuple[str, float] | None:
        """What --overfit must reach, by the name that the loop logs it under; None, a fall by a third, where the model
        has its own loss."""
        if not self.adversarial:
            return None
        name, goal = ("magnitude", 0.6) if self._has_magnitude() and self.config.magnitude_steps else ("mel", 0.9)
        return (f"generator/{name}" if len(self.players()) > 1 else name), goal

    def players(self) -> list[Player]:
        """The generator first: the discriminator then judges the clips that are already made."""
        if not self.adversarial:
            return [Player("model", self.model, self.own_loss)]
        players = [Player("generator", self.model, self.generator_loss)]
        if self.config.adversarial or self.config.features:
            players.append(Player(
                "discriminator", self.discriminator, self.discriminator_loss,
                start=self.config.start, learning_rate=self.config.discriminator_rate,
            ))
        return players

    def own_loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        return self.model.loss(_fitting(batch, self.mel.hop_length), rng)

    def generator_loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        config, batch = self.config, _fitting(batch, self.mel.hop_length)
        if rng.step != self._step:  # a step that was given up may have left its clips
            self._step = rng.step
            self._rendered.clear()
        if rng.step < config.magnitude_steps and self._has_magnitude():
            return self._magnitude_only(batch)
        audio, log_magnitude = self._render(batch, rng)
        losses = self.spectral.to(audio.device)(audio, batch.audio)
        total = config.stft * losses["stft"] + config.mel * losses["mel"]
        if self.scales is not None:
            losses["multi_scale_mel"] = self.scales.to(audio.device)(audio, batch.audio)
            total = total + config.multi_scale_mel * losses["multi_scale_mel"]
        if log_magnitude is not None:
            losses["magnitude"] = magnitude_loss(log_magnitude, self.model.short_time, batch.audio)
            total = total + config.magnitude * losses["magnitude"]
        if rng.step >= config.start and (config.adversarial or config.features):
            self._rendered[_key(batch)] = audio.detach()
            # Each clip is judged once, the real ones without a graph: one pass over both together would carry the real
            # ones' gradients back too, to no use (1.7 times the time of the small discriminators, 1.2 of multi_period).
            with frozen(self.discriminator):
                with torch.no_grad():
                    real = self.discriminator(batch.audio)
                fake = self.discriminator(audio)
            how = dict(weights=self.discriminator.weights, reduce=config.reduce)
            losses["adversarial"] = adversarial_loss(fake, hinge=config.hinge, **how)
            losses["features"] = feature_loss(real, fake, relative=config.relative_features, **how)
            total = total + config.adversarial * losses["adversarial"] + config.features * losses["features"]
        return {"loss": total, **losses}

    def discriminator_loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        batch = _fitting(batch, self.mel.hop_length)
        audio = self._rendered.pop(_key(batch), None)
        if audio is None:
            with torch.no_grad():
                audio, _ = self._render(batch, rng)
        real, fake = self._judge(batch.audio, audio)
        how = dict(weights=self.discriminator.weights, reduce=self.config.reduce)
        return {"loss": verdict_loss(real, fake, hinge=self.config.hinge, **how)}

    def demo(self, model: nn.Module, folder: Path, step: int) -> None:
        """Copy synthesis: WAV and spectrogram of every clip, and at the first step the originals beside them."""
        from audiogen.signal.picture import save_spectrogram

        for index, clip in enumerate(self.clips):
            versions = {"copy": copy_synthesis(model, clip, rng=SampleRng(0, ids=[index]))}
            if step == 0:
                versions["original"] = clip
            for name, samples in versions.items():
                path = Path(folder) / f"clip_{index}_{name}.wav"
                Audio(samples.clamp(-1, 1), self.mel.sample_rate).save(path)
                save_spectrogram(samples[0], path.with_suffix(".png"), format=self.mel)

    def _has_magnitude(self) -> bool:
        return hasattr(self.model, "log_magnitude") and self.model.config.excitation != "noise"

    def _magnitude_only(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.mel is not None
        loss = magnitude_loss(self.model.log_magnitude(batch.mel), self.model.short_time, batch.audio)
        # Times 0: so DDP sees a gradient of every parameter, and that of the others is 0.
        rest = torch.stack([parameter.sum() for parameter in self.model.parameters()]).sum()
        return {"loss": loss + 0.0 * rest, "magnitude": loss}

    def _render(self, batch: Batch, rng: SampleRng) -> tuple[Tensor, Tensor | None]:
        assert batch.mel is not None
        if not hasattr(self.model, "log_magnitude"):
            return self.model(batch.mel, rng=rng).float(), None
        audio, log_magnitude = self.model.render(batch.mel, rng=rng)
        if self.config.refine and self.model.config.refine:
            audio = self.model.refine(audio, batch.mel, passes=self.config.refine)
        return audio.float(), log_magnitude

    def _judge(self, real: Tensor, fake: Tensor) -> tuple[Judged, Judged]:
        """The discriminator's turn: one pass over real and made clips together."""
        both = self.discriminator(torch.cat([real, fake]))
        split = [[[feature.chunk(2) for feature in part] for part in kind] for kind in both]
        return tuple([[[pair[side] for pair in part] for part in kind] for kind in split] for side in (0, 1))


def copy_synthesis(model: nn.Module, clip: Tensor, *, rng: SampleRng | None = None) -> Tensor:
    """clip (1, time) -> what the vocoder makes of its mel, (1, time) on the CPU; time in whole frames."""
    format = model.config.mel
    parameter = next(iter(model.parameters()), None)
    device = parameter.device if parameter is not None else clip.device
    time = clip.shape[1] // format.hop_length * format.hop_length
    mel = MelSpectrogram(format).to(device)(clip[None, :, :time].to(device))[..., : time // format.hop_length]
    with torch.no_grad():
        return model(mel, rng=rng)[0, :, :time].float().cpu()


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


def _fitting(batch: Batch, hop_length: int) -> Batch:
    """As many frames as the audio has hops: a format that pads "center" makes one more, round the clip's very end."""
    frames = batch.audio.shape[-1] // hop_length
    if batch.mel is None or batch.mel.shape[-1] == frames:
        return batch
    return batch._replace(mel=batch.mel[..., :frames])


def _key(batch: Batch) -> tuple[int, ...]:
    return tuple(batch.ids.tolist())
