"""Latent diffusion (Rombach et al. 2022, arXiv 2112.10752): diffusion in the latents of a trained autoencoder.

    audiogen train generator --preset vae --data.manifest manifest.jsonl --train.run runs/vae
    audiogen train generator --preset latent_diffusion --first runs/vae/model --data.manifest manifest.jsonl

    style, piano roll -> the autoencoder's prior: mean and deviation of every latent value      (frozen)
    x = (z - mean) / deviation, of unit variance, is what is diffused, at 1/8 of the frame rate
    z, style, piano roll -> the autoencoder's decoder -> mel                                     (frozen)

So it begins where the autoencoder's own `sample` ends (the EDM denoiser of an untrained network is exact for N(0, 1)),
and only has to learn what the prior leaves open: how latents hang together over time and among each other.
`from_prior=False` is latent diffusion as published: latents are standardised by the mean and deviation of all codes,
which the autoencoder measured in its training.

Objectives, networks and samplers are those of mel diffusion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.conditioning.guidance import drop, guided, scale_at
from audiogen.conditioning.piano_roll import ROLL_DIM
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.autoencoder import Autoencoder, AutoencoderConfig
from audiogen.generators.latents import Gaussian, levels
from audiogen.generators.mel_model import MelModel, by_score, masked_mean, unwanted_style
from audiogen.generators.networks import network_class
from audiogen.generators.networks.dit import DiTConfig
from audiogen.generators.networks.gated import GatedConfig
from audiogen.generators.networks.unet import UNetConfig
from audiogen.generators.objectives import denoiser, make_objective
from audiogen.generators.samplers import find_sampler

FARTHEST = 6.0  # bound of the standardised latents, in deviations


@dataclass(frozen=True)
class Sampling:
    """How a clip is drawn. Every field is written into the clip."""

    sampler: str = "dpmpp_2m"
    steps: int = 16
    guidance: float = 1.5
    """Classifier-free guidance (Ho & Salimans 2022): 1 is none, larger obeys the style more and varies less."""
    interval: tuple[float, float] | None = None
    """Guide only at noise levels in (low, high] (Kynkäänniemi et al. 2024); None is everywhere."""
    temperature: float = 0.7
    """Deviation of the starting noise where a score is played."""
    texture_temperature: float = 1.0
    """The same where there is no score."""
    grain: float = 0.0
    """Share of the decoder's own spread that is drawn too, where a score is played."""
    texture_grain: float = 0.5
    """The same where there is no score."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise UserError(f"steps={self.steps}: choose 1 to 1000 (8 to 32 is usual)")
        if not (math.isfinite(self.guidance) and 0 <= self.guidance <= 50):
            raise UserError(f"guidance={self.guidance}: choose 0 to 50 (1 is none, 1.5 to 4 is usual)")
        for name in ("temperature", "texture_temperature", "grain", "texture_grain"):
            if not 0 <= getattr(self, name) <= 2:
                raise UserError(f"{name}={getattr(self, name)}: choose 0 to 2")
        find_sampler(self.sampler)


@dataclass(frozen=True)
class LatentDiffusionConfig:
    mel: MelFormat = MelFormat()
    first: AutoencoderConfig = Autoencoder.presets["vae"]
    """The autoencoder; `--first RUN/model` fills it in."""
    from_prior: bool = True
    """Diffuse what the autoencoder's prior leaves open; otherwise the latents themselves."""
    objective: str = "edm"
    network: str = "gated"
    gated: GatedConfig = GatedConfig(width=192, depth=8, means=(3, 7), bands=1)
    unet: UNetConfig = UNetConfig(multipliers=(1, 2))
    dit: DiTConfig = DiTConfig(patch=1)
    vector_dim: int = 64
    aligned_dim: int = ROLL_DIM
    drop_vector: float = 0.1
    """Share of training samples whose style is hidden, from the prior and from the network."""
    drop_aligned: float = 0.1
    """Share of training samples whose score is hidden."""
    drop_guide: float = 0.15
    """Share of training samples whose style only the network is not told: what guidance leads away from."""
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        make_objective(self.objective)  # an unknown name is an error here, before anything is built


