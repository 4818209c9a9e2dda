"""Networks that bring mel frames to the rate of a WaveNet's steps, as their first authors wrote them.

`UpsampleNetwork` (r9y9's WaveNet, Parallel WaveGAN) is a convolution over frames, then a linear map along time that all
channels share: `Stretches`. Such a map commutes with the 1x1 convolutions that follow, so they can run at frame rate,
and a kernel makes the steps it needs (`audiogen.ops.Upsampling`). The two transposed ones do not commute with them:
`TransposedPlanes` (r9y9, 2018) has a ReLU after every scale, `TransposedFrames` (nv-wavenet) a filter for every pair of
channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.ops import Upsampling


class UpsampleNetwork(nn.Module):
    """The published upsampling: a convolution over frames, then hold and smooth, scale by scale."""

    def __init__(self, aux: int, context: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.context = context
        self.conv_in = nn.Conv1d(aux, aux, 2 * context + 1, bias=False)
        self.upsample = Stretches(scales)

    def forward(self, frames: Tensor) -> Tensor:
        """(batch, aux, frames) -> (batch, aux, frames * prod(scales)); the edge frames are repeated."""
        return self.upsample(self.conv_in(F.pad(frames, (self.context, self.context), mode="replicate")))


class Stretches(nn.Module):
    """Pairs of nearest-neighbour stretch and a smoothing filter that all channels share; `up_layers.1, .3, ...`."""

    def __init__(self, scales: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for scale in scales:
            smooth = nn.Conv2d(1, 1, (1, 2 * scale + 1), padding=(0, scale), bias=False)
            nn.init.constant_(smooth.weight, 1.0 / (2 * scale + 1))
            layers += [nn.Upsample(scale_factor=(1, scale), mode="nearest"), smooth]
        self.up_layers = nn.ModuleList(layers)
        self.scales = scales

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames) -> (batch, channels, frames * prod(scales))."""
        x = x[:, None]
        for layer in self.up_layers:
            x = layer(x)
        return x[:, 0]

    @property
    def reach(self) -> int:
        """Frames on either side of its own that a step can read: each filter reaches one step of the rate before."""
        return math.ceil(sum(1 / math.prod(self.scales[:index]) for index in range(len(self.scales))))

    def band(self, frames: int) -> Upsampling:
        """The whole map for a clip of `frames` frames, its edges too. Gradients flow into the filters."""
        dtype, device = self._kind()
        return Upsampling.of(lambda combs: self(combs.to(dtype)), frames, reach=self.reach, device=device)

    def rows(self, start: int, stop: int, *, frames: int | None, origin: int = 0) -> Upsampling:
        """The band's rows for frames start .. stop - 1 of a clip, for a tensor that begins at frame `origin`.

        frames: the clip's length; None: not known yet, but at least stop + reach and 2 * reach + 1. A step's row is the
        same to the last bit whatever start and stop are: rows differ only by their distance to the clip's edges, and
        all are copied from the band of one short clip.
        """
        reach, hop = self.reach, math.prod(self.scales)
        own = torch.arange(start, stop)
        if frames is not None and frames <= 2 * reach:
            model, same = frames, own
        else:
            model = 4 * reach + 1  # `reach` frames at either end feel an edge; the one in the middle is far from both
            same = torch.where(own < reach, own, 2 * reach)
            if frames is not None:
                same = torch.where(own >= frames - reach, own - frames + model, same)
        first, weights = self.band(model)
        steps = (same[:, None] * hop + torch.arange(hop)).flatten().to(first.device)
        moved = (own - same - origin).repeat_interleave(hop).to(first.device)
        return Upsampling((first[steps] + moved).int(), weights[steps])

    def _kind(self) -> tuple[torch.dtype, torch.device]:
        weight = self.up_layers[1].weight
        return weight.dtype, weight.device


class TransposedPlanes(nn.Module):
    """Transposed convolutions over (bands, time), each followed by a ReLU; `0, 2, 4, ...` (r9y9, 2018).

    It was made for mels within 0 .. 1. A frame's steps read no other frame.
    """

    def __init__(self, scales: tuple[int, ...], bands: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for scale in scales:
            layer = nn.ConvTranspose2d(1, 1, (bands, scale), padding=((bands - 1) // 2, 0), stride=(1, scale))
            nn.init.constant_(layer.weight, 1.0 / bands)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_mels, frames) -> (batch, n_mels, frames * prod(scales))."""
        return self.layers(x[:, None])[:, 0]


class TransposedFrames(nn.ConvTranspose1d):
    """One transposed convolution; its window reaches over the `reach` frames after its own (nv-wavenet)."""

    def __init__(self, channels: int, hop_length: int, window: int) -> None:
        super().__init__(channels, channels, window, hop_length)
        self.reach = -(-window // hop_length) - 1

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames) -> (batch, channels, frames * hop_length)."""
        return super().forward(x)[:, :, : x.shape[2] * self.stride[0]]
