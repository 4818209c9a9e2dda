"""Sequence to sequence with attention: notes -> mel frames, in the manner of Tacotron 2 (Shen et al. 2018).

    notes     the roll's notes as tokens (note_tokens.py): pitch, onset, duration, velocity
    encoder   tokens -> a bidirectional LSTM over them
    reader    last frames, what was read -> attention over the tokens (note_attention.py)
    decoder   what is read, style -> an LSTM, and a mixture of Gaussians over the frames of the step (frame_steps.py)

The number of frames is given, so no stop token is learned. Where Tacotron predicts one mel and mends it by a
convolutional post-net, this draws from a mixture, for music has no single right rendering. A style without a score
reads the token for "no note" all the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from audiogen.conditioning.guidance import drop
from audiogen.conditioning.piano_roll import PITCHES, ROLL_DIM
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.rng import SampleRng
from audiogen.generators.condition_network import LineStrength
from audiogen.generators.frame_steps import (
    FrameOutput,
    FrameSampling,
    FrameStepsConfig,
    frame_losses,
    own_past,
    silent_step,
    spoiled_past,
    to_frames,
    to_steps,
    whole_steps,
)
from audiogen.generators.harmonics import harmonic_templates
from audiogen.generators.mel_model import MelModel, by_score, unwanted_style
from audiogen.generators.note_attention import (
    FRESH,
    SOUNDING,
    TIMING,
    Memory,
    Reader,
    distance,
    guide_loss,
    timing,
    within_reach,
)
from audiogen.generators.note_tokens import NoteTokens, note_tokens
from audiogen.generators.task import GeneratorTask


@dataclass(frozen=True)
class Seq2SeqConfig(FrameStepsConfig):
    token_dim: int = 160
    """Size of an encoded note."""
    reader_width: int = 256
    alignment_width: int = 96
    reach: float = 1.0
    """Seconds: notes that are further from the present frame are not looked at, so that a long score looks like the
    short ones of training."""
    guide: float = 0.5
    """Weight of the loss that guides attention to the notes that sound."""
    guide_width: float = 0.15
    """Seconds: how far from a note's time attention may be at little cost."""
    centre_width: int = 256
    decoder_width: int = 384
    style_dim: int = 96

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aligned_dim != ROLL_DIM:
            raise UserError(f"seq2seq: aligned_dim={self.aligned_dim}: notes are read from a piano roll of {ROLL_DIM}")
        if self.reach <= 0 or self.guide_width <= 0 or self.token_dim % 2:
            raise UserError(f"seq2seq: reach={self.reach} and guide_width={self.guide_width} must be positive, "
                            f"token_dim={self.token_dim} even")


class Seq2SeqTask(GeneratorTask):
    """The one player; beside every demo clip a picture of what the decoder read while it played."""

    def demo(self, model: nn.Module, folder: Path, step: int) -> None:
        from audiogen.nn.alignment_picture import save_alignment

        super().demo(model, folder, step)
        for index, (name, condition, frames) in enumerate(self.demos):
            device = next(model.parameters()).device
            moved = Condition(*(part.to(device) if part is not None else None for part in condition))
            rng = SampleRng(0, ids=[index], stream="demo")  # of the clip that is heard
            _, weights, notes = model.play(moved, frames, rng=rng)
            title = f"{name}, step {step}: a row for every {model.config.group} frames"
            save_alignment(weights[0], folder / f"{name}_attention.png", given=notes.names(0), title=title)


