"""Griffin-Lim: a waveform whose spectrogram comes near the one wanted, by projections alone, with no weights.

Griffin and Lim 1984, with the momentum of Perraudin, Balazs and Søndergaard 2013 ("fast Griffin-Lim"). The mel filter
bank is first inverted, by non-negative least squares as librosa does, or by the clipped pseudo-inverse. This is the
baseline that a trained vocoder has to beat, and its parts are the excitation of vocoders/parallel_wavegan.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.signal.mel import mel_filterbank, mel_window


@dataclass(frozen=True)
class GriffinLimConfig:
    mel: MelFormat = MelFormat()
    iterations: int = 64
    momentum: float = 0.99  # 0: the plain algorithm of 1984
    inverse: str = "nnls"  # or "pinv": faster, and about a tenth worse

    def __post_init__(self) -> None:
        if self.iterations < 0 or not 0 <= self.momentum < 1:
            raise UserError(
                f"griffin_lim: iterations={self.iterations} must be 0 or more and momentum={self.momentum} in [0, 1)"
            )
        if self.inverse not in ("nnls", "pinv"):
            raise UserError(f"griffin_lim: inverse={self.inverse!r} must be 'nnls' or 'pinv'")


class GriffinLim(nn.Module):
    """A vocoder without parameters. The same rng gives the same clip; without one the seed is 0."""

    config_type = GriffinLimConfig
    context_frames = None  # every iteration reaches further, and 64 reach over the whole clip

    def __init__(self, config: GriffinLimConfig | None = None) -> None:
        super().__init__()
        self.config = config or GriffinLimConfig()
        self.short_time = ShortTime(self.config.mel)
        self.inverse = MelInverse(self.config.mel)

    def forward(self, mel: Tensor, *, rng: SampleRng | None = None, offset: int = 0) -> Tensor:
        """mel (batch, n_mels, frames) -> audio (batch, 1, frames * hop_length). The mel is a whole clip's: offset 0."""
        self.config.mel.check(mel, model="Griffin-Lim")
        if offset:
            raise ValueError(f"offset={offset}: Griffin-Lim renders whole clips only (context_frames is None)")
        rng = rng or SampleRng(0, ids=[0] * mel.shape[0])
        with torch.autocast(mel.device.type, enabled=False):
            angle = 2 * math.pi * rng.rand(mel.shape[2], self.config.mel.n_fft // 2 + 1, device=mel.device)
            # One by one: the iterations blow up the last bit, in which a larger batch may differ.
            clips = [self._render(one[None], start[None]) for one, start in zip(mel.float(), angle, strict=True)]
            return torch.cat(clips)[:, None]

    def _render(self, mel: Tensor, angle: Tensor) -> Tensor:
        magnitude = self.inverse(mel, exact=self.config.inverse == "nnls")        # (batch, frames, bins)
        spectrum = griffin_lim(
            magnitude, unit(angle), self.short_time,
            iterations=self.config.iterations, momentum=self.config.momentum,
        )
        return self.short_time.audio(spectrum)


def griffin_lim(
    magnitude: Tensor, phase: Tensor, short_time: ShortTime, *, iterations: int, momentum: float = 0.99
) -> Tensor:
    """magnitude (batch, frames, bins), phase: complex numbers of modulus 1 -> a nearly consistent complex spectrum.

    A gradient reaches `magnitude` as if the phases that were found were given.
    """
    before = torch.zeros_like(phase)
    with torch.no_grad():
        for _ in range(iterations):
            consistent = short_time.transform(short_time.overlap(magnitude * phase))
            ahead = consistent - before * (momentum / (1 + momentum))
            phase = ahead / (ahead.abs() + 1e-16)
            before = consistent
    return magnitude * phase


def unit(angle: Tensor) -> Tensor:
    """radians -> complex numbers of modulus 1."""
    return torch.polar(torch.ones_like(angle), angle)


def peak_phase(magnitude: Tensor, start: Tensor, hop_length: int) -> Tensor:
    """Phases that sinusoids at the spectral peaks would have: a far better start than noise where the sound is tonal.

    Single pass spectrogram inversion (Beauregard, Harish and Wyse 2015): every bin follows its peak, whose frequency
    comes from a parabola through three log magnitudes and whose phase runs on from frame to frame.
    magnitude (batch, frames, bins), start (batch, bins) radians -> complex (batch, frames, bins) of modulus 1.
    """
    bins = magnitude.shape[-1]
    k = torch.arange(bins, device=magnitude.device)
    left, right = F.pad(magnitude, (1, 0))[..., :-1], F.pad(magnitude, (0, 1))[..., 1:]
    uphill = torch.where((right > magnitude) & (right >= left), 1, torch.where(left > magnitude, -1, 0))
    peak = (k + uphill).clamp(0, bins - 1)
    for _ in range(5):  # each bin points uphill; pointing where the pointee points doubles the way: 32 bins
        peak = peak.gather(-1, peak)
    a, b, c = (side.clamp(min=1e-7).log() for side in (left, magnitude, right))
    offset = (0.5 * (a - c) / (a - 2 * b + c).clamp(max=-1e-6)).clamp(-0.5, 0.5)
    frequency = (k + offset).gather(-1, peak)                                     # (batch, frames, bins), in bins
    turns = torch.cumsum(frequency.double() * hop_length / (2 * (bins - 1)), 1)   # in float64: minutes add up
    angle = 2 * math.pi * turns.frac().float() + start[:, None].expand_as(frequency).gather(-1, peak)
    return unit(angle + math.pi * ((k - peak) % 2))  # neighbours inside a Hann window's main lobe have opposite signs


class ShortTime(nn.Module):
    """The Fourier transform of a `MelFormat`'s frames, and back. Spectra are (batch, frames, bins), frames before bins.

    `transform` and `overlap` are a consistent pair on the mirrored ("extended") signal, so that no edge is special;
    `audio` cuts the clip out of it and `extend` mirrors a clip as the mel front end does.
    """

    window: Tensor

    def __init__(self, format: MelFormat) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.mirrors = format.n_fft, format.hop_length, format.padding != "lws"
        padded = 2 * (format.n_fft // 2) if format.padding == "center" else format.n_fft - format.hop_length
        self.left = padded // 2 if self.mirrors else 0  # lws: what is before the clip is rendered too
        self.right = padded - self.left
        window = mel_window(format)
        before = (format.n_fft - format.win_length) // 2
        window = F.pad(window, (before, format.n_fft - format.win_length - before))
        self.register_buffer("window", window, persistent=False)

    def extend(self, audio: Tensor) -> Tensor:
        """audio (batch, time) -> (batch, left + time + right)."""
        if not self.mirrors or audio.shape[1] <= self.right:  # too short to be mirrored: silence follows it
            return F.pad(audio, (self.left, self.right))
        return F.pad(audio[:, None], (self.left, self.right), mode="reflect")[:, 0]

    def transform(self, extended: Tensor) -> Tensor:
        """(batch, (frames - 1) * hop_length + n_fft) -> complex (batch, frames, bins)."""
        return torch.fft.rfft(extended.unfold(-1, self.n_fft, self.hop_length) * self.window)

    def overlap(self, spectrum: Tensor) -> Tensor:
        """complex (batch, frames, bins) -> (batch, (frames - 1) * hop_length + n_fft): the least-squares inverse."""
        return self.join(torch.fft.irfft(spectrum, n=self.n_fft))

    def join(self, pieces: Tensor) -> Tensor:
        """(batch, frames, n_fft), not yet windowed -> (batch, (frames - 1) * hop_length + n_fft)."""
        weight = self.window.square().expand(1, pieces.shape[1], -1)
        return self._add(pieces * self.window) / self._add(weight).clamp(min=1e-3)

    def audio(self, spectrum: Tensor) -> Tensor:
        """complex (batch, frames, bins) -> (batch, frames * hop_length)."""
        return self.cut(self.overlap(spectrum), spectrum.shape[1])

    def cut(self, extended: Tensor, frames: int) -> Tensor:
        """(batch, (frames - 1) * hop_length + n_fft) -> (batch, frames * hop_length), what the frames stand for."""
        return extended[:, self.left : self.left + frames * self.hop_length]

    def _add(self, pieces: Tensor) -> Tensor:
        """pieces (batch, frames, n_fft) -> (batch, (frames - 1) * hop_length + n_fft), each where its frame lies.

        A piece is cut into hops, and the j-th hops of all pieces are added at once: 4 additions for n_fft = 4 hops,
        many times faster than `F.fold`.
        """
        batch, frames, n_fft = pieces.shape
        hops = -(-n_fft // self.hop_length)
        pieces = F.pad(pieces, (0, hops * self.hop_length - n_fft)).unflatten(2, (hops, self.hop_length))
        added = pieces.new_zeros(batch, frames + hops - 1, self.hop_length)
        for hop in range(hops):
            added[:, hop : hop + frames] += pieces[:, :, hop]
        return added.flatten(1)[:, : (frames - 1) * self.hop_length + n_fft]


class MelInverse(nn.Module):
    """Magnitudes that have a given mel spectrum; the mel says nothing of what lies inside one of its bands."""

    filterbank: Tensor
    pseudo_inverse: Tensor

    def __init__(self, format: MelFormat) -> None:
        super().__init__()
        self.format = format
        self.unit = float(mel_window(format).square().sum().sqrt()) ** format.power if format.normalized else 1.0
        filterbank = mel_filterbank(format)                                       # (n_mels, bins)
        self.register_buffer("filterbank", filterbank, persistent=False)
        # The pseudo-inverse in float64: the lowest bands overlap so much that float32 would show.
        inverse = torch.linalg.pinv(filterbank.double()).float()
        self.register_buffer("pseudo_inverse", inverse, persistent=False)         # (bins, n_mels)
        gram = filterbank.double().T @ filterbank.double()
        self.step = 1.0 / float(torch.linalg.eigvalsh(gram)[-1])

    def linear(self, mel: Tensor) -> Tensor:
        """log-mel (batch, n_mels, frames) -> linear mel (batch, frames, n_mels) of spectra before `normalized`."""
        return self.format.natural_log(mel.transpose(1, 2)).exp() * self.unit

    def forward(self, mel: Tensor, *, exact: bool = False, iterations: int = 100) -> Tensor:
        """log-mel (batch, n_mels, frames) -> magnitude (batch, frames, bins) >= 0.

        exact: improve the clipped pseudo-inverse by accelerated projected gradient (FISTA) towards the non-negative
        least-squares solution.
        """
        target = self.linear(mel)
        x = (target @ self.pseudo_inverse.T).clamp(min=0)
        if exact:
            ahead, pace = x, 1.0
            for _ in range(iterations):
                slope = (ahead @ self.filterbank.T - target) @ self.filterbank
                nearer = (ahead - self.step * slope).clamp(min=0)
                next_pace = (1 + math.sqrt(1 + 4 * pace * pace)) / 2
                ahead = nearer + (pace - 1) / next_pace * (nearer - x)
                x, pace = nearer, next_pace
        return x if self.format.power == 1.0 else x.pow(1.0 / self.format.power)
