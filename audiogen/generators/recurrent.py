"""Recurrent mel model: an LSTM or GRU that makes a few frames a step, each drawn from a mixture of Gaussians.

    context   style, piano roll -> the centre of every frame and features of it (the whole score, ahead and back)
    recurrent the frames before, the features -> how the mixture lies around the centre

LSTM: Hochreiter & Schmidhuber 1997; GRU: Cho et al. 2014; a recurrent network with a mixture density output: Graves
2013 (arXiv 1308.0850). Trained by teacher forcing on a spoiled past (frame_steps.py). Sampling keeps the state, so a
step costs the same wherever in the clip it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.conditioning.guidance import drop
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.rng import SampleRng
from audiogen.generators.condition_network import ConditionNetwork
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
from audiogen.generators.mel_model import MelModel, by_score, unwanted_style
from audiogen.generators.networks.gated import GatedConfig

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


@dataclass(frozen=True)
class RecurrentConfig(FrameStepsConfig):
    cell: str = "lstm"
    """"lstm" or "gru"."""
    width: int = 384
    depth: int = 2
    context: GatedConfig = GatedConfig(width=192, depth=6, means=())
    context_dim: int = 96
    """Features of a frame that the context gives the recurrent layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cell not in CELLS:
            raise UserError(f"recurrent: cell={self.cell!r} must be 'lstm' or 'gru'")
        for name in ("width", "depth"):
            if getattr(self, name) < 1:
                raise UserError(f"recurrent: {name}={getattr(self, name)} must be at least 1")


class RecurrentMel(MelModel):
    """condition -> mel, step by step."""

    config_type = RecurrentConfig
    presets = {"recurrent_gru": RecurrentConfig(cell="gru")}
    overfit_below = ("likelihood", 0.0)  # nats a mel bin, of data in deviations (a standard normal one has 1.42)

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        n_mels, group = config.mel.n_mels, config.group
        self.context = ConditionNetwork(
            config.context, config.mel, vector_dim=config.vector_dim, aligned_dim=config.aligned_dim,
            channels_out=n_mels + config.context_dim,
        )
        self.past = nn.Sequential(nn.Linear(group * n_mels + 2, config.past_dim), nn.SiLU())
        self.recurrent = CELLS[config.cell](
            config.past_dim + group * config.context_dim, config.width, config.depth, batch_first=True
        )
        if config.cell == "lstm":  # at first it forgets little (Jozefowicz et al. 2015); the gates are in, forget, ...
            for layer in range(config.depth):
                bias = getattr(self.recurrent, f"bias_hh_l{layer}")
                nn.init.constant_(bias.data[config.width : 2 * config.width], 1.0)
        self.beside = nn.Linear(group * config.context_dim, config.width)  # what needs no memory takes this way
        self.output = FrameOutput(config.width, n_mels, group, components=config.components, rank=config.rank)

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss": negative log-likelihood in nats a mel bin ; "error": of the mixture's mean, in deviations.

        A step that reaches into padding, wholly or in part, does not count.
        """
        config, group = self.config, self.config.group
        x = to_steps(self.standardise(batch.mel), group)  # (batch, steps, group * n_mels)
        dropout = {"vector": config.drop_vector, "aligned": config.drop_aligned}
        centre, features = self._context(drop(batch.condition, dropout, rng))
        weight = whole_steps(batch.lengths, x.shape[1], group)
        silence = silent_step(self, group)
        past = spoiled_past(torch.where(weight.unsqueeze(-1) > 0, x, silence), silence, rng, config.spoil)
        hidden, _ = self.recurrent(torch.cat((self.past(past.features()), features), dim=-1))
        centre_before = F.pad(centre[:, :-1], (0, 0, 1, 0))
        mixture = self.output(hidden + self.beside(features), centre, centre_before, past)
        return frame_losses(
            x, mixture, centre, self.output.density, weight=weight, centre_weight=config.centre
        )

    @torch.no_grad()
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
        sampling, group = sampling or self.config.sampling, self.config.group
        condition = self.complete(condition, len(rng), frames)
        centre, features = self._context(condition)
        if sampling.guidance != 1:
            without, _ = self._context(condition._replace(vector=unwanted_style(condition, negative)))
            centre = torch.lerp(without, centre, sampling.guidance)
        temperature = by_score(condition, sampling.temperature, sampling.texture_temperature)
        beside = self.beside(features)
        count, dim = centre.shape[1:]
        density = self.output.density
        which = rng.fork("component").rand(count, device=centre.device)
        noise = rng.fork("frames").randn(count, density.noise_dim, device=centre.device)
        disturb = rng.fork("past").randn(count, dim, device=centre.device)
        steps: list[Tensor] = []
        state = None
        for s in range(count):
            past = own_past(steps[-1] if steps else None, disturb[:, s], sampling.history_noise)
            into = torch.cat((self.past(past.features()), features[:, s]), dim=-1)
            hidden, state = self.recurrent(into[:, None], state)
            mixture = self.output(hidden[:, 0] + beside[:, s], centre[:, s], centre[:, max(s - 1, 0)], past)
            steps.append(
                density.draw(mixture, which=which[:, s], noise=noise[:, s], temperature=temperature)
            )
        return self.mel_from(to_frames(torch.stack(steps, dim=1), group, frames))

    def _context(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """-> centre (batch, steps, group * n_mels) and features (batch, steps, group * context_dim)."""
        out = self.context(condition)
        n_mels = self.config.mel.n_mels
        return to_steps(out[:, :n_mels], self.config.group), to_steps(out[:, n_mels:], self.config.group)