class Seq2SeqMel(MelModel):
    """condition -> mel, note by note."""

    config_type = Seq2SeqConfig
    task_type = Seq2SeqTask
    overfit_below = ("likelihood", 0.0)  # nats a mel bin, of data in deviations (a standard normal one has 1.42)

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__(config)
        n_mels, group = config.mel.n_mels, config.group
        self.encoder = NoteEncoder(config.token_dim, config.mel.frame_rate)
        # Without a bias, so that no style adds nothing.
        self.style = nn.Linear(config.vector_dim, config.style_dim, bias=False)
        self.past = nn.Sequential(nn.Linear(group * n_mels + 2, config.past_dim), nn.SiLU())
        heard = config.past_dim + config.style_dim
        self.reader = Reader(heard, config.token_dim, config.reader_width, config.alignment_width)
        self.sight = Sight(config)
        self.centre = Centre(config, self.sight.dim)
        self.decoder = nn.LSTM(
            config.reader_width + group * config.centre_width, config.decoder_width, batch_first=True
        )
        self.output = FrameOutput(config.decoder_width, n_mels, group, components=config.components, rank=config.rank)

    # ------------------------------------------------------------------ training

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss" and its parts: those of `frame_losses`, and "guide", the share of the attention that goes to notes
        that do not sound.

        A step that reaches into padding, wholly or in part, does not count.
        """
        config, group = self.config, self.config.group
        x = to_steps(self.standardise(batch.mel), group)  # (batch, steps, group * n_mels)
        dropout = {"vector": config.drop_vector, "aligned": config.drop_aligned}
        condition = drop(batch.condition, dropout, rng)
        weight = whole_steps(batch.lengths, x.shape[1], group)
        silence = silent_step(self, group)
        past = spoiled_past(torch.where(weight.unsqueeze(-1) > 0, x, silence), silence, rng, config.spoil)
        notes, memory = self._remember(condition)
        times = self._times(0, x.shape[1])
        tau = timing(notes, times, frame_rate=config.mel.frame_rate).unflatten(1, (-1, group))
        near = self._near(notes, times)
        heard = self._heard(past.features(), condition)

        state, states = self.reader.start(memory), []
        for s in range(x.shape[1]):
            state = self.reader(heard[:, s], state, memory, tau[:, s].mean(dim=1), near[:, s])
            states.append(state)
        hidden, read, weights = (
            torch.stack([getattr(state, name) for state in states], dim=1) for name in ("hidden", "read", "weights")
        )
        seen = self.sight(read, weights, tau, notes)
        centre, features = self.centre(seen, condition.vector)
        decoded, _ = self.decoder(torch.cat((hidden, features), dim=-1))
        mixture = self.output(decoded, centre, F.pad(centre[:, :-1], (0, 0, 1, 0)), past)

        losses = frame_losses(
            x, mixture, centre, self.output.density, weight=weight, centre_weight=config.centre
        )
        away = distance(notes, times[::group])
        guide = guide_loss(weights, away, width=config.guide_width * config.mel.frame_rate)
        guide = ((guide * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)).mean()
        return losses | {"loss": losses["loss"] + config.guide * guide, "guide": guide.detach()}

    # ------------------------------------------------------------------ sampling

    def sample(
        self,
        condition: Condition,
        frames: int,
        *,
        rng: SampleRng,
        sampling: FrameSampling | None = None,
        negative: Tensor | None = None,
    ) -> Tensor:
        """-> mel (batch, n_mels, frames). `negative` (batch, vector_dim): the style that guidance pushes away from."""
        return self.play(condition, frames, rng=rng, sampling=sampling, negative=negative)[0]

    @torch.no_grad()
    def play(
        self,
        condition: Condition,
        frames: int,
        *,
        rng: SampleRng,
        sampling: FrameSampling | None = None,
        negative: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, NoteTokens]:
        """`sample`, and what was read: mel, attention weights (batch, steps, tokens), and the tokens."""
        config, group, sampling = self.config, self.config.group, sampling or self.config.sampling
        condition = self.complete(condition, len(rng), frames)
        notes, memory = self._remember(condition)
        temperature = by_score(condition, sampling.temperature, sampling.texture_temperature)
        other = unwanted_style(condition, negative)
        count, density, device = -(-frames // group), self.output.density, self.mel_mean.device
        which = rng.fork("component").rand(count, device=device)
        noise = rng.fork("frames").randn(count, density.noise_dim, device=device)
        disturb = rng.fork("past").randn(count, group * config.mel.n_mels, device=device)

        state, carried = self.reader.start(memory), None
        steps: list[Tensor] = []
        weights: list[Tensor] = []
        centre_before = disturb.new_zeros(len(rng), 1, disturb.shape[-1])
        for s in range(count):
            past = own_past(steps[-1] if steps else None, disturb[:, s], sampling.history_noise)
            times = self._times(s, s + 1)
            tau = timing(notes, times, frame_rate=config.mel.frame_rate).unflatten(1, (-1, group))
            heard = self._heard(past.features()[:, None], condition)[:, 0]
            state = self.reader(heard, state, memory, tau[:, 0].mean(dim=1), self._near(notes, times)[:, 0])
            weights.append(state.weights)
            seen = self.sight(state.read[:, None], state.weights[:, None], tau, notes)
            centre, features = self.centre(seen, condition.vector)
            if sampling.guidance != 1:
                centre = torch.lerp(self.centre(seen, other)[0], centre, sampling.guidance)
            decoded, carried = self.decoder(torch.cat((state.hidden[:, None], features), dim=-1), carried)
            mixture = self.output(decoded[:, 0], centre[:, 0], centre_before[:, 0], past)
            centre_before = centre
            steps.append(density.draw(mixture, which=which[:, s], noise=noise[:, s], temperature=temperature))
        mel = self.mel_from(to_frames(torch.stack(steps, dim=1), group, frames))
        return mel, torch.stack(weights, dim=1), notes

    # ------------------------------------------------------------------ parts

    def _remember(self, condition: Condition) -> tuple[NoteTokens, Memory]:
        notes = note_tokens(condition.aligned, frame_rate=self.config.mel.frame_rate)
        given = condition.aligned[:, -1].amax(dim=1)
        return notes, self.reader.remember(self.encoder(notes, given))

    def _heard(self, past: Tensor, condition: Condition) -> Tensor:
        """(batch, steps, group * n_mels + 2) -> (batch, steps, past_dim + style_dim)."""
        style = self.style(condition.vector * math.sqrt(condition.vector.shape[-1]))
        return torch.cat((self.past(past), style.unsqueeze(1).expand(-1, past.shape[1], -1)), dim=-1)

    def _times(self, first: int, last: int) -> Tensor:
        """The frames of steps first .. last - 1."""
        group = self.config.group
        return torch.arange(first * group, last * group, device=self.mel_mean.device, dtype=self.mel_mean.dtype)

    def _near(self, notes: NoteTokens, times: Tensor) -> Tensor:
        return within_reach(notes, times[:: self.config.group], reach=self.config.reach * self.config.mel.frame_rate)


class NoteEncoder(nn.Module):
    """Notes -> (batch, tokens, dim): what each is, and an LSTM in both directions over them."""

    def __init__(self, dim: int, frame_rate: float) -> None:
        super().__init__()
        self.frame_rate = frame_rate
        self.pitch = nn.Embedding(1 + PITCHES, dim)
        self.numbers = nn.Linear(4, dim)
        self.lstm = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(self, notes: NoteTokens, given: Tensor) -> Tensor:
        """given (batch,): 1 where there is a score."""
        seconds = (notes.end - notes.onset) / self.frame_rate
        gap = F.pad(notes.onset[:, 1:] - notes.onset[:, :-1], (1, 0)).clamp(min=0) / self.frame_rate
        real = (notes.pitch > 0).to(seconds.dtype)
        numbers = torch.stack((
            notes.velocity, real * torch.log1p(seconds.clamp(0, 2) / 0.05), real * torch.log1p(gap.clamp(0, 2) / 0.05),
            given[:, None].expand_as(seconds),
        ), dim=-1)
        x = self.pitch(notes.pitch) + self.numbers(numbers)
        packed = pack_padded_sequence(
            x, notes.mask.sum(dim=1).cpu(), batch_first=True, enforce_sorted=False
        )
        context, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return x + context


class Sight(nn.Module):
    """What is read, frame by frame: the notes' tokens, their timing, and the lines of their harmonics."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        lines = harmonic_templates(config.mel).transpose(0, 1).flatten(1)  # (pitches, 2 n_mels)
        self.register_buffer("lines", F.pad(lines, (0, 0, 1, 0)), persistent=False)  # a rest has none
        self.dim = config.token_dim + TIMING + 4 * config.mel.n_mels

    def forward(self, read: Tensor, weights: Tensor, tau: Tensor, notes: NoteTokens) -> tuple[Tensor, Tensor]:
        """read (batch, steps, token_dim), weights (batch, steps, tokens), tau (batch, steps, group, tokens, TIMING)
        -> all of it (batch, steps, group, dim), and of that the lines (batch, steps, group, 4 n_mels)."""
        times = torch.einsum("bsn,bsgnf->bsgf", weights, tau)
        # A note of a chord has a share of the attention but all of its harmonics.
        share = (weights / weights.amax(dim=-1, keepdim=True)).unsqueeze(2)  # (batch, steps, 1, tokens)
        of_notes = self.lines[notes.pitch]  # (batch, tokens, 2 n_mels)
        velocity = notes.velocity[:, None, None]
        sounding = torch.einsum("bsgn,bnm->bsgm", share * velocity * tau[..., SOUNDING], of_notes)
        fresh = torch.einsum("bsgn,bnm->bsgm", share * tau[..., FRESH], of_notes)
        lines = torch.cat((sounding, fresh), dim=-1).clamp(max=2.0)
        read = read.unsqueeze(2).expand(-1, -1, times.shape[2], -1)
        return torch.cat((read, times, lines), dim=-1), lines


