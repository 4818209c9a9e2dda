"""YAMNet (Plakal and Ellis 2020): MobileNet v1 on log-mel patches; its 1024-d embedding and its 521 AudioSet classes.

Weights: yamnet.tflite of the TFLite task library (Apache-2.0), 8-bit by channel, dequantised into float32 here. Only
the weights are quantised, not the activations, so that numbers differ a little from the TFLite interpreter's.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiogen.core.errors import UserError
from evaluation.embedders.base import in_blocks, read_weights, windows
from evaluation.embedders.tflite import ADD, CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, read_tflite

FRAME, HOP, N_FFT = 400, 160, 512  # 25 ms every 10 ms at 16 kHz
PATCH = 96  # frames, 0.96 s; needs 15 600 samples


class YAMNet(nn.Module):
    """16 kHz audio -> 1024-d vectors, one a 0.975 s window every 0.48 s."""

    name, version = "yamnet", 1
    file, sha256 = "yamnet.tflite", "10c95ea3eb9a7bb4cb8bddf6feb023250381008177ac162ce169694d05c317de"
    sample_rate, dim = 16000, 1024
    window, hop = ((PATCH - 1) * HOP + FRAME) / 16000, PATCH // 2 * HOP / 16000
    note = "YAMNet trained on AudioSet, 8-bit weights dequantised"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        data = read_weights(self.file, sha256=self.sha256, weights=weights, source=(
            "github.com/tensorflow/tflite-support, tensorflow_lite_support/cc/test/testdata/task/audio/"
            "yamnet_audio_classifier_with_metadata.tflite, saved as yamnet.tflite"))
        self.weights_sha256 = hashlib.sha256(data).hexdigest()
        tensors, operators = read_tflite(data, what=self.file)
        layers, dense = [], []
        for operator in operators:
            if operator.code in (CONV_2D, DEPTHWISE_CONV_2D):
                x, kernel, bias = (tensors[i] for i in operator.inputs)
                stride = -(-x.shape[1] // tensors[operator.outputs[0]].shape[1])
                if operator.code == DEPTHWISE_CONV_2D:  # (1, height, width, channels) -> (channels, 1, height, width)
                    layers.append((kernel.values.transpose(3, 0, 1, 2), bias.values, stride, kernel.shape[3]))
                else:  # (out, height, width, in) -> (out, in, height, width)
                    layers.append((kernel.values.transpose(0, 3, 1, 2), bias.values, stride, 1))
            elif operator.code == FULLY_CONNECTED:  # two: the mel filter bank with its 0.001, and the classes
                dense.append(tuple(tensors[i].values for i in operator.inputs[1:]))
        if len(layers) != 27 or len(dense) != 2 or ADD in {operator.code for operator in operators}:
            raise UserError(f"{self.file} is not laid out as YAMNet: {len(layers)} convolutions, {len(dense)} dense")
        self.plan = [(stride, groups) for _, _, stride, groups in layers]
        for index, (kernel, bias, _, _) in enumerate(layers):
            self.register_buffer(f"kernel_{index}", torch.from_numpy(kernel.copy()))
            self.register_buffer(f"bias_{index}", torch.from_numpy(bias.copy()))
        (mel, mel_bias), (fc, fc_bias) = dense
        self.register_buffer("filters", torch.from_numpy(mel.copy()))  # (257, 64) or (64, 257): see log_mel
        self.register_buffer("filters_bias", torch.from_numpy(mel_bias.copy()))
        self.register_buffer("fc", torch.from_numpy(fc.copy()))
        self.register_buffer("fc_bias", torch.from_numpy(fc_bias.copy()))
        self.register_buffer("taper", torch.hann_window(FRAME))
        with zipfile.ZipFile(io.BytesIO(data)) as archive:  # the labels ride at the end of the model file
            self.classes = tuple(archive.read("yamnet_label_list.txt").decode().split("\n")[: fc.shape[0]])
        self.eval()

    def log_mel(self, audio: Tensor) -> Tensor:
        """audio (batch, time) -> (batch, frames, 64): magnitudes without padding, ln(mel + 0.001)."""
        if audio.shape[1] < FRAME:
            return audio.new_zeros(audio.shape[0], 0, 64)
        frames = audio.unfold(1, FRAME, HOP) * self.taper
        magnitude = torch.fft.rfft(frames, N_FFT).abs()
        return torch.log(magnitude @ self.filters.T + self.filters_bias)

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, time) float32 at 16 kHz -> (batch, windows, 1024)."""
        patches = windows(self.log_mel(audio), PATCH, PATCH // 2)
        rows = in_blocks(self.embed, patches.flatten(0, 1), 16, self.dim)
        return rows.unflatten(0, patches.shape[:2])

    @torch.no_grad()
    def scores(self, audio: Tensor) -> Tensor:
        """audio (batch, time) -> the probability of each of `classes`, (batch, windows, 521)."""
        return torch.sigmoid(self.logits(self(audio)))

    def logits(self, features: Tensor) -> Tensor:
        """features (..., 1024) -> (..., 521), before the sigmoid; linear, so the mean of either is the mean of both."""
        return F.linear(features, self.fc, self.fc_bias)

    def embed(self, patch: Tensor) -> Tensor:
        """log-mel patches (n, 96, 64) -> (n, 1024)."""
        x = patch[:, None]
        for index, (stride, groups) in enumerate(self.plan):
            kernel = getattr(self, f"kernel_{index}")
            if kernel.shape[2] == 3:  # TensorFlow's "same": where the total is odd, the later side gets more
                before = 1 if stride == 1 else 0
                x = F.pad(x, (before, 1, before, 1))
            x = F.conv2d(x, kernel, getattr(self, f"bias_{index}"), stride=stride, groups=groups).clamp(0.0, 6.0)
        return x.mean((2, 3))
