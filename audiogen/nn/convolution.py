"""Convolutions over time that keep channels-last strides, in which a CPU is faster.

A tensor (batch, channels, time) is laid out channels first by default: all of one channel, then the next. oneDNN wants
blocks of channels beside each other, so each convolution copies its input and its output into another order. Given
channels-last strides (all channels of one step beside each other) it works in place: on one core with AVX2 and 32 to
256 channels the same convolution runs at 82 to 97 GFLOP/s instead of 35 to 88. Only the strides differ, never the
shapes, and other devices and exported graphs take the usual path.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def channels_last(x: Tensor) -> Tensor:
    """x (batch, channels, time), the same numbers in the order that is fast on x's device."""
    if not _in_place(x):
        return x
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def _in_place(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_exporting()


class Convolution(nn.Conv1d):
    """`nn.Conv1d`, keeping the strides of its input. "Same" length where padding says so; stride 1 or more."""

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, in_channels, time) -> (batch, out_channels, time + 2 padding - dilation (kernel - 1))."""
        if not _in_place(x):
            return super().forward(x)
        # conv1d makes its input channels first; conv2d over one row does not.
        return F.conv2d(
            x.unsqueeze(2), self.weight.unsqueeze(2), self.bias, (1, *self.stride), (0, *self.padding),
            (1, *self.dilation), self.groups,
        ).squeeze(2)


class TransposedConvolution(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` that makes exactly `rate` steps of each: kernel >= rate, cropped round the middle.

    With kernel - rate odd the longer crop is on the left, as in ParallelWaveGAN (padding rounded up, output_padding 1).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, rate: int) -> None:
        if kernel < rate:
            raise ValueError(f"kernel={kernel} leaves gaps between steps at rate={rate}: kernel >= rate is needed")
        super().__init__(
            in_channels, out_channels, kernel, rate,
            padding=(kernel - rate + 1) // 2, output_padding=(kernel - rate) % 2,
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, in_channels, time) -> (batch, out_channels, time * rate)."""
        if not _in_place(x):
            return super().forward(x)
        # y[rate t + phase] = sum_j weight[phase + rate j] x[t - j]: one convolution makes all phases of a step, and in
        # channels-last order phases of a step follow each other in memory as they do in time. No zero is multiplied.
        (batch, _, time), (kernel,), (rate,) = x.shape, self.kernel_size, self.stride
        taps = -(-kernel // rate)
        weight = F.pad(self.weight, (0, taps * rate - kernel)).unflatten(2, (taps, rate)).flip(2)
        weight = weight.permute(3, 1, 0, 2).flatten(0, 1)              # (rate * out_channels, in_channels, taps)
        bias = None if self.bias is None else self.bias.repeat(rate)
        y = F.conv2d(x.unsqueeze(2), weight.unsqueeze(2), bias, padding=(0, taps - 1)).squeeze(2)
        y = y.transpose(1, 2).reshape(batch, (time + taps - 1) * rate, self.out_channels)
        return y[:, self.padding[0] : self.padding[0] + time * rate].transpose(1, 2)