class Centre(nn.Module):
    """What is seen and the style -> the centre of every frame by itself, without a past, and features of it."""

    def __init__(self, config: Seq2SeqConfig, seen_dim: int) -> None:
        super().__init__()
        width, n_mels = config.centre_width, config.mel.n_mels
        self.layers = nn.ModuleList((nn.Linear(seen_dim, width), nn.Linear(width, width)))
        self.modulate = nn.ModuleList(nn.Linear(config.vector_dim, 2 * width) for _ in self.layers)
        self.out = nn.Linear(width, n_mels)
        self.strength = LineStrength(config.vector_dim, 4 * n_mels)

    def forward(self, sight: tuple[Tensor, Tensor], vector: Tensor) -> tuple[Tensor, Tensor]:
        """-> centre (batch, steps, group * n_mels), features (batch, steps, group * width)."""
        x, lines = sight
        style = vector * math.sqrt(vector.shape[-1])
        for layer, modulate in zip(self.layers, self.modulate, strict=True):
            scale, shift = modulate(style)[:, None, None].chunk(2, dim=-1)  # (batch, 1, 1, width) each
            x = F.silu(layer(x) * (1 + scale) + shift)
        direct = self.strength(lines.flatten(1, 2).transpose(1, 2), vector)  # (batch, n_mels, steps * group)
        centre = self.out(x).float() + direct.transpose(1, 2).unflatten(1, x.shape[1:3])
        return centre.flatten(2), x.flatten(2)
