"""PANNs CNN14 (Kong et al. 2020): a convolutional AudioSet tagger; 2048-d embeddings and 527 class probabilities.

Weights: Cnn14_16k_mAP=0.438.pth or Cnn14_mAP=0.431.pth (32 kHz) of the authors' collection (CC-BY-4.0). The front end's
filter bank and the network follow audioset_tagging_cnn; tools differ in the highest band of the 32 kHz form: the
authors' 14 kHz stands here. One embedding a window: of the whole clip, as published, it would depend on its length.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiogen.core.checkpoint import load_state
from audiogen.core.mel_format import MelFormat
from audiogen.signal.mel import mel_filterbank
from evaluation.embedders.base import in_blocks, read_tensors, read_weights, windows

SOURCE = "zenodo.org/records/3987831"
BANDS = 64
SECONDS = 10.0  # what it was trained on


class ConvBlock(nn.Module):
    """Two convolutions with batch norms, then a mean over 2 x 2 (or nothing)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, pool: int) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.avg_pool2d(x, pool) if pool > 1 else x


class Cnn14Network(nn.Module):
    """log-mel (n, frames, 64) in decibels -> embedding (n, 2048); modules are named as the authors named them."""

    def __init__(self, classes: int = 527) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(BANDS)
        sizes = (1, 64, 128, 256, 512, 1024, 2048)
        for index in range(6):
            setattr(self, f"conv_block{index + 1}", ConvBlock(sizes[index], sizes[index + 1]))
        self.fc1 = nn.Linear(2048, 2048)
        self.fc_audioset = nn.Linear(2048, classes)

    def forward(self, log_mel: Tensor) -> Tensor:
        x = self.bn0(log_mel[:, None].transpose(1, 3)).transpose(1, 3)            # (n, 1, frames, 64), by band
        for index in range(1, 7):
            x = getattr(self, f"conv_block{index}")(x, pool=2 if index < 6 else 1)
        x = x.mean(3)                                                             # (n, 2048, frames / 32)
        return F.relu(self.fc1(x.amax(2) + x.mean(2)))


class PANNs(nn.Module):
    """16 kHz audio -> 2048-d vectors, one a 10 s window every 5 s; a shorter clip is one window."""

    name, version = "panns", 1
    file, sha256 = "Cnn14_16k_mAP=0.438.pth", "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6"
    sample_rate, dim = 16000, 2048
    n_fft, step, f_min, f_max = 512, 160, 50.0, 8000.0
    window, hop = 0.5, SECONDS / 2
    note = "PANNs CNN14; parity with the original unverified here (no weights at hand)"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        data = read_weights(self.file, sha256=self.sha256, source=SOURCE, weights=weights)
        self.weights_sha256 = hashlib.sha256(data).hexdigest()
        self.network = Cnn14Network()
        self._front_end()
        state = read_tensors(data, what=self.file)
        state = state.get("model", state)
        # The checkpoint carries its front end as convolutions; ours is the same transform, computed.
        state = {k: v for k, v in state.items() if not k.startswith(("spectrogram_extractor.", "logmel_extractor."))}
        load_state(self.network, state, what=self.file)
        self.eval()

    def _front_end(self) -> None:
        mel = MelFormat(sample_rate=self.sample_rate, n_fft=self.n_fft, win_length=self.n_fft, hop_length=self.step,
                        n_mels=BANDS, f_min=self.f_min, f_max=self.f_max, power=2.0)
        self.register_buffer("filters", mel_filterbank(mel))                      # (64, bins)
        self.register_buffer("taper", torch.hann_window(self.n_fft))

    def log_mel(self, audio: Tensor) -> Tensor:
        """audio (batch, time) -> (batch, frames, 64): power mel spectrogram, centred, mirrored, 10 log10."""
        spectrum = torch.stft(audio, self.n_fft, self.step, window=self.taper, pad_mode="reflect", return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return 10 * torch.log10((self.filters @ power).clamp(min=1e-10)).transpose(1, 2)

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, time) float32 -> (batch, windows, 2048)."""
        if audio.shape[1] < self.window * self.sample_rate:
            return audio.new_zeros(len(audio), 0, self.dim)
        frames = self.log_mel(audio)
        length = min(frames.shape[1], round(SECONDS * self.sample_rate / self.step))
        parts = windows(frames, length, max(1, round(self.hop * self.sample_rate / self.step)))
        rows = in_blocks(self.network, parts.flatten(0, 1), 4, self.dim)
        return rows.unflatten(0, parts.shape[:2])

    @torch.no_grad()
    def scores(self, audio: Tensor) -> Tensor:
        """audio (batch, time) -> the probability of each of 527 AudioSet classes, (batch, windows, 527)."""
        return torch.sigmoid(self.logits(self(audio)))

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """features (..., 2048) -> (..., 527), before the sigmoid; linear, so the mean of either is the mean of both."""
        return self.network.fc_audioset(features)


class PANNs32k(PANNs):
    """The 32 kHz form, 50 Hz to 14 kHz."""

    name, file = "panns_32k", "Cnn14_mAP=0.431.pth"
    sha256 = "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31"
    sample_rate, n_fft, step, f_max = 32000, 1024, 320, 14000.0
