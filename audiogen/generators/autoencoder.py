"""Autoencoders over mel frames, from prompts: plain (Hinton & Salakhutdinov 2006), VAE (Kingma & Welling 2014, arXiv
1312.6114), beta-VAE (Higgins et al. 2017), InfoVAE with MMD (Zhao et al. 2019, arXiv 1706.02262).

    mel (batch, n_mels, frames) -> encoder -> z (batch, latent_dim, ceil(frames / 8)) -> decoder -> mel, and its spread
    style, piano roll -> prior p(z | style, roll), a Gaussian for every latent value; and into the decoder

All presets are one model and differ in what the latents are asked for:

    autoencoder   q(z | mel) is a point; nothing is asked. The prior is a density fitted to the codes as they are.
    vae           q is a Gaussian; KL(q || p) in full: "loss" is the negative evidence lower bound (ELBO).
    beta_vae      the same with beta = 4, warmed up, with free bits (Kingma et al. 2016, arXiv 1606.04934).
    infovae       little KL, and the maximum mean discrepancy between the z of all clips and N(0, 1).

The prior is conditional (as in Sohn et al. 2015), so what a prompt says costs the latents nothing, and `sample` draws z
from it. The encoder sees the mel alone and the decoder is often told nothing ("blind"): z must hold the whole sound, so
that clips of which nothing is known can be encoded and mixed. Told nothing, the prior is N(0, 1).

Every layer takes padding for silence before the first and after the last frame: a clip becomes the same in any batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.conditioning.guidance import drop, guided
from audiogen.conditioning.piano_roll import ROLL_DIM
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.condition_network import LineStrength
from audiogen.generators.harmonics import HarmonicLines
from audiogen.generators.latents import (
    LIKELIHOODS,
    Gaussian,
    Levels,
    bounded,
    cosines,
    edges,
    gaussian_kl,
    kept,
    levels,
    mmd,
    negative_log_likelihood,
    slerp,
    through,
)
from audiogen.generators.mel_model import MelModel, by_score, check_drawing, masked_mean, unwanted_style
from audiogen.generators.networks.unet import ResidualBlock
from audiogen.nn.noise_and_style import NoiseAndStyle

LOG_SPREAD = (-4.0, 1.5)  # range of ln(spread) of the decoder, in units of each mel bin's deviation


@dataclass(frozen=True)
class Sampling:
    """How a clip is drawn. Every field is written into the clip."""

    temperature: float = 0.5
    """Deviation of the latents, in the prior's own, where a score is played; 0 is the prior's mean."""
    texture_temperature: float = 1.0
    """The same where there is no score."""
    guidance: float = 1.5
    """How far prior and decoder are pushed away from what they say to no style (or the unwanted one); 1 is not."""
    grain: float = 0.0
    """Share of the decoder's own spread that is drawn too, where a score is played; 0 is its middle."""
    texture_grain: float = 0.5
    """The same where there is no score: a rain without grain is a hum."""

    def __post_init__(self) -> None:
        check_drawing(self)


@dataclass(frozen=True)
class AutoencoderConfig:
    mel: MelFormat = MelFormat()
    latent_dim: int = 64
    widths: tuple[int, ...] = (96, 128, 160, 160)
    """Channels at the full frame rate, at half of it, and so on: 4 levels compress time by 8."""
    blocks: int = 1
    """Residual blocks of each level, in the encoder (but at the full rate) and in the decoder."""
    modulation: int = 64
    """Size of the embedding of the style."""
    vector_dim: int = 64
    aligned_dim: int = ROLL_DIM
    gaussian: bool = False
    """Whether q(z | mel) is a Gaussian, or a point."""
    kl: float = 0.0
    """beta, the weight of KL(q || p); 1 is the ELBO."""
    warmup: int = 0
    """Steps over which that weight rises from 0."""
    free_bits: float = 0.0
    """Nats of every latent dimension, a latent frame, that cost nothing."""
    mmd: float = 0.0
    """Weight of the MMD to N(0, 1), in nats a latent frame."""
    edges: float = 0.2
    """Weight of the error of slopes in time and frequency, which a likelihood of single values does not see."""
    likelihood: str = "laplace"
    drop_vector: float = 0.1
    """Share of training samples whose style is hidden."""
    drop_aligned: float = 0.1
    """Share of training samples whose score is hidden."""
    blind: float = 0.25
    """Share of training samples of which style and score are hidden."""
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if self.latent_dim < 1 or len(self.widths) < 2 or self.blocks < 1:
            raise UserError(f"autoencoder: latent_dim={self.latent_dim} and blocks={self.blocks} must be at least 1, "
                            f"widths={self.widths} two levels at least")
        if self.latent_dim > self.mel.n_mels * self.rate:
            raise UserError(f"autoencoder: latent_dim={self.latent_dim} is more than the "
                            f"{self.mel.n_mels * self.rate} mel values of a latent frame")
        if self.likelihood not in LIKELIHOODS:
            raise UserError(f"autoencoder: likelihood={self.likelihood!r} must be 'laplace' or 'gaussian'")
        if not self.gaussian and (self.kl or self.free_bits):
            raise UserError("autoencoder: kl and free_bits need gaussian=True, for a point has no spread to weigh")

    @property
    def rate(self) -> int:
        """Mel frames of one latent frame."""
        return 2 ** (len(self.widths) - 1)


