"""A picture of a log-mel spectrogram, with seconds and Hz on its axes. matplotlib is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiogen.core.files import whole_file
from audiogen.core.mel_format import MelFormat
from audiogen.signal.mel import MelSpectrogram, mel_filterbank

LOWEST_PITCH = 21  # of the piano roll's first row (A0)
PITCHES = 88


def save_spectrogram(
    mel: Tensor, path: str | Path, *, format: MelFormat, title: str | None = None, roll: Tensor | None = None
) -> None:
    """Write a PNG of mel (n_mels, frames) or (1, n_mels, frames), a log-mel in `format`, or of audio (time,) at its
    rate.

    roll (rows >= 88, frames): a piano roll of the same frames, drawn beneath; its first 88 rows are the pitches from
    A0 on.
    """
    # Figure and canvas without pyplot: no global state, no display, safe in threads and data loaders.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if mel.dim() == 1:
        mel = MelSpectrogram(format)(mel.detach().cpu().float()[None])
    if mel.dim() == 3 and mel.shape[0] == 1:
        mel = mel[0]
    if mel.dim() != 2 or mel.shape[0] != format.n_mels or mel.shape[1] == 0:
        raise ValueError(f"mel of shape {tuple(mel.shape)}: ({format.n_mels}, frames) of this format is needed")
    decibels = format.natural_log(mel.detach().cpu().float()).numpy() * (20.0 / np.log(10.0)) / format.power
    frames = decibels.shape[1]
    seconds = frames / format.frame_rate
    highest = float(decibels[np.isfinite(decibels)].max(initial=-100.0))

    rows = 1 if roll is None else 2
    figure = Figure(figsize=(min(max(5.0, 1.2 * seconds + 2.0), 16.0), 3.2 + 1.6 * (rows - 1)), dpi=100)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=[3, 1.4][:rows])[:, 0]
    image = axes[0].imshow(
        decibels, origin="lower", aspect="auto", interpolation="nearest", cmap="magma",
        extent=(0.0, seconds, -0.5, format.n_mels - 0.5), vmin=highest - 80.0, vmax=highest,
    )
    bands, labels = _frequency_ticks(format)
    axes[0].set_yticks(bands, labels)
    axes[0].set_ylabel("Hz")
    if title:
        # as it is: a prompt may hold dollar signs, which matplotlib would take for mathematics
        axes[0].set_title(title, fontsize=10, parse_math=False)
    figure.colorbar(image, ax=axes[0], label="dB", pad=0.01)
    if roll is not None:
        axes[1].imshow(
            roll.detach().cpu().float().numpy()[:PITCHES], origin="lower", aspect="auto", interpolation="nearest",
            cmap="Greys", vmin=0.0, vmax=1.0,
            extent=(0.0, roll.shape[1] / format.frame_rate, LOWEST_PITCH - 0.5, LOWEST_PITCH + PITCHES - 0.5),
        )
        axes[1].set_yticks([24, 36, 48, 60, 72, 84, 96, 108], [f"C{octave}" for octave in range(1, 9)])
    axes[-1].set_xlim(0.0, seconds)
    axes[-1].set_xlabel("seconds")
    with whole_file(path) as part:
        figure.savefig(part, format="png")


def _frequency_ticks(format: MelFormat) -> tuple[list[int], list[str]]:
    """-> the mel bands nearest to round frequencies, and their names."""
    peaks = mel_filterbank(format).argmax(dim=1).float() * format.sample_rate / format.n_fft  # (n_mels,) Hz
    bands, labels = [], []
    for hz in (125, 250, 500, 1000, 2000, 4000, 8000, 16000):
        if format.f_min <= hz <= format.f_max:
            bands.append(int(torch.argmin((peaks - hz).abs())))
            labels.append(str(hz))
    return bands, labels
