"""Mel enhancement by conditional diffusion: noise taken out of a recording, missing high frequencies put in.

The diffusion model of `diffusion.py` with another condition: the mel of the spoiled recording in place of a score. Its
coarse half regresses the clean mel and how sure that is; its diffusion half draws what the recording no longer tells
(Serrà et al. 2022, UNIVERSE; Lemercier et al. 2023, StoRM have the same two halves). In training the loss spoils each
segment itself, with keyed randomness: coloured noise, a low-pass, or both; some stay as they are, so that a good
recording comes back unharmed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.diffusion import Coarse, CoarseNetwork, MelDiffusion, MelDiffusionConfig, Sampling
from audiogen.generators.mel_model import frame_mask
from audiogen.generators.networks.gated import GatedConfig
from audiogen.signal.degrade import add_noise, coloured_noise, low_pass
from audiogen.signal.mel import MelSpectrogram


@dataclass(frozen=True)
class Spoiling:
    """How training segments are made bad."""

    noisy: float = 0.6
    """Share with noise."""
    snr_db: tuple[float, float] = (0.0, 25.0)
    narrow: float = 0.5
    """Share with a low-pass, independently."""
    cutoff: tuple[float, float] = (1500.0, 8000.0)
    """Hz."""

    def __post_init__(self) -> None:
        for name in ("noisy", "narrow"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: a share is 0 to 1")
        for name in ("snr_db", "cutoff"):
            low, high = getattr(self, name)
            if not low <= high:
                raise UserError(f"{name}={low, high}: give the lower end first")

    def spoil(self, audio: Tensor, sample_rate: int, rng: SampleRng) -> Tensor:
        """audio (batch, 1, time) -> the same, spoiled; each sample by its own numbers."""
        device = audio.device
        choice = rng.fork("choice").rand(5, device=device)
        narrow = choice[:, 0] < self.narrow
        low, high = self.cutoff
        cutoff = low * (high / low) ** choice[:, 1]
        cutoff = torch.where(narrow, cutoff, torch.full_like(cutoff, 4.0 * sample_rate))  # above all there is
        snr_db = self.snr_db[0] + (self.snr_db[1] - self.snr_db[0]) * choice[:, 3]
        snr_db = torch.where(choice[:, 2] < self.noisy, snr_db, torch.full_like(snr_db, 200.0))
        noise = coloured_noise(rng.fork("noise"), audio.shape[-1], 2.0 * choice[:, 4])
        # Noise of the place comes before the narrow line that it is recorded through.
        return low_pass(add_noise(audio, noise, snr_db), cutoff, sample_rate)


@dataclass(frozen=True)
class EnhancerConfig(MelDiffusionConfig):
    """`aligned_dim` is the number of mel bands: the condition is a mel, standardised as the output is."""

    gated: GatedConfig = GatedConfig(width=128, depth=8)
    coarse: GatedConfig | None = GatedConfig(width=160, depth=8, means=(), dilations=(1, 2, 4, 8))
    aligned_dim: int = MelFormat().n_mels
    drop_vector: float = 0.5
    """What a recording is of may be told, and mostly is not."""
    drop_aligned: float = 0.0
    spoiling: Spoiling = Spoiling()
    sampling: Sampling = field(default_factory=lambda: Sampling(steps=6, guidance=1.0, temperature=0.6))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aligned_dim != self.mel.n_mels:
            raise UserError(f"enhancer: aligned_dim={self.aligned_dim} must be the mel's {self.mel.n_mels} bands")


class Correction(CoarseNetwork):
    """What the recording tells of the clean mel: itself and a correction, which a good recording does not need."""

    def forward(self, condition: Condition) -> Coarse:
        coarse = super().forward(condition)
        return coarse._replace(mean=condition.aligned + coarse.mean)


class MelEnhancer(MelDiffusion):
    """mel of a spoiled recording -> mel of the clean one."""

    config_type = EnhancerConfig
    presets: ClassVar[dict[str, EnhancerConfig]] = {}
    prompted = False
    overfit_below = ("mel_l1", 0.9)  # natural log units, of about 1.7 at first: every step spoils the batch anew

    def __init__(self, config: EnhancerConfig) -> None:
        super().__init__(config)
        if config.coarse:
            self.coarse = Correction(config)
        self.front_end = [MelSpectrogram(config.mel)]  # in a list: it is no part of the checkpoint

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """As in `MelDiffusion`, with the batch's audio spoiled as the condition."""
        return super().loss(batch._replace(condition=self.example(batch, rng.fork("spoil"))), rng)

    @torch.no_grad()
    def example(self, batch: Batch, rng: SampleRng) -> Condition:
        """The batch's audio, spoiled, as a condition; the batch is the rng's."""
        hop_length = self.config.mel.hop_length
        sound = frame_mask(batch.lengths * hop_length, batch.audio)
        spoiled = self.config.spoiling.spoil(batch.audio * sound, self.config.mel.sample_rate, rng)
        mel = self.front_end[0].to(spoiled.device)(spoiled)[..., : batch.audio.shape[-1] // hop_length]
        return Condition(vector=batch.condition.vector, aligned=self.standardise(mel))

    def enhance(
        self, mel: Tensor, *, rng: SampleRng, vector: Tensor | None = None, sampling: Sampling | None = None
    ) -> Tensor:
        """mel (batch, n_mels, frames) of a spoiled recording -> the clean one, of the same shape. `vector` (batch,
        vector_dim): what it is a recording of."""
        condition = Condition(vector=vector, aligned=self.standardise(mel.to(self.mel_mean)))
        return self.sample(condition, mel.shape[-1], rng=rng, sampling=sampling)
