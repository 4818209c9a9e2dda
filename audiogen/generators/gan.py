"""Generative adversarial network over mel frames (Goodfellow et al. 2014), conditional on style and score.

    mean      style, piano roll -> mean and spread of every mel bin, by likelihood (Laplace): no adversary
    residual  noise, style, piano roll, mean, spread -> what is added, in spreads; by the adversary alone
    mel       mean + spread * residual

The L1 regression to the conditional mean of the data is thus a part of its own, stated as such, and never pulls the
noise out of the picture; `mean=None` leaves it out: then mel = residual(noise, style, piano roll), a plain conditional
GAN. The discriminators (mel_discriminators.py) are a second player of the one training loop, with every loss of
adversarial.py; penalties are lazy (Karras et al. 2020, arXiv 1912.04958, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiogen.conditioning.guidance import drop
from audiogen.conditioning.piano_roll import ROLL_DIM
from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition, Player
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.adversarial import (
    check_kind,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    r1_penalty,
)
from audiogen.generators.condition_network import ConditionNetwork
from audiogen.generators.mel_discriminators import (
    Judgement,
    MelDiscriminatorConfig,
    MelDiscriminators,
    at_places,
    score,
)
from audiogen.generators.mel_model import MelModel, frame_mask, masked_mean, unwanted_style
from audiogen.generators.networks.gated import GatedConfig
from audiogen.generators.task import GeneratorTask

LOG_SPREAD = (-4.0, 1.5)  # range of the natural logarithm of the spread, in deviations of each mel bin


@dataclass(frozen=True)
class GANSampling:
    """How a clip is drawn. Every field is written into the clip."""

    temperature: float = 1.0
    """Deviation of the noise: below 1 nearer to the usual, 0 always the same."""
    guidance: float = 1.0
    """How far the mean is pushed away from that of no style (or of the unwanted one): 1 is none."""

    def __post_init__(self) -> None:
        for name, most in (("temperature", 2), ("guidance", 5)):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= most):
                raise UserError(f"{name}={value}: choose 0 to {most}")


@dataclass(frozen=True)
class GANConfig:
    mel: MelFormat = MelFormat()
    residual: GatedConfig = GatedConfig(width=128, depth=5, means=())
    mean: GatedConfig | None = GatedConfig(width=160, depth=6, means=())
    noise_dim: int = 24
    """Rows of noise that is new in every frame."""
    clip_noise_dim: int = 8
    """Rows of noise that stays the same throughout a clip."""
    adversarial: str = "non_saturating"
    """"non_saturating", "hinge" or "wgan"."""
    r1: float = 1.0
    """Weight of the R1 penalty (gamma); 0: none."""
    gradient_penalty: float = 0.0
    """Weight of the WGAN-GP penalty (lambda: 10 is usual with "wgan"); 0: none."""
    penalty_every: int = 8
    """Penalties are computed every so many steps, with so much more weight."""
    features: float = 0.0
    """Weight of the distance of the discriminators' feature maps between made and real (Larsen et al. 2016)."""
    l1: float = 0.0
    """Weight of the L1 distance between made and real, for a model without a mean of its own."""
    discriminator: MelDiscriminatorConfig = MelDiscriminatorConfig()
    discriminator_rate: float | None = None
    """The discriminators' learning rate; None: the run's."""
    vector_dim: int = 64
    aligned_dim: int = ROLL_DIM
    drop_vector: float = 0.1
    drop_aligned: float = 0.1
    sampling: GANSampling = field(default_factory=GANSampling)

    def __post_init__(self) -> None:
        check_kind(self.adversarial)
        if self.adversarial == "wgan" and not self.gradient_penalty:
            raise UserError("adversarial='wgan' needs a discriminator of bounded slope: set gradient_penalty=10")
        if self.penalty_every < 1 or self.noise_dim < 1 or self.clip_noise_dim < 0:
            raise UserError(f"penalty_every={self.penalty_every} and noise_dim={self.noise_dim} must be at least 1, "
                            f"clip_noise_dim={self.clip_noise_dim} at least 0")


class Made(NamedTuple):
    """In deviations, (batch, n_mels, frames) each; mean and log_spread None in a plain GAN."""

    x: Tensor
    mean: Tensor | None
    log_spread: Tensor | None


