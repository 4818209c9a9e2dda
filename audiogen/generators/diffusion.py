"""Mel diffusion: a coarse regression of the mel, and a diffusion model of what the regression leaves open.

    coarse    style, piano roll -> mean and spread of every mel bin (Laplace likelihood; deterministic, one evaluation)
    residual  (mel - mean) / (sqrt(2) spread), unit variance by construction, is what the diffusion model generates

Where notes fix the sound (an onset, a harmonic) the spread is small and the mean stands; where they do not (bow
noise, rain) the spread is large and the diffusion decides. This is shallow diffusion (Liu et al. 2022, DiffSinger)
and PriorGrad (Lee et al. 2022) in one: training hours go into detail. `coarse=None` is plain diffusion of the mel.

Objective (what is learned), network (by what) and sampler (how it is drawn) are independent: see objectives.py,
networks/ and samplers.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from audiogen.conditioning.guidance import classifier_guided, drop, guided, scale_at
from audiogen.conditioning.piano_roll import ROLL_DIM
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.harmonics import HarmonicLines
from audiogen.generators.inpainting import Known, begin, keeping
from audiogen.generators.mel_model import MelModel, by_score, frame_mask, masked_mean, unwanted_style
from audiogen.generators.networks import network_class
from audiogen.generators.networks.dit import DiTConfig
from audiogen.generators.networks.gated import GatedConfig, GatedNetwork
from audiogen.generators.networks.unet import UNetConfig
from audiogen.generators.objectives import make_objective
from audiogen.generators.samplers import Denoiser, find_sampler
from audiogen.generators.style_classifier import StyleClassifier

LOG_SPREAD = (-4.0, 1.5)  # range of the natural logarithm of the spread, in units of each mel bin's deviation
WHITE = 8.0  # bound of the whitened residual, in deviations


@dataclass(frozen=True)
class Sampling:
    """How a clip is drawn. Every field is written into the clip."""

    sampler: str = "dpmpp_2m"
    steps: int = 8
    guidance: float = 1.2
    """Classifier-free guidance (Ho & Salimans 2022): 1 is none, larger obeys the style more and varies less."""
    coarse_guidance: float = 0.0
    """How far the coarse mean is pushed away from that of no style (or of the unwanted one)."""
    classifier_guidance: float = 0.0
    """Guidance by the classifier (Dhariwal & Nichol 2021), where the model has one; 0 is none."""
    interval: tuple[float, float] | None = None
    """Guide only at noise levels in (low, high] (Kynkäänniemi et al. 2024); None is everywhere."""
    temperature: float = 0.7
    """Deviation of the starting noise where a score is played; 0 leaves the coarse mean."""
    texture_temperature: float = 1.0
    """The same where there is no score: rain is all deviation."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise UserError(f"steps={self.steps}: choose 1 to 1000 (8 to 32 is usual)")
        if not (math.isfinite(self.guidance) and 0 <= self.guidance <= 50):
            raise UserError(f"guidance={self.guidance}: choose 0 to 50 (1 is none, 1.5 to 4 is usual)")
        if not 0 <= self.classifier_guidance <= 50:
            raise UserError(f"classifier_guidance={self.classifier_guidance}: choose 0 to 50")
        if not 0 <= self.coarse_guidance <= 5:
            raise UserError(f"coarse_guidance={self.coarse_guidance}: choose 0 to 5")
        for name in ("temperature", "texture_temperature"):
            if not 0 <= getattr(self, name) <= 2:
                raise UserError(f"{name}={getattr(self, name)}: choose 0 to 2")
        find_sampler(self.sampler)


@dataclass(frozen=True)
class MelDiffusionConfig:
    mel: MelFormat = MelFormat()
    objective: str = "rectified_flow"
    network: str = "gated"
    gated: GatedConfig = GatedConfig()
    unet: UNetConfig = UNetConfig()
    dit: DiTConfig = DiTConfig()
    coarse: GatedConfig | None = GatedConfig(width=256, depth=8, means=())
    classifier: GatedConfig | None = None
    """A classifier of noisy mels by style, trained beside, for classifier guidance; None: there is none."""
    vector_dim: int = 64
    aligned_dim: int = ROLL_DIM
    drop_vector: float = 0.1
    """Share of training samples whose style is hidden, for guidance and for generation without a style."""
    drop_aligned: float = 0.1
    """Share of training samples whose score is hidden."""
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        make_objective(self.objective)  # an unknown name is an error here, before anything is built


class Coarse(NamedTuple):
    """In normalised mel units, (batch, n_mels, frames) each."""

    mean: Tensor
    log_spread: Tensor


