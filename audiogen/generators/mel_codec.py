"""A codec of mel frames: a few integers a step, and back (VQ-VAE: van den Oord et al. 2017; SoundStream: Zeghidour et
al. 2021, arXiv 2107.03312).

    mel (batch, n_mels, frames) -> encoder -> z (batch, latent_dim, ceil(frames / 4))
    z -> residual vector quantiser -> codes (batch, books, steps), 6 integers below 256: 1.03 kbit/s
    codes -> the vectors they stand for -> decoder -> mel, and its spread

What the token Transformer writes (`token_transformer.py`) is these codes. The codec is told neither style nor score, so
any sound can be encoded, and codes are all that is kept of it. Its decoder gives every mel value with a spread: at so
few bits the grain of a rain is lost, but how much of it there was is not, and a texture's can be drawn anew.

Encoder and decoder start as a cosine transform and its inverse. The transform keeps lengths, so that from the first
step on the nearest code is the nearest mel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.conditioning.piano_roll import ROLL_DIM
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.autoencoder import LOG_SPREAD, Encoder
from audiogen.generators.latents import Levels, cosines, edges, kept, levels, negative_log_likelihood, through
from audiogen.generators.mel_model import MelModel, masked_mean
from audiogen.generators.networks.unet import ResidualBlock
from audiogen.nn.nucleus import drawn, probabilities
from audiogen.nn.vector_quantiser import Quantised, QuantiserConfig, ResidualQuantiser

UNIT = 4.0  # a latent is a cosine term over this: of size 1 or so, while a patch of mel deviations is of size 18


@dataclass(frozen=True)
class Sampling:
    """How a clip is drawn. Every field is written into the clip."""

    temperature: float = 1.0
    """1: codes as often as they were used in training; below 1 the common ones more often, 0 the commonest."""
    grain: float = 0.5
    """Share of the decoder's own spread that is drawn too; 0 is its middle."""

    def __post_init__(self) -> None:
        for name in ("temperature", "grain"):
            if not 0 <= getattr(self, name) <= 2:
                raise UserError(f"{name}={getattr(self, name)}: choose 0 to 2")


@dataclass(frozen=True)
class MelCodecConfig:
    mel: MelFormat = MelFormat()
    latent_dim: int = 64
    widths: tuple[int, ...] = (96, 128, 192)
    """Channels at the full frame rate, at half of it, and so on: 3 levels make a step of 4 frames."""
    blocks: int = 1
    """Residual blocks of each level, in the encoder (but at the full rate) and in the decoder."""
    quantiser: QuantiserConfig = QuantiserConfig()
    commitment: float = 0.25
    """Weight of the distance of the latents to their codes."""
    edges: float = 0.2
    """Weight of the error of slopes in time and frequency, which a likelihood of single values does not see."""
    fewer: float = 0.25
    """Share of training samples that are decoded from the first 1 ... books - 1 books alone."""
    vector_dim: int = 64
    aligned_dim: int = ROLL_DIM
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if self.latent_dim < 1 or len(self.widths) < 2 or self.blocks < 1:
            raise UserError(f"codec: latent_dim={self.latent_dim} and blocks={self.blocks} must be at least 1, "
                            f"widths={self.widths} two levels at least")
        if self.latent_dim > self.mel.n_mels * self.rate:
            raise UserError(f"codec: latent_dim={self.latent_dim} is more than the {self.mel.n_mels * self.rate} mel "
                            "values of a step")
        if not 0 <= self.fewer <= 1:
            raise UserError(f"codec: fewer={self.fewer} is a share: choose 0 to 1")

    @property
    def rate(self) -> int:
        """Mel frames of one step."""
        return 2 ** (len(self.widths) - 1)


