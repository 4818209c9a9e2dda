"""From a file to what an embedder hears: channels, rate, level. Published tools differ here, and so do their numbers.

The same 23 files under one embedder were 1.09 apart from themselves by one tool's level rule alone, 0.21 by another's
channel rule (Fréchet distance, trace 9.8). So the rule is part of every result and of the cache's key.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.signal.resample import RESAMPLER, resample, resample_on_device


@dataclass(frozen=True)
class Preprocessing:
    """The default is ours: the mean of the channels, a transparent resampler, no change of level.

    channels   "mean", or "left": the others are thrown away (audioldm_eval)
    resampler  "soxr"; "kaiser": a Kaiser-windowed sinc of 64 zero crossings (fadtk, kadtk; resampy's kaiser_best is the
               same filter); "none": the file's rate is ignored (Google's scripts)
    level      "as is"; "google": divided by the largest sample, though at least by 0.1; "int16": rounded to 16 bits
    """

    channels: str = "mean"
    resampler: str = "soxr"
    level: str = "as is"

    def __post_init__(self) -> None:
        for name, known in (("channels", ("mean", "left")), ("resampler", ("soxr", "kaiser", "none")),
                            ("level", ("as is", "google", "int16"))):
            if getattr(self, name) not in known:
                raise UserError(f"preprocessing {name}={getattr(self, name)!r} must be one of {', '.join(known)}")

    def __str__(self) -> str:
        rate = {"soxr": RESAMPLER, "kaiser": f"torch {torch.__version__} Kaiser sinc, 64 zero crossings",
                "none": "no resampling: the file's rate is ignored"}[self.resampler]
        channels = {"mean": "mean of channels", "left": "left channel"}[self.channels]
        level = {"as is": "no change of level", "google": "divided by max(0.1, largest sample)",
                 "int16": "rounded to 16 bits"}[self.level]
        return f"{channels}, {rate}, {level}"

    def __call__(self, audio: Audio, sample_rate: int) -> Tensor:
        """-> (time,) float32 at `sample_rate`."""
        mono = audio.samples.mean(0) if self.channels == "mean" else audio.samples[0]
        if self.level == "google":  # max and not max |x|: in the original's words `np.amax(data)`
            mono = mono / max(0.1, float(mono.max()))
        if self.resampler == "soxr":
            mono = resample(mono, audio.sample_rate, sample_rate)
        elif self.resampler == "kaiser":
            mono = resample_on_device(mono, audio.sample_rate, sample_rate)
        if self.level == "int16":
            mono = torch.round(mono.clamp(-1, 1) * 32767) / 32768
        return mono.float()
