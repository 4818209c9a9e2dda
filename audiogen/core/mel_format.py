"""The mel format: the contract between data, generator and vocoder. Two different ones never meet silently."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
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
    padding "lws":    zeros from n_fft - hop_length samples before the clip on, as many frames as reach into the clip:
                      ceil(time / hop_length) + n_fft / hop_length - 1 (r9y9's WaveNet of 2018, with the lws package).

    A mel value is clip(scale * log(max(mel, floor)) + shift).
    """

    sample_rate: int = 22050  # Hz
    n_fft: int = 1024
    win_length: int = 1024  # of the window, which is centred in n_fft
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
    padding: str = "same"  # or "center", "lws"
    # Fields that came later: left at their defaults they change neither the hash nor what older checkpoints mean.
    window: str = "hann"  # periodic; or "lws": sqrt(2 hop_length / win_length) sin(pi (n + 1/2) / win_length)
    normalized: bool = False  # the spectrum is divided by the root of the window's energy (torchaudio's `normalized`)
    scale: float = 1.0  # of the logarithm: 0.2 where 100 dB are mapped to 1
    shift: float = 0.0  # added then
    clip: tuple[float, float] | None = None  # last

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
            (self.padding in ("same", "center", "lws"), f"padding={self.padding!r} must be 'same', 'center' or 'lws'"),
            (self.padding != "lws" or self.n_fft % self.hop_length == 0,
             f"hop_length={self.hop_length} must divide n_fft={self.n_fft} where padding='lws'"),
            (self.window in ("hann", "lws"), f"window={self.window!r} must be 'hann' or 'lws'"),
            (self.scale > 0, f"scale={self.scale} must be positive"),
            (self.clip is None or self.clip[0] < self.clip[1], f"clip={self.clip} must be (low, high) with low < high"),
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
        if self.padding == "lws":
            return -(-time // self.hop_length) + self.n_fft // self.hop_length - 1 if time else 0
        return time // self.hop_length + (1 if self.padding == "center" else 0)

    def frames_to_cover(self, time: int) -> int:
        """How many of a clip's frames a vocoder must render for `time` samples of it, the `lead` included."""
        return self.frames(time) if self.padding == "lws" else -(-time // self.hop_length)

    @property
    def lead(self) -> int:
        """Samples that a render of a clip's mel has before the clip itself begins; only lws frames start so early."""
        return self.n_fft - self.hop_length if self.padding == "lws" else 0

    @property
    def lowest(self) -> float:
        """The mel value of silence."""
        value = self.scale * (math.log(self.floor) if self.log == "ln" else math.log10(self.floor)) + self.shift
        return value if self.clip is None else min(max(value, self.clip[0]), self.clip[1])

    def natural_log(self, mel: Tensor) -> Tensor:
        """Mel values of this format -> natural logarithms of the linear mel. What was clipped stays clipped."""
        return (mel - self.shift) * ((1.0 if self.log == "ln" else math.log(10.0)) / self.scale)

    def hash(self) -> str:
        """12 hex digits that name this format; equal formats have equal hashes on every machine."""
        values = {name: value for name, value in dataclasses.asdict(self).items()
                  if name not in _CAME_LATER or value != _CAME_LATER[name]}
        text = json.dumps(values, sort_keys=True)
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


_CAME_LATER = {field.name: field.default for field in dataclasses.fields(MelFormat)
               if field.name in ("window", "normalized", "scale", "shift", "clip")}

# 20 log10(mel) - 20 dB, of which the 100 dB below 0 become 0 to 1.
_DECIBELS = {"log": "log10", "scale": 0.2, "shift": 0.8, "clip": (0.0, 1.0)}
_LMNT = MelFormat(f_min=20.0, mel_scale="htk", norm=None, padding="center", normalized=True, **_DECIBELS)

# The published front ends, each equal to its original (tests/signal/test_mel_originals.py).
MEL_FORMATS: dict[str, MelFormat] = {
    "audiogen_22k": MelFormat(),
    "hifigan_22k": MelFormat(f_max=8000.0, eps=1e-9),
    "bigvgan_22k_80band": MelFormat(f_max=11025.0, eps=1e-9),
    "bigvgan_24k_100band": MelFormat(sample_rate=24000, n_mels=100, f_max=12000.0, eps=1e-9),
    "bigvgan_44k_128band": MelFormat(
        sample_rate=44100, n_fft=2048, win_length=2048, hop_length=512, n_mels=128, f_max=22050.0, eps=1e-9
    ),
    "bigvgan_44k_128band_256x": MelFormat(sample_rate=44100, n_mels=128, f_max=22050.0, eps=1e-9),
    "melgan_22k": MelFormat(f_max=11025.0, log="log10"),
    "tacotron2_22k": MelFormat(f_max=8000.0, padding="center"),
    "nv_wavenet_16k": MelFormat(
        sample_rate=16000, n_fft=800, win_length=800, hop_length=200, f_max=8000.0, padding="center"
    ),
    "vocos_24k": MelFormat(
        sample_rate=24000, n_mels=100, f_max=12000.0, mel_scale="htk", norm=None, floor=1e-7, padding="center"
    ),
    "parallel_wavegan_22k": MelFormat(f_min=80.0, f_max=7600.0, log="log10", floor=1e-10, padding="center"),
    "parallel_wavegan_24k": MelFormat(
        sample_rate=24000, n_fft=2048, win_length=1200, hop_length=300, f_min=80.0, f_max=7600.0,
        log="log10", floor=1e-10, padding="center",
    ),
    # r9y9's corpora have a mean and a spread for each band besides, as those of Parallel WaveGAN: they belong to the
    # model, which subtracts and divides by them.
    "r9y9_22k": MelFormat(f_min=125.0, f_max=7600.0, log="log10", floor=1e-10, padding="center"),
    "r9y9_2018_22k": MelFormat(f_min=125.0, f_max=7600.0, padding="lws", window="lws", **_DECIBELS),
    "diffwave_22k": _LMNT,
    "wavegrad_22k": dataclasses.replace(_LMNT, n_fft=2048, win_length=1200, hop_length=300, n_mels=128),
    "wavegrad_24k": dataclasses.replace(
        _LMNT, sample_rate=24000, f_max=12000.0, n_fft=2048, win_length=1200, hop_length=300, n_mels=128
    ),
}

# Front ends that are another's.
MEL_ALIASES: dict[str, str] = {
    "bigvgan_22k_80band_fmax8k": "hifigan_22k",
    "univnet_24k": "bigvgan_24k_100band",
    "waveglow_22k": "tacotron2_22k",
}


def mel_format(name: str) -> MelFormat:
    """A published front end by its name or alias."""
    name = MEL_ALIASES.get(name, name)
    if name not in MEL_FORMATS:
        known = [*MEL_FORMATS, *MEL_ALIASES]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise UserError(f"there is no mel format {name!r}; " + (f"did you mean {' or '.join(near)}?" if near
                                                               else f"known: {', '.join(known)}"))
    return MEL_FORMATS[name]
