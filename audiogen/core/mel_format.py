"""The mel format: the contract between data, generator and vocoder. Two different ones never meet silently."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audiogen.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MelFormat:
    """How audio becomes a log-mel spectrogram. The defaults are audiogen's own format at 22.05 kHz.

    padding "same":   reflect (n_fft - hop_length) / 2 samples at both ends, frames = time // hop_length (HiFi-GAN).
    padding "center": reflect n_fft / 2 samples at both ends, frames = time // hop_length + 1 (librosa, Vocos).
    """

    sample_rate: int = 22050  # Hz
    n_fft: int = 1024
    win_length: int = 1024  # periodic Hann window, centred in n_fft
    hop_length: int = 256  # samples
    n_mels: int = 80
    f_min: float = 0.0  # Hz
    f_max: float = 11025.0  # Hz
    mel_scale: str = "slaney"  # or "htk"
    norm: str | None = "slaney"  # area normalisation of the triangles, or None
    power: float = 1.0  # of the magnitude spectrum before the filter bank
    eps: float = 0.0  # under the root of re² + im² (HiFi-GAN: 1e-9)
    log: str = "ln"  # or "log10"
    floor: float = 1e-5  # mel values are clamped to this before the logarithm
    padding: str = "same"  # or "center"

    def __post_init__(self) -> None:
        checks = [
            (self.sample_rate > 0, f"sample_rate={self.sample_rate} must be positive"),
            (0 < self.hop_length <= self.win_length <= self.n_fft,
             f"hop_length={self.hop_length} <= win_length={self.win_length} <= n_fft={self.n_fft} must hold"),
            (0 <= self.f_min < self.f_max <= self.sample_rate / 2,
             f"0 <= f_min={self.f_min} < f_max={self.f_max} <= sample_rate / 2 = {self.sample_rate / 2} must hold"),
            (self.mel_scale in ("slaney", "htk"), f"mel_scale={self.mel_scale!r} must be 'slaney' or 'htk'"),
            (self.norm in ("slaney", None), f"norm={self.norm!r} must be 'slaney' or None"),
            (self.log in ("ln", "log10"), f"log={self.log!r} must be 'ln' or 'log10'"),
            (self.padding in ("same", "center"), f"padding={self.padding!r} must be 'same' or 'center'"),
            (self.floor > 0, f"floor={self.floor} must be positive"),
            (self.n_mels > 0, f"n_mels={self.n_mels} must be positive"),
        ]
        for good, message in checks:
            if not good:
                raise UserError(f"mel format: {message}")

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    def frames(self, time: int) -> int:
        """Number of mel frames of `time` samples."""
        return time // self.hop_length + (1 if self.padding == "center" else 0)

    def hash(self) -> str:
        """12 hex digits that name this format; equal formats have equal hashes on every machine."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def check(self, mel: Tensor, *, model: str) -> None:
        """Refuse what no vocoder or generator of this format can take, naming both sides. `model`: whose format it is.

        mel (batch, n_mels, frames), batch and frames at least 1, every value finite. While a graph is being captured
        (torch.compile, torch.export) the values are not looked at.
        """
        import torch  # not above: formats are read where torch is not loaded

        shape = tuple(mel.shape)
        if len(shape) != 3:
            raise UserError(f"{model} renders mels of shape (batch, {self.n_mels}, frames), and this one is {shape}")
        if shape[1] != self.n_mels:
            swapped = "; it looks transposed" if shape[2] == self.n_mels else ""
            raise UserError(
                f"{model} was made for {self.n_mels} mel bands, and this mel of shape {shape} has {shape[1]}{swapped}: "
                f"compute it in the model's own format ({self.sample_rate} Hz, hop_length {self.hop_length})"
            )
        if shape[0] == 0 or shape[2] == 0:
            what = "clips" if shape[0] == 0 else "frames"
            raise UserError(f"{model} needs one frame of one clip at least, and this mel {shape} has no {what}")
        if torch.compiler.is_compiling():
            return
        finite = torch.isfinite(mel)
        if not finite.all():
            bad = finite.logical_not().nonzero()
            raise UserError(
                f"{model} renders finite mels, and {len(bad)} of {mel.numel()} values of this one are NaN or infinite "
                f"(first in clip {int(bad[0, 0])}, band {int(bad[0, 1])}, frame {int(bad[0, 2])})"
            )

    def differences(self, other: MelFormat) -> dict[str, tuple]:
        """Field name -> (mine, theirs), for the fields that differ."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def require(self, other: MelFormat, *, mine: str, theirs: str) -> None:
        """Raise one readable error where the two formats differ. `mine`, `theirs`: what the formats belong to."""
        differences = self.differences(other)
        if differences:
            listed = ", ".join(f"{name} {a!r} against {b!r}" for name, (a, b) in differences.items())
            raise UserError(
                f"{mine} and {theirs} use different mel formats ({listed}): "
                f"choose a pair trained on the same format, or train one of them again with the other's format"
            )


# The published front ends. Tacotron 2 and WaveGlow share one; BigVGAN's 22 kHz format is HiFi-GAN's.
MEL_FORMATS: dict[str, MelFormat] = {
    "audiogen_22k": MelFormat(),
    "hifigan_22k": MelFormat(f_max=8000.0, eps=1e-9),
    "bigvgan_24k_100band": MelFormat(sample_rate=24000, n_mels=100, f_max=12000.0, eps=1e-9),
    "bigvgan_44k_128band": MelFormat(
        sample_rate=44100, n_fft=2048, win_length=2048, hop_length=512, n_mels=128, f_max=22050.0, eps=1e-9
    ),
    "melgan_22k": MelFormat(f_max=11025.0, log="log10"),
    "tacotron2_22k": MelFormat(f_max=8000.0, padding="center"),
    "vocos_24k": MelFormat(
        sample_rate=24000, n_mels=100, f_max=12000.0, mel_scale="htk", norm=None, floor=1e-7, padding="center"
    ),
    "parallel_wavegan_22k": MelFormat(f_min=80.0, f_max=7600.0, log="log10", floor=1e-10, padding="center"),
    "parallel_wavegan_24k": MelFormat(
        sample_rate=24000, n_fft=2048, win_length=1200, hop_length=300, f_min=80.0, f_max=7600.0,
        log="log10", floor=1e-10, padding="center",
    ),
}