class GANTask(GeneratorTask):
    """Two players: the generator, and the discriminators, which judge the clips of its turn."""

    def __init__(
        self,
        model: GANMel,
        *,
        demos: Sequence[tuple[str, Condition, int]] = (),
        render: Callable[[Tensor], Audio] | None = None,
    ) -> None:
        super().__init__(model, demos=demos, render=render)
        self.config: GANConfig = model.config
        self.discriminator = MelDiscriminators(
            self.config.discriminator, n_mels=self.mel.n_mels, vector_dim=self.config.vector_dim,
            aligned_dim=self.config.aligned_dim,
        )
        self._made: dict[tuple[int, ...], tuple[Tensor, Condition]] = {}  # ids -> clips of this step's generator turn
        self._step = -1

    def players(self) -> list[Player]:
        """The generator first: the discriminators then judge clips that are already made."""
        rate = self.config.discriminator_rate
        return [
            Player("generator", self.model, self.generator_loss),
            Player("discriminator", self.discriminator, self.discriminator_loss, learning_rate=rate),
        ]

    def generator_loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss"; "nll" and "mel_l1" of the mean (or "mel_l1" of the clip); "adversarial", and "features" if asked."""
        config = self.config
        if rng.step != self._step:  # a step that was given up may have left its clips
            self._step = rng.step
            self._made.clear()
        condition, made = self._make(batch, rng)
        losses = self.model.regression(made, batch)
        total = losses.pop("loss")
        self._made[_key(batch)] = made.x.detach(), condition
        mask = frame_mask(batch.lengths, made.x)
        fake = self.discriminator(made.x * mask, condition)
        losses["adversarial"] = _mean([
            generator_loss(f.verdicts, config.adversarial, weight=_weight(mask, f)) for f in fake
        ])
        total = total + losses["adversarial"]
        if config.features:
            with torch.no_grad():
                real = self.discriminator(self.model.standardise(batch.mel) * mask, condition)
            losses["features"] = _feature_distance(real, fake)
            total = total + config.features * losses["features"]
        return {"loss": total, **losses}

    def discriminator_loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss"; "right": share of verdicts on the right side of 0; "slope": the penalty, where it was computed."""
        config = self.config
        kept = self._made.pop(_key(batch), None)
        if kept is None:
            with torch.no_grad():
                condition, made = self._make(batch, rng)
            kept = made.x, condition
        fake_x, condition = kept
        mask = frame_mask(batch.lengths, fake_x)
        real_x, fake_x = self.model.standardise(batch.mel) * mask, fake_x * mask
        real, fake = self.discriminator(real_x, condition), self.discriminator(fake_x, condition)
        total = _mean([
            discriminator_loss(r.verdicts, f.verdicts, config.adversarial, weight=_weight(mask, r))
            for r, f in zip(real, fake, strict=True)
        ])
        right = [(r.verdicts > 0).float().mean() + (f.verdicts < 0).float().mean()
                 for r, f in zip(real, fake, strict=True)]
        losses = {"right": _mean(right).detach() / 2}
        if (config.r1 or config.gradient_penalty) and rng.step % config.penalty_every == 0:

            def judged(x: Tensor) -> Tensor:
                return score(self.discriminator(x, condition), mask)

            penalty = total.new_zeros(())
            if config.r1:
                penalty = penalty + config.r1 * r1_penalty(judged, real_x)
            if config.gradient_penalty:
                share = rng.fork("between").rand(1, device=real_x.device)[:, 0]
                penalty = penalty + config.gradient_penalty * gradient_penalty(judged, real_x, fake_x, share)
            losses["penalty"] = penalty
            total = total + config.penalty_every * penalty
        return {"loss": total, **losses}

    def _make(self, batch: Batch, rng: SampleRng) -> tuple[Condition, Made]:
        dropout = {"vector": self.config.drop_vector, "aligned": self.config.drop_aligned}
        condition = drop(batch.condition, dropout, rng)
        return condition, self.model.make(condition, self.model.noise(rng, batch.mel.shape[-1]))