class Encoder(nn.Module):
    """mel in deviations (batch, n_mels, frames) -> (batch, channels, latent frames), the first latent_dim being codes.

    It starts as a linear map, the largest cosine terms of each latent frame's patch (`cosines`), and the decoder as
    the way back: from the first step on, latents tell something, and there is no reason to learn to ignore them.
    """

    def __init__(self, config: AutoencoderConfig, channels: int) -> None:
        super().__init__()
        widths = config.widths
        self.before = nn.Conv1d(config.mel.n_mels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv1d(a, b, 3, stride=2, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        # Told no style: the modulation is a constant, which makes it a learned gain and shift of every channel.
        self.blocks = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width, width, 3, 1) for _ in range(config.blocks)) for width in widths[1:]
        )
        self.out = nn.Conv1d(widths[-1], channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.straight = straight_encoder(config)

    def forward(self, x: Tensor, at: Levels) -> Tensor:
        one = x.new_ones(x.shape[0], 1)
        x = kept(x, at.masks[0])
        straight = self.straight(F.pad(x, (0, -x.shape[2] % self.straight.stride[0])))
        x = kept(self.before(x), at.masks[0])
        for down, blocks, mask in zip(self.down, self.blocks, at.masks[1:], strict=True):
            x = through(blocks, kept(down(F.silu(x)), mask), one, mask)
        out = self.out(F.silu(x))
        return out + F.pad(straight, (0, 0, 0, out.shape[1] - straight.shape[1]))


def straight_encoder(config: AutoencoderConfig) -> nn.Conv1d:
    """mel (batch, n_mels, whole latent frames) -> (batch, latent_dim, latent frames): cosine terms of about size 1."""
    layer = nn.Conv1d(config.mel.n_mels, config.latent_dim, config.rate, stride=config.rate, bias=False)
    with torch.no_grad():
        terms, size = cosines(config.mel.n_mels, config.rate, config.latent_dim)
        layer.weight.copy_(terms / size[:, None, None])
    return layer


class Notes(nn.Module):
    """Piano roll (batch, aligned_dim, frames) -> the same with the harmonics of its notes, (batch, dim, frames)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.lines = HarmonicLines(config.mel) if config.aligned_dim == ROLL_DIM else None
        self.dim_lines = self.lines.dim if self.lines is not None else 0
        self.dim = config.aligned_dim + self.dim_lines

    def forward(self, aligned: Tensor) -> Tensor:
        return aligned if self.lines is None else torch.cat((aligned, self.lines(aligned)), dim=1)


class Prior(nn.Module):
    """style, notes -> mean and log deviation of z in units of all codes; N(0, 1) where neither is given."""

    def __init__(self, config: AutoencoderConfig, notes: Notes) -> None:
        super().__init__()
        low, width = config.widths[0] // 2, config.widths[-1]
        self.rate = config.rate
        self.before = nn.Conv1d(notes.dim, low, 1, bias=False)
        # Sees where in a latent frame a note begins. Without biases: what all clips share would drown what tells them
        # apart, which is all that there is to learn.
        self.down = nn.Conv1d(low, width, self.rate, stride=self.rate, bias=False)
        self.tell = nn.Linear(config.vector_dim, width, bias=False)
        self.style = NoiseAndStyle(config.modulation, config.vector_dim)
        self.blocks = nn.ModuleList(ResidualBlock(width, width, 3, config.modulation) for _ in range(config.blocks + 1))
        self.out = nn.Conv1d(width, 2 * config.latent_dim, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        # Harmonics as a mel, and that as the encoder would begin to tell it.
        self.strength = LineStrength(config.vector_dim, notes.dim_lines) if notes.dim_lines else None
        self.straight = straight_encoder(config) if notes.dim_lines else None

    def forward(self, notes: Tensor, vector: Tensor, at: Levels) -> Gaussian:
        x = F.silu(self.before(kept(notes, at.masks[0])))
        x = self.down(F.pad(x, (0, -x.shape[-1] % self.rate)))
        x = kept(x + self.tell(vector * math.sqrt(vector.shape[1]))[..., None], at.masks[-1])
        x = through(self.blocks, x, self.style(None, vector, like=x), at.masks[-1])
        given = (vector.any(dim=1) | notes.any(dim=2).any(dim=1))[:, None, None]
        mean, log_std = (self.out(F.silu(x)) * given).chunk(2, dim=1)
        if self.strength is not None:
            mel = kept(self.strength(notes[:, -self.strength.out_features :], vector), at.masks[0])
            mean = mean + self.straight(F.pad(mel, (0, -mel.shape[-1] % self.rate)))
        return Gaussian(mean, bounded(log_std, 3.0))


class Decoder(nn.Module):
    """z, style, notes -> mean and log spread of every mel bin, in deviations, (batch, n_mels, frames) each."""

    def __init__(self, config: AutoencoderConfig, notes: Notes) -> None:
        super().__init__()
        widths, n_mels = config.widths[::-1], config.mel.n_mels
        self.before = nn.Conv1d(config.latent_dim, widths[0], 3, padding=1)
        self.style = NoiseAndStyle(config.modulation, config.vector_dim)
        self.up = nn.ModuleList(
            nn.Conv1d(a, b, 3, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width, width, 3, config.modulation) for _ in range(config.blocks))
            for width in widths
        )
        self.notes = nn.Conv1d(notes.dim, widths[-1], 1, bias=False)  # so that no score adds nothing
        self.out = nn.Conv1d(widths[-1], 2 * n_mels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.straight = nn.ConvTranspose1d(config.latent_dim, n_mels, config.rate, stride=config.rate, bias=False)
        with torch.no_grad():
            terms, size = cosines(n_mels, config.rate, config.latent_dim)
            self.straight.weight.copy_(terms * size[:, None, None])
        self.strength = LineStrength(config.vector_dim, notes.dim_lines) if notes.dim_lines else None

    def forward(self, z: Tensor, notes: Tensor, vector: Tensor, at: Levels) -> tuple[Tensor, Tensor]:
        style = self.style(None, vector, like=z)
        x = kept(self.before(kept(z, at.masks[-1])), at.masks[-1])
        for index, blocks in enumerate(self.blocks):
            frames, mask = at.frames[-1 - index], at.masks[-1 - index]
            if index:
                x = kept(x.repeat_interleave(2, dim=2)[..., :frames], mask)
                x = kept(self.up[index - 1](x), mask)
            if index == len(self.up):
                x = x + self.notes(kept(notes, mask))
            x = through(blocks, x, style, mask)
        mean, log_spread = self.out(F.silu(x)).chunk(2, dim=1)
        mean = mean + self.straight(z)[..., : at.frames[0]]
        if self.strength is not None:
            mean = mean + self.strength(notes[:, -self.strength.out_features :], vector)
        low, high = LOG_SPREAD
        return mean, low + (high - low) * torch.sigmoid(log_spread)  # soft: the gradient never dies at the ends


class Autoencoder(MelModel):
    """mel <-> latents; condition -> latents -> mel."""

    config_type = AutoencoderConfig
    presets = {
        "vae": AutoencoderConfig(gaussian=True, kl=1.0, warmup=200),
        "beta_vae": AutoencoderConfig(gaussian=True, kl=4.0, warmup=500, free_bits=0.02),
        "infovae": AutoencoderConfig(gaussian=True, kl=0.1, mmd=100.0),
    }
    overfit_below = ("mel_l1", 0.2)  # natural log units; about 0.44 before the first step, of what cosines leave out

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        self.notes = Notes(config)
        self.encoder = Encoder(config, config.latent_dim * (2 if config.gaussian else 1))
        self.prior = Prior(config, self.notes)
        self.decoder = Decoder(config, self.notes)
        # Measured in training: what all codes are like, (latent_dim, 1) each, over the last hundred batches or so.
        self.register_buffer("latent_mean", torch.zeros(config.latent_dim, 1))
        self.register_buffer("latent_std", torch.ones(config.latent_dim, 1))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    # ------------------------------------------------------------------ training

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss" and its parts: "nll", "kl" and "elbo", or "fit", in nats a mel value, "mel_l1" in the mel's units.

        The prior learns from codes as they are, at full rate whatever the weight of the KL is; at a weight of 1 its
        gradient and that of the encoder together are the gradient of the ELBO. "fit" is -log p of a plain code.
        "active": latent dimensions whose posterior mean varies (by more than 0.01; Burda et al. 2016); "kl_high",
        "kl_median", "kl_low": nats a latent frame of the dimensions at 90, 50 and 10 %. Where all go to 0 the posterior
        has collapsed: the latents say nothing. `usage` tells it dimension by dimension.
        """
        config = self.config
        x0 = self.standardise(batch.mel)
        at = levels(x0.shape[2], len(config.widths), batch.lengths)
        mask, low = at.masks[0], at.masks[-1]
        condition = self._hidden(batch.condition, rng)
        posterior = self._posterior(x0, at)
        if self.training:
            self._measure(posterior.mean.detach(), low)
        z = self.draw(posterior, rng)
        notes = self.notes(condition.aligned)
        mean, log_spread = self.decoder(z, notes, condition.vector, at)
        prior = self._prior(notes, condition.vector, at)

        losses = {
            "nll": masked_mean(negative_log_likelihood(x0 - mean, log_spread, config.likelihood), mask),
            "edges": edges(mean, x0, mask),
            "mel_l1": masked_mean(((x0 - mean).abs() * self.mel_std).detach(), mask),
        }
        values = mask.sum(dim=2) * config.mel.n_mels  # (batch, 1): mel values of each sample
        nats = (low.sum(dim=2) / values.clamp(min=1)).mean()  # a nat a latent frame, in nats a mel value

        def by_dimension(value: Tensor) -> Tensor:
            """(batch, latent_dim, latent frames) in nats -> (latent_dim,) in nats a mel value."""
            return ((value * low).sum(dim=2) / values.clamp(min=1)).mean(dim=0)

        if config.gaussian:
            kl = by_dimension(gaussian_kl(posterior, prior.detach()))
            losses["kl"] = kl.sum().detach()
            losses["elbo"] = -(losses["nll"] + losses["kl"]).detach()
            most, median, least = torch.quantile((kl / nats).detach(), kl.new_tensor([0.9, 0.5, 0.1]))
            losses |= {"kl_high": most, "kl_median": median, "kl_low": least}
            fit = by_dimension(gaussian_kl(posterior.detach(), prior)).sum()
            weight = config.kl * min(1.0, (rng.step + 1) / max(1, config.warmup))
            losses["loss"] = losses["nll"] + weight * kl.clamp(min=config.free_bits * nats).sum() + fit - fit.detach()
        else:
            code = negative_log_likelihood(z.detach() - prior.mean, prior.log_std, "gaussian")
            losses["fit"] = by_dimension(code).sum()
            losses["loss"] = losses["nll"] + losses["fit"]
        losses["active"] = (self._variance(posterior.mean.detach(), low) > 0.01).float().sum()
        if config.mmd:
            real = low[:, 0] > 0
            codes = z.transpose(1, 2)[real]  # (latent frames of all clips, latent_dim)
            drawn = rng.fork("mmd").randn(z.shape[2], z.shape[1], device=z.device)[real]
            losses["mmd"] = mmd(codes, drawn)
            losses["loss"] = losses["loss"] + config.mmd * nats * losses["mmd"]
        losses["loss"] = losses["loss"] + config.edges * losses["edges"]
        return losses

    def _hidden(self, condition: Condition, rng: SampleRng) -> Condition:
        """Style and score, each dropped by itself and now and then both: what is left to the latents."""
        condition = drop(condition, {"vector": self.config.drop_vector, "aligned": self.config.drop_aligned}, rng)
        seen = (rng.fork("blind").rand(1, device=condition.vector.device) >= self.config.blind).to(condition.vector)
        return condition._replace(vector=condition.vector * seen, aligned=condition.aligned * seen[..., None])

    @torch.no_grad()
    def _measure(self, codes: Tensor, mask: Tensor) -> None:
        self.batches += 1
        weight = 1 / min(int(self.batches), 100)
        mean = (codes * mask).sum(dim=(0, 2)) / mask.sum().clamp(min=1)
        before = self.latent_mean[:, 0].clone()
        spread = ((codes - before[:, None]).square() * mask).sum(dim=(0, 2)) / mask.sum().clamp(min=1)
        self.latent_mean[:, 0].lerp_(mean, weight)
        moved = (self.latent_mean[:, 0] - before).square()
        variance = torch.lerp(self.latent_std[:, 0].square(), spread, weight) - moved
        self.latent_std[:, 0] = variance.clamp(min=1e-6).sqrt()

    @torch.no_grad()
    def usage(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What each latent dimension is used for, (latent_dim,) each: KL from the prior in nats a latent frame (nan for
        plain codes, which have none), and the variance of the posterior mean."""
        frames = batch.mel.shape[2]
        q = self.posterior(batch.mel, batch.lengths)
        mask = levels(frames, len(self.config.widths), batch.lengths).masks[-1]
        p = self.prior_of(self.complete(batch.condition, len(batch.mel), frames), frames, batch.lengths)
        kl = gaussian_kl(q, p) if self.config.gaussian else torch.full_like(q.mean, math.nan)
        return (kl * mask).sum(dim=(0, 2)) / mask.sum().clamp(min=1), self._variance(q.mean, mask)

    # ------------------------------------------------------------------ between mels and latents

    def encode(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """mel (batch, n_mels, frames) -> latents (batch, latent_dim, ceil(frames / rate)): the mean of q(z | mel)."""
        return self.posterior(mel, lengths).mean

    def posterior(self, mel: Tensor, lengths: Tensor | None = None) -> Gaussian:
        """q(z | mel); of the plain autoencoder, a point, with a log_std of minus infinity."""
        self.config.mel.check(mel, model="this autoencoder")
        return self._posterior(self.standardise(mel), levels(mel.shape[2], len(self.config.widths), lengths))

    def decode(
        self, z: Tensor, frames: int, condition: Condition | None = None, *, rng: SampleRng | None = None,
        sampling: Sampling | None = None, negative: Tensor | None = None,
    ) -> Tensor:
        """Latents -> mel (batch, n_mels, frames): its middle or, given an `rng`, with the grain of `sampling`.

        frames: those that were encoded; z has ceil(frames / rate). Without a condition, what z says is all.
        """
        config = self.config
        sampling = sampling or config.sampling
        at = levels(frames, len(config.widths))
        if z.shape[1:] != (config.latent_dim, at.frames[-1]):
            raise ValueError(f"latents {tuple(z.shape)} where ({len(z)}, {config.latent_dim}, {at.frames[-1]}) are "
                             f"needed for {frames} frames")
        condition = self.complete(condition or Condition(), len(z), frames)
        notes = self.notes(condition.aligned)
        mean, log_spread = self.decoder(z, notes, condition.vector, at)
        if rng is None:
            return self.mel_from(mean)
        if sampling.guidance != 1:
            unwanted = unwanted_style(condition, negative)
            mean = guided(mean, self.decoder(z, notes, unwanted, at)[0], sampling.guidance)
        grain = by_score(condition, sampling.grain, sampling.texture_grain)[:, None, None]
        if grain.any():
            mean = mean + grain * torch.exp(log_spread) * self._noise(rng.fork("grain"), mean)
        return self.mel_from(mean)

    def reconstruct(self, mel: Tensor, condition: Condition | None = None) -> Tensor:
        """mel -> latents -> mel, deterministically."""
        return self.decode(self.encode(mel), mel.shape[2], condition)

    def interpolate(self, a: Tensor, b: Tensor, at: float) -> Tensor:
        """Two mels of one shape -> a mel between them: at 0 the reconstruction of a, at 1 that of b.

        Gaussian latents are taken along the arc (`slerp`), points along the straight line.
        """
        if a.shape != b.shape or not 0 <= at <= 1:
            raise ValueError(f"mels {tuple(a.shape)} and {tuple(b.shape)} must be of one shape, at={at} in 0..1")
        first, second = self.encode(a), self.encode(b)
        z = slerp(first, second, at) if self.config.gaussian else (1 - at) * first + at * second
        return self.decode(z, a.shape[2])

    # ------------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(
        self, condition: Condition, frames: int, *, rng: SampleRng, sampling: Sampling | None = None,
        negative: Tensor | None = None,
    ) -> Tensor:
        """-> mel (batch, n_mels, frames), decoded from latents that are drawn from p(z | style, score).

        `negative` (batch, vector_dim): the style to be guided away from, where sampling.guidance is not 1.
        """
        sampling = sampling or self.config.sampling
        condition = self.complete(condition, len(rng), frames)
        prior = self.prior_of(condition, frames)
        if sampling.guidance != 1:
            unwanted = unwanted_style(condition, negative)
            other = self.prior_of(condition._replace(vector=unwanted), frames)
            prior = prior._replace(mean=guided(prior.mean, other.mean, sampling.guidance))
        noise = rng.fork("latents").randn(*prior.mean.shape[1:], device=prior.mean.device)
        temperature = by_score(condition, sampling.temperature, sampling.texture_temperature)[:, None, None]
        z = prior.mean + temperature * torch.exp(prior.log_std) * noise
        return self.decode(z, frames, condition, rng=rng, sampling=sampling, negative=negative)

    def prior_of(self, condition: Condition, frames: int, lengths: Tensor | None = None) -> Gaussian:
        """p(z | style, score) of a complete condition (`complete`), (batch, latent_dim, ceil(frames / rate)) each."""
        at = levels(frames, len(self.config.widths), lengths)
        return self._prior(self.notes(condition.aligned), condition.vector, at)

    # ------------------------------------------------------------------ parts

    def _posterior(self, x0: Tensor, at: Levels) -> Gaussian:
        out = self.encoder(x0, at)
        if not self.config.gaussian:
            return Gaussian(out, torch.full_like(out, -math.inf))
        mean, log_std = out.chunk(2, dim=1)
        return Gaussian(mean, bounded(log_std - 2.0, 6.0))  # sharp at first: codes are told before they are made cheap

    def draw(self, q: Gaussian, rng: SampleRng) -> Tensor:
        """z from q(z | mel), or its mean where that is a point."""
        if not self.config.gaussian:
            return q.mean
        return q.mean + torch.exp(q.log_std) * rng.fork("posterior").randn(*q.mean.shape[1:], device=q.mean.device)

    def _prior(self, notes: Tensor, vector: Tensor, at: Levels) -> Gaussian:
        prior = self.prior(notes, vector, at)
        if self.config.gaussian:
            return prior
        return Gaussian(self.latent_mean + self.latent_std * prior.mean, prior.log_std + self.latent_std.log())

    def _variance(self, codes: Tensor, mask: Tensor) -> Tensor:
        """(latent_dim,): variance over the real latent frames of the batch."""
        count = mask.sum().clamp(min=1)
        mean = (codes * mask).sum(dim=(0, 2), keepdim=True) / count
        return ((codes - mean).square() * mask).sum(dim=(0, 2)) / count

    def _noise(self, rng: SampleRng, like: Tensor) -> Tensor:
        """Noise of the likelihood's kind at spread 1."""
        if self.config.likelihood == "gaussian":
            return rng.randn(*like.shape[1:], device=like.device)
        u = rng.rand(*like.shape[1:], device=like.device) - 0.5
        return -u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.4999999))
