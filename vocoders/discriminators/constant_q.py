"""A constant-Q transform (Brown 1991) by octaves (Schörkhuber and Klapuri 2010), differentiable, on torch alone.

Bin k is the inner product of the sound with a windowed wave of f_k = f_min 2^(k / bins an octave), whose length is
Q periods: low notes are heard long, high ones short. An octave lower is the same wave at half the rate, so one set of
kernels serves all octaves, and each octave reads the sound halved once more:

    sound ── kernels, every hop ──────────────── top octave
      └─ halved ── kernels, every hop / 2 ────── the next
           └─ halved ── kernels, every hop / 4 ── ...

Kernels are at most some 400 samples then, where a matrix product over frames is cheaper than a Fourier transform.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError

C1 = 32.70319566257483  # Hz


class ConstantQ(nn.Module):
    """audio -> complex constant-Q spectrum, scaled as librosa's and nnAudio's: by the root of the kernel's length."""

    real: Tensor
    imag: Tensor
    half_band: Tensor

    def __init__(
        self, sample_rate: int, hop_length: int, octaves: int, bins_per_octave: int, *, f_min: float = C1
    ) -> None:
        super().__init__()
        self.sample_rate, self.hop_length, self.octaves, self.bins = sample_rate, hop_length, octaves, bins_per_octave
        highest = f_min * 2 ** (octaves - 1 / bins_per_octave)
        if octaves < 1 or highest > 0.5 * sample_rate:
            fits = int(math.log2(0.5 * sample_rate / f_min))
            raise UserError(f"{octaves} octaves from {f_min:.1f} Hz end at {highest:.0f} Hz, which {sample_rate} "
                            f"samples a second do not carry: choose at most {fits} octaves")
        if hop_length % 2 ** (octaves - 1):
            raise UserError(f"hop length {hop_length} must be a multiple of {2 ** (octaves - 1)} for {octaves} octaves")
        self.quality = 1.0 / (2 ** (1 / bins_per_octave) - 1)                     # Q: periods in a kernel
        kernels, scale = self._kernels(f_min)
        # Not persistent: they follow from the numbers above.
        self.register_buffer("real", kernels.real.float()[:, None], persistent=False)     # (bins, 1, length)
        self.register_buffer("imag", -kernels.imag.float()[:, None], persistent=False)    # conjugated
        self.register_buffer("scale", scale.float()[:, None], persistent=False)           # (bins, 1)
        self.register_buffer("half_band", half_band(31)[None, None], persistent=False)

    def _kernels(self, f_min: float) -> tuple[Tensor, Tensor]:
        """Waves of the top octave (bins, length) complex128, their magnitudes summing to 1, and the roots of their
        lengths in samples."""
        steps = torch.arange(self.bins, dtype=torch.float64) / self.bins
        frequencies = f_min * 2.0 ** (self.octaves - 1 + steps)                   # (bins,) Hz
        lengths = torch.ceil(self.quality * self.sample_rate / frequencies).long()
        half = int(lengths.max()) // 2 + 1
        kernels = torch.zeros(self.bins, 2 * half + 1, dtype=torch.complex128)
        for index, (frequency, length) in enumerate(zip(frequencies, lengths.tolist(), strict=True)):
            start = -(length // 2) if length % 2 == 0 else -(length + 1) // 2     # as librosa: floor(-length / 2)
            time = torch.arange(start, start + length, dtype=torch.float64)
            window = torch.hann_window(length, periodic=True, dtype=torch.float64)
            wave = window * torch.exp(2j * math.pi * frequency * time / self.sample_rate)
            kernels[index, half + start : half + start + length] = wave / window.sum()
        return kernels, lengths.double().sqrt()

    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, time) -> (batch, 2, octaves * bins, frames): real and imaginary part, low bins first.

        frames = ceil(time / hop_length) + 1; frame t is centred at t * hop_length, and silence lies around the clip.
        """
        # One hop more than the clip fills: the last frame is centred on its end.
        x = F.pad(audio, (0, -audio.shape[1] % self.hop_length + self.hop_length))[:, None]
        found = []
        for octave in range(self.octaves):
            if octave:
                x = F.conv1d(x, self.half_band, stride=2, padding=self.half_band.shape[-1] // 2)
            pad, hop_length = self.real.shape[-1] // 2, self.hop_length >> octave
            scale = self.scale * 2 ** (octave / 2)                                # the kernel's length doubles
            parts = [F.conv1d(x, part, stride=hop_length, padding=pad) * scale for part in (self.real, self.imag)]
            found.append(torch.stack(parts, 1))                                   # (batch, 2, bins, frames)
        return torch.cat(found[::-1], 2)


def half_band(zero_crossings: int) -> Tensor:
    """(2 * zero_crossings + 1,) low-pass at a quarter of the rate: a Kaiser-windowed sinc, its stop band 90 dB down."""
    time = torch.arange(-zero_crossings, zero_crossings + 1, dtype=torch.float64)
    window = torch.kaiser_window(2 * zero_crossings + 1, periodic=False, beta=9.0, dtype=torch.float64)
    taps = torch.sinc(time / 2) * window
    return (taps / taps.sum()).float()


def doubled(audio: Tensor, taps: Tensor) -> Tensor:
    """audio (batch, time) -> (batch, 2 * time) at twice the rate; taps: a `half_band`."""
    half = taps.shape[-1] // 2
    return F.conv_transpose1d(audio[:, None], 2 * taps, stride=2, padding=half, output_padding=1)[:, 0]
