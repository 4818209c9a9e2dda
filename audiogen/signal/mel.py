"""Log-mel spectrograms in any `MelFormat`, with nothing but `torch.stft`.

Mel scales: Slaney's (Auditory Toolbox, 1998: linear below 1 kHz, logarithmic above), as in librosa, and HTK's
2595 log10(1 + f / 700), as in torchaudio. Framing: see `MelFormat.padding`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat


class MelSpectrogram(nn.Module):
    """Audio to log-mel. Always float32 (float64 after `.double()`), under autocast and in half-precision models too.

    The gradient is finite everywhere, on silence too, where it is zero.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(self, format: MelFormat) -> None:
        super().__init__()
        self.format = format
        self._make_buffers(None)

    def _make_buffers(self, device: torch.device | None) -> None:
        # Not persistent: they follow from the format, and a checkpoint holds only what was learned.
        window = torch.hann_window(self.format.win_length, periodic=True, dtype=torch.float32, device=device)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filterbank", mel_filterbank(self.format).to(device), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, 1, time) or (batch, time) -> log-mel (batch, n_mels, frames), frames = format.frames(time).

        A clip too short to be mirrored (time <= padding) counts as if silence followed it. Raises `UserError` for a
        clip without a single frame.
        """
        if audio.dim() == 3 and audio.shape[1] == 1:
            audio = audio[:, 0]
        if audio.dim() != 2:
            raise ValueError(f"audio of shape {tuple(audio.shape)}: (batch, 1, time) or (batch, time) is needed")
        format, frames = self.format, self.format.frames(audio.shape[1])
        if frames == 0 or audio.shape[1] == 0:
            need = format.hop_length if format.padding == "same" else 1
            raise UserError(f"a clip of {audio.shape[1]} samples has no mel frame: at least {need} samples are needed")
        if self.window.dtype not in (torch.float32, torch.float64):  # the model around us was cast to half precision
            self._make_buffers(self.window.device)
        with torch.autocast(audio.device.type, enabled=False):
            x = _pad(audio.to(self.window.dtype), format)               # (batch, time + 2 * padding)
            spectrum = torch.stft(
                x, format.n_fft, format.hop_length, format.win_length, self.window, center=False, return_complex=True
            )[..., :frames]                                             # (batch, n_fft // 2 + 1, frames)
            mel = self.filterbank @ _magnitude(spectrum, format)        # (batch, n_mels, frames)
            mel = mel.clamp(min=format.floor)
            return mel.log() if format.log == "ln" else mel.log10()

    def extra_repr(self) -> str:
        return str(self.format)


def mel_filterbank(format: MelFormat) -> Tensor:
    """-> (n_mels, n_fft // 2 + 1) float32: triangles that are equally wide on the mel scale.

    Norm "slaney" gives each triangle the area 1 Hz (times the bin width); None gives each the height 1.
    """
    # In float64 and rounded once, so that the weights are the same on every machine.
    bins = np.linspace(0.0, format.sample_rate / 2, format.n_fft // 2 + 1)
    to_mel, to_hz = (_slaney_mel, _slaney_hz) if format.mel_scale == "slaney" else (_htk_mel, _htk_hz)
    corners = to_hz(np.linspace(to_mel(format.f_min), to_mel(format.f_max), format.n_mels + 2))  # (n_mels + 2,) Hz
    low, peak, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    weights = np.maximum(0.0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))
    if format.norm == "slaney":
        weights *= 2.0 / (high - low)
    return torch.from_numpy(weights.astype(np.float32))


def _pad(audio: Tensor, format: MelFormat) -> Tensor:
    """(batch, time) -> (batch, left + time + right), mirrored at both ends without repeating the end sample."""
    total = format.n_fft - format.hop_length if format.padding == "same" else 2 * (format.n_fft // 2)
    left, right = total // 2, total - total // 2
    if audio.shape[1] <= right:
        audio = F.pad(audio, (0, format.n_fft))  # so far that no frame that is kept reaches the mirrored end
    return F.pad(audio, (left, right), mode="reflect")


def _magnitude(spectrum: Tensor, format: MelFormat) -> Tensor:
    """|X|^power, by the way whose gradient at X = 0 is 0 and not NaN."""
    if format.eps == 0.0 and format.power == 1.0:
        return spectrum.abs()  # torch defines the gradient of abs at 0 as 0
    square = spectrum.real.square() + spectrum.imag.square() + format.eps
    if format.power == 2.0:
        return square
    return square.clamp(min=1e-30).pow(format.power / 2)  # the clamp passes no gradient at 0


# Slaney's scale: 200 / 3 Hz a mel up to 1000 Hz = 15 mel, then a factor of 6.4 in 27 mels.
_LOG_STEP = np.log(6.4) / 27.0


def _slaney_mel(hz: float) -> float:
    return 3.0 * hz / 200.0 if hz < 1000.0 else 15.0 + np.log(hz / 1000.0) / _LOG_STEP


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp(_LOG_STEP * (mel - 15.0)))


def _htk_mel(hz: float) -> float:
    return 2595.0 * np.log10(1.0 + hz / 700.0)


def _htk_hz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
