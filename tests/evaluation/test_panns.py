"""CNN14 without its weights: layout, front end against librosa, windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.embedders.panns import Cnn14Network, PANNs, PANNs32k


class Small(nn.Module):
    """In place of 80 million weights."""

    def forward(self, log_mel):
        return log_mel.mean((1, 2))[:, None].expand(-1, 2048)


def without_weights(cls):
    made = cls.__new__(cls)
    nn.Module.__init__(made)
    made._front_end()
    made.network = Small()
    return made


def test_the_layout_is_the_published_one():
    with torch.device("meta"):
        network = Cnn14Network()
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    assert sum(np.prod(shape) for shape in shapes.values()) == 80_753_615
    assert shapes["conv_block6.conv2.weight"] == (2048, 2048, 3, 3) and shapes["fc_audioset.weight"] == (527, 2048)


@pytest.mark.parametrize("cls", [PANNs, PANNs32k])
def test_the_front_end_is_librosas(librosa, cls):
    embedder = without_weights(cls)
    audio = 0.1 * np.random.RandomState(0).randn(2 * embedder.sample_rate).astype(np.float32)
    power = np.abs(librosa.stft(audio, n_fft=embedder.n_fft, hop_length=embedder.step, pad_mode="reflect")) ** 2
    bank = librosa.filters.mel(sr=embedder.sample_rate, n_fft=embedder.n_fft, n_mels=64, fmin=50, fmax=embedder.f_max)
    expected = librosa.power_to_db(bank @ power, ref=1.0, amin=1e-10, top_db=None)
    assert embedder.log_mel(torch.from_numpy(audio)[None])[0].T.numpy() == pytest.approx(expected, abs=1e-3)


def test_five_blocks_halve_time_and_band_and_the_sixth_does_not():
    network = Cnn14Network.__new__(Cnn14Network)
    nn.Module.__init__(network)
    network.bn0 = nn.BatchNorm2d(64)
    seen = []
    for index in range(1, 7):
        setattr(network, f"conv_block{index}", lambda x, pool: seen.append(tuple(x.shape)) or (
            nn.functional.avg_pool2d(x, pool) if pool > 1 else x))
    network.fc1 = nn.Identity()
    out = network.eval()(torch.rand(2, 320, 64))
    assert seen[0] == (2, 1, 320, 64) and seen[5] == (2, 1, 10, 2) and out.shape == (2, 1)


@pytest.mark.parametrize("seconds, count", [(0.4, 0), (3.0, 1), (10.0, 1), (20.0, 3)])
def test_windows(seconds, count):
    embedder = without_weights(PANNs)
    assert embedder(0.1 * torch.randn(1, round(seconds * 16000))).shape == (1, count, 2048)
