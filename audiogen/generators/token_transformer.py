"""A Transformer over the codes of a mel codec (MusicGen: Copet et al. 2023, arXiv 2306.05284).

    audiogen train generator --preset mel_codec --data.manifest manifest.jsonl --train.run runs/codec
    audiogen train generator --preset token_transformer --first runs/codec/model --data.manifest manifest.jsonl

A step of sound is one code of each book. They are written with a delay (section 2.2 of the paper): book k of step s at
place s + k, so that each is chosen knowing the coarser ones of its step, in one pass a place and not one a code.

    place    0    1    2    3    4    5          -: nothing
    book 0   s0   s1   s2   s3   -    -
    book 1   -    s0   s1   s2   s3   -
    book 2   -    -    s0   s1   s2   s3

    the codes of the place before, one embedding for each book, summed
    + what style and score ask of this step (gated convolutions, which look ahead in the score) + the style
    -> causal blocks -> one output layer for each book

What condition and codec share is the mel: the convolutions also say, with a loss of their own, how the mel will look on
average ("centre"), which a small model needs few examples to learn, and the Transformer chooses codes knowing that. In
training, spans of the past are wrong or hidden: a model that has only ever heard the truth follows its own errors.
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
from audiogen.generators.condition_network import ConditionNetwork
from audiogen.generators.frame_steps import to_steps
from audiogen.generators.mel_codec import MelCodec, MelCodecConfig
from audiogen.generators.mel_model import MelModel, by_score, check_drawing, frame_mask, masked_mean, unwanted_style
from audiogen.generators.networks.gated import GatedConfig
from audiogen.nn.nucleus import drawn, probabilities
from audiogen.nn.transformer import Transformer, TransformerConfig, TransformerState


@dataclass(frozen=True)
class Sampling:
    """How a clip is drawn. Every field is written into the clip."""

    temperature: float = 0.7
    """Of the codes, where a score is played: 1 as the model has it, 0 always the likeliest."""
    texture_temperature: float = 1.0
    """The same where there is no score."""
    top_k: int = 0
    """Only the k likeliest codes; 0: all."""
    top_p: float = 0.95
    """Only the likeliest codes that together have this probability."""
    guidance: float = 1.5
    """How far codes are pushed away from what no style (or the unwanted one) asks for; 1 is not."""
    grain: float = 0.0
    """Share of the codec's own spread that is drawn too, where a score is played."""
    texture_grain: float = 0.5
    """The same where there is no score."""

    def __post_init__(self) -> None:
        check_drawing(self)
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k} must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")


@dataclass(frozen=True)
class TokenTransformerConfig:
    mel: MelFormat = MelFormat()
    first: MelCodecConfig = MelCodecConfig()
    """The codec; `--first RUN/model` fills it in."""
    network: TransformerConfig = TransformerConfig(width=192, layers=5, heads=4, reach=32)
    context: GatedConfig = GatedConfig(width=96, depth=5, means=(), bands=1)
    """The convolutions over style and score."""
    context_dim: int = 16
    """What they say of each frame beside its mel."""
    vector_dim: int = 64
    aligned_dim: int = ROLL_DIM
    drop_vector: float = 0.15
    """Share of training samples whose style is hidden: what guidance leads away from."""
    drop_aligned: float = 0.1
    """Share of training samples whose score is hidden."""
    centre: float = 1.0
    """Weight of the error of the mel that the convolutions expect."""
    wrong: float = 0.5
    """Largest share of a clip's past that is silence, or of another time; each clip draws its own."""
    hide: float = 0.15
    """Share of steps that are hidden from those that follow."""
    span: int = 10
    """So many steps in a row are wrong."""
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if self.network.context_width:
            raise UserError(f"context_width={self.network.context_width}: this model is told everything step by step")
        if not (0 <= self.wrong < 1 and 0 <= self.hide < 1 and self.span >= 1 and self.context_dim >= 1):
            raise UserError(f"token transformer: wrong={self.wrong} and hide={self.hide} are shares, "
                            f"span={self.span} and context_dim={self.context_dim} at least 1")


def delayed(codes: Tensor, nothing: int) -> Tensor:
    """codes (batch, books, steps) -> (batch, books, steps + books - 1): book k comes k places later."""
    books = codes.shape[1]
    return torch.stack(
        [F.pad(code, (k, books - 1 - k), value=nothing) for k, code in enumerate(codes.unbind(1))], dim=1
    )