class CoarseNetwork(nn.Module):
    """condition -> mean and spread of every mel bin: gated layers, and the notes' harmonics on a path of their own."""

    def __init__(self, config: MelDiffusionConfig) -> None:
        super().__init__()
        n_mels = config.mel.n_mels
        self.lines = HarmonicLines(config.mel) if config.aligned_dim == ROLL_DIM else None
        lines = self.lines.dim if self.lines is not None else 0
        self.network = GatedNetwork(
            config.coarse, channels_in=config.aligned_dim + lines, channels_out=2 * n_mels, vector_dim=config.vector_dim
        )
        # How much each line adds to the mean, by style: nothing at the start.
        self.strength = nn.Linear(config.vector_dim, lines) if lines else None
        if self.strength is not None:
            nn.init.zeros_(self.strength.weight)
            nn.init.zeros_(self.strength.bias)

    def forward(self, condition: Condition) -> Coarse:
        x, direct = condition.aligned, 0.0
        if self.lines is not None:
            lines = self.lines(condition.aligned)  # (batch, 4 n_mels, frames)
            vector = condition.vector * math.sqrt(condition.vector.shape[-1])
            strength = self.strength(vector).unsqueeze(-1)
            direct = sum((lines * strength).chunk(4, dim=1)).float()  # (batch, n_mels, frames)
            x = torch.cat((x, lines), dim=1)
        mean, log_spread = self.network(x, None, condition.vector).float().chunk(2, dim=1)
        low, high = LOG_SPREAD
        # A soft clamp, so that the gradient never dies at the ends.
        return Coarse(mean + direct, low + (high - low) * torch.sigmoid(log_spread))


