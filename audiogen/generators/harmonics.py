"""Where the harmonics of a note lie among the mel bands: a fixed map from a piano roll to lines in the picture.

A network can learn that map for every pitch by itself, but that is what small ones spend most of their training on.
Given the lines, it only has to learn how strong each is in which instrument (as in the harmonic prior of DDSP, Engel et
al. 2020, here on mel frames).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiogen.conditioning.piano_roll import HIGHEST, LOWEST, PITCHES
from audiogen.core.mel_format import MelFormat
from audiogen.signal.mel import mel_filterbank


def harmonic_templates(mel: MelFormat) -> Tensor:
    """-> (2, pitches, n_mels), 0..1: where the fundamental of each pitch lies, and where all its harmonics do.

    A line's strength in a band is the band's filter at its frequency, relative to the filter's largest value; harmonic
    h counts 1 / sqrt(h).
    """
    filters = mel_filterbank(mel)  # (n_mels, bins)
    filters = filters / filters.amax(dim=1, keepdim=True).clamp(min=1e-9)
    width = mel.sample_rate / mel.n_fft  # Hz of a bin
    pitch = torch.arange(LOWEST, HIGHEST + 1)
    fundamental = 440.0 * 2.0 ** ((pitch - 69) / 12)  # (pitches,) Hz
    count = int(mel.f_max / float(fundamental[0]))
    harmonic = torch.arange(1, count + 1)
    position = fundamental[:, None] * harmonic / width  # (pitches, harmonics), in bins
    inside = (position <= filters.shape[1] - 2).float() / harmonic.sqrt()
    low = position.clamp(max=filters.shape[1] - 2).floor().long()
    share = (position - low).clamp(0, 1)
    lines = filters[:, low] * (1 - share) + filters[:, low + 1] * share  # (n_mels, pitches, harmonics)
    lines = lines * inside
    return torch.stack((lines[:, :, 0].T, lines.amax(dim=-1).T))


class HarmonicLines(nn.Module):
    """roll (batch, ROLL_DIM, frames) -> lines (batch, 4 * n_mels, frames).

    Fundamentals, then all harmonics, each first of the sounding notes (by velocity) then of the fresh ones (by age).
    """

    def __init__(self, mel: MelFormat) -> None:
        super().__init__()
        self.dim = 4 * mel.n_mels
        self.register_buffer("templates", harmonic_templates(mel), persistent=False)

    def forward(self, roll: Tensor) -> Tensor:
        sounding, fresh = roll[:, :PITCHES], roll[:, 2 * PITCHES : 3 * PITCHES]
        notes = torch.cat((sounding, fresh), dim=2)  # (batch, pitches, 2 frames)
        lines = torch.einsum("kpm,bpt->bkmt", self.templates.to(roll.dtype), notes).clamp(max=2.0)
        return torch.cat(lines.flatten(1, 2).chunk(2, dim=2), dim=1)
