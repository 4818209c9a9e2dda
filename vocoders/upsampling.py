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
    """The published upsampling: a convolution over frames, then hold and smooth, scale by scale.

    causal: the convolution reads `context` frames before its own and none after it, and so do the filters.
    """

    def __init__(self, aux: int, context: int, scales: tuple[int, ...], *, causal: bool = False) -> None:
        super().__init__()
        self.padding = (context, 0) if causal else (context, context)
        self.conv_in = nn.Conv1d(aux, aux, sum(self.padding) + 1, bias=False)
        self.upsample = Stretches(scales, causal=causal)

    def forward(self, frames: Tensor) -> Tensor:
        """(batch, aux, frames) -> (batch, aux, frames * prod(scales)); the edge frames are repeated."""
        return self.upsample(self.before(frames))

    def before(self, frames: Tensor) -> Tensor:
        """What happens at frame rate: (batch, aux, frames) -> the same shape."""
        return self.conv_in(F.pad(frames, self.padding, mode="replicate"))


class Stretches(nn.Module):
    """Pairs of nearest-neighbour stretch and a smoothing filter that all channels share; `up_layers.1, .3, ...`."""

    def __init__(self, scales: tuple[int, ...], *, causal: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for scale in scales:
            smooth = nn.Conv2d(1, 1, (1, 2 * scale + 1), padding=(0, 2 * scale if causal else scale), bias=False)
            nn.init.constant_(smooth.weight, 1.0 / (2 * scale + 1))
            layers += [nn.Upsample(scale_factor=(1, scale), mode="nearest"), smooth]
        self.up_layers = nn.ModuleList(layers)
        self.scales, self.causal = scales, causal

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames) -> (batch, channels, frames * prod(scales))."""
        x = x[:, None]
        for stretch, smooth in zip(self.up_layers[::2], self.up_layers[1::2], strict=True):
            x = stretch(x)
            x = smooth(x)[..., : x.shape[3]]  # causal: zeros were added behind, too, and what reads them is cut
        return x[:, 0]

    @property
    def reach(self) -> int:
        """Frames on either side of its own that a step can read: each filter reaches one step of the rate before (two,
        and none after it, where causal)."""
        one = sum(1 / math.prod(self.scales[:index]) for index in range(len(self.scales)))
        return math.ceil(2 * one if self.causal else one)

    def band(self, frames: int) -> Upsampling:
        """The whole map for a clip of `frames` frames, its edges too. Gradients flow into the filters."""
        dtype, device = self._kind()
        return Upsampling.of(lambda combs: self(combs.to(dtype)), frames, reach=self.reach, device=device)

    def rows(self, start: int, stop: int, *, frames: int | None) -> Upsampling:
        """The band's rows for the steps of frames start .. stop - 1 of a clip.

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
        moved = (own - same).repeat_interleave(hop).to(first.device)
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


def suggest_scales(hop_length: int) -> tuple[int, ...]:
    """Upsampling scales that make `hop_length` together: its prime factors, twos in pairs.

    >>> suggest_scales(256), suggest_scales(300), suggest_scales(441)
    ((4, 4, 4, 4), (3, 4, 5, 5), (3, 3, 7, 7))
    """
    scales, rest = [], hop_length
    for factor in (4, 2, 3, 5):
        while rest % factor == 0:
            scales.append(factor)
            rest //= factor
    factor = 7
    while rest > 1:
        while rest % factor == 0:
            scales.append(factor)
            rest //= factor
        factor += 2
    return tuple(sorted(scales)) or (1,)