class CodecDecoder(nn.Module):
    """z (batch, latent_dim, steps) -> mean and log spread of every mel bin, in deviations, (batch, n_mels, frames)."""

    def __init__(self, config: MelCodecConfig) -> None:
        super().__init__()
        widths, n_mels = config.widths[::-1], config.mel.n_mels
        self.before = nn.Conv1d(config.latent_dim, widths[0], 3, padding=1)
        self.up = nn.ModuleList(nn.Conv1d(a, b, 3, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.blocks = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width, width, 3, 1) for _ in range(config.blocks)) for width in widths
        )
        self.out = nn.Conv1d(widths[-1], 2 * n_mels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.straight = nn.ConvTranspose1d(config.latent_dim, n_mels, config.rate, stride=config.rate, bias=False)

    def forward(self, z: Tensor, at: Levels) -> tuple[Tensor, Tensor]:
        one = z.new_ones(z.shape[0], 1)
        z = kept(z, at.masks[-1])
        x = kept(self.before(z), at.masks[-1])
        for index, blocks in enumerate(self.blocks):
            frames, mask = at.frames[-1 - index], at.masks[-1 - index]
            if index:
                x = kept(self.up[index - 1](x.repeat_interleave(2, dim=2)[..., :frames]), mask)
            x = through(blocks, x, one, mask)
        mean, log_spread = self.out(F.silu(x)).chunk(2, dim=1)
        low, high = LOG_SPREAD
        spread = low + (high - low) * torch.sigmoid(log_spread)
        return mean + self.straight(z)[..., : at.frames[0]], spread


class MelCodec(MelModel):
    """mel <-> codes."""

    config_type = MelCodecConfig
    prompted = False
    overfit_below = ("mel_l1", 0.2)  # natural log units; one batch has few more steps than a book has vectors

    def __init__(self, config: MelCodecConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, config.latent_dim)  # the autoencoder's: it reads what both configs have
        self.quantiser = ResidualQuantiser(config.quantiser, config.latent_dim)
        self.decoder = CodecDecoder(config)
        terms = cosines(config.mel.n_mels, config.rate, config.latent_dim)[0]
        with torch.no_grad():
            self.encoder.straight.weight.copy_(terms / UNIT)
            self.decoder.straight.weight.copy_(terms * UNIT)

    # ------------------------------------------------------------------ training

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss" = "nll" + edges * "edges" + commitment * "commitment"; "nll" in nats a mel value.

        "mel_l1": in the mel's units. "left_1", "left_2", ...: share of the latents' squares that is left open by so
        many books. "perplexity_1", ...: of each book's use (`ResidualQuantiser.perplexity`); "revived": vectors that
        were dead and put elsewhere. In training the quantiser learns here, and nowhere else.
        """
        config = self.config
        x0 = self.standardise(batch.mel)
        at = levels(x0.shape[2], len(config.widths), batch.lengths)
        mask, low = at.masks[0], at.masks[-1]
        z = self.encoder(x0, at) * low
        revived = z.new_zeros(())
        if self.training:
            revived = self.quantiser.learn(z, low, rng.fork("quantiser")).sum()
        q = self.quantiser(z, books=self._books(rng, z.device) if self.training else None)
        mean, log_spread = self.decoder(q.values, at)
        losses = {
            "nll": masked_mean(negative_log_likelihood(x0 - mean, log_spread, "laplace"), mask),
            "edges": edges(mean, x0, mask),
            "commitment": masked_mean(q.commitment, low),
            "mel_l1": masked_mean(((x0 - mean).abs() * self.mel_std).detach(), mask),
            "revived": revived,
        }
        power = masked_mean(z.detach().square(), low).clamp(min=1e-9)
        for book, perplexity in enumerate(self.quantiser.perplexity()):
            losses[f"left_{book + 1}"] = masked_mean(q.commitment[:, book : book + 1].detach(), low) / power
            losses[f"perplexity_{book + 1}"] = perplexity
        loss = losses["nll"] + config.edges * losses["edges"] + config.commitment * losses["commitment"]
        return {name: value.detach() for name, value in losses.items()} | {"loss": loss}

    def _books(self, rng: SampleRng, device: torch.device) -> Tensor:
        """(batch,): how many books each training sample is decoded from."""
        books = self.config.quantiser.books
        chance = rng.fork("books").rand(2, device=device)
        some = 1 + (chance[:, 1] * (books - 1)).long()  # 1 ... books - 1
        return torch.where(chance[:, 0] < self.config.fewer, some.clamp(max=books), books)

    # ------------------------------------------------------------------ between mels and codes

    def encode(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """mel (batch, n_mels, frames) -> codes (batch, books, ceil(frames / rate)) int64.

        `lengths` (batch,): real frames of every sample; codes of padding are those of silence.
        """
        self.config.mel.check(mel, model="this codec")
        return self._quantised(mel, lengths).codes

    def decode(
        self, codes: Tensor, frames: int | None = None, *, rng: SampleRng | None = None, grain: float | Tensor = 0.0,
    ) -> Tensor:
        """codes (batch, books, steps) -> mel (batch, n_mels, frames): its middle, or with `grain` of the decoder's
        spread, a number or (batch,), drawn from `rng`.

        Fewer books are a coarser mel. frames: those that were encoded; None: `rate` of every step.
        """
        steps, rate = codes.shape[-1], self.config.rate
        frames = steps * rate if frames is None else frames
        if -(-frames // rate) != steps:
            raise ValueError(f"codes of {steps} steps where {frames} frames need {-(-frames // rate)}")
        mean, log_spread = self.decoder(self.quantiser.decode(codes), levels(frames, len(self.config.widths)))
        if rng is not None:
            grain = torch.as_tensor(grain, device=mean.device).reshape(-1, 1, 1)
            u = rng.fork("grain").rand(*mean.shape[1:], device=mean.device) - 0.5
            laplace = -u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.4999999))
            mean = mean + grain * torch.exp(log_spread) * laplace
        return self.mel_from(mean)

    def reconstruct(self, mel: Tensor) -> Tensor:
        """mel -> codes -> mel, deterministically."""
        return self.decode(self.encode(mel), mel.shape[2])

    def _quantised(self, mel: Tensor, lengths: Tensor | None) -> Quantised:
        at = levels(mel.shape[2], len(self.config.widths), lengths)
        return self.quantiser(kept(self.encoder(self.standardise(mel), at), at.masks[-1]))

    # ------------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(
        self, condition: Condition, frames: int, *, rng: SampleRng, sampling: Sampling | None = None,
        negative: Tensor | None = None,
    ) -> Tensor:
        """-> mel (batch, n_mels, frames) of codes that are drawn one by one, as often as each was used in training.

        This is what the codec knows by itself: sounds that occur, of any style and in no order. It hears neither prompt
        nor score; the token Transformer does.
        """
        sampling = sampling or self.config.sampling
        self.complete(condition, len(rng), frames)
        steps = -(-frames // self.config.rate)
        chances = probabilities(self.quantiser.counts.clamp(min=1e-9).log(), temperature=sampling.temperature)
        uniform = rng.fork("codes").rand(len(chances), steps, device=chances.device)
        codes = drawn(chances[None, :, None].expand(len(rng), -1, steps, -1), uniform)
        return self.decode(codes, frames, rng=rng, grain=sampling.grain)