def undelayed(places: Tensor) -> Tensor:
    """The inverse: (batch, books, steps + books - 1) -> codes (batch, books, steps)."""
    books, count = places.shape[1:3]
    steps = count - books + 1
    return torch.stack([place[:, k : k + steps] for k, place in enumerate(places.unbind(1))], dim=1)


class TokenTransformer(MelModel):
    """condition -> codes -> mel."""

    config_type = TokenTransformerConfig
    first_stage = "mel_codec"
    overfit_below = ("codes", 2.0)  # nats a code; a uniform choice among 256 is 5.5

    def __init__(self, config: TokenTransformerConfig) -> None:
        super().__init__(config)
        config.mel.require(config.first.mel, mine="the token Transformer", theirs="its codec")
        self.first = MelCodec(config.first).requires_grad_(False)
        self.books, self.size = config.first.quantiser.books, config.first.quantiser.size
        width = config.network.width
        self.context = ConditionNetwork(
            config.context, config.mel, vector_dim=config.vector_dim, aligned_dim=config.aligned_dim,
            channels_out=config.mel.n_mels + config.context_dim,
        )
        self.tell = nn.Linear(config.first.rate * (config.mel.n_mels + config.context_dim), width)
        self.style = nn.Linear(config.vector_dim, width, bias=False)
        self.embed = nn.Embedding(self.books * (self.size + 1), width)  # the last of each book: nothing
        nn.init.normal_(self.embed.weight, std=self.books**-0.5)
        self.network = Transformer(config.network)
        self.out = nn.Linear(width, self.books * self.size)

    # ------------------------------------------------------------------ training

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss" = "codes" + centre * "centre": nats a code, and L1 distance of the expected mel in deviations.

        "book_1", "book_2", ...: nats a code of each book. Steps that are padding do not count.
        """
        config = self.config
        mask = frame_mask(batch.lengths, batch.mel)  # (batch, 1, frames)
        with torch.no_grad():
            codes = self.first.encode(batch.mel, batch.lengths)
            real = to_steps(mask, config.first.rate).amax(dim=2) > 0  # (batch, steps)
            told = torch.where(real[:, None], codes, self.size)
            past = self._spoiled(told, rng) if self.training else told
            condition = batch.condition._replace(aligned=batch.condition.aligned * mask)
            condition = drop(condition, {"vector": config.drop_vector, "aligned": config.drop_aligned}, rng)
        context, centre = self._context(condition, real)
        logits = self._logits(past, context, rng.fork("dropout") if self.training else None)
        nats = F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="none").view(codes.shape)
        weight = real[:, None].to(nats)
        centre_loss = masked_mean((centre - self.standardise(batch.mel)).abs(), mask)
        codes_loss = masked_mean(nats, weight)
        losses = {"codes": codes_loss.detach(), "centre": centre_loss.detach()}
        for book in range(self.books):
            losses[f"book_{book + 1}"] = masked_mean(nats[:, book : book + 1].detach(), weight)
        return losses | {"loss": codes_loss + config.centre * centre_loss}

    def forward(self, codes: Tensor, condition: Condition, frames: int) -> Tensor:
        """codes (batch, books, steps) of `frames` frames -> logits (batch, books, steps, size), each of the code given
        the codes before it: those of earlier steps, and of its own the coarser ones."""
        context, _ = self._context(self.complete(condition, len(codes), frames))
        return self._logits(codes, context, None)

    def _context(self, condition: Condition, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A whole condition -> what each place is told (batch, steps + books - 1, width), and the mel that is expected,
        in deviations (batch, n_mels, frames). `real` (batch, steps) bool: False where nothing is told but the style.
        """
        out = self.context(condition)
        told = self.tell(to_steps(out, self.config.first.rate))
        if real is not None:
            told = told * real.unsqueeze(-1)
        style = self.style(condition.vector * math.sqrt(condition.vector.shape[1]))
        return F.pad(told, (0, 0, 0, self.books - 1)) + style[:, None], out[:, : self.config.mel.n_mels]

    def _logits(self, codes: Tensor, context: Tensor, rng: SampleRng | None) -> Tensor:
        """codes (batch, books, steps), of which `size` is nothing -> logits (batch, books, steps, size)."""
        before = F.pad(delayed(codes, self.size)[..., :-1], (1, 0), value=self.size)
        hidden = self.network(self._embedded(before) + context, rng=rng)
        return undelayed(self._heads(hidden).transpose(1, 2))

    def _embedded(self, places: Tensor) -> Tensor:
        """(batch, books, places) -> (batch, places, width)."""
        first = (self.size + 1) * torch.arange(self.books, device=places.device)
        return self.embed(places + first[:, None]).sum(dim=1)

    def _heads(self, hidden: Tensor) -> Tensor:
        """(batch, places, width) -> (batch, places, books, size)."""
        return self.out(hidden).unflatten(-1, (self.books, self.size)).float()

    def _spoiled(self, codes: Tensor, rng: SampleRng) -> Tensor:
        """The past that training shows: spans of silence or of another time, and hidden steps."""
        config, rng, device = self.config, rng.fork("past"), codes.device
        steps = codes.shape[2]
        chance = rng.rand(4, device=device)  # (batch, 4)
        spans = rng.rand(steps // config.span + 2, device=device).repeat_interleave(config.span, dim=1)
        begin = (chance[:, :1] * config.span).long() + torch.arange(steps, device=device)
        wrong = spans.gather(1, begin) < config.wrong * chance[:, 1:2]
        far = (0.25 + 0.5 * chance[:, 2:3]) * steps  # in time, so that it tells nothing of what comes
        at = (torch.arange(steps, device=device) + far.long()) % steps
        other = codes.gather(2, at[:, None].expand_as(codes))
        other = torch.where(chance[:, 3, None, None] < 0.5, self._silence()[:, None], other)
        hidden = rng.rand(steps, device=device) < config.hide
        there = codes[:, :1] != self.size
        codes = torch.where(wrong[:, None] & there, other, codes)
        return codes.masked_fill(hidden[:, None], self.size)

    def _silence(self) -> Tensor:
        """(books,): the codes of a step in the middle of silence."""
        frames = 9 * self.config.first.rate
        silence = self.mel_mean.new_full((1, self.config.mel.n_mels, frames), self.config.mel.lowest)
        return self.first.encode(silence)[0, :, 4]

    # ------------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(
        self, condition: Condition, frames: int, *, rng: SampleRng, sampling: Sampling | None = None,
        negative: Tensor | None = None,
    ) -> Tensor:
        """-> mel (batch, n_mels, frames). `negative` (batch, vector_dim): the style to be guided away from."""
        sampling = sampling or self.config.sampling
        condition = self.complete(condition, len(rng), frames)
        codes = self.draw(condition, frames, rng=rng, sampling=sampling, negative=negative)
        grain = by_score(condition, sampling.grain, sampling.texture_grain)
        return self.first.decode(codes, frames, rng=rng, grain=grain)

    def draw(
        self, condition: Condition, frames: int, *, rng: SampleRng, sampling: Sampling, negative: Tensor | None = None
    ) -> Tensor:
        """A whole condition -> codes (batch, books, steps). With guidance, both halves go through as one batch."""
        temperature = by_score(condition, sampling.temperature, sampling.texture_temperature)
        context, _ = self._context(condition)
        batch, count, twice = len(context), context.shape[1], sampling.guidance != 1
        steps = count - self.books + 1
        if twice:
            other = condition._replace(vector=unwanted_style(condition, negative))
            context = torch.cat((context, self._context(other)[0]))
        uniform = rng.fork("codes").rand(count, self.books, device=context.device)
        book = torch.arange(self.books, device=context.device)
        state = self.network.begin()
        places = [torch.full((batch, self.books), self.size, device=context.device)]
        for place in range(count):
            logits = self.step(places[-1].repeat(2, 1) if twice else places[-1], context[:, place], state)
            if twice:
                logits = guided(*logits.chunk(2), sampling.guidance)
            chances = probabilities(logits, temperature=temperature, top_k=sampling.top_k, top_p=sampling.top_p)
            there = (place >= book) & (place - book < steps)
            places.append(torch.where(there, drawn(chances, uniform[:, place]), self.size))
        return undelayed(torch.stack(places[1:], dim=2))

    def step(self, before: Tensor, context: Tensor, state: TransformerState) -> Tensor:
        """The codes of the place before (batch, books) and what this one is told (batch, width) -> logits (batch,
        books, size). The state (`self.network.begin()`) moves on."""
        x = self._embedded(before.unsqueeze(2)) + context.unsqueeze(1)
        return self._heads(self.network(x, state))[:, 0]