class LatentDiffusion(MelModel):
    """condition -> latents -> mel."""

    config_type = LatentDiffusionConfig
    first_stage = "autoencoder"
    overfit_below = ("diffusion", 0.5)  # of 1 at the start, where it draws from the prior

    def __init__(self, config: LatentDiffusionConfig) -> None:
        super().__init__(config)
        first = config.first
        config.mel.require(first.mel, mine="latent diffusion", theirs="its autoencoder")
        if (first.vector_dim, first.aligned_dim) != (config.vector_dim, config.aligned_dim):
            raise ValueError(f"conditions of ({config.vector_dim}, {config.aligned_dim}) numbers where the autoencoder "
                             f"takes ({first.vector_dim}, {first.aligned_dim})")
        self.objective = make_objective(config.objective)
        self.first = Autoencoder(first).requires_grad_(False)
        self.network = network_class(config.network)(
            getattr(config, config.network), channels_in=first.latent_dim, channels_out=first.latent_dim,
            vector_dim=config.vector_dim, aligned_dim=config.aligned_dim + 2 * first.latent_dim,
        )

    # ------------------------------------------------------------------ training

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss", which is "diffusion", the objective's own; "spread": root mean square of what is diffused, about 1.

        Latents are drawn from q(z | mel), not its mean: as the decoder and the prior had them. Packed ones are the
        mean, which spares the encoder its work.
        """
        config = self.config
        frames = batch.mel.shape[2] if batch.latents is None else batch.condition.aligned.shape[2]
        with torch.no_grad():
            at = levels(frames, len(config.first.widths), batch.lengths)
            mask = at.masks[-1]  # (batch, 1, latent frames)
            condition = drop(batch.condition, {"vector": config.drop_vector, "aligned": config.drop_aligned}, rng)
            condition = condition._replace(aligned=condition.aligned * at.masks[0])
            origin = self._origin(condition, frames, batch.lengths)
            z = batch.latents
            if z is None:
                z = self.first.draw(self.first.posterior(batch.mel, batch.lengths), rng)
            x0 = ((z - origin.mean) * torch.exp(-origin.log_std)).clamp(-FARTHEST, FARTHEST) * mask
            aligned = self._aligned(condition, origin) * mask
            vector = drop(Condition(vector=condition.vector), {"vector": config.drop_guide}, rng.fork("guide")).vector
        sigma = self.objective.draw_sigma(rng.rand(1, device=x0.device)[:, 0])
        noise = rng.randn(*x0.shape[1:], device=x0.device)
        noisy = (x0 + sigma[:, None, None] * noise) * mask
        denoised = denoiser(self.objective, lambda x, level: self.network(x, level, vector, aligned))(noisy, sigma)
        weight = self.objective.weight(sigma)[:, None, None]
        loss = masked_mean(weight * (denoised - x0).square(), mask)
        return {"loss": loss, "diffusion": loss.detach(), "spread": masked_mean(x0.square(), mask).sqrt()}

    # ------------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(
        self, condition: Condition, frames: int, *, rng: SampleRng, sampling: Sampling | None = None,
        negative: Tensor | None = None,
    ) -> Tensor:
        """-> mel (batch, n_mels, frames). `negative` (batch, vector_dim): the style to be guided away from."""
        sampling = sampling or self.config.sampling
        condition = self.complete(condition, len(rng), frames)
        origin = self._origin(condition, frames)
        unwanted = unwanted_style(condition, negative)
        if negative is not None and sampling.guidance > 1:
            # Diffusion alone cannot undo what an unwanted style does to the prior.
            other = self._origin(condition._replace(vector=unwanted), frames)
            origin = origin._replace(mean=guided(origin.mean, other.mean, 1 + 0.25 * (sampling.guidance - 1)))
        denoise = self._guided(condition.vector, unwanted, self._aligned(condition, origin), sampling)
        sigmas = self.objective.sigmas(sampling.steps).to(origin.mean.device)
        temperature = by_score(condition, sampling.temperature, sampling.texture_temperature)[:, None, None]
        noise = rng.fork("start").randn(*origin.mean.shape[1:], device=origin.mean.device)
        x = find_sampler(sampling.sampler)(denoise, temperature * sigmas[0] * noise, sigmas, rng=rng.fork("sampler"))
        z = origin.mean + torch.exp(origin.log_std) * x
        grained = replace(
            self.config.first.sampling, guidance=1.0, grain=sampling.grain, texture_grain=sampling.texture_grain
        )
        return self.first.decode(z, frames, condition, rng=rng, sampling=grained)

    def _guided(self, vector: Tensor, unwanted: Tensor, aligned: Tensor, sampling: Sampling):
        """A denoiser with classifier-free guidance, both halves evaluated as one batch."""
        once = denoiser(self.objective, lambda x, level: self.network(x, level, vector, aligned))
        vectors, twice_aligned = torch.cat((vector, unwanted)), torch.cat((aligned, aligned))
        twice = denoiser(self.objective, lambda x, level: self.network(x, level, vectors, twice_aligned))

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            scale = scale_at(sampling.guidance, sigma, sampling.interval)
            if (scale == 1).all():
                denoised = once(x, sigma)
            else:
                denoised = guided(*twice(torch.cat((x, x)), torch.cat((sigma, sigma))).chunk(2), scale)
            return denoised.clamp(-FARTHEST, FARTHEST)  # as in training

        return denoise

    # ------------------------------------------------------------------ between mels and latents

    def encode(self, mel: Tensor) -> Tensor:
        """mel (batch, n_mels, frames) -> latents (batch, latent_dim, latent frames): the autoencoder's."""
        return self.first.encode(mel)

    def decode(self, z: Tensor, frames: int, condition: Condition | None = None) -> Tensor:
        """Latents -> mel (batch, n_mels, frames): the autoencoder's."""
        return self.first.decode(z, frames, condition)

    def interpolate(self, a: Tensor, b: Tensor, at: float) -> Tensor:
        """Two mels of one shape -> a mel between them: the autoencoder's."""
        return self.first.interpolate(a, b, at)

    # ------------------------------------------------------------------ parts

    def _origin(self, condition: Condition, frames: int, lengths: Tensor | None = None) -> Gaussian:
        """Where latents are measured from, and in which unit, (batch, latent_dim, latent frames) each."""
        if self.config.from_prior:
            return self.first.prior_of(condition, frames, lengths)
        shape = (len(condition.vector), -1, -(-frames // self.config.first.rate))
        return Gaussian(self.first.latent_mean.expand(shape), self.first.latent_std.log().expand(shape))

    def _aligned(self, condition: Condition, origin: Gaussian) -> Tensor:
        """What runs along with the latents: the roll as means over the frames of each, and the origin."""
        return torch.cat((pooled(condition.aligned, self.config.first.rate), origin.mean, origin.log_std), dim=1)


def pooled(x: Tensor, rate: int) -> Tensor:
    """Means over `rate` frames each, the last one over those that are there: (batch, dim, ceil(frames / rate))."""
    frames = x.shape[2]
    sums = rate * F.avg_pool1d(F.pad(x, (0, -frames % rate)), rate)
    counts = (frames - rate * torch.arange(sums.shape[2], device=x.device)).clamp(max=rate)
    return sums / counts
