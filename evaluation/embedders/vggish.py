"""VGGish (Hershey et al. 2017): 128-d embeddings of 0.96 s of audio, what most published FAD figures are measured with.

The network as in tensorflow/models research/audioset/vggish; weights from torchvggish's port (Apache-2.0), which has
the same numbers. Published tools disagree on what comes last, so each way has a name:

| name | last ReLU | PCA and 8 bits | a window every | who |
|---|---|---|---|---|
| vggish | no | no | 0.96 s | gudgud96, fadtk, kadtk |
| vggish_google | no | no | 0.5 s | Google's own FAD scripts |
| vggish_relu | yes | no | 0.96 s | torchvggish as it comes |
| vggish_pca | no | yes | 0.96 s | the published AudioSet features |
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiogen.core.checkpoint import load_state
from audiogen.core.errors import UserError
from evaluation.embedders.base import in_blocks, read_tensors, read_weights, windows
from evaluation.embedders.melstats import FRAME, HOP, PATCH, vggish_log_mel

SOURCE = "github.com/harritaylor/torchvggish, release v0.1"


class VGGishNetwork(nn.Module):
    """log-mel patches (n, 96, 64) -> (n, 128); modules are named as in torchvggish."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for channels, count in ((64, 1), (128, 1), (256, 2), (512, 2)):
            for _ in range(count):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(inplace=True)]
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 4 * 6, 4096), nn.ReLU(True), nn.Linear(4096, 4096), nn.ReLU(True), nn.Linear(4096, 128)
        )

    def forward(self, patches: Tensor) -> Tensor:
        x = self.features(patches[:, None])                                       # (n, 512, 6, 4)
        return self.embeddings(x.permute(0, 2, 3, 1).flatten(1))  # TensorFlow flattens (time, band, channel)


class VGGish(nn.Module):
    """16 kHz audio -> (windows, 128): before the last ReLU, without PCA."""

    name, version = "vggish", 1
    file, sha256 = "vggish-10086976.pth", "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b"
    # of this one no more is published than the beginning, in its name
    pca_file, pca_sha256 = "vggish_pca_params-970ea276.pth", "970ea276"
    sample_rate, dim = 16000, 128
    step = PATCH  # frames between windows
    relu, pca = False, False
    window, hop = ((PATCH - 1) * HOP + FRAME) / 16000, PATCH * HOP / 16000
    note = "VGGish, 128-d before its last ReLU, no PCA; parity with the original unverified here (no weights at hand)"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        data = read_weights(self.file, sha256=self.sha256, source=SOURCE, weights=weights)
        digest = hashlib.sha256(data)
        self.network = VGGishNetwork()
        load_state(self.network, read_tensors(data, what=self.file), what=self.file)
        if self.pca:
            data = read_weights(self.pca_file, sha256=self.pca_sha256, source=SOURCE, weights=weights)
            digest.update(data)
            found = read_tensors(data, what=self.pca_file)
            shapes = {name: tuple(value.shape) for name, value in found.items()}
            if shapes != {"pca_eigen_vectors": (128, 128), "pca_means": (128, 1)}:
                raise UserError(f"{self.pca_file} does not hold pca_eigen_vectors (128, 128) and pca_means (128, 1)")
            self.register_buffer("directions", found["pca_eigen_vectors"].float())
            self.register_buffer("means", found["pca_means"].float()[:, 0])
        self.weights_sha256 = digest.hexdigest()
        self.eval()

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, time) float32 at 16 kHz -> (batch, windows, 128)."""
        patches = windows(vggish_log_mel(audio), PATCH, self.step)                # (batch, windows, 96, 64)
        rows = in_blocks(self.embed, patches.flatten(0, 1), 16, self.dim)
        return rows.unflatten(0, patches.shape[:2])

    def embed(self, patches: Tensor) -> Tensor:
        """log-mel patches (n, 96, 64) -> (n, 128)."""
        x = self.network(patches)
        if self.relu:
            x = F.relu(x)
        if self.pca:
            x = (x - self.means) @ self.directions.T
            x = torch.round((x.clamp(-2.0, 2.0) + 2.0) * (255.0 / 4.0))
        return x


class VGGishGoogle(VGGish):
    """As Google's FAD scripts: a window every 0.5 s (its example is the first 0.96 s of each second)."""

    name, step, hop = "vggish_google", 50, 0.5


class VGGishReLU(VGGish):
    """With the last ReLU, as torchvggish comes."""

    name, relu = "vggish_relu", True
    note = "VGGish, 128-d after its last ReLU; parity with the original unverified here (no weights at hand)"


class VGGishPCA(VGGish):
    """With PCA, clipped to [-2, 2] and quantised to 8 bits: the published AudioSet features."""

    name, pca = "vggish_pca", True
    note = "VGGish with PCA and 8-bit quantisation; parity with the original unverified here (no weights at hand)"