class GANMel(MelModel):
    """condition, noise -> mel, in one evaluation."""

    config_type = GANConfig
    presets = {
        "gan_hinge": GANConfig(adversarial="hinge", discriminator=MelDiscriminatorConfig(spectral_norm=True), r1=0.0),
        "gan_wgan_gp": GANConfig(adversarial="wgan", gradient_penalty=10.0, r1=0.0, penalty_every=1),
    }
    task_type = GANTask
    overfit_below = ("generator/mel_l1", 0.35)  # natural log units

    def __init__(self, config: GANConfig) -> None:
        super().__init__(config)
        n_mels, sides = config.mel.n_mels, dict(vector_dim=config.vector_dim, aligned_dim=config.aligned_dim)
        noise = config.noise_dim + config.clip_noise_dim
        self.mean = ConditionNetwork(config.mean, config.mel, channels_out=2 * n_mels, **sides) if config.mean else None
        self.residual = ConditionNetwork(
            config.residual, config.mel, channels_out=n_mels, channels_in=noise + (2 * n_mels if config.mean else 0),
            **sides,
        )
        # Noise reaches the mel from the first step on, each row as a shape over the bands: the discriminators then
        # have something to shape, and the generator never starts as one that ignores its noise.
        self.grain = nn.Linear(noise, n_mels, bias=False)

    def noise(self, rng: SampleRng, frames: int) -> Tensor:
        """(batch, noise_dim + clip_noise_dim, frames) standard normal."""
        config, device = self.config, self.mel_mean.device
        frame = rng.fork("noise").randn(frames, config.noise_dim, device=device).transpose(1, 2)
        clip = rng.fork("clip noise").randn(config.clip_noise_dim, 1, device=device).expand(-1, -1, frames)
        return torch.cat((frame, clip), dim=1)

    def make(self, condition: Condition, noise: Tensor, *, without: Condition | None = None, push: float = 0) -> Made:
        """A whole condition and noise (batch, rows, frames) -> what is made of them.

        The mean is pushed away from that of `without`, `push` times as far as it is from it.
        """
        lowest = (self.config.mel.lowest - self.mel_mean) / self.mel_std  # (n_mels, 1)
        grain = self.grain(noise.transpose(1, 2)).transpose(1, 2)
        if self.mean is None:
            return Made((self.residual(condition, noise) + grain).maximum(lowest), None, None)
        mean, log_spread = self._mean(condition)
        fixed = mean.detach()
        if without is not None and push:
            fixed = fixed + push * (fixed - self._mean(without)[0].detach()).clamp(-1, 1)
        # The adversary sees the mean but does not move it: it would trade likelihood for a picture that is sharp.
        residual = grain + self.residual(condition, torch.cat((noise, fixed, log_spread.detach()), dim=1))
        x = fixed + torch.exp(log_spread.detach()) * residual
        return Made(x.maximum(lowest), mean, log_spread)

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """What is learned without an adversary (`GANTask` has the whole): the mean's likelihood, or the L1 distance."""
        return self.regression(self.make(batch.condition, self.noise(rng, batch.mel.shape[-1])), batch)

    def regression(self, made: Made, batch: Batch) -> dict[str, Tensor]:
        """"loss"; "nll", nats a mel bin; "mel_l1", the mean's (or, without one, the clip's) distance in mel units."""
        x = self.standardise(batch.mel)
        mask = frame_mask(batch.lengths, x)
        error = (x - (made.x if made.mean is None else made.mean)).abs()
        losses = {"mel_l1": masked_mean((error * self.mel_std).detach(), mask)}
        if made.mean is None:
            return {"loss": self.config.l1 * masked_mean(error, mask), **losses}
        nll = masked_mean(error * torch.exp(-made.log_spread) + made.log_spread + math.log(2), mask)
        return {"loss": nll, "nll": nll.detach(), **losses}

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        frames: int,
        *,
        rng: SampleRng,
        sampling: GANSampling | None = None,
        negative: Tensor | None = None,
    ) -> Tensor:
        """-> mel (batch, n_mels, frames). `negative` (batch, vector_dim): the style that guidance pushes away from."""
        sampling = sampling or self.config.sampling
        condition = self.complete(condition, len(rng), frames)
        without = None
        if sampling.guidance != 1:
            without = condition._replace(vector=unwanted_style(condition, negative))
        noise = sampling.temperature * self.noise(rng, frames)
        return self.mel_from(self.make(condition, noise, without=without, push=sampling.guidance - 1).x)

    def _mean(self, condition: Condition) -> tuple[Tensor, Tensor]:
        mean, log_spread = self.mean(condition).chunk(2, dim=1)
        low, high = LOG_SPREAD
        # A soft clamp, so that the gradient never dies at the ends.
        return mean, low + (high - low) * torch.sigmoid(log_spread)


def _weight(mask: Tensor, judgement: Judgement) -> Tensor:
    return at_places(mask, judgement.verdicts.shape[1])


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()


def _feature_distance(real: list[Judgement], fake: list[Judgement]) -> Tensor:
    """Mean distance of the feature maps, each as a share of the real map's size."""
    distances = [
        (a - b).abs().mean() / (a.abs().mean() + 1e-3)
        for r, f in zip(real, fake, strict=True)
        for a, b in zip(r.features, f.features, strict=True)
    ]
    return _mean(distances)


def _key(batch: Batch) -> tuple[int, ...]:
    return tuple(batch.ids.tolist())
