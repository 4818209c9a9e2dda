"""Known damage to the reference: what a score is read against. Functions of the clip alone, always the same."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from audiogen.core import rng


def noisy(audio: Tensor, sample_rate: int, digest: str) -> Tensor:
    """White noise 20 dB below the clip."""
    level = audio.square().mean().sqrt() / 10
    return audio + level * torch.randn(audio.shape, generator=rng.generator("anchor", digest))


def low_passed(audio: Tensor, sample_rate: int, digest: str) -> Tensor:
    """Nothing above 3 kHz."""
    spectrum = torch.fft.rfft(audio)
    spectrum[torch.fft.rfftfreq(len(audio), 1 / sample_rate) > 3000.0] = 0
    return torch.fft.irfft(spectrum, len(audio))


def white_noise(audio: Tensor, sample_rate: int, digest: str) -> Tensor:
    """Noise alone, as loud as the clip."""
    return audio.square().mean().sqrt() * torch.randn(audio.shape, generator=rng.generator("anchor", digest))


def silence(audio: Tensor, sample_rate: int, digest: str) -> Tensor:
    return torch.zeros_like(audio)


# name -> change(audio (time,), sample_rate, content hash) -> audio (time,)
ANCHORS: dict[str, Callable[[Tensor, int, str], Tensor]] = {
    "reference + noise at 20 dB": noisy,
    "reference below 3 kHz": low_passed,
    "white noise": white_noise,
    "silence": silence,
}
