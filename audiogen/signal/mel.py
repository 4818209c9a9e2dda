"""Log-mel spectrograms in any `MelFormat`, with nothing but `torch.stft`.

Mel scales: Slaney's (Auditory Toolbox, 1998: linear below 1 kHz, logarithmic above), as in librosa, and HTK's
2595 log10(1 + f / 700), as in torchaudio. Framing: see `MelFormat.padding`.
"""

from __future__ import annotations

import math

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
        self.register_buffer("window", mel_window(self.format).to(device), persistent=False)
        self.register_buffer("filterbank", mel_filterbank(self.format).to(device), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, 1, time) or (batch, time) -> log-mel (batch, n_mels, frames), frames = format.frames(time).

        A clip too short to be mirrored (time <= padding) counts as if silence followed it. Raises `UserError` for a
        clip without a single frame.
        """
        if audio.dim() == 3 and audio.shape[1] == 1:
            audio = audio[:, 0]
        if audio.dim() == 3 and audio.shape[1] > 1:
            raise UserError(
                f"audio of shape {tuple(audio.shape)} has {audio.shape[1]} channels, and a mel is of one: mix it down "
                "(audio.mean(1, keepdim=True)), or compute a mel of each channel"
            )
        if audio.dim() != 2:
            raise ValueError(f"audio of shape {tuple(audio.shape)}: (batch, 1, time) or (batch, time) is needed")
        format, frames = self.format, self.format.frames(audio.shape[1])
        if frames == 0 or audio.shape[1] == 0:
            need = format.hop_length if format.padding == "same" else 1  # every other padding has a frame for it
            raise UserError(f"a clip of {audio.shape[1]} samples has no mel frame: at least {need} samples are needed")
        if self.window.dtype not in (torch.float32, torch.float64):  # the model around us was cast to half precision
            self._make_buffers(self.window.device)
        with torch.autocast(audio.device.type, enabled=False):
            x = _pad(audio.to(self.window.dtype), format)               # (batch, time + 2 * padding)
            spectrum = torch.stft(
                x, format.n_fft, format.hop_length, format.win_length, self.window, center=False, return_complex=True
            )[..., :frames]                                             # (batch, n_fft // 2 + 1, frames)
            if format.normalized:
                spectrum = spectrum / self.window.square().sum().sqrt()
            mel = self.filterbank @ _magnitude(spectrum, format)        # (batch, n_mels, frames)
            mel = mel.clamp(min=format.floor)
            mel = mel.log() if format.log == "ln" else mel.log10()
            if (format.scale, format.shift) != (1.0, 0.0):
                mel = format.scale * mel + format.shift
            return mel if format.clip is None else mel.clamp(*format.clip)

    def extra_repr(self) -> str:
        return str(self.format)


def mel_window(format: MelFormat) -> Tensor:
    """-> (win_length,) float32."""
    if format.window == "hann":
        return torch.hann_window(format.win_length, periodic=True, dtype=torch.float32)
    # lws: the root of a Hann window that lies between the samples; the squares of its shifts by hop_length sum to 1.
    phase = (torch.arange(format.win_length, dtype=torch.float64) + 0.5) / format.win_length
    return (math.sqrt(2 * format.hop_length / format.win_length) * torch.sin(math.pi * phase)).float()


def mel_filterbank(format: MelFormat) -> Tensor:
    """-> (n_mels, n_fft // 2 + 1) float32: triangles that are equally wide on the mel scale.

    Norm "slaney" gives each triangle the area 1 Hz (times the bin width); None gives each the height 1.
    """
    # Slaney's in float64 and rounded once, as librosa's. HTK's in float32 throughout, as torchaudio's: its rounding is
    # 2e-5 of a weight, and the published models that use this scale (Vocos, DiffWave) have heard it.
    slaney = format.mel_scale == "slaney"
    to_mel, to_hz = (_slaney_mel, _slaney_hz) if slaney else (_htk_mel, _htk_hz)
    dtype = torch.float64 if slaney else torch.float32
    bins = torch.linspace(0.0, format.sample_rate / 2, format.n_fft // 2 + 1, dtype=dtype)
    corners = to_hz(torch.linspace(to_mel(format.f_min), to_mel(format.f_max), format.n_mels + 2, dtype=dtype))  # Hz
    low, peak, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    weights = torch.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)).clamp(min=0.0)
    if format.norm == "slaney":
        weights = weights * 2.0 / (high - low)
    return weights.float()


def _pad(audio: Tensor, format: MelFormat) -> Tensor:
    """(batch, time) -> (batch, left + time + right), mirrored at both ends without repeating the end sample.

    Padding "lws": silence at both ends instead, up to the last frame's last sample.
    """
    if format.padding == "lws":
        length = (format.frames(audio.shape[1]) - 1) * format.hop_length + format.n_fft
        return F.pad(audio, (format.lead, length - format.lead - audio.shape[1]))
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
_LOG_STEP = math.log(6.4) / 27.0


def _slaney_mel(hz: float) -> float:
    return 3.0 * hz / 200.0 if hz < 1000.0 else 15.0 + math.log(hz / 1000.0) / _LOG_STEP


def _slaney_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * torch.exp(_LOG_STEP * (mel - 15.0)))


def _htk_mel(hz: float) -> float:
    return 2595.0 * math.log10(1.0 + hz / 700.0)


def _htk_hz(mel: Tensor) -> Tensor:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
