"""VGGish without its weights: layout, order of flattening, windows, PCA and quantisation, and what is refused."""

from __future__ import annotations

import hashlib
import io

import pytest
import torch
from torch import nn

from audiogen.core.errors import UserError
from evaluation.embedders.base import read_tensors, read_weights
from evaluation.embedders.vggish import VGGish, VGGishGoogle, VGGishNetwork, VGGishPCA, VGGishReLU


def test_the_layout_is_the_published_one():
    with torch.device("meta"):
        network = VGGishNetwork()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert sum(value.numel() for value in network.parameters()) == 72_141_184
    assert shapes["features.0.weight"] == (64, 1, 3, 3) and shapes["features.13.weight"] == (512, 512, 3, 3)
    assert shapes["embeddings.0.weight"] == (4096, 12288) and shapes["embeddings.4.weight"] == (128, 4096)
    assert len(shapes) == 18


def test_what_goes_into_the_dense_layers_is_in_tensorflows_order():
    with torch.device("meta"):
        network = VGGishNetwork()
    network.features = nn.Sequential(nn.AdaptiveAvgPool2d((6, 4)), nn.Conv2d(1, 512, 1))
    network.embeddings = nn.Identity()
    patch = torch.randn(1, 96, 64)
    flat = network(patch)[0]
    maps = network.features(patch[:, None])[0]                                    # (512, 6, 4)
    for time, band, channel in ((0, 0, 0), (0, 0, 511), (0, 1, 0), (5, 3, 7), (2, 0, 300)):
        assert flat[(time * 4 + band) * 512 + channel] == maps[channel, time, band]


class Summing(nn.Module):
    """In place of 72 million weights: 128 numbers that depend on the patch."""

    def forward(self, patches):
        return patches.mean((1, 2))[:, None] * torch.linspace(-1, 1, 128)


def without_weights(cls, **buffers):
    made = cls.__new__(cls)
    nn.Module.__init__(made)
    made.network = Summing()
    for name, value in buffers.items():
        made.register_buffer(name, value)
    return made


@pytest.mark.parametrize("cls, seconds, count", [(VGGish, 3.0, 3), (VGGishGoogle, 3.0, 5), (VGGish, 0.9, 0)])
def test_windows(cls, seconds, count):
    audio = 0.1 * torch.randn(2, round(seconds * 16000), generator=torch.Generator().manual_seed(0))
    assert without_weights(cls)(audio).shape == (2, count, 128)


def test_relu_and_pca():
    audio = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    plain = without_weights(VGGish)(audio)
    assert torch.equal(without_weights(VGGishReLU)(audio), plain.clamp(min=0)) and (plain < 0).any()
    pca = without_weights(VGGishPCA, directions=torch.eye(128).flip(0), means=torch.zeros(128))(audio)
    expected = torch.round((plain.flip(-1).clamp(-2, 2) + 2) * 63.75)
    assert torch.equal(pca, expected) and pca.min() >= 0 and pca.max() <= 255


def test_a_file_is_known_by_the_beginning_of_its_hash(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert read_weights("w.pth", sha256=digest[:8], source="x", weights=tmp_path) == b"weights"
    with pytest.raises(UserError, match="not the published file"):
        read_weights("w.pth", sha256="00000000", source="x", weights=tmp_path)


def test_without_weights_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("AUDIOGEN_WEIGHTS", raising=False)
    with pytest.raises(UserError, match=r"vggish-10086976.pth not found.*torchvggish.*melstats"):
        VGGish(tmp_path)


def test_a_file_of_objects_is_not_run():
    buffer = io.BytesIO()
    torch.save(nn.Conv1d(1, 1, 1), buffer)
    with pytest.raises(UserError, match="no file of tensors"):
        read_tensors(buffer.getvalue(), what="w.pth")