class MelDiffusion(MelModel):
    """condition -> mel."""

    config_type = MelDiffusionConfig
    overfit_below = ("mel_l1", 0.35)  # natural log units
    presets: ClassVar[dict[str, MelDiffusionConfig]] = {
        "diffusion_small": MelDiffusionConfig(
            gated=GatedConfig(width=128, depth=8), coarse=GatedConfig(width=160, depth=6, means=())
        ),
        "diffusion_classifier": MelDiffusionConfig(
            gated=GatedConfig(width=128, depth=8), coarse=GatedConfig(width=160, depth=6, means=()),
            classifier=GatedConfig(width=64, depth=4, means=(), bands=1),
        ),
    }

    def __init__(self, config: MelDiffusionConfig) -> None:
        super().__init__(config)
        n_mels = config.mel.n_mels
        self.objective = make_objective(config.objective)
        self.coarse = CoarseNetwork(config) if config.coarse else None
        self.network = network_class(config.network)(
            getattr(config, config.network),
            channels_in=n_mels,
            channels_out=n_mels,
            vector_dim=config.vector_dim,
            aligned_dim=config.aligned_dim + (2 * n_mels if config.coarse else 0),
        )

        self.classifier = None
        if config.classifier is not None:
            channels = n_mels * (3 if config.coarse else 1)
            self.classifier = StyleClassifier(config.classifier, channels=channels, vector_dim=config.vector_dim)

    # ------------------------------------------------------------------ training

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss", and its parts "coarse" (negative log-likelihood), "mel_l1" (in the mel's units), "diffusion"."""
        x0 = self.standardise(batch.mel)  # (batch, n_mels, frames)
        mask = frame_mask(batch.lengths, x0)  # (batch, 1, frames)
        dropout = {"vector": self.config.drop_vector, "aligned": self.config.drop_aligned}
        condition = drop(batch.condition, dropout, rng)
        losses: dict[str, Tensor] = {}
        coarse = self._coarse(condition, x0)
        if coarse is not None:
            error = (x0 - coarse.mean).abs()
            losses["coarse"] = masked_mean(error * torch.exp(-coarse.log_spread) + coarse.log_spread, mask)
            losses["mel_l1"] = masked_mean((error * self.mel_std).detach(), mask)
            coarse = Coarse(coarse.mean.detach(), coarse.log_spread.detach())
            x0 = whiten(x0, coarse)
        sigma = self.objective.draw_sigma(rng.rand(1, device=x0.device)[:, 0])
        noise = rng.randn(*x0.shape[1:], device=x0.device)
        # The residual of a frame that the coarse model got badly wrong must not outweigh all the others.
        x0 = (x0.clamp(-WHITE, WHITE) if coarse is not None else x0) * mask  # nothing is said by what is no sound
        x = x0 + sigma[:, None, None] * noise
        denoised = self.denoise(x, sigma, condition, coarse)
        weight = self.objective.weight(sigma)[:, None, None]
        losses["diffusion"] = masked_mean(weight * (denoised - x0).square(), mask)
        if self.classifier is not None:
            seen = self._classified(x, sigma, batch.condition.vector, coarse, mask)
            losses["classifier"] = -seen.mean()
        losses["loss"] = sum(losses[name] for name in ("diffusion", "coarse", "classifier") if name in losses)
        return losses

    # ------------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        frames: int,
        *,
        rng: SampleRng,
        sampling: Sampling | None = None,
        negative: Tensor | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """-> mel (batch, n_mels, frames). `negative` (batch, vector_dim): the style to be guided away from. `known`:
        what is there already; it comes back as it is, and the rest is made to go with it."""
        sampling = sampling or self.config.sampling
        condition = self.complete(condition, len(rng), frames)
        like = self.mel_mean.new_zeros(len(rng), self.config.mel.n_mels, frames)
        coarse = self._coarse(condition, like)
        unwanted = unwanted_style(condition, negative)
        # The residual alone cannot undo what the style, or an unwanted one, does to the mean.
        push = sampling.coarse_guidance + (0.25 * max(sampling.guidance - 1, 0) if negative is not None else 0)
        if coarse is not None and push:
            other = self._coarse(condition._replace(vector=unwanted), like)
            coarse = coarse._replace(mean=coarse.mean + push * (coarse.mean - other.mean).clamp(-1, 1))
        without = condition._replace(vector=unwanted)
        denoise = self.guided_denoiser(condition, without, coarse, sampling)
        if sampling.classifier_guidance:
            denoise = self._steered(denoise, condition.vector, coarse, sampling)
        sigmas = self.objective.sigmas(sampling.steps).to(like.device)
        temperature = by_score(condition, sampling.temperature, sampling.texture_temperature)[:, None, None]
        start = temperature * sigmas[0] * rng.fork("start").randn(*like.shape[1:], device=like.device)
        if known is not None:
            there = self.standardise(known.check(tuple(like.shape)).mel.to(like))
            if coarse is not None:  # as in training, what the coarse model got badly wrong must not outweigh the rest
                there = whiten(there, coarse).clamp(-WHITE, WHITE)
            fixed = known.mask[:, None].to(like.device)
            start, sigmas = begin(there, fixed, start, sigmas, known.strength)
            denoise = keeping(denoise, there, fixed, bound=WHITE if coarse is not None else math.inf)
        x = find_sampler(sampling.sampler)(denoise, start, sigmas, rng=rng.fork("sampler"))
        if coarse is not None:
            x = coarse.mean + math.sqrt(2) * torch.exp(coarse.log_spread) * x
        mel = self.mel_from(x)
        return mel if known is None else torch.where(fixed, known.mel.to(mel), mel)

    def guided_denoiser(self, condition: Condition, without: Condition, coarse: Coarse | None, sampling: Sampling):
        """A denoiser with classifier-free guidance, both halves evaluated as one batch."""
        both = Condition(
            vector=torch.cat((condition.vector, without.vector)),
            aligned=torch.cat((condition.aligned, without.aligned)),
        )
        both_coarse = coarse and Coarse(*(torch.cat((part, part)) for part in coarse))

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            scale = scale_at(sampling.guidance, sigma, sampling.interval)
            if (scale == 1).all():
                denoised = self.denoise(x, sigma, condition, coarse)
            else:
                twice = self.denoise(torch.cat((x, x)), torch.cat((sigma, sigma)), both, both_coarse)
                denoised = guided(*twice.chunk(2), scale)
            return denoised if coarse is None else denoised.clamp(-WHITE, WHITE)  # as in training

        return denoise

    def _steered(self, denoise: Denoiser, vector: Tensor, coarse: Coarse | None, sampling: Sampling) -> Denoiser:
        """The denoiser, guided by the classifier towards the style."""
        if self.classifier is None:
            raise UserError(
                f"classifier_guidance={sampling.classifier_guidance}: this model has no classifier; train one with "
                "--preset diffusion_classifier"
            )

        def log_probability(x: Tensor, sigma: Tensor) -> Tensor:
            return self._classified(x, sigma, vector, coarse)

        steered = classifier_guided(denoise, log_probability, sampling.classifier_guidance)
        return steered if coarse is None else lambda x, sigma: steered(x, sigma).clamp(-WHITE, WHITE)

    def _classified(
        self, x: Tensor, sigma: Tensor, vector: Tensor, coarse: Coarse | None, mask: Tensor | None = None
    ) -> Tensor:
        """log p(vector | x), (batch,)."""
        scalars = self.objective.precondition(sigma)
        seen = scalars.c_in[:, None, None] * x
        if coarse is not None:
            seen = torch.cat((seen, coarse.mean, coarse.log_spread), dim=1)
        return self.classifier.log_probability(seen, scalars.c_noise, vector, mask)

    # ------------------------------------------------------------------ parts

    def _coarse(self, condition: Condition, like: Tensor) -> Coarse | None:
        if self.coarse is None:
            return None
        return self.coarse(condition)

    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition, coarse: Coarse | None) -> Tensor:
        """D(x; sigma), (batch, n_mels, frames)."""
        scalars = self.objective.precondition(sigma)
        aligned = condition.aligned
        if coarse is not None:
            aligned = torch.cat((aligned, coarse.mean, coarse.log_spread), dim=1)
        prediction = self.network(scalars.c_in[:, None, None] * x, scalars.c_noise, condition.vector, aligned)
        return scalars.c_skip[:, None, None] * x + scalars.c_out[:, None, None] * prediction.float()


def whiten(x0: Tensor, coarse: Coarse) -> Tensor:
    """What the coarse model leaves open of a standardised mel, (batch, n_mels, frames), in its own deviations."""
    # A Laplace distribution of scale b has the deviation sqrt(2) b.
    return (x0 - coarse.mean) / (math.sqrt(2) * torch.exp(coarse.log_spread))

