"""musicnn (Pons and Serra 2019): a music tagger; its 200-d penultimate layer and its 50 tags.

Weights: the Keras port's MSD_musicnn.h5 (Million Song Dataset) and MTT_musicnn.h5 (MagnaTagATune), ISC licence.
Layer by layer after the model configuration inside those files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiogen.core.mel_format import MelFormat
from audiogen.signal.mel import mel_filterbank
from evaluation.embedders.base import in_blocks, read_weights, windows
from evaluation.embedders.hdf5 import read_hdf5

N_FFT, HOP, N_MELS = 512, 256, 96
FRAMES = 187  # 3 s, what it was trained on
MSD_TAGS = (
    "rock,pop,alternative,indie,electronic,female vocalists,dance,00s,alternative rock,jazz,beautiful,metal,chillout,"
    "male vocalists,classic rock,soul,indie rock,Mellow,electronica,80s,folk,90s,chill,instrumental,punk,oldies,blues,"
    "hard rock,ambient,acoustic,experimental,female vocalist,guitar,Hip-Hop,70s,party,country,easy listening,sexy,"
    "catchy,funk,electro,heavy metal,Progressive rock,60s,rnb,indie pop,sad,House,happy"
).split(",")
MTT_TAGS = (
    "guitar,classical,slow,techno,strings,drums,electronic,rock,fast,piano,ambient,beat,violin,vocal,synth,female,"
    "indian,opera,male,singing,vocals,no vocals,harpsichord,loud,quiet,flute,woman,male vocal,no vocal,pop,soft,sitar,"
    "solo,man,classic,choir,voice,new age,dance,male voice,female vocal,beats,harp,cello,no voice,weird,country,metal,"
    "female voice,choral"
).split(",")


class MusicNN(nn.Module):
    """16 kHz audio -> 200-d vectors, one a 3 s window every 1.5 s (after the dense layer, its ReLU and batch norm)."""

    name, version = "musicnn", 1
    file, sha256, tags = "MSD_musicnn.h5", "412a832c8527a813e084ba6f2cc7d068ecbbf1b68bda8c1de2e7de0d1f5fe7d1", MSD_TAGS
    sample_rate, dim = 16000, 200
    window, hop = (FRAMES - 1) * HOP / 16000, (FRAMES // 2) * HOP / 16000  # frames are centred: 187 span 186 hops
    note = "musicnn trained on the Million Song Dataset, penultimate layer"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        data = read_weights(self.file, sha256=self.sha256, weights=weights, source="github.com/Quint-e/musicnn_keras, "
                            f"musicnn_keras/keras_checkpoints/{self.file}")
        self.weights_sha256 = hashlib.sha256(data).hexdigest()
        for key, array in read_hdf5(data, what=self.file).items():
            value = torch.from_numpy(array.copy())
            if value.ndim == 4:  # Keras (time, frequency, in, out) -> torch (out, in, time, frequency)
                value = value.permute(3, 2, 0, 1).contiguous()
            self.register_buffer(_name(key), value)
        mel = MelFormat(sample_rate=16000, n_fft=N_FFT, win_length=N_FFT, hop_length=HOP, n_mels=N_MELS,
                        f_min=0.0, f_max=8000.0, power=2.0)
        self.register_buffer("filters", mel_filterbank(mel).to(torch.float32))  # (96, 257)
        self.register_buffer("taper", torch.hann_window(N_FFT))
        self.eval()

    def log_mel(self, audio: Tensor) -> Tensor:
        """audio (batch, time) -> (batch, frames, 96): librosa's power mel spectrogram (centred), log10(10000 x + 1)."""
        spectrum = torch.stft(audio, N_FFT, HOP, window=self.taper, pad_mode="constant", return_complex=True)
        mel = self.filters @ spectrum.abs().square()
        return torch.log10(10000 * mel + 1).transpose(1, 2)

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, time) float32 at 16 kHz -> (batch, windows, 200)."""
        patches = windows(self.log_mel(audio), FRAMES, FRAMES // 2)
        rows = in_blocks(self.penultimate, patches.flatten(0, 1), 4, self.dim)
        return rows.unflatten(0, patches.shape[:2])

    @torch.no_grad()
    def tag(self, audio: Tensor) -> Tensor:
        """audio (batch, time) -> the probability of each of `tags`, (batch, windows, 50)."""
        return torch.sigmoid(self(audio) @ self._get("dense_1.kernel") + self._get("dense_1.bias"))

    def penultimate(self, patch: Tensor) -> Tensor:
        """log-mel patches (n, frames, 96) -> (n, 200)."""
        x = self._norm("batch_normalization", patch[:, None])  # (n, 1, frames, 96)
        wide = F.pad(x, (0, 0, 3, 3))
        bands = [self._frontend(wide, "conv2d", "batch_normalization_1"),  # timbre: 7 frames x 38 and 67 bands
                 self._frontend(wide, "conv2d_1", "batch_normalization_2")]
        for index, length in ((2, 128), (3, 64), (4, 32)):  # rhythm: one band, long in time; "same" pads the end more
            before = (length - 1) // 2
            padded = F.pad(x, (0, 0, before, length - 1 - before))
            bands.append(self._frontend(padded, f"conv2d_{index}", f"batch_normalization_{index + 1}"))
        front = torch.cat(bands, dim=1)  # (n, 561, frames)
        first = self._midend(front, 1)
        second = self._midend(first, 2) + first
        third = self._midend(second, 3) + second
        features = torch.cat([front, first, second, third], dim=1)  # (n, 753, frames)
        pooled = torch.stack([features.amax(-1), features.mean(-1)], dim=-1).flatten(1)  # max, mean of each feature
        pooled = self._norm("bn_flatpool", pooled)
        hidden = torch.relu(pooled @ self._get("dense.kernel") + self._get("dense.bias"))
        return self._norm("bn_dense", hidden)

    def _frontend(self, x: Tensor, conv: str, norm: str) -> Tensor:
        # -> (n, channels, frames): the loudest place in frequency
        x = torch.relu(F.conv2d(x, self._get(f"{conv}.kernel"), self._get(f"{conv}.bias")))
        return self._norm(norm, x).amax(-1)

    def _midend(self, x: Tensor, index: int) -> Tensor:
        # 7 frames x all features; the kernel is (out, 1, 7, features), so features lie where frequency lay
        x = F.pad(x, (3, 3)).transpose(1, 2)[:, None]  # (n, 1, frames + 6, features)
        x = torch.relu(F.conv2d(x, self._get(f"midend_conv{index}.kernel"), self._get(f"midend_conv{index}.bias")))
        return self._norm(f"bn_midend_conv{index}", x)[..., 0]  # (n, 64, frames)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.batch_norm(x, self._get(f"{name}.moving_mean"), self._get(f"{name}.moving_variance"),
                            self._get(f"{name}.gamma"), self._get(f"{name}.beta"), eps=1e-3)

    def _get(self, name: str) -> Tensor:
        return getattr(self, name.replace(".", "__"))


class MusicNNMTT(MusicNN):
    """The same network trained on MagnaTagATune."""

    name = "musicnn_mtt"
    file, sha256, tags = "MTT_musicnn.h5", "1a66a2e58e862e894c088bd7789b05874becf994f275c54d9575dab83fab4ebe", MTT_TAGS
    note = "musicnn trained on MagnaTagATune, penultimate layer"


def _name(key: str) -> str:
    # "model_weights/dense/dense/kernel_1:0" -> "dense__kernel", as a buffer's name may hold no dot
    layer, parameter = key.removeprefix("model_weights/").partition("/")[0], key.rpartition("/")[2].partition(":")[0]
    return f"{layer}__{parameter.removesuffix('_1')}"
