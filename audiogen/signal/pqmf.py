"""Pseudo quadrature mirror filter bank: audio in critically sampled subbands and nearly perfectly back.

Nguyen 1994, "Near-perfect-reconstruction pseudo-QMF banks"; the prototype is a Kaiser-windowed low-pass whose cutoff
is searched as in Lin and Vaidyanathan 1998, "A Kaiser window approach for the design of prototype filters of cosine
modulated filterbanks". Mirrored, and with the same bands, taps, cutoff and beta, the filters are Multi-band MelGAN's.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PQMF(nn.Module):
    """`bands` subbands, each at 1 / `bands` of the sample rate; band 0 is the lowest.

    taps: order of the filters (even), which are taps + 1 long; both directions are centred, so nothing is delayed.
          The error falls with taps / bands: about 15 taps a band are needed, 62 suit 4 bands.
    cutoff: of the prototype, as a part of the Nyquist frequency; None searches the best for (bands, taps, beta).
    beta: of the Kaiser window; larger means less leakage and a wider transition.
    mirrored: all filters run backwards in time, as in the code of Multi-band MelGAN, whose convolutions correlate. Both
          forms are equally good, but a network trained with one of them needs it.
    """

    analysis_filter: Tensor
    synthesis_filter: Tensor

    def __init__(
        self, bands: int = 4, taps: int = 62, cutoff: float | None = None, beta: float = 9.0, *, mirrored: bool = False
    ) -> None:
        super().__init__()
        if bands < 2:
            raise ValueError(f"bands={bands} must be 2 or more")
        if taps < 2 * bands or taps % 2:
            raise ValueError(f"taps={taps} must be even and at least 2 * bands = {2 * bands}")
        if cutoff is None:
            cutoff = best_cutoff(bands, taps, beta)
        if not 0.0 < cutoff < 1.0:
            raise ValueError(f"cutoff={cutoff} must lie between 0 and 1 (the Nyquist frequency)")
        self.bands, self.taps, self.cutoff, self.beta = bands, taps, cutoff, beta
        # h_k[n] = 2 p[n] cos((2k + 1) pi / (2 bands) (n - taps / 2) ± (-1)^k pi / 4)
        k, n = np.arange(bands)[:, None], np.arange(taps + 1)[None, :]
        turn, phase = (2 * k + 1) * np.pi / (2 * bands) * (n - taps / 2), (-1.0) ** k * np.pi / 4
        low_pass = 2.0 * prototype(taps, cutoff, beta)
        analysis = torch.from_numpy((low_pass * np.cos(turn + phase))[:, None])   # (bands, 1, taps + 1)
        synthesis = torch.from_numpy((low_pass * np.cos(turn - phase))[:, None])
        if mirrored:  # the low-pass is symmetric, so backwards each is the other
            analysis, synthesis = synthesis, analysis
        # conv1d correlates, so the analysis filters are stored mirrored; conv_transpose1d does not mirror. The factor
        # `bands` makes up for the samples dropped.
        self.register_buffer("analysis_filter", analysis.flip(-1).float(), persistent=False)
        self.register_buffer("synthesis_filter", (bands * synthesis).float(), persistent=False)

    def analysis(self, audio: Tensor) -> Tensor:
        """audio (batch, 1, time) -> subbands (batch, bands, time // bands). `time` must be a multiple of `bands`."""
        if audio.dim() != 3 or audio.shape[1] != 1:
            raise ValueError(f"audio of shape {tuple(audio.shape)}: (batch, 1, time) is needed")
        if audio.shape[2] % self.bands or audio.shape[2] == 0:
            raise ValueError(
                f"{audio.shape[2]} samples cannot be shared out to {self.bands} bands: cut or pad the audio to a "
                f"positive multiple of {self.bands}"
            )
        return F.conv1d(audio, self.analysis_filter, stride=self.bands, padding=self.taps // 2)

    def synthesis(self, subbands: Tensor) -> Tensor:
        """subbands (batch, bands, time // bands) -> audio (batch, 1, time)."""
        if subbands.dim() != 3 or subbands.shape[1] != self.bands:
            raise ValueError(f"subbands of shape {tuple(subbands.shape)}: (batch, {self.bands}, time) is needed")
        return F.conv_transpose1d(
            subbands, self.synthesis_filter, stride=self.bands, padding=self.taps // 2, output_padding=self.bands - 1
        )

    def extra_repr(self) -> str:
        return f"bands={self.bands}, taps={self.taps}, cutoff={self.cutoff}, beta={self.beta}"


def prototype(taps: int, cutoff: float, beta: float) -> np.ndarray:
    """-> (taps + 1,) float64: a Kaiser-windowed sinc low-pass."""
    n = np.arange(taps + 1) - taps / 2
    return cutoff * np.sinc(cutoff * n) * np.kaiser(taps + 1, beta)


@functools.lru_cache(maxsize=64)
def best_cutoff(bands: int, taps: int, beta: float) -> float:
    """The cutoff with the flattest overall response: the prototype, convolved with itself, should be zero at every
    multiple of 2 * bands from its middle (Lin and Vaidyanathan, eq. 14), so the sum of the squares there is made
    smallest (they take the largest; the sum gives 1 to 3 dB more)."""

    def ripple(cutoff: float) -> float:
        low_pass = prototype(taps, cutoff, beta)
        square = np.convolve(low_pass, low_pass)[taps:]
        return np.square(square[2 * bands :: 2 * bands]).sum() / square[0] ** 2

    low, high = 0.5 / bands, 0.95 / bands  # the ideal edge is 0.5 / bands; a real transition moves it up
    for _ in range(6):  # each round narrows a grid of 65 points to the two cells round its best; 1e-6 is reached
        grid = np.linspace(low, high, 65)
        best = int(np.argmin([ripple(cutoff) for cutoff in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 64)]
    return round((low + high) / 2, 6)  # rounded, so that every machine gets the same filters
